"""CIFAR-10 and CIFAR-100: read from what a folder holds, or fetched."""

import hashlib
import http.client
import io
import math
import os
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data import prepared
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.images import checks, class_names
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError, reason

_URL = 'https://www.cs.toronto.edu/~kriz/'
_SHAPE = (32, 32, 3)


class _Cifar(NamedTuple):
  """What is known of one of the two before any file is read."""

  classes: tuple[str, ...]
  mean: tuple[float, ...]  # of each channel over the train split, 0 to 1
  std: tuple[float, ...]
  archive: str  # the official packed binary files
  md5: str
  folder: str  # inside the archive
  files: dict[str, tuple[str, ...]]  # by split
  records: dict[str, int]  # in each file of a split
  label_bytes: int  # before the pixels; the last one is the class


_CIFAR = {
  'cifar10': _Cifar(
    classes=class_names.CIFAR10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    archive='cifar-10-binary.tar.gz',
    md5='c32a1d4ab5d03f1284b67883e8d87530',
    folder='cifar-10-batches-bin',
    files={
      'train': tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
      'test': ('test_batch.bin',),
    },
    records={'train': 10000, 'test': 10000},
    label_bytes=1,
  ),
  'cifar100': _Cifar(
    classes=class_names.CIFAR100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    archive='cifar-100-binary.tar.gz',
    md5='03b5dce01913d631647c71ecec9e9cb8',
    folder='cifar-100-binary',
    files={'train': ('train.bin',), 'test': ('test.bin',)},
    records={'train': 50000, 'test': 10000},
    label_bytes=2,
  ),
}

NAMES = tuple(_CIFAR)


def load(name: str, folder: str) -> Dataset:
  """Reads CIFAR-10 or CIFAR-100, fetching it where no copy of it is found.

  It comes from the first of these that the folder holds: a directory that
  TensorFlow Datasets prepared, the official packed archive (its checksum is
  checked), the unpacked archive (the folder may be the unpacked one itself);
  else the archive is fetched into the folder.

  Args:
    name: one of NAMES.
    folder: where to look.

  Returns:
    The data set with its 'train' and 'test' splits: images uint8 [N, 32, 32,
    3], labels int32 [N].

  Raises:
    UserError: a file is missing, unreadable, damaged, of the wrong size or
      holds a label out of range; or the archive cannot be fetched.
  """
  cifar = _CIFAR[name]
  preprocess = ImagePreprocess(cifar.mean, cifar.std, flip=True)
  splits = _splits(name, folder)
  return Dataset(name, splits, len(cifar.classes), preprocess, cifar.classes)


# Which copy to read.


def _splits(name: str, folder: str) -> dict[str, Split]:
  cifar = _CIFAR[name]
  infos = prepared.infos(name, folder)
  if infos:
    return _tfds_splits(name, folder, infos)
  archive = os.path.join(folder, cifar.archive)
  # The packed copy goes first: only an archive has a checksum to check.
  if os.path.exists(archive):
    return _archive_splits(name, archive)
  unpacked = _unpacked(cifar, folder)
  if unpacked:
    return _unpacked_splits(name, unpacked)
  _fetch(cifar, folder)
  return _archive_splits(name, archive)


def _unpacked(cifar: _Cifar, folder: str) -> str:
  """The folder with the archive's files, '' for none."""
  inner = os.path.join(folder, cifar.folder)
  if os.path.exists(inner):
    return inner
  files = [f for names in cifar.files.values() for f in names]
  # One file is enough: a folder that lacks the others is then reported as
  # incomplete, where a fetch would hide that.
  if any(os.path.exists(os.path.join(folder, f)) for f in files):
    return folder
  return ''


# The official binary files.


def _archive_splits(name: str, path: str) -> dict[str, Split]:
  cifar = _CIFAR[name]
  fix = f'delete it and fetch {_URL}{cifar.archive} again'
  checks.check_is_file(path, fix)
  try:
    with open(path, 'rb') as f:
      if _md5(f) != cifar.md5:
        raise UserError(
          f'{path}: its MD5 checksum is not {cifar.md5}, so it is damaged or '
          f'another file; {fix}'
        )
      f.seek(0)
      contents = _members(f, cifar)
  except UserError:
    raise
  # The readers of archives raise errors of every kind.
  except Exception as e:
    raise UserError(f'{path}: cannot be read ({reason(e)}); {fix}') from e

  def read(file: str) -> tuple[str, bytes]:
    if file not in contents:
      raise UserError(f'{path}: lacks {cifar.folder}/{file}; {fix}')
    return f'{path}: {file}', contents[file]

  return _binary_splits(name, read, fix)


def _unpacked_splits(name: str, folder: str) -> dict[str, Split]:
  cifar = _CIFAR[name]
  fix = f'unpack {cifar.archive} from {_URL} again'

  def read(file: str) -> tuple[str, bytes]:
    path = os.path.join(folder, file)
    return path, checks.read(path, fix)

  return _binary_splits(name, read, fix)


def _binary_splits(
  name: str, read: Callable[[str], tuple[str, bytes]], fix: str
) -> dict[str, Split]:
  """Parses every file; read(file) gives its name in messages and its bytes."""
  cifar = _CIFAR[name]
  splits = {}
  for split, files in cifar.files.items():
    parts = []
    for file in files:
      where, raw = read(file)
      images, labels = _records(cifar, split, raw, where, fix)
      parts.append(
        Split(
          images, checks.check_labels(labels, len(cifar.classes), where, fix)
        )
      )
    splits[split] = Split(
      *(np.concatenate(p) for p in zip(*parts, strict=True))
    )
  return splits


def _file_size(cifar: _Cifar, split: str) -> int:
  """Bytes of each file of a split."""
  return cifar.records[split] * (cifar.label_bytes + math.prod(_SHAPE))


def _records(
  cifar: _Cifar, split: str, raw: bytes, where: str, fix: str
) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [N, 32, 32, 3] and labels uint8 [N] of one file."""
  height, width, channels = _SHAPE
  count = cifar.records[split]
  checks.check_size(len(raw), _file_size(cifar, split), where, fix)
  records = np.frombuffer(raw, np.uint8).reshape(count, -1)
  # A record is its labels, then a plane each of red, green and blue.
  planes = records[:, cifar.label_bytes :]
  planes = planes.reshape(count, channels, height, width)
  images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
  return images, records[:, cifar.label_bytes - 1]


def _members(f: io.BufferedReader, cifar: _Cifar) -> dict[str, bytes]:
  """The files of a packed tar that are wanted, by name; none is unpacked."""
  contents = {}
  # A byte more than there can be: a small archive can hold a large file.
  most = max(_file_size(cifar, split) for split in cifar.files) + 1
  with tarfile.open(fileobj=f, mode='r|gz') as tar:
    for member in tar:
      where, file = os.path.split(os.path.normpath(member.name))
      data = tar.extractfile(member) if where == cifar.folder else None
      if data is not None:
        contents[file] = data.read(most)
  return contents


def _md5(f: io.BufferedReader | io.BufferedRandom) -> str:
  # A check against damage only, so it may run where MD5 is barred as unsafe.
  digest = hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False))
  return digest.hexdigest()


def _fetch(cifar: _Cifar, folder: str) -> None:
  """Puts the archive in the folder, whole and checked, or not at all."""
  url = _URL + cifar.archive
  path = os.path.join(folder, cifar.archive)
  part = f'{path}.{os.getpid()}.part'
  fix = f'put {cifar.archive} in {folder} by hand'
  print(f'fetching {url} into {folder}', file=sys.stderr)
  try:
    os.makedirs(folder, exist_ok=True)
    with (
      urllib.request.urlopen(url, timeout=60) as response,
      open(part, 'wb+') as f,
    ):
      shutil.copyfileobj(response, f, 1 << 20)
      f.seek(0)
      if _md5(f) != cifar.md5:
        raise UserError(
          f'{url}: what arrived does not have the MD5 checksum {cifar.md5}; '
          f'try again later, or {fix}'
        )
    os.replace(part, path)
  except (OSError, http.client.HTTPException, ValueError) as e:
    raise UserError(
      f'{url}: could not be fetched into {folder} ({reason(e)}); {fix}'
    ) from e
  finally:
    # Also after an interrupt: a later run must not find half an archive.
    if os.path.exists(part):
      os.remove(part)


# A directory that TensorFlow Datasets prepared.


def _tfds_splits(name: str, folder: str, infos: list[str]) -> dict[str, Split]:
  place = prepared.newest(name, infos)
  found = prepared.opened(name, folder, place)
  with prepared.reading(place):
    return {
      split: _tfds_split(name, split, found[split], place)
      for split in ('train', 'test')
    }


def _tfds_split(name: str, split: str, source: Any, place: str) -> Split:
  cifar, fix = _CIFAR[name], prepared.FIX
  where = f'{place}: split {split}'
  checks.check_count(
    len(source), cifar.records[split] * len(cifar.files[split]), where, fix
  )
  examples = [source[i] for i in range(len(source))]
  if any('id' in e for e in examples):
    # The package shuffles what it writes; ids restore the archive's order, so
    # that hold_out picks the same images from every kind of copy.
    examples.sort(key=lambda e: e['id'])
  for i, example in enumerate(examples):
    shape, dtype = example['image'].shape, example['image'].dtype
    if shape != _SHAPE or dtype != np.uint8:
      raise UserError(
        f'{where}: image {i} is {dtype} {shape}, not uint8 {_SHAPE}; {fix}'
      )
  labels = np.asarray([e['label'] for e in examples])
  return Split(
    np.stack([e['image'] for e in examples]),
    checks.check_labels(labels, len(cifar.classes), where, fix),
  )
