"""The figure of a score against what it costs: one point a row."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import AutoLocator

from lit_jax.report import labels, plots
from lit_jax.report.columns import TEACHER

_FONT = 10
_DIRECT = 8  # points that have a label beside them; of more there is a legend
_WIDE = 4.0  # times that the slowest may take, before the axis is logarithmic
_RADIUS = 4.5  # of a mark, in points
_MARKS = 'osD^vPX'


class Point(NamedTuple):
  """Attributes: a row's method; milliseconds; its score as it is shown."""

  method: str
  time: float
  score: float


def draw(
  points: Sequence[Point],
  batch: str,
  axis: str,
  looks: Mapping[str, plots.Look],
) -> bytes:
  """The score of each row against the time that its network takes, as SVG.

  Args:
    points: one or more, of finite numbers and times above 0.
    batch: the size of the batch that was timed.
    axis: the score with its unit.
    looks: of each method.
  """
  with mpl.rc_context(plots.STYLE):
    drawn, axes = plots.figure(width=4.5, height=3.2)
    _scale(axes, points)
    axes.set_xlabel(plots.literal(f'milliseconds for a batch of {batch}'))
    axes.set_ylabel(plots.literal(axis))
    for i, point in enumerate(points):
      star = point.method == TEACHER
      axes.plot(
        point.time,
        point.score,
        linestyle='',
        marker='*' if star else _MARKS[i % len(_MARKS)],
        markersize=13 if star else 2 * _RADIUS - 1,
        color=looks[point.method].colour,
        label=plots.literal(point.method),
      )
    if len(points) > _DIRECT or not _label(drawn, axes, points, looks):
      plots.legend(drawn, axes)
    return plots.svg(drawn)


def _scale(axes: Axes, points: Sequence[Point]) -> None:
  """Axes that leave room around the points."""
  times = [point.time for point in points]
  low, high = min(times), max(times)
  if high > _WIDE * low:
    plots.logarithmic(axes, 'x', low, high)
    room = (high / low) ** 0.12
    axes.set_xlim(low / room, high * room)
  else:
    # `plots.figure` is made for epochs, which are whole.
    axes.xaxis.set_major_locator(AutoLocator())
    room = max(0.15 * (high - low), 1e-3 * high)
    axes.set_xlim(max(low - room, 0.0), high + room)
  scores = [point.score for point in points]
  low, high = min(scores), max(scores)
  least = 1e-3 * max(abs(low), abs(high)) or 1.0
  room = max(0.15 * (high - low), least)
  axes.set_ylim(low - room, high + room)


def _label(
  drawn: Figure,
  axes: Axes,
  points: Sequence[Point],
  looks: Mapping[str, plots.Look],
) -> bool:
  """Writes each point's name beside it; False where they find no room."""
  drawn.draw_without_rendering()  # which gives the axes their place
  places = axes.transData.transform([point[1:] for point in points])
  middles = [(float(x), float(y)) for x, y in places]
  texts = [plots.literal(point.method) for point in points]
  room = labels.Box(*axes.get_window_extent().extents)
  boxes = labels.place(middles, list(map(_size, texts)), room, _RADIUS)
  if boxes is None:
    return False
  for point, middle, box, text in zip(
    points, middles, boxes, texts, strict=True
  ):
    colour = looks[point.method].colour
    near = labels.is_near(middle, box, _RADIUS)
    written = axes.annotate(
      text,
      middle,
      ((box.left + box.right) / 2, (box.low + box.high) / 2),
      xycoords='figure pixels',
      textcoords='figure pixels',
      horizontalalignment='center',
      verticalalignment='center',
      fontsize=_FONT,
      color=colour,
      arrowprops=None if near else _LEADER | {'color': colour},
    )
    written.set_in_layout(False)
  return True


_LEADER = {
  'arrowstyle': '-',
  'linewidth': 0.6,
  'shrinkA': 0,
  'shrinkB': _RADIUS,
}


def _size(text: str) -> labels.Size:
  extents = TextPath((0, 0), text, size=_FONT).get_extents()
  # The height of a line, whatever letters there are.
  return labels.Size(float(np.ceil(extents.width)) + 2, 1.25 * _FONT)
