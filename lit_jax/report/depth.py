"""Where a student lacks depth: what each of its blocks costs the teacher.

A row's 'stitch' says of each block what the teacher scores with the student's
block in place of its own. Here is what a page shows of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lit_jax.errors import printable
from lit_jax.report import scores
from lit_jax.report.columns import NONE, TEACHER
from lit_jax.report.rows import Row
from lit_jax.report.scores import Score

HEADINGS = ('Block', 'Lost', 'IR error', 'Input shift')
_MARGIN = 0.08  # of an axis, above and below the bars


class Depth(NamedTuple):
  """What is shown of one row.

  Attributes:
    lost: how much worse the teacher scores with each block, by block, in the
      unit that figures show; None where it is not known.
    cells: a line a block, under HEADINGS.
    sentence: which block loses most.
  """

  lost: dict[str, float | None]
  cells: list[list[str]]
  sentence: str


def of(row: Row, score: Score | None) -> Depth | None:
  """What a row's blocks lose; None where that was not measured."""
  stitch = row.value('stitch')
  if not stitch:
    return None
  scale = score.scale if score else 1.0
  lost = {}
  for name, block in stitch.items():
    value = scores.finite(block.get('lost'))
    lost[name] = None if value is None else scale * value
  errors = row.value('ir_error') or {}
  cells = [
    [
      block_name(name),
      _number(lost[name], '.2f' if scale == 100 else '.4g'),
      _number(errors.get(name, {}).get('teacher_input'), '.3g'),
      _number(block.get('input_shift'), '.3g'),
    ]
    for name, block in stitch.items()
  ]
  name = printable(str(row.value('teacher', TEACHER)))
  teacher = 'the teacher' if name == TEACHER else name
  return Depth(lost, cells, _sentence(stitch, lost, score, teacher))


def axis(score: Score | None) -> str:
  """What bars of the loss are labelled with."""
  if score is None:
    return 'score lost'
  unit = ', points' if score.is_percent else ''
  return f'{score.name} lost{unit}'


def limits(found: Sequence[Depth]) -> tuple[float, float]:
  """Ends of an axis that holds the bars of all rows, and 0."""
  values = [own for depth in found for own in depth.lost.values()]
  known = [0.0, *(own for own in values if own is not None)]
  low, high = min(known), max(known)
  room = _MARGIN * (high - low) or 1.0
  return (low - room if low else 0.0), high + room


def block_name(name: str) -> str:
  """'blocks_0' is block 0 to a reader."""
  return printable(name).replace('blocks_', 'block ')


def _sentence(
  stitch: Mapping[str, Mapping[str, Any]],
  lost: Mapping[str, float | None],
  score: Score | None,
  teacher: str,
) -> str:
  known = {name: own for name, own in lost.items() if own is not None}
  if not known:
    return ''
  most = max(known, key=known.__getitem__)
  if known[most] <= 0:
    return f'No block of the student makes {teacher} worse.'
  percent = score is not None and score.is_percent
  how_much = _number(known[most], '.2f' if percent else '.4g')
  if percent:
    how_much = f'{how_much} points'
  name = score.name if score else 'score'
  reached = scores.finite(stitch[most].get('score'))
  now = f' ({score.text(reached)})' if score and reached is not None else ''
  block = block_name(most)
  return (
    f'{block[:1].upper()}{block[1:]} loses most: with it in place of its own, '
    f'{teacher}’s {name} is {how_much} worse{now}. Depth is needed there '
    'first.'
  )


def _number(value: Any, wanted: str) -> str:
  known = scores.finite(value)
  return NONE if known is None else format(known, wanted)
