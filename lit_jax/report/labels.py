"""Where the labels of points stand, so that none hides another."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_RINGS = 6  # that labels may stand away from their points
_GAP = 3.0  # between a point's mark and its label


class Box(NamedTuple):
  """A rectangle: its left, lower, right and upper end."""

  left: float
  low: float
  right: float
  high: float


class Size(NamedTuple):
  """How wide and how high a label is."""

  width: float
  height: float


def place(
  points: Sequence[tuple[float, float]],
  sizes: Sequence[Size],
  room: Box,
  radius: float,
) -> list[Box] | None:
  """Finds each label a place beside its point, one after another.

  Each takes the nearest place that lies in the room and covers neither a mark
  nor a label that was placed before.

  Args:
    points: the marks' middles.
    sizes: of their labels.
    room: that no label may leave.
    radius: of a mark.

  Returns:
    The labels' boxes, all lengths in one unit; None where one finds no place.
  """
  taken = [
    Box(x - radius, y - radius, x + radius, y + radius) for x, y in points
  ]
  found = []
  for (x, y), size in zip(points, sizes, strict=True):
    free = (
      box
      for box in _places(x, y, size, radius)
      if _inside(box, room) and not any(_overlap(box, own) for own in taken)
    )
    box = next(free, None)
    if box is None:
      return None
    taken.append(box)
    found.append(box)
  return found


def is_near(point: tuple[float, float], box: Box, radius: float) -> bool:
  """Whether a label stands right beside its point."""
  x, y = point
  across = max(box.left - x, x - box.right, 0.0)
  up = max(box.low - y, y - box.high, 0.0)
  return math.hypot(across, up) <= radius + 1.5 * _GAP


def _places(x: float, y: float, size: Size, radius: float) -> Iterator[Box]:
  """Beside the point, above and below, and then farther away."""
  width, height = size
  step = height + _GAP
  for ring in range(_RINGS):
    away = radius + _GAP + ring * step / 2
    heights = [y - height / 2]
    if ring:
      heights = [y - height / 2 + side * ring * step for side in (1, -1)]
    for low in heights:
      for left in (x + away, x - away - width):
        yield Box(left, low, left + width, low + height)
    for low in (y + away, y - away - height):
      left = x - width / 2
      yield Box(left, low, left + width, low + height)


def _inside(box: Box, room: Box) -> bool:
  return (
    room.left <= box.left
    and box.right <= room.right
    and room.low <= box.low
    and box.high <= room.high
  )


def _overlap(a: Box, b: Box) -> bool:
  return (
    a.left < b.right and b.left < a.right and a.low < b.high and b.low < a.high
  )
