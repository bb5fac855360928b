"""A run's result in one sentence."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lit_jax.errors import printable, shortened
from lit_jax.report import rows, scores
from lit_jax.report.columns import TEACHER
from lit_jax.report.rows import Results, Row
from lit_jax.report.scores import Score

BATCHES = ('128', '1')  # the first at which teacher and student were timed
_LETTERS = 60  # of a name
_ALIKE = 1.05  # below which two times are about equal


class Headline(NamedTuple):
  """Attributes: the sentence; by which rule it names a row, or ''."""

  sentence: str
  rule: str = ''


def of(results: Results, where: str = 'results') -> Headline | None:
  """Which student is best, how much faster it is, and what that costs.

  Args:
    results: what `results.json` holds.
    where: how an error names it.

  Returns:
    None where the rows tell of none: nothing was timed beside a teacher, and
    there is no score, or it is not known whether more of it is better.

  Raises:
    UserError: a field of the results is missing or of the wrong type.
  """
  found = rows.of(results, where)
  score = scores.of(results, where)
  teacher = next((row for row in found if row.method == TEACHER), None)
  students = [row for row in found if row is not teacher]
  best = _best(students, score)
  ranked = f'Named is the student with the best {score.name}' if score else ''
  told = ''
  for batch in BATCHES:
    speeds = _speeds(students, teacher, batch)
    faster = [students[i] for i, ratio in speeds.items() if ratio > 1]
    if faster:
      named = _best(faster, score)
      rule = f'{ranked} among those that are faster than the teacher.'
      if named is None:
        named = students[max(speeds, key=speeds.__getitem__)]
        rule = 'Named is the fastest student.'
      ratio = _times(speeds[students.index(named)])
      cost = _cost(named, teacher, score)
      sentence = f'{_name(named)} is {ratio} as the teacher at batch {batch}'
      return Headline(f'{sentence}{cost}.', rule)
    if speeds:
      told = f'No student is faster than the teacher at batch {batch}.'
      break
  if best is None or score is None:
    return Headline(told) if told else None
  scored = f'{_name(best)} has the best {score.name}: '
  scored += f'{_values(best, teacher, score)}.'
  return Headline(f'{told} {scored}'.strip(), f'{ranked}.')


def _speeds(
  students: Sequence[Row], teacher: Row | None, batch: str
) -> Mapping[int, float]:
  """The teacher's time over the student's own, by its place among them."""
  theirs = None if teacher is None else scores.milliseconds(teacher, batch)
  if theirs is None:
    return {}
  own = [scores.milliseconds(row, batch) for row in students]
  return {i: theirs / time for i, time in enumerate(own) if time is not None}


def _best(students: Sequence[Row], score: Score | None) -> Row | None:
  """The first of those with the best score; None where that is not known."""
  if score is None or score.largest is None:
    return None
  known = [(row, own) for row in students if (own := score.of(row)) is not None]
  if not known:
    return None
  choose = max if score.largest else min
  return choose(known, key=lambda pair: pair[1])[0]


def _name(row: Row) -> str:
  """'lit (resnet-8)'."""
  method, model = (
    shortened(printable(text), _LETTERS) for text in (row.method, row.model)
  )
  return f'{method} ({model})' if model else method


def _times(ratio: float) -> str:
  """'2.9 times as fast', before 'as the teacher'."""
  if ratio < _ALIKE:
    return 'about as fast'
  return f'{ratio:.{1 if ratio < 9.95 else 0}f} times as fast'


def _cost(row: Row, teacher: Row | None, score: Score | None) -> str:
  """What stands behind the speed: ' and 1.06 points less accurate (…)'."""
  own = None if score is None else score.of(row)
  if score is None or own is None:
    return ''
  theirs = None if teacher is None else score.of(teacher)
  values = _values(row, teacher, score)
  if theirs is None or not (score.is_percent and score.name == 'accuracy'):
    return f', with {score.name} {values}'
  if score.text(own) == score.text(theirs):
    return f' and as accurate ({score.text(own)})'
  word = 'more' if own > theirs else 'less'
  return f' and {100 * abs(own - theirs):.2f} points {word} accurate ({values})'


def _values(row: Row, teacher: Row | None, score: Score) -> str:
  """'86.60 % against 93.50 %', the row's and the teacher's."""
  own = score.of(row)
  theirs = None if teacher is None else score.of(teacher)
  told = '' if own is None else score.text(own)
  if theirs is not None:
    told = f'{told} against {score.text(theirs)}'
  return f'{told} (less is better)' if score.largest is False else told
