"""A run's results as a table and a page; reads `results.json` alone.

`rows.py` says what stands in that file, and `columns.py` which of it is shown
and how. A task brings its own columns; nothing here knows what they measure.
"""

from lit_jax.report.columns import UNSCORED, Column, check
from lit_jax.report.page import PAGE, read_results, write_html
from lit_jax.report.rows import Results, Row
from lit_jax.report.table import markdown, show, table

__all__ = [
  'PAGE',
  'UNSCORED',
  'Column',
  'Results',
  'Row',
  'check',
  'markdown',
  'read_results',
  'show',
  'table',
  'write_html',
]
