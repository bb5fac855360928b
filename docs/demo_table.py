"""Prints a run's results as the README's table, in Markdown.

python docs/demo_table.py WORKDIR
"""

import dataclasses
import json
import pathlib
import sys

from lit_jax.report import columns, rows

_HEADINGS = {
  'method': 'Method',
  'depth': 'Depth',
  'parameters': 'Params',
  'accuracy': 'Accuracy %',
  'balanced_accuracy': 'Balanced %',
  'attribute_accuracy': 'Attributes %',
  'latency_ms.128': 'Speed-up at batch 128',
}


def table(results: rows.Results) -> str:
  """The network, its scores, and its speed-up."""
  chosen = [
    dataclasses.replace(column, heading=_HEADINGS[column.key])
    for column in columns.of(results)
    if column.key in _HEADINGS and _is_wanted(column)
  ]
  headings = [column.heading for column in chosen]
  rule = ['---' if column.words else '---:' for column in chosen]
  lines = [headings, rule, *columns.cells(results, chosen)]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _is_wanted(column):
  """Of latency the ratio to the teacher's alone, of all else the value."""
  wanted = 'ratio' if column.key.startswith('latency') else ''
  return column.against == wanted


if __name__ == '__main__':
  path = pathlib.Path(sys.argv[1]) / 'results.json'
  print(table(json.loads(path.read_text())))
