"""Which block of a student needs depth, for the terminal.

Of every student that has it: what the teacher loses where one block is the
student's, and how far that block's output and input are from the teacher's.
"""

import math
from collections.abc import Callable

import rich.box
import rich.table
from rich.text import Text

from lit_jax.errors import printable
from lit_jax.report import columns, rows
from lit_jax.report.columns import FORMATS, NONE
from lit_jax.report.rows import Results, Row

_NUMBER = FORMATS['number'].text


def table(results: Results) -> rich.table.Table | None:
  """A line for each block of each student; None where no row has a 'stitch'.

  Args:
    results: what `results.json` holds.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  found = _stitched(results)
  if not found:
    return None
  lost, write = _lost(results)
  out = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    show_edge=False,
    title='The teacher with one block of the student',
    title_justify='left',
  )
  out.add_column('Method', overflow='fold')
  out.add_column('block', overflow='fold')
  for heading in (lost, 'IR error', 'input shift'):
    out.add_column(Text(heading), justify='right', overflow='fold')
  for row in found:
    for i, (block, own) in enumerate(row.value('stitch').items()):
      error = row.value('ir_error', {}).get(block, {}).get('teacher_input')
      out.add_row(
        Text('' if i else printable(row.method)),
        Text(printable(block)),
        write(own['lost']),
        NONE if error is None else _NUMBER(error),
        _NUMBER(own['input_shift']),
      )
  return out


def sentences(results: Results) -> list[str]:
  """Of each student the block that loses most.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  return [_sentence(printable(row.method), row) for row in _stitched(results)]


def _stitched(results) -> list[Row]:
  return [row for row in rows.of(results) if row.value('stitch')]


def _sentence(method, row):
  lost = {
    block: own['lost']
    for block, own in row.value('stitch').items()
    if not math.isnan(own['lost'])
  }
  most = max(lost, key=lost.__getitem__, default=None)
  if most is None or lost[most] <= 0:
    return f'{method}: no block loses anything'
  return f'{method}: {printable(most)} loses most; give it depth first'


def _lost(results) -> tuple[str, Callable[[float], str]]:
  """A heading of what is lost of the selected number, and how it is written."""
  key = results.get('selects')
  for column in columns.of_task(results):
    form = FORMATS[column.format]
    if column.key == key and not column.against and form.kind is not str:
      unit = ', %' if form.scale == 100 else ''
      return f'{printable(column.label or "score")} lost{unit}', form.text
  return 'score lost', _NUMBER
