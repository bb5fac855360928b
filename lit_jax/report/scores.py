"""The score by which a run's rows are compared, and how it is written."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from lit_jax.errors import printable
from lit_jax.report import columns
from lit_jax.report.columns import FORMATS, Column
from lit_jax.report.rows import NUMBER, Results, Row, is_a

_LARGEST = 1e100  # that is compared, or drawn


class Score(NamedTuple):
  """The number that `selects` names.

  Attributes:
    column: in which it stands.
    largest: whether more of it is better; None where that is not known.
  """

  column: Column
  largest: bool | None

  @property
  def name(self) -> str:
    """As a reader knows it, without a unit: 'accuracy'."""
    return printable(self.column.label or self.column.heading)

  @property
  def is_percent(self) -> bool:
    """Whether it is a part of 1, which is written in percent."""
    return FORMATS[self.column.format].scale == 100

  @property
  def scale(self) -> float:
    """What a figure multiplies it by."""
    return FORMATS[self.column.format].scale

  @property
  def axis(self) -> str:
    """Its name with its unit."""
    labelled = self.column.label and self.is_percent
    return f'{self.name}, %' if labelled else self.name

  def of(self, row: Row) -> float | None:
    """The row's own, where it is a finite number."""
    return finite(row.value(self.column.key))

  def text(self, value: float) -> str:
    """A value as the table has it, with its unit."""
    return FORMATS[self.column.format].text(value) + (
      ' %' if self.is_percent else ''
    )


def of(results: Results, where: str = 'results') -> Score | None:
  """The score of a run; None where its rows have none, or one that is text.

  Args:
    results: what `results.json` holds.
    where: how an error names it.

  Raises:
    UserError: `selects` names no column.
  """
  column = columns.selected(results, where)
  if column is None or FORMATS[column.format].kind is str:
    return None
  # Results of an older version do not say; of a part of 1 more is better.
  default = True if FORMATS[column.format].fraction else None
  return Score(column, results.get('selects_largest', default))


def finite(value: Any) -> float | None:
  """The value, where it is a number that can be compared and drawn."""
  known = is_a(value, NUMBER) and math.isfinite(value)
  return value if known and abs(value) < _LARGEST else None


def milliseconds(row: Row, batch: str) -> float | None:
  """How long the row's network takes for a batch; None where not known."""
  times: Mapping[str, Any] = row.latency_ms
  value = finite(times.get(batch))
  return value if value is not None and value > 1 / _LARGEST else None
