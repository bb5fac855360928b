"""The results as a table, for the terminal and in Markdown."""

import pathlib
import re
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
from rich.text import Text

from lit_jax.errors import printable
from lit_jax.report import columns, depth, rows, scores
from lit_jax.report.columns import NONE, Column
from lit_jax.report.rows import Results

# Letters in a terminal column of words.
_WORDS_WIDTH = 11


def table(results: Results) -> rich.table.Table:
  """The results as a table for the terminal, 80 columns wide.

  A row has as many lines as its tallest stack of columns: the model stands
  below the method, and the speed-up against the teacher below the latency. The
  notes stand under it.

  Args:
    results: what `results.json` holds.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  shown = columns.of(results)
  stacks = columns.stacks(shown)
  out = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    show_edge=False,
    padding=0,
    leading=1,
    # Text, as in a cell.
    caption=Text('\n'.join(map(printable, results.get('notes', ())))) or None,
    caption_justify='left',
  )
  for stack in stacks:
    out.add_column(
      Text(_heading(stack)),
      justify='left' if stack[0].words else 'right',
      min_width=_WORDS_WIDTH if stack[0].words else None,
      overflow='fold',
    )
  for line in columns.cells(results, shown):
    rest = iter(line)
    out.add_row(*(_cell([next(rest) for _ in stack]) for stack in stacks))
  return out


def show(results: Results, page: pathlib.Path) -> None:
  """Prints the table of a run, what its blocks lose, and where its page is.

  Raises:
    UserError: as `table`.
  """
  console = rich.console.Console()
  console.print(table(results))
  of_blocks, sentences = blocks(results)
  if of_blocks is not None:
    console.print()
    console.print(of_blocks)
  print(*sentences, f'report: {page}', sep='\n')


def blocks(results: Results) -> tuple[rich.table.Table | None, list[str]]:
  """What each block of each student costs the teacher, for the terminal.

  Args:
    results: what `results.json` holds.

  Returns:
    A table with a line a block, None where no row has a 'stitch'; and of each
    student a sentence on the block that loses most.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  score = scores.of(results)
  shown = [
    (printable(row.method), found)
    for row in rows.of(results)
    if (found := depth.of(row, score))
  ]
  if not shown:
    return None, []
  out = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    show_edge=False,
    title='The teacher with one block of the student',
    title_justify='left',
  )
  out.add_column('Method', overflow='fold')
  for i, heading in enumerate((depth.HEADINGS[0], depth.axis(score))):
    out.add_column(Text(heading), justify='right' if i else 'left')
  for heading in depth.HEADINGS[2:]:
    out.add_column(heading, justify='right')
  for method, found in shown:
    for i, cells in enumerate(found.cells):
      out.add_row(*map(Text, ('' if i else method, *cells)))
  return out, [f'{method}: {found.sentence}' for method, found in shown]


def markdown(results: Results) -> str:
  """The results as a Markdown table, ending in a line break.

  Args:
    results: what `results.json` holds.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  shown = columns.of(results)
  headings = [column.heading for column in shown]
  rule = ['---' if column.words else '---:' for column in shown]
  lines = [headings, rule, *columns.cells(results, shown)]
  return ''.join(
    '| ' + ' | '.join(map(_escape_markdown, line)) + ' |\n' for line in lines
  )


def _heading(stack: Sequence[Column]) -> str:
  names = [c.heading if c.narrow is None else c.narrow for c in stack]
  names = ['\n'.join(map(printable, name.split('\n'))) for name in names]
  first, *below = filter(None, names)
  # Each column of a stack has a line of its own.
  return '\n'.join([first.replace('\n', ' '), *below]) if below else first


def _cell(cells: Sequence[str]) -> Text:
  """The cells of one stack, all but the first one dimmed."""
  first, *below = cells
  # Text, not str: a name in square brackets is no markup.
  out = Text(first)
  for cell in below:
    out.append('\n').append('' if first == cell == NONE else cell, 'dim')
  return out


def _escape_markdown(text: str) -> str:
  text = re.sub(r'([\\`*_\[\]<>|~])', r'\\\1', text)
  return ' '.join(text.split())
