"""The report's figures, each drawn to a stand-alone SVG."""

import dataclasses
import io
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
  FuncFormatter,
  LogLocator,
  MaxNLocator,
  NullLocator,
)

from lit_jax.errors import shortened
from lit_jax.report import depth
from lit_jax.report.columns import TEACHER

# Okabe and Ito's palette, told apart with any common colour blindness; its
# yellow is left out, which fades on white.
COLOURS = (
  '#000000',
  '#0072b2',
  '#d55e00',
  '#009e73',
  '#cc79a7',
  '#56b4e9',
  '#e69f00',
)
_LARGEST = 1e100  # that an axis shows
_LETTERS = 40  # of a name
_WIDE = 10.0  # times the least value, from which on an axis is logarithmic
_LEGEND, _LINE = 40, 0.19  # letters beside each other; inches of a line
# Which multiples of a power of ten have a number, below so many decades.
_STEPS = (
  (1.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)),
  (2.5, (1.0, 2.0, 5.0)),
  (math.inf, (1.0,)),
)
_PANELS, _MOST_PANELS = 3, 9  # beside each other, and in all
# Beside colour, so that a grey print can be read too.
_DASHES = ('-', '--', '-.', ':')

_SPLITS = {
  'train': {'color': '#56b4e9', 'linewidth': 1.0, 'linestyle': '-'},
  'validation': {'color': '#d55e00', 'linewidth': 1.8, 'linestyle': '--'},
  'test': {'color': '#000000', 'linewidth': 1.8, 'linestyle': '-'},
}
TRAIN, HELD_OUT = ('train',), ('validation', 'test')
_INPUTS = {
  'teacher_input': ("teacher's previous IR as input", '#0072b2', None),
  'own_input': ("student's own IR as input", '#e69f00', '///'),
}
STYLE: dict[Any, Any] = {
  'font.size': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'axes.labelcolor': '#1f2328',
  'grid.color': '#dfe3e8',
  'grid.linewidth': 0.7,
  'legend.frameon': False,
  'hatch.linewidth': 0.6,
  # The same numbers give the same bytes.
  'svg.hashsalt': 'lit_jax',
}


@dataclasses.dataclass(frozen=True)
class Metric:
  """A number that is followed over the epochs.

  Attributes:
    key: as the metrics call it.
    name: as a reader knows it.
    axis: the name with its unit.
    scale: what a value is multiplied by, to be in that unit.
    logarithmic: whether the axis is, where it is wide and all are positive.
    splits: of which it is drawn.
  """

  key: str
  name: str
  axis: str
  scale: float = 1.0
  logarithmic: bool = False
  splits: tuple[str, ...] = tuple(_SPLITS)


@dataclasses.dataclass(frozen=True)
class Phase:
  """One phase of a method's training.

  Attributes:
    name: as the metrics call it.
    start: epochs of the method's phases before this one.
    epochs: how long this one is.
    points: for each split and then each metric, its (epoch, value) pairs in
      rising order; epochs count from the phase's start.
  """

  name: str
  start: float
  epochs: float
  points: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


class Look(NamedTuple):
  """Attributes: a colour, and a dash of lines."""

  colour: str
  dash: str


def overview(
  tracks: Mapping[str, Sequence[Phase]],
  metric: Metric,
  looks: Mapping[str, Look],
) -> bytes | None:
  """A held-out metric of all methods in one figure, as SVG.

  Args:
    tracks: the phases of each method, in order.
    metric: what to draw.
    looks: of each method.

  Returns:
    The figure, or None where no method has a finite held-out value of it.
  """
  splits = {method: held_out(phases) for method, phases in tracks.items()}
  mixed = len(set(splits.values())) > 1
  with mpl.rc_context(STYLE):
    drawn, axes = figure(width=4.5, height=3.0)
    for method, split in splits.items():
      colour, dash = looks[method]
      x, y = _joined(tracks[method], split, metric.key)
      if np.isfinite(y).any():
        label = literal(f'{method} ({split})' if mixed else method)
        style = {'linestyle': dash, 'color': colour, 'linewidth': 1.6}
        axes.plot(x, metric.scale * y, label=label, **_dots(x), **style)
        _borders(axes, tracks[method], colour)
    if not axes.lines:
      return None
    split = 'held-out' if mixed else next(iter(splits.values()))
    axes.set(xlabel='epoch', ylabel=literal(f'{split} {metric.axis}'))
    legend(drawn, axes)
    return svg(drawn)


def curve(phases: Sequence[Phase], metric: Metric) -> bytes | None:
  """One metric of one method over its epochs, a line a split, as SVG.

  Args:
    phases: the method's phases, in order.
    metric: what to draw.

  Returns:
    The figure, or None where no phase has a finite value of it.
  """
  with mpl.rc_context(STYLE):
    drawn, axes = figure(width=4.5, height=2.8)
    ends = []
    for split in metric.splits:
      x, y = _joined(phases, split, metric.key)
      style = _SPLITS[split]
      if np.isfinite(y).any():
        axes.plot(x, metric.scale * y, label=split, **_dots(x), **style)
        ends += [np.nanmin(y), np.nanmax(y)]
    if not axes.lines:
      return None
    axes.set(xlabel='epoch', ylabel=literal(metric.axis))
    if metric.logarithmic:
      _maybe_logarithmic(axes, ends)
    _borders(axes, phases, '#57606a')
    _phase_names(axes, phases)
    axes.legend()
    return svg(drawn)


def panels(phases: Sequence[Phase], metric: Metric) -> bytes | None:
  """One metric of one method, each phase with axes of its own, as SVG.

  What the phases minimise may be of different kinds and sizes.

  Args:
    phases: the method's phases, in order.
    metric: what to draw, of its first split alone.

  Returns:
    The figure, or None where no phase has a finite value of it.
  """
  found = [
    (phase, *_joined([phase], metric.splits[0], metric.key)) for phase in phases
  ]
  found = [own for own in found if np.isfinite(own[2]).any()]
  if not found or len(found) > _MOST_PANELS:
    return curve(phases, metric) if found else None
  columns = min(len(found), _PANELS)
  lines = math.ceil(len(found) / columns)
  with mpl.rc_context(STYLE):
    drawn = _blank(4.5, 2.8 if lines == 1 else 2.2 * lines)
    grid = list(drawn.subplots(lines, columns, squeeze=False).flat)
    for axes in grid[len(found) :]:
      axes.remove()
    for axes, (phase, x, y) in zip(grid, found, strict=False):
      style = _SPLITS[metric.splits[0]] | {'linewidth': 1.4}
      axes.plot(x, metric.scale * y, **_dots(x), **style)
      axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
      if metric.logarithmic:
        _maybe_logarithmic(axes, [np.nanmin(y), np.nanmax(y)])
      if len(phases) > 1:
        axes.set_title(literal(phase.name), fontsize=9, color='#57606a')
    drawn.supxlabel('epoch', fontsize=10, color='#1f2328')
    drawn.supylabel(literal(metric.axis), fontsize=10, color='#1f2328')
    return svg(drawn)


def lost_bars(
  lost: Mapping[str, float | None], axis: str, limits: tuple[float, float]
) -> bytes:
  """What each block of one method loses in the teacher, as SVG.

  Args:
    lost: for each block; None where it is not known.
    axis: what is lost, with its unit.
    limits: lower and upper end of the axis, the same for all methods.
  """
  with mpl.rc_context(STYLE):
    drawn, axes = figure(width=4.5, height=2.8)
    x = np.arange(len(lost))
    values = [math.nan if own is None else own for own in lost.values()]
    axes.bar(x, values, 0.5, color=COLOURS[2])
    axes.axhline(0, color='#57606a', linewidth=0.8)
    axes.set_ylim(limits)
    _name_blocks(axes, lost)
    axes.set_ylabel(literal(axis))
    return svg(drawn)


def ir_bars(
  errors: Mapping[str, Mapping[str, float]], limits: tuple[float, float]
) -> bytes:
  """Relative IR error of each block of one method, as SVG.

  Args:
    errors: for each block, the mean squared error over the variance of the
      teacher's IR, under 'teacher_input' and 'own_input'.
    limits: lower and upper end of the logarithmic axis, both positive; the
      same for all methods, so that their bars can be compared.
  """
  with mpl.rc_context(STYLE):
    drawn, axes = figure(width=4.5, height=2.8)
    x = np.arange(len(errors))
    for side, (key, (label, colour, hatch)) in enumerate(_INPUTS.items()):
      values = [_positive(block.get(key)) for block in errors.values()]
      axes.bar(
        x + 0.4 * side - 0.2,
        values,
        0.36,
        color=colour,
        hatch=hatch,
        edgecolor='white',
        linewidth=0,
        label=label,
      )
    # One is what a block scores that always answers with the mean.
    axes.axhline(1, color='#57606a', linewidth=0.8)
    logarithmic(axes, 'y', *limits)
    axes.set_ylim(limits)
    _name_blocks(axes, errors)
    axes.set_ylabel('error / variance')
    drawn.legend(loc='outside upper center', ncols=2, fontsize=8.5)
    return svg(drawn)


def ir_limits(
  errors: Sequence[Mapping[str, Mapping[str, float]]],
) -> tuple[float, float]:
  """Ends of a logarithmic axis that holds every method's bars, and 1."""
  values = [
    value
    for method in errors
    for block in method.values()
    for value in map(_positive, block.values())
    if math.isfinite(value)
  ]
  lowest, highest = min([*values, 0.1]), max([*values, 1.0])
  return 10.0 ** math.floor(math.log10(lowest) - 0.1), highest * 2


def looks(methods: Iterable[str]) -> dict[str, Look]:
  """How each method is drawn in every figure; the teacher alone is black."""
  others = map(Look, itertools.cycle(COLOURS[1:]), itertools.cycle(_DASHES))
  return {
    method: Look(COLOURS[0], _DASHES[0]) if method == TEACHER else next(others)
    for method in dict.fromkeys(methods)
  }


def held_out(phases: Sequence[Phase]) -> str:
  """The split to judge a method by: 'test', or else 'validation'."""
  tested = any(phase.points.get('test') for phase in phases)
  return 'test' if tested else 'validation'


def figure(width: float, height: float) -> tuple[Figure, Axes]:
  """An empty figure of that many inches, with one set of axes."""
  drawn = _blank(width, height)
  axes = drawn.add_subplot()
  axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  return drawn, axes


def _blank(width: float, height: float) -> Figure:
  # An SVG's points are 1/72 of an inch: what is measured in pixels stays so.
  return Figure(figsize=(width, height), dpi=72, layout='constrained')


def legend(drawn: Figure, axes: Axes) -> None:
  """Names what is drawn below the axes, which keep their size."""
  handles, texts = axes.get_legend_handles_labels()
  columns = min(3, max(1, _LEGEND // max(map(len, texts))), len(texts))
  lines = math.ceil(len(texts) / columns)
  drawn.set_figheight(drawn.get_figheight() + _LINE * lines)
  drawn.legend(
    handles, texts, loc='outside lower center', ncols=columns, fontsize=9
  )


def logarithmic(axes: Axes, which: str, low: float, high: float) -> None:
  """Makes an axis logarithmic, with plain numbers on it.

  Args:
    axes: that have it.
    which: 'x' or 'y'.
    low: the least value on it, positive.
    high: the largest.
  """
  decades = math.log10(high) - math.log10(low)
  axis = {'x': axes.xaxis, 'y': axes.yaxis}[which]
  axes.set(**{f'{which}scale': 'log'})
  steps = next(steps for below, steps in _STEPS if decades < below)
  axis.set_major_locator(LogLocator(subs=steps))
  # Powers of ten as formulas take long to draw.
  axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
  axis.set_minor_locator(NullLocator())


def _maybe_logarithmic(axes: Axes, ends: Sequence[float]) -> None:
  low, high = min(ends), max(ends)
  if 0 < low < high / _WIDE:
    logarithmic(axes, 'y', low, high)


def svg(drawn: Figure) -> bytes:
  """A figure as a file of its own, the same bytes for the same figure."""
  out = io.BytesIO()
  drawn.savefig(out, format='svg', metadata={'Date': None})
  return out.getvalue()


def _joined(
  phases: Sequence[Phase], split: str, metric: str
) -> tuple[np.ndarray, np.ndarray]:
  """A metric over all phases: epochs and values, float64 of one length.

  A gap parts the phases, which may not minimise the same loss.
  """
  pairs: list[tuple[float, float]] = []
  for phase in phases:
    points = phase.points.get(split, {}).get(metric, ())
    if pairs and points:
      pairs.append((phase.start, math.nan))
    pairs += [(phase.start + epoch, value) for epoch, value in points]
  x, y = np.array(pairs, float).reshape(-1, 2).T
  # An infinite loss leaves a gap instead of an axis without end.
  shown = np.maximum(np.abs(x), np.abs(y)) < _LARGEST
  return np.where(shown, x, math.nan), np.where(shown, y, math.nan)


def _dots(x: np.ndarray) -> dict[str, Any]:
  """Dots where the points are few: one alone would draw no line."""
  return {'marker': 'o', 'markersize': 3.5} if len(x) <= 30 else {}


def _borders(axes: Axes, phases: Sequence[Phase], colour: str) -> None:
  for phase in phases[1:]:
    axes.axvline(phase.start, color=colour, linewidth=0.6, alpha=0.7)


def _phase_names(axes: Axes, phases: Sequence[Phase]) -> None:
  """Writes each phase's name above its share of the axis, where it fits."""
  low, high = axes.get_xlim()
  for phase in phases:
    middle = phase.start + phase.epochs / 2
    # About the share of the axis that one letter of this size takes.
    fits = phase.epochs >= 0.022 * len(phase.name) * (high - low)
    # Where few points are, the axis may not show all phases; a name beside it
    # would take the whole figure.
    if len(phases) > 1 and fits and low <= middle <= high:
      axes.text(
        middle,
        1.02,
        literal(phase.name),
        transform=axes.get_xaxis_transform(),
        horizontalalignment='center',
        fontsize=8.5,
        color='#57606a',
      )


def _name_blocks(axes: Axes, names: Collection[str]) -> None:
  texts = [literal(depth.block_name(name)) for name in names]
  axes.set_xticks(np.arange(len(texts)), texts)
  axes.tick_params(axis='x', length=0, rotation=90 if len(texts) > 6 else 0)
  axes.grid(visible=False, axis='x')


def _positive(value: Any) -> float:
  """The value where a logarithmic axis can show it, else NaN."""
  if value is None or not 1 / _LARGEST < value < _LARGEST:
    return math.nan
  return value


def literal(text: str) -> str:
  """Text that matplotlib shows as it is, not as a formula; not too long."""
  # A longer one would leave no room for the axes.
  return shortened(text, _LETTERS).replace('$', r'\$')
