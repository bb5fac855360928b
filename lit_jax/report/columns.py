"""The columns of a report: the common ones, and around them the task's own.

A column says where its value stands in a row and how it is written. Whatever
shows a table is driven by the list that `of` makes, so that a task has its
numbers everywhere by naming them in `results['columns']`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lit_jax.errors import UserError, printable
from lit_jax.report import rows
from lit_jax.report.rows import NUMBER, Kind, Results, Row

NONE = '-'  # the cell of what a row lacks
TEACHER = 'teacher'  # the method of the row that others are compared with
LOSS = 'loss'  # of a row there is none
UNSCORED = 'unscored'  # true in a row whose network could not be measured
_AGAINST = ('', 'difference', 'ratio')
_MISSING = object()


def _count(number: float) -> str:
  """Three digits and a unit: 272474 is 0.272 M."""
  if number >= 999.5e6:
    return f'{number / 1e9:.3g} G'
  if number >= 1e5:
    return f'{number / 1e6:.3g} M'
  if number >= 1e3:
    return f'{number / 1e3:.3g} k'
  return str(number)


def _percent(fraction: float) -> str:
  return f'{100 * fraction:.2f}'


def _number(number: float) -> str:
  return f'{number:.4g}' if abs(number) < 9999.5 else f'{number:.0f}'


def _milliseconds(number: float) -> str:
  return f'{number:.3g}' if number < 999.5 else f'{number:.0f}'


def _duration(seconds: float) -> str:
  if seconds == 0:
    return 'given'
  if seconds < 99.5:
    return f'{seconds:.0f} s'
  if seconds < 99.5 * 60:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'


class Format(NamedTuple):
  """How a value is written.

  Attributes:
    text: of a value.
    kind: what the value must be.
    fraction: whether it must lie between 0 and 1.
    scale: what a figure multiplies it by.
  """

  text: Callable[[Any], str]
  kind: Kind = NUMBER
  fraction: bool = False
  scale: float = 1.0


FORMATS: Mapping[str, Format] = {
  'text': Format(printable, str),
  'integer': Format(str, int),
  # 272474 is 0.272 M.
  'count': Format(_count),
  # 0.935 is 93.50.
  'percent': Format(_percent, fraction=True, scale=100.0),
  # Four digits: 0.12345 is 0.1235.
  'number': Format(_number),
  # As many digits as it has, up to six: 37.5 stays, and 40.0 is 40.
  'plain': Format('{:g}'.format),
  # Seconds; 0 is 'given'.
  'duration': Format(_duration),
  'milliseconds': Format(_milliseconds),
  # 5.0 is 5.00x.
  'ratio': Format('{:.2f}x'.format),
}


@dataclasses.dataclass(frozen=True)
class Column:
  """One column of a report.

  Attributes:
    key: where its value stands in a row's JSON; 'latency_ms.128' is what '128'
      is in 'latency_ms'.
    heading: above it.
    format: how it is written; a key of `FORMATS`.
    against: '' shows the row's own value; 'difference' what it has more than
      the teacher's, signed; 'ratio' the teacher's over its own, which is the
      speed-up where the values are times.
    unless_equal: another key. The column is left out where it would tell the
      same in every row that has a value; rows need not have one.
    optional: rows need not have a value; left out where none has.
    narrow: the heading in the terminal, where a line break may save width;
      None takes `heading`, and '' leaves it to the column above.
    below: in the terminal, stands below the column before it.
    words: is set flush left.
    label: its name in figures, without a unit; '' takes `heading`.
    note: a sentence under the page's table that explains it.
    quoted: its values were measured by others; set apart in the page.
  """

  key: str
  heading: str
  format: str
  against: str = ''
  unless_equal: str = ''
  optional: bool = False
  narrow: str | None = None
  below: bool = False
  words: bool = False
  label: str = ''
  note: str = ''
  quoted: bool = False

  def __post_init__(self):
    for name, known in (('format', FORMATS), ('against', _AGAINST)):
      if (value := getattr(self, name)) not in known:
        wanted = ', '.join(map(repr, known))
        raise ValueError(f'{name} {value!r} is not one of {wanted}')
    if self.against and FORMATS[self.format].kind is str:
      raise ValueError(f'against {self.against!r} needs numbers, not text')

  def to_json(self) -> dict[str, Any]:
    """What differs from the defaults."""
    return {
      field.name: value
      for field in dataclasses.fields(self)
      if (value := getattr(self, field.name)) != field.default
    }

  @classmethod
  def from_json(cls, content: Any, where: str) -> 'Column':
    """The column that `to_json` wrote.

    Args:
      content: what JSON had there.
      where: how an error names the place.

    Raises:
      UserError: a field is missing, unknown or of the wrong type.
    """
    if not isinstance(content, Mapping):
      raise UserError(f'{where}: expected a JSON object')
    for name in content:
      if name not in _KINDS:
        raise UserError(
          f'{where}: unknown field {name!r}; a column has {", ".join(_KINDS)}'
        )
    given = {k: v for k, v in _KINDS.items() if k in content or k in _REQUIRED}
    rows.check_fields(content, given, where)
    try:
      return cls(**content)
    except ValueError as error:
      raise UserError(f'{where}: {error}') from None

  def check(self, row: Row, where: str) -> None:
    """Raises UserError where a row's value is missing or cannot be shown.

    One that could not be scored lacks all of the task's own.
    """
    spared = self.optional or bool(self.unless_equal) or row.value(UNSCORED)
    _check_value(row, self.key, self.format, spared, where)
    if self.unless_equal:
      _check_value(row, self.unless_equal, self.format, True, where)

  def text(self, row: Row, teacher: Row | None) -> str:
    """The cell of a row; a dash where there is no value.

    Args:
      row: what it belongs to.
      teacher: the row that is compared with.
    """
    own = row.value(self.key)
    write = FORMATS[self.format].text
    if not self.against:
      return NONE if own is None else write(own)
    theirs = None if teacher is None else teacher.value(self.key)
    if self.against == 'ratio':
      return write(theirs / own) if own and theirs else NONE
    if own is None or theirs is None or row is teacher:
      return NONE
    more = own - theirs
    return ('-' if more < 0 else '+') + write(abs(more))

  def is_shown(self, among: Sequence[Row]) -> bool:
    """Whether it tells anything of these rows; see the attributes."""
    values = [row.value(self.key) for row in among]
    if self.optional and all(value is None for value in values):
      return False
    plain = dataclasses.replace(self, against='')
    other = dataclasses.replace(plain, key=self.unless_equal)
    return not self.unless_equal or any(
      value is not None and plain.text(row, None) != other.text(row, None)
      for row, value in zip(among, values, strict=True)
    )


_KINDS: Mapping[str, Kind] = {
  field.name: bool if field.default is False else str
  for field in dataclasses.fields(Column)
}
_REQUIRED = ('key', 'heading', 'format')

# Of networks that were pruned alone.
SIZES = (
  Column(
    'nonzeros',
    'Non-zero',
    'count',
    optional=True,
    narrow='non-zero',
    below=True,
    note='Non-zero are those that pruning has left.',
  ),
  Column(
    'sparse_bytes',
    'Bytes',
    'count',
    optional=True,
    narrow='bytes',
    below=True,
    note='Bytes are of a file in which zeros take next to nothing.',
  ),
)

LEADING = (
  Column('method', 'Method', 'text', words=True),
  Column('model', 'Model', 'text', narrow='model', below=True, words=True),
  Column('depth', 'Depth', 'integer'),
  Column('parameters', 'Params', 'count', note='Params are trainable numbers.'),
  *SIZES,
  Column(
    'macs',
    'MACs',
    'count',
    note='MACs are multiply-accumulates of one example’s forward pass.',
  ),
)


def _latency(batch: int, note: str = '') -> tuple[Column, Column]:
  """Milliseconds at a batch size, and the speed-up against the teacher."""
  key = f'latency_ms.{batch}'
  return (
    Column(
      key,
      f'ms, batch {batch}',
      'milliseconds',
      narrow=f'ms at\n{batch}',
      note=note,
    ),
    Column(
      key,
      f'speed-up, {batch}',
      'ratio',
      against='ratio',
      narrow='',
      below=True,
    ),
  )


TRAILING = (
  Column('epochs', 'Epochs', 'plain'),
  Column('train_seconds', 'Training', 'duration', narrow='Trained'),
  *_latency(
    1,
    'Milliseconds are for one forward pass of the whole batch; the speed-up is '
    'the teacher’s time over the row’s own.',
  ),
  *_latency(128),
)


def of_task(results: Results, where: str = 'results') -> list[Column]:
  """The task's own columns, whether they are shown or not.

  Args:
    results: what `results.json` holds.
    where: how an error names it.

  Raises:
    UserError: a column is malformed.
  """
  return [
    Column.from_json(column, f'{where}: columns[{i}]')
    for i, column in enumerate(results.get('columns', ()))
  ]


def selected(results: Results, where: str = 'results') -> Column | None:
  """The column of the score that `selects` names; None where that is the loss.

  Args:
    results: what `results.json` holds.
    where: how an error names it.

  Raises:
    UserError: there is no such column.
  """
  key = results.get('selects', LOSS)
  if key == LOSS:
    return None
  own = of_task(results, where)
  for column in own:
    if column.key == key and not column.against:
      return column
  known = ', '.join(dict.fromkeys([*(c.key for c in own), LOSS]))
  raise UserError(f'{where}: selects is {key!r}; the columns have {known}')


def of(results: Results, where: str = 'results') -> list[Column]:
  """The columns that are shown, from left to right.

  Args:
    results: what `results.json` holds.
    where: how an error names it.

  Raises:
    UserError: a field of the results, a column or a row's value is missing or
      of the wrong type.
  """
  found = rows.of(results, where)
  own = of_task(results, where)
  for i, row in enumerate(found):
    for column in (*SIZES, *own):
      column.check(row, f'{where}: rows[{i}]')
  shown = []
  for stack in stacks((*LEADING, *own, *TRAILING)):
    left = [column for column in stack if column.is_shown(found)]
    # What stood below a column that is left out must not stand below another.
    shown += [dataclasses.replace(c, below=i > 0) for i, c in enumerate(left)]
  return shown


def check(results: Any) -> None:
  """Raises UserError where results cannot be shown."""
  of(results)


def stacks(columns: Iterable[Column]) -> list[list[Column]]:
  """The columns, each with those that stand below it in the terminal."""
  out: list[list[Column]] = []
  for column in columns:
    if out and column.below:
      out[-1].append(column)
    else:
      out.append([column])
  return out


def cells(results: Results, columns: Sequence[Column]) -> list[list[str]]:
  """The text of each row under each column.

  Args:
    results: what `results.json` holds; `of` has found nothing wrong with it.
    columns: those to show.
  """
  found = rows.of(results)
  teacher = next((row for row in found if row.method == TEACHER), None)
  return [[c.text(row, teacher) for c in columns] for row in found]


def _check_value(
  row: Row, key: str, format: str, spared: bool, where: str
) -> None:
  """Raises UserError unless the value is as the format wants it, or spared."""
  value = row.value(key, _MISSING)
  if spared and (value is None or value is _MISSING):
    return
  wanted = FORMATS[format]
  record = {} if value is _MISSING else {key: value}
  rows.check_fields(record, {key: wanted.kind}, where)
  if wanted.fraction and not 0 <= value <= 1:
    raise UserError(f'{where}: {key} must be between 0 and 1, got {value}')
