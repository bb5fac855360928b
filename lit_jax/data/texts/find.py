"""Which files a data set of texts is read from, and what their columns mean."""

import glob
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from lit_jax.errors import UserError

SPLITS = ('train', 'test')


class Columns(NamedTuple):
  """What the columns of a source mean.

  Attributes:
    text: the columns whose texts are joined.
    label: the column with the label.
    header: the names of all columns of CSV files without a header line, else
      ().
    classes: the labels in the order of their numbers, () for the train split's.
    ordinal: integer labels are the classes' numbers.
    escaped: a backslash and an n stand for a newline.
  """

  text: tuple[str, ...]
  label: str
  header: tuple[str, ...]
  classes: tuple[str, ...]
  ordinal: bool
  escaped: bool


class Source(NamedTuple):
  """The files of a data set.

  Attributes:
    place: the folder they are in, which messages name.
    kind: 'csv', 'parquet', or 'tfds' for what TensorFlow Datasets prepared.
    files: paths by split, one a split for 'csv'; for 'tfds' all under 'all'.
    columns: what the files' columns mean.
  """

  place: str
  kind: str
  files: dict[str, tuple[str, ...]]
  columns: Columns


def check_regular(path: str) -> None:
  """Raises UserError for a pipe, which waits for ever, and a folder."""
  if not os.path.isfile(path):
    raise UserError(f'{path}: is a directory or a pipe; put a file there')


def is_integer(label: str) -> bool:
  """Whether a label is written as a whole number."""
  return re.fullmatch(r'\s*[+-]?\d+\s*', label, re.ASCII) is not None


def csv(folder: str, columns: Columns) -> Source | None:
  """The folder's train.csv and test.csv, None where there is neither.

  Raises:
    UserError: one of them is missing.
  """
  files = {s: (os.path.join(folder, f'{s}.csv'),) for s in SPLITS}
  found = [f for (f,) in files.values() if os.path.exists(f)]
  if not found:
    return None
  for (file,) in files.values():
    if file not in found:
      raise UserError(f'{folder}: lacks {os.path.basename(file)}; put it there')
    check_regular(file)
  return Source(folder, 'csv', files, columns)


def other(folder: str, columns: Columns) -> Source | None:
  """The folder's Parquet files, else what TensorFlow Datasets prepared there.

  Raises:
    UserError: some of the Parquet files are missing.
  """
  return _parquet(folder, columns) or _prepared(folder, columns)


def _parquet(folder: str, columns: Columns) -> Source | None:
  for place in (folder, os.path.join(folder, 'data')):
    files = {
      s: tuple(sorted(glob.glob(f'{glob.escape(place)}/{s}*.parquet')))
      for s in SPLITS
    }
    if not any(files.values()):
      continue
    for split, paths in files.items():
      if not paths:
        raise UserError(f'{place}: lacks {split}*.parquet; put it there')
      _check_shards(place, paths)
      for path in paths:
        check_regular(path)
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
