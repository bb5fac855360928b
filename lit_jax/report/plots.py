"""The report's figures, each drawn to a stand-alone SVG."""

import dataclasses
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_jax.errors import shortened

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
# Beside colour, so that a grey print can be read too.
_DASHES = ('-', '--', '-.', ':')

_SPLITS = {
  'train': {'color': '#56b4e9', 'linewidth': 1.0, 'linestyle': '-'},
  'validation': {'color': '#d55e00', 'linewidth': 1.8, 'linestyle': '--'},
  'test': {'color': '#000000', 'linewidth': 1.8, 'linestyle': '-'},
}
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
    logarithmic: whether the axis is, where all values are positive.
  """

  key: str
  name: str
  axis: str
  scale: float = 1.0
  logarithmic: bool = False


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


def overview(
  tracks: Mapping[str, Sequence[Phase]], metric: Metric
) -> bytes | None:
  """A held-out metric of all methods in one figure, as SVG.

  Args:
    tracks: the phases of each method, in order.
    metric: what to draw.

  Returns:
    The figure, or None where no method has a finite held-out value of it.
  """
  splits = {method: held_out(phases) for method, phases in tracks.items()}
  mixed = len(set(splits.values())) > 1
  with mpl.rc_context(STYLE):
    figure, axes = _figure(width=6.0, height=4.2)
    styles = zip(
      itertools.cycle(COLOURS), itertools.cycle(_DASHES), strict=True
    )
    for (method, split), (colour, dash) in zip(
      splits.items(), styles, strict=False
    ):
      x, y = _joined(tracks[method], split, metric.key)
      if np.isfinite(y).any():
        label = _literal(f'{method} ({split})' if mixed else method)
        style = {'linestyle': dash, 'color': colour, 'linewidth': 1.6}
        axes.plot(x, metric.scale * y, label=label, **_dots(x), **style)
        _borders(axes, tracks[method], colour)
    if not axes.lines:
      return None
    split = 'held-out' if mixed else next(iter(splits.values()))
    axes.set(xlabel='epoch', ylabel=_literal(f'{split} {metric.axis}'))
    figure.legend(loc='outside lower center', ncols=3)
    return _svg(figure)


def curve(phases: Sequence[Phase], metric: Metric) -> bytes | None:
  """One metric of one method over its epochs, a line a split, as SVG.

  Args:
    phases: the method's phases, in order.
    metric: what to draw.

  Returns:
    The figure, or None where no phase has a finite value of it.
  """
  with mpl.rc_context(STYLE):
    figure, axes = _figure(width=5.0, height=3.0)
    lowest = math.inf
    for split, style in _SPLITS.items():
      x, y = _joined(phases, split, metric.key)
      if np.isfinite(y).any():
        axes.plot(x, metric.scale * y, label=split, **_dots(x), **style)
        lowest = min(lowest, np.nanmin(y))
    if not axes.lines:
      return None
    axes.set(xlabel='epoch', ylabel=_literal(metric.axis))
    if metric.logarithmic and lowest > 0:
      axes.set_yscale('log')
    _borders(axes, phases, '#57606a')
    _phase_names(axes, phases)
    axes.legend()
    return _svg(figure)


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
    figure, axes = _figure(width=5.0, height=3.0)
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
    axes.set_yscale('log')
    axes.set_ylim(limits)
    axes.set_xticks(x, [_literal(_block_name(name)) for name in errors])
    axes.tick_params(axis='x', length=0, rotation=90 if len(x) > 6 else 0)
    axes.grid(visible=False, axis='x')
    axes.set_ylabel('error / variance')
    figure.legend(loc='outside upper center', ncols=2, fontsize=8.5)
    return _svg(figure)


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


def held_out(phases: Sequence[Phase]) -> str:
  """The split to judge a method by: 'test', or else 'validation'."""
  tested = any(phase.points.get('test') for phase in phases)
  return 'test' if tested else 'validation'


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
  """An empty figure of that many inches, with one set of axes."""
  figure = Figure(figsize=(width, height), layout='constrained')
  axes = figure.add_subplot()
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  return figure, axes


def _svg(figure: Figure) -> bytes:
  out = io.BytesIO()
  figure.savefig(out, format='svg', metadata={'Date': None})
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
  return x, np.where(np.abs(y) < _LARGEST, y, math.nan)


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
        _literal(phase.name),
        transform=axes.get_xaxis_transform(),
        horizontalalignment='center',
        fontsize=8.5,
        color='#57606a',
      )


def _positive(value: Any) -> float:
  """The value where a logarithmic axis can show it, else NaN."""
  if value is None or not 1 / _LARGEST < value < _LARGEST:
    return math.nan
  return value


def _block_name(name: str) -> str:
  return name.replace('blocks_', 'block ')


def _literal(text: str) -> str:
  """Text that matplotlib shows as it is, not as a formula; not too long."""
  # A longer one would leave no room for the axes.
  return shortened(text, _LETTERS).replace('$', r'\$')
