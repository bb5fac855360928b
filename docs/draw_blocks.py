"""Draws blocks.svg: a teacher and a student, cut into the same blocks.

  python docs/draw_blocks.py [FILE]

The same version of matplotlib gives the same bytes.
"""

import pathlib
import sys

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

FILE = pathlib.Path(__file__).with_name('blocks.svg')

_INK, _SOFT, _GREY = '#24292f', '#57606a', '#8c959f'
# Edge and fill.
_TEACHER = '#0072b2', '#dcecf7'
_STUDENT = '#c65200', '#fbe6d6'
_LOSS = '#00805d', '#d9f0e8'
_STYLE = {
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans', 'Helvetica', 'Arial'],
  'font.size': 12,
  # Text stays text, and the file names no date and no random ids.
  'svg.fonttype': 'none',
  'svg.hashsalt': 'blocks',
}

_SIZE = 16.2, 6.9  # units of the drawing
_INCH = 0.68  # of one unit
_TOP, _BOTTOM, _HEIGHT = 5.0, 1.9, 1.2
_MIDDLE = (_TOP + _BOTTOM) / 2
# The upper lane of a student's block is fed by the teacher, the lower one is
# the student's own.
_FED, _OWN = _BOTTOM + 0.3, _BOTTOM - 0.3
_STEM, _HEAD = (1.15, 2.45), (13.35, 14.65)
_CUTS = (3.15, 6.25, 9.35, 12.45)
_BLOCKS = ((3.95, 5.45), (7.05, 8.55), (10.15, 11.65))
_LOGITS = 15.65
# At a cut, what is compared runs left of what is fed.
_ASIDE = 0.24
_SUB = '₀₁₂₃'


def draw(path: pathlib.Path = FILE) -> None:
  """Writes the picture; the suffix says as what."""
  with mpl.rc_context(_STYLE):
    width, height = _SIZE
    figure = Figure((width * _INCH, height * _INCH), facecolor='white')
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis('off')
    _teacher(axes)
    _student(axes)
    _copies(axes)
    for i in range(len(_CUTS)):
      _cut(axes, i)
    _distillation(axes)
    _legend(axes)
    # No date in the file.
    metadata = {'Date': None} if path.suffix == '.svg' else None
    figure.savefig(path, metadata=metadata)


def _teacher(axes):
  axes.text(
    _STEM[0], 6.25, 'Teacher', color=_TEACHER[0], weight='bold', size=14
  )
  axes.text(2.95, 6.25, 'deep and trained; it does not learn', color=_SOFT)
  stops = [(0.35, 0.55), _STEM]
  for cut, block in zip(_CUTS, (*_BLOCKS, _HEAD), strict=True):
    stops += [(cut - 0.42, cut + 0.42), block]
  stops.append((_LOGITS - 0.36, _LOGITS + 0.36))
  for (_, left), (right, _) in zip(stops[:-1], stops[1:], strict=True):
    _arrow(axes, (left, _TOP), (right, _TOP), colour=_TEACHER[0])
  axes.text(0.3, _TOP, 'x', ha='center', va='center', color=_INK, size=14)
  _part(axes, _STEM, _TOP, _TEACHER, 'stem', 0)
  for i, block in enumerate(_BLOCKS, start=1):
    _part(axes, block, _TOP, _TEACHER, f'block {i}', 5)
  _part(axes, _HEAD, _TOP, _TEACHER, 'head', 0)
  _pill(axes, _LOGITS, _TOP, _TEACHER, 'q', 0.36)


def _student(axes):
  axes.text(
    _STEM[0], 0.78, 'Student', color=_STUDENT[0], weight='bold', size=14
  )
  axes.text(2.95, 0.78, 'shallow; its blocks learn', color=_SOFT)
  stops = [(0.35, 0.55), _STEM, *_BLOCKS, _HEAD, (_LOGITS - 0.36, 0)]
  for (_, left), (right, _) in zip(stops[:-1], stops[1:], strict=True):
    _arrow(axes, (left, _OWN), (right, _OWN), colour=_GREY)
  axes.text(0.3, _OWN, 'x', ha='center', va='center', color=_INK, size=14)
  _part(axes, _STEM, _BOTTOM, _STUDENT, 'stem', 0)
  for i, block in enumerate(_BLOCKS, start=1):
    _part(axes, block, _BOTTOM, _STUDENT, f'block {i}', 1)
  _part(axes, _HEAD, _BOTTOM, _STUDENT, 'head', 0)
  _pill(axes, _LOGITS, _OWN, _STUDENT, 'p', 0.36)


def _copies(axes):
  for left, right in (_STEM, _HEAD):
    middle = (left + right) / 2
    _arrow(
      axes,
      (middle, _TOP - _HEIGHT / 2),
      (middle, _BOTTOM + _HEIGHT / 2),
      colour=_GREY,
      linestyle=(0, (3, 2)),
    )
    axes.text(
      middle, _MIDDLE, 'copied', ha='center', va='center', color=_INK,
      bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 3},
    )  # fmt: skip


def _cut(axes, i):
  """T_i, what it is fed to, and what it is compared with."""
  x = _CUTS[i]
  below = _TOP - 0.34
  if i > 0:
    left = x - _ASIDE
    _line(axes, [_BLOCKS[i - 1][1], left, left], [_FED, _FED, _MIDDLE], _LOSS)
    _line(axes, [left, left], [_MIDDLE, below], _LOSS)
    _circle(axes, left, 0.3, 'ℓ')
  if i < len(_BLOCKS):
    right = x + _ASIDE
    ends = [(right, below), (right, _FED), (_BLOCKS[i][0], _FED)]
    _arrow(axes, *ends, colour=_TEACHER[0], width=1.8)
  _pill(axes, x, _TOP, _TEACHER, f'T{_SUB[i]}', 0.42)


def _distillation(axes):
  _line(axes, [_LOGITS, _LOGITS], [_OWN + 0.34, _MIDDLE], _LOSS)
  _line(axes, [_LOGITS, _LOGITS], [_MIDDLE, _TOP - 0.34], _LOSS)
  _circle(axes, _LOGITS, 0.42, 'KD')
  for y in (_TOP + 0.55, _OWN - 0.6):
    axes.text(_LOGITS, y, 'logits', ha='center', va='center', color=_SOFT)


def _legend(axes):
  y = 0.22
  entries = (
    (1.15, _TEACHER[0], '-', 'fed by the teacher'),
    (4.95, _LOSS[0], '-', 'compared: the losses'),
    (8.85, _GREY, '-', 'the student’s own way'),
    (13.15, _GREY, (0, (3, 2)), 'copied weights'),
  )
  for x, colour, style, words in entries:
    axes.plot([x, x + 0.5], [y, y], color=colour, linestyle=style, lw=2)
    axes.text(x + 0.65, y, words, va='center', color=_INK, size=11)


def _part(axes: Axes, span, y, colours, words, layers):
  """A box; of a block, with as many lines as it has layers."""
  left, right = span
  bottom = y - _HEIGHT / 2
  box = FancyBboxPatch(
    (left, bottom), right - left, _HEIGHT,
    boxstyle='round,pad=0,rounding_size=0.14',
    facecolor=colours[1], edgecolor=colours[0], linewidth=1.6, zorder=3,
  )  # fmt: skip
  axes.add_patch(box)
  up = 0.16 if layers else 0.0
  axes.text(
    (left + right) / 2, y + up, words, ha='center', va='center', color=_INK,
    zorder=5,
  )  # fmt: skip
  for k in range(layers):
    x = (left + right) / 2 + 0.2 * (k - (layers - 1) / 2)
    axes.plot(
      [x, x], [y - 0.42, y - 0.14], color=colours[0], lw=3, zorder=4,
      solid_capstyle='round',
    )  # fmt: skip


def _pill(axes, x, y, colours, words, half):
  box = FancyBboxPatch(
    (x - half, y - 0.34), 2 * half, 0.68,
    boxstyle='round,pad=0,rounding_size=0.34',
    facecolor='white', edgecolor=colours[0], linewidth=1.6, zorder=3,
  )  # fmt: skip
  axes.add_patch(box)
  axes.text(
    x, y, words, ha='center', va='center', color=_INK, size=13, zorder=5
  )


def _circle(axes, x, radius, words):
  disc = Circle(
    (x, _MIDDLE), radius, facecolor=_LOSS[1], edgecolor=_LOSS[0], lw=1.6,
    zorder=4,
  )  # fmt: skip
  axes.add_patch(disc)
  axes.text(
    x, _MIDDLE, words, ha='center', va='center', color=_INK, zorder=5, size=13
  )


def _line(axes, xs, ys, colours):
  axes.plot(xs, ys, color=colours[0], lw=1.8, zorder=2, solid_joinstyle='round')


def _arrow(axes, *points, colour, width=1.5, linestyle: object = '-'):
  axes.add_patch(
    FancyArrowPatch(
      path=Path(points),
      arrowstyle='-|>',
      mutation_scale=12,
      color=colour,
      lw=width,
      linestyle=linestyle,
      joinstyle='round',
      zorder=2,
    )  # fmt: skip
  )


if __name__ == '__main__':
  draw(*map(pathlib.Path, sys.argv[1:2]))
