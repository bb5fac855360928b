"""The examples that teacher and student disagree on, as a page shows them."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from lit_jax.errors import printable
from lit_jax.report import scores, sheets
from lit_jax.report.columns import TEACHER
from lit_jax.report.rows import Row

_LETTERS = 300  # of a text


class Example(NamedTuple):
  """One of them.

  Attributes:
    title: which example it is.
    image: as PNG, or b'' where there is none.
    text: or '' where it is none.
    label: the name of its class.
    teacher: what the teacher takes it for, and how sure it is.
    student: what the student takes it for, and how sure it is.
    right: who is right: 'teacher', 'student' or ''.
  """

  title: str
  image: bytes
  text: str
  label: str
  teacher: str
  student: str
  right: str


class Disagreements(NamedTuple):
  """Attributes: of one row its name, the numbers in words, the examples."""

  name: str
  sentence: str
  examples: list[Example]


def draw(
  workdir: pathlib.Path, found: Sequence[Row], class_names: Sequence[Any]
) -> list[Disagreements]:
  """Those of each row that has them.

  Args:
    workdir: below which the rows' images lie; what cannot be read is left out.
    found: the rows of the results.
    class_names: by number; a class without a name is called by its number.
  """
  return [
    Disagreements(
      f'{row.method} ({row.model})',
      _sentence(row),
      _examples(workdir, row, [printable(str(name)) for name in class_names]),
    )
    for row in found
    if row.value('disagreements') is not None
  ]


def _sentence(row: Row) -> str:
  counts = row.value('disagreement_counts')
  if not counts:
    return ''
  teacher = printable(str(row.value('teacher', TEACHER)))
  teacher = 'the teacher' if teacher == TEACHER else teacher
  student, examples = printable(row.method), f'{counts["examples"]:,}'
  if not counts['all']:
    return (
      f'On all {examples} scored examples {student} says what {teacher} says.'
    )
  both = counts['teacher_right'], counts['student_right']
  neither = counts['all'] - sum(both)
  shown = len(row.value('disagreements'))
  which = f' Below are the {shown} of which {teacher} is surest.'
  return (
    f'{student} and {teacher} disagree on {counts["all"]:,} of {examples} '
    f'scored examples. Of these {teacher} gets {both[0]:,} right, {student} '
    f'{both[1]:,}, and neither {neither:,}.{which if shown else ""}'
  )


def _examples(workdir, row, names) -> list[Example]:
  own = row.value('disagreements')
  images = _images(workdir, row, len(own))
  return [
    Example(
      f'Example {example["index"]}',
      image,
      printable(example.get('text', ''))[:_LETTERS],
      _class(example['label'], names),
      _answer(example, 'teacher', names),
      _answer(example, 'student', names),
      next(
        (w for w in ('teacher', 'student') if example[w] == example['label']),
        '',
      ),
    )
    for example, image in zip(own, images, strict=True)
  ]


def _images(workdir, row, count) -> list[bytes]:
  """One of each example, b'' where there is none."""
  sheet = row.value('disagreement_images')
  tiles = sheets.read(workdir, sheet) if sheet else None
  images = [] if tiles is None else [_png(tile[0]) for tile in tiles[:count]]
  return images + [b''] * (count - len(images))


def _png(pixels) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'PNG')
  return file.getvalue()


def _answer(example, who, names) -> str:
  """'Shirt (97 %)', which breaks before the bracket alone."""
  name = _class(example[who], names)
  sure = scores.finite(example.get(f'{who}_probability'))
  return name if sure is None else f'{name} ({100 * sure:.0f}\u00a0%)'


def _class(number: int, names: Sequence[str]) -> str:
  return names[number] if 0 <= number < len(names) else str(number)
