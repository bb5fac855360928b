"""Turns the files of a text data set into checked uint8 character ids.

Knows CSV files, Parquet files and what TensorFlow Datasets prepared. Each kind
comes as tables of some thousand rows, whose texts are joined, checked and
encoded before the next table is read.
"""

import codecs
import collections
import contextlib
import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from lit_jax.data.texts import cache, characters
from lit_jax.data.texts.find import Columns, Source, is_integer
from lit_jax.errors import UserError, reason

# pyarrow makes these functions when it is imported, unseen by type checkers.
_compute: Any = pyarrow.compute

_MAX_CLASSES = 1000
_LONGEST_CLASS = 200  # characters; who takes the texts for labels has more
# Bytes of a CSV file parsed at a time; a row may not be longer.
_CSV_BLOCK = 1 << 20
_ROWS = 8192  # of other files read at a time
# What is counted where bad rows are skipped.
_COLUMNS = 'with other columns'
# Stands for a byte that is no UTF-8.
_SUBSTITUTE = '\x1a'


class _Table(NamedTuple):
  """Consecutive rows of a file."""

  where: str
  rows: np.ndarray  # int64 [n], each row's number
  texts: tuple[Any, ...]  # arrays of binary, one for each text column
  labels: Any  # an array of any type
  broken: np.ndarray  # bool [n], not UTF-8


class Faults:
  """What is wrong with rows: the first one raises, or all are counted.

  Attributes:
    skip: whether all are counted.
    counts: of the rows that cannot be used, by what is wrong with them.
  """

  def __init__(self, skip: bool):
    """None so far."""
    self.skip = skip
    self.counts: collections.Counter[str] = collections.Counter()

  def found(self, kind: str, where: str, row: int, fault: str) -> None:
    """Counts a row that cannot be used as one of its kind, or raises."""
    if not self.skip:
      raise UserError(
        f"{where}: row {row} {fault}; mend it, or set on_bad to 'skip'"
      )
    self.counts[kind] += 1


class Numbers:
  """The number of each label.

  Attributes:
    classes: the labels in the order of their numbers; where `columns` names
      none, () until `close` is called.
  """

  def __init__(self, columns: Columns):
    """Of the labels that `columns` describes."""
    self.classes = columns.classes
    self._open = not columns.classes  # every label is a class
    self._ordinal = columns.ordinal and not self._open
    self._numbers = {label: i for i, label in enumerate(columns.classes)}
    self._known = self._numbers

  def of(self, table: _Table, good: np.ndarray) -> np.ndarray:
    """Of each row's label, int32 [n], -1 for what is no label.

    Args:
      table: the rows.
      good: which ones may make a new class, bool [n].
    """
    if self._ordinal and pa.types.is_integer(table.labels.type):
      self._known = {str(i): i for i in range(len(self.classes))}
    else:
      self._known = self._numbers
    column = table.labels.dictionary_encode()
    different = [_as_text(v) for v in column.dictionary.to_pylist()]
    places = column.indices.fill_null(len(different)).to_numpy()
    if self._open:
      seen = set(places[good].tolist())
      self._add([d for i, d in enumerate(different) if i in seen], table.where)
    numbers = [self._known.get(d, -1) for d in different] + [-1]
    return np.array(numbers, np.int32)[places]

  def known(self) -> str:
    """The labels, for messages."""
    return _few(self._known)

  def close(self, place: str) -> np.ndarray:
    """After the train split: what its numbers become, int32 [classes]."""
    if not self._open:
      return np.arange(len(self.classes), dtype=np.int32)
    self._open = False
    labels = list(self._numbers)
    # Here, for an open quote makes one, too, and is told of before.
    longest = max(labels, key=len, default='')
    if len(longest) > _LONGEST_CLASS:
      raise UserError(
        f'{place}: holds a label of {len(longest)} characters, '
        f'{longest[:40]!r} …; check `label`, or name the `classes`'
      )
    if len(labels) < 2:
      raise UserError(
        f'{place}: all rows have the label {labels[0]!r}; check `label`, or '
        'name all `classes`'
      )
    whole = all(map(is_integer, labels))
    self.classes = tuple(sorted(labels, key=int if whole else str))
    before = self._numbers
    self._numbers = {label: i for i, label in enumerate(self.classes)}
    return np.array([self._numbers[label] for label in before], np.int32)

  def _add(self, labels, where):
    for label in labels:
      if label:
        self._numbers.setdefault(label, len(self._numbers))
    if len(self._numbers) > _MAX_CLASSES:
      raise UserError(
        f'{where}: holds more than {_MAX_CLASSES} different labels; check '
        '`label`, or name the `classes`'
      )


def encoded(
  source: Source,
  split: str,
  numbers: Numbers,
  faults: Faults,
  part: cache.Part,
  length: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Reads, checks and encodes the rows of a split, a table at a time.

  Args:
    source: the files.
    split: 'train' or 'test'.
    numbers: of the labels; those of the train split come first.
    faults: what a row that cannot be used is told to.
    part: the entry that is being written, which lends room on disk.
    length: characters of a text.

  Yields:
    Ids uint8 [k, length] and labels int32 [k] of the good rows.

  Raises:
    UserError: a file is unreadable, lacks a column or holds another type; a
      row cannot be used, unless `faults` skips it; or the labels are too many.
  """
  columns = source.columns
  for table in _READERS[source.kind](source, split, faults, part):
    joined, empty = _join(table.texts)
    good = ~table.broken & ~empty
    labels = numbers.of(table, good)
    good &= labels >= 0
    for i in np.flatnonzero(~good):
      row = int(table.rows[i])
      if table.broken[i]:
        faults.found('not UTF-8', table.where, row, 'is not UTF-8')
      elif empty[i]:
        faults.found('without text', table.where, row, 'has no text')
      else:
        label = _as_text(table.labels[int(i)].as_py())
        fault = f'has the label {label[:40]!r}, not one of {numbers.known()}'
        fault = fault if label else 'has no label'
        faults.found('with an unknown label', table.where, row, fault)
    if not good.all():
      joined, labels = joined.filter(pa.array(good)), labels[good]
    if columns.escaped:
      joined = _compute.replace_substring(joined, b'\\n', b' ')
    yield characters.encode(joined, length), labels


def _join(texts: Sequence[Any]) -> tuple[Any, np.ndarray]:
  """The texts of each row joined; and where there is none, bool [n]."""
  space = pa.scalar(b' ', texts[0].type)
  joined = _compute.binary_join_element_wise(
    *texts, space, null_handling='replace', null_replacement=b''
  )
  # Nothing but the spaces between empty texts.
  sizes = _compute.binary_length(joined).to_numpy(zero_copy_only=False)
  return joined, sizes < len(texts)


def _as_text(label: Any) -> str:
  """A label as messages and `classes` have it, '' for none."""
  if label is None or label != label:  # or not a number
    return ''
  if isinstance(label, bytes):
    return label.decode('utf-8', 'replace').strip()
  if isinstance(label, float) and label.is_integer():
    label = int(label)  # pandas makes floats of integers with gaps
  return str(label).strip()


def _few(names: Any) -> str:
  """Names for a message."""
  shown = ', '.join(repr(n[:40]) for n in list(names)[:10])
  return shown + (' …' if len(names) > 10 else '')


# CSV.


def _is_utf8(path: str) -> bool:
  decoder = codecs.getincrementaldecoder('utf-8')()
  try:
    with open(path, 'rb') as f:
      while raw := f.read(_CSV_BLOCK):
        decoder.decode(raw)
    decoder.decode(b'', final=True)
    return True
  except UnicodeDecodeError:
    return False


def _copy_as_utf8(path: str, copy: str) -> None:
  """Copies a file with _SUBSTITUTE for each byte that is no UTF-8."""
  decoder = codecs.getincrementaldecoder('utf-8')('surrogateescape')
  with open(path, 'rb') as f, open(copy, 'wb') as to:
    raw = b'.'
    while raw:
      raw = f.read(_CSV_BLOCK)
      characters = decoder.decode(raw, final=not raw)
      to.write(re.sub('[\udc80-\udcff]', _SUBSTITUTE, characters).encode())


class _Records:
  """Numbers the rows that pyarrow yields, which leaves out bad ones."""

  def __init__(self, path: str, header: bool, faults: Faults):
    self._path, self._header, self._faults = path, header, faults
    self._bad: collections.deque[int] = collections.deque()
    self._text = ''  # of the last bad row
    self._next = 1
    self.first: tuple[int, str] | None = None  # bad row

  def invalid(self, row: Any) -> str:
    """pyarrow's invalid_row_handler, called before the rows around come."""
    number = row.number - self._header
    wanted, found = row.expected_columns, row.actual_columns
    fault = f'has {found} column{"s" * (found > 1)}, not {wanted}'
    if self._faults.skip:
      self._bad.append(number)
      self._text = row.text
      self._faults.found(_COLUMNS, self._path, number, fault)
      return 'skip'
    # Not raised here: within pyarrow an exception would be lost.
    self.first = number, fault
    return 'error'

  def rows(self, count: int) -> np.ndarray:
    """Of the next `count` good rows, int64 [count]."""
    found = np.empty(count, np.int64)
    done = 0
    while done < count:
      while self._bad and self._bad[0] == self._next:
        self._bad.popleft()
        self._next += 1
      stop = self._bad[0] if self._bad else self._next + count
      take = min(stop - self._next, count - done)
      found[done : done + take] = np.arange(self._next, self._next + take)
      done, self._next = done + take, self._next + take
    return found

  def check_end(self, value: bytes, end: bytes) -> None:
    """Raises where a quote was open until the end and took in other rows.

    Args:
      value: of the last column in the last good row.
      end: of the file, from the last byte that ends no line.
    """
    if self._bad:  # after all good rows
      row, held = self._bad[-1], self._text.encode()
      is_open = held.count(b'"') % 2 == 1
    else:
      row, held = self._next - 1, value
      # A quote that closes the value is no part of it.
      is_open = held.endswith(end) and end != b'"'
    if is_open and re.search(rb'[\r\n]', held):
      raise UserError(
        f'{self._path}: row {row} has a quote that is never closed; close or '
        'remove it'
      )


def _csv_tables(
  source: Source, split: str, faults: Faults, part: cache.Part
) -> Iterator[_Table]:
  columns = source.columns
  (path,) = source.files[split]
  with _reading(path):
    valid, size = _is_utf8(path), os.path.getsize(path)
  if valid:
    yield from _csv_file(path, path, columns, faults)
    return
  # pyarrow gives up at a row that has other columns and is not UTF-8. A Python
  # file that mends what it reads is no way out: pyarrow reads ahead in a
  # thread, and hangs where its reader is dropped while that waits for Python.
  with part.scratch(size) as copy:
    _copy_as_utf8(path, copy)
    yield from _csv_file(path, copy, columns, faults)


def _csv_file(
  path: str, copy: str, columns: Columns, faults: Faults
) -> Iterator[_Table]:
  """What `copy` holds, which is `path` to the user."""
  used = (*columns.text, columns.label)
  records = _Records(path, not columns.header, faults)
  last = b''
  try:
    with _reading(path):
      for batch in _csv_batches(path, copy, columns, records):
        arrays = [batch.column(name) for name in used]
        broken = np.zeros(len(batch), bool)
        for array in arrays if copy != path else ():
          found = _compute.match_substring(array, _SUBSTITUTE.encode())
          broken |= found.to_numpy(zero_copy_only=False)
        rows = records.rows(len(batch))
        if len(batch):
          last = batch.columns[-1][-1].as_py()
        yield _Table(path, rows, tuple(arrays[:-1]), arrays[-1], broken)
      records.check_end(last, _end(copy))
  except UserError:
    if records.first is None:
      raise
    faults.found(_COLUMNS, path, *records.first)


def _csv_batches(
  path: str, copy: str, columns: Columns, records: _Records
) -> Iterator[Any]:
  """Batches of the used columns and, as the last one, the file's last."""
  used = (*columns.text, columns.label)
  if columns.header:
    _check_no_header(path, copy, columns.header)
  header = columns.header or _csv_header(copy)
  if not header:
    return
  _check_columns(path, used, header)
  last = header[-1]
  included = [*(name for name in used if name != last), last]
  if header.count(last) > 1:
    included = []  # all, for the name would give the first one
  try:
    reader = pyarrow.csv.open_csv(
      copy,
      # One thread, for only then rows are numbered.
      pyarrow.csv.ReadOptions(
        use_threads=False,
        block_size=_CSV_BLOCK,
        column_names=columns.header or None,
      ),
      pyarrow.csv.ParseOptions(
        newlines_in_values=True, invalid_row_handler=records.invalid
      ),
      pyarrow.csv.ConvertOptions(
        check_utf8=False,  # it would not say where
        column_types={name: pa.binary() for name in included or header},
        include_columns=included,
        strings_can_be_null=False,
      ),
    )
  except pa.ArrowInvalid as e:
    if 'Empty CSV' in str(e):
      return
    raise
  yield from reader


def _csv_header(path: str) -> list[str]:
  # utf-8-sig passes over the byte order mark that some editors write.
  with open(path, encoding='utf-8-sig', newline='') as f:
    return next((row for row in csv.reader(f) if row), [])


def _check_no_header(path: str, copy: str, names: Sequence[str]) -> None:
  # Without the csv module, which refuses values that pyarrow takes.
  with open(copy, encoding='utf-8-sig') as f:
    line = f.read(_CSV_BLOCK).lstrip().split('\n')[0].rstrip()
  if [name.strip(' "') for name in line.split(',')] == list(names):
    raise UserError(
      f'{path}: its first line is the header `{line}`; leave `columns` empty, '
      'or remove that line'
    )


def _end(path: str) -> bytes:
  """The last bytes of a file, from the last one that ends no line."""
  with open(path, 'rb') as f:
    f.seek(max(0, os.path.getsize(path) - _CSV_BLOCK))
    raw = f.read()
  return raw[max(0, len(raw.rstrip(b'\r\n')) - 1) :]


def _check_columns(where: str, used: Sequence[str], found: Any) -> None:
  for name in used:
    if name not in found:
      raise UserError(
        f'{where}: has no column {name!r}, but {_few(found) or "none"}; set '
        '`text` and `label` to columns, or `columns` where a CSV file has no '
        'header line'
      )
    if list(found).count(name) > 1:
      raise UserError(
        f'{where}: has more than one column {name!r}; rename the others'
      )


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
  try:
    yield
  except UserError:
    raise
  # The readers of Parquet and of prepared files raise errors of every kind.
  except Exception as e:
    hint = ''
    if 'straddl' in str(e):
      hint = f', a row above {_CSV_BLOCK >> 20} MiB or a quote never closed'
    raise UserError(
      f'{where}: cannot be read ({reason(e)}{hint}); mend or replace it'
    ) from e


# Parquet, and what TensorFlow Datasets prepared.


def _parquet_tables(
  source: Source, split: str, faults: Faults, part: cache.Part
) -> Iterator[_Table]:
  del faults, part
  for path in source.files[split]:
    with _reading(path), pyarrow.parquet.ParquetFile(path) as file:
      columns = source.columns
      used = [*columns.text, columns.label]
      _check_columns(path, used, file.schema_arrow.names)
      first = 1
      for batch in file.iter_batches(_ROWS, columns=used):
        arrays = {name: batch.column(name) for name in used}
        yield _table(path, first, columns, arrays)
        first += len(batch)


def _tfds_tables(
  source: Source, split: str, faults: Faults, part: cache.Part
) -> Iterator[_Table]:
  del faults, part
  place, columns = source.place, source.columns
  used = (*columns.text, columns.label)
  try:
    # Here, since only this kind of copy needs the package.
    import tensorflow_datasets as tfds
  except ImportError as e:
    raise UserError(
      f'{place}: reading it needs the package tensorflow-datasets '
      f'({reason(e)}); install that, or move the folder away'
    ) from e
  where = f'{place}: {split} split'
  with _reading(f"{where} (which must be of file_format='array_record')"):
    builder: Any = tfds.builder_from_directory(place)
    _check_columns(where, used, sorted(builder.info.features))
    found = builder.as_data_source(split=split)
    for start in range(0, len(found), _ROWS):
      stop = min(start + _ROWS, len(found))
      examples = [found[i] for i in range(start, stop)]
      arrays = {name: pa.array([e[name] for e in examples]) for name in used}
      yield _table(where, start + 1, columns, arrays)


def _table(
  where: str, first: int, columns: Columns, arrays: dict[str, Any]
) -> _Table:
  labels = _plain(arrays[columns.label])
  texts = []
  for name in columns.text:
    column = _plain(arrays[name])
    if not _is_text(column.type):
      raise UserError(
        f'{where}: column {name!r} holds {column.type}, not text; check `text`'
      )
    texts.append(column.cast(pa.large_binary()))
  broken = np.zeros(len(labels), bool)
  for column in texts:
    broken |= _broken(column)
  if _is_text(labels.type):
    labels = labels.cast(pa.large_binary())
    broken |= _broken(labels)
  elif not pa.types.is_primitive(labels.type):
    raise UserError(
      f'{where}: column {columns.label!r} holds {labels.type}, not labels; '
      'check `label`'
    )
  rows = np.arange(first, first + len(labels))
  return _Table(where, rows, tuple(texts), labels, broken)


def _plain(column: Any) -> Any:
  """A column of values, not of numbers in a dictionary."""
  if pa.types.is_dictionary(column.type):
    return column.dictionary_decode()
  return column


def _is_text(kind: Any) -> bool:
  return any(
    check(kind)
    for check in (
      pa.types.is_string,
      pa.types.is_large_string,
      pa.types.is_string_view,
      pa.types.is_binary,
      pa.types.is_large_binary,
      pa.types.is_binary_view,
    )
  )


def _broken(column: Any) -> np.ndarray:
  """Which of the binary values are not UTF-8, bool [n]."""
  try:
    column.cast(pa.large_string())
    return np.zeros(len(column), bool)
  except pa.ArrowInvalid:
    values = (value or b'' for value in column.to_pylist())
    # Only bytes that are no UTF-8 do not come back.
    return np.array([v.decode('utf-8', 'ignore').encode() != v for v in values])


_Reader = Callable[[Source, str, Faults, cache.Part], Iterator[_Table]]
_READERS: dict[str, _Reader] = {
  'csv': _csv_tables,
  'parquet': _parquet_tables,
  'tfds': _tfds_tables,
}
