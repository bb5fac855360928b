"""Labels beside points, and the figure that they are for."""

import re

import numpy as np
import pytest

from lit_jax.report import labels, plots, scatter
from lit_jax.report.labels import Box, Size

ROOM = Box(0, 0, 300, 200)
SIZE = Size(50, 12)


def _apart(a, b):
  return (
    a.right <= b.left or b.right <= a.left or a.high <= b.low or b.high <= a.low
  )


def _marks(points, radius):
  return [
    Box(x - radius, y - radius, x + radius, y + radius) for x, y in points
  ]


@pytest.mark.parametrize(
  'points',
  [
    [(100, 100)],
    [(100, 100)] * 6,
    [(20, 100), (280, 100), (150, 10), (150, 190)],
    np.random.default_rng(0).uniform(20, 180, (8, 2)).tolist(),
  ],
)
def test_no_label_hides_anything(points):
  boxes = labels.place(points, [SIZE] * len(points), ROOM, 4)
  assert boxes is not None
  things = [*boxes, *_marks(points, 4)]
  for i, box in enumerate(boxes):
    size = box.right - box.left, box.high - box.low
    assert size == pytest.approx((50, 12))
    assert box.left >= 0 and box.right <= 300
    assert box.low >= 0 and box.high <= 200
    for j, other in enumerate(things):
      # Equal points have equal marks; a label is apart from all of them.
      assert i == j or _apart(box, other)


def test_a_label_stands_right_of_its_point_or_left_at_the_edge():
  (right,) = labels.place([(100, 100)], [SIZE], ROOM, 4)
  assert right == (107, 94, 157, 106)
  (left,) = labels.place([(290, 100)], [SIZE], ROOM, 4)
  assert left.right == 283
  assert labels.is_near((100, 100), right, 4)
  assert not labels.is_near((100, 100), Box(120, 94, 170, 106), 4)


def test_where_there_is_no_room():
  assert labels.place([(5, 5)], [Size(400, 12)], ROOM, 4) is None
  assert labels.place([(10, 10)] * 3, [SIZE] * 3, Box(0, 0, 80, 20), 4) is None


def _texts(svg):
  """What is written in a figure; a comment stands before each text's paths."""
  return re.findall(r'<!-- (.*?) -->', svg.decode())


def _draw(points, batch='128', axis='FID'):
  looks = plots.looks(point.method for point in points)
  return scatter.draw(points, batch, axis, looks)


def _points(count):
  return [
    scatter.Point('teacher' if i == 0 else f'kd{i}', 5 + i % 3, 80 + i)
    for i in range(count)
  ]


def test_every_row_is_labelled_once():
  for count in (2, 8, 9, 30):
    svg = _draw(_points(count), axis='accuracy, %')
    texts = _texts(svg)
    for point in _points(count):
      assert texts.count(point.method) == 1
    assert 'milliseconds for a batch of 128' in texts
    assert 'accuracy, %' in texts
    # Of few rows there is no legend.
    assert ('legend' in svg.decode()) == (count > 8)


def test_a_legend_where_labels_find_no_room():
  points = [
    scatter.Point('W' * 39, 1.0, 2.0),
    scatter.Point('M' * 39, 1.0, 2.0),
  ]
  svg = _draw(points)
  assert 'legend' in svg.decode()
  assert {'W' * 39, 'M' * 39} <= set(_texts(svg))


def test_a_wide_axis_is_logarithmic():
  def ticks(times):
    points = [scatter.Point(f'a{t}', t, 1.0) for t in times]
    return _texts(_draw(points))

  assert {'1', '10', '100'} <= set(ticks((0.8, 150.0)))
  assert '100' not in ticks((30.0, 60.0))
  # From the least to the greatest that are drawn, without a warning.
  for times in ((1e-90, 1e90), (1.0, 1.0), (1e90, 1e90 * (1 + 1e-15))):
    assert ticks(times)


def test_the_teacher_alone_is_black():
  looks = plots.looks(['kd', 'teacher', 'lit', 'kd'])
  assert looks['teacher'].colour == '#000000'
  assert len({look.colour for look in looks.values()}) == 3
  # A row without a time does not change how the others look.
  assert looks == plots.looks(['kd', 'teacher', 'lit'])


def test_the_same_points_give_the_same_bytes():
  first, again = (_draw(_points(5)) for _ in range(2))
  assert first == again
