"""Reads image data sets into memory, checked, as uint8 images and labels."""

import glob
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data.dataset import Dataset, Split, check_name, home
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError, reason

_CIFAR_URL = 'https://www.cs.toronto.edu/~kriz/'
_CIFAR_SHAPE = (32, 32, 3)
_FASHION_URL = 'https://github.com/zalandoresearch/fashion-mnist'
_FASHION_SHAPE = (28, 28, 1)
_FASHION_COUNTS = {'train': 60000, 'test': 10000}
_FASHION_PREFIX = {'train': 'train', 'test': 't10k'}
_MINI_COUNTS = {'train': 2000, 'test': 1000}
_MINI_PATH = os.path.join(os.path.dirname(__file__), 'fashion_mnist_mini.npz')
_MINI_FIX = (
  'install lit_jax again, or make the file with '
  "'python -m lit_jax.data.images.make_fashion_mnist_mini'"
)
_IDX_IMAGES = 0x803  # unsigned bytes, three dimensions
_IDX_LABELS = 0x801  # unsigned bytes, one dimension


class _Facts(NamedTuple):
  """What is known of a data set before any file is read."""

  classes: int
  mean: tuple[float, ...]  # of each channel over the train split, 0 to 1
  std: tuple[float, ...]
  flip: bool  # whether a mirrored image is still a valid example


class _Cifar(NamedTuple):
  """The layout of one official binary CIFAR archive."""

  archive: str
  md5: str
  folder: str  # inside the archive
  files: dict[str, tuple[str, ...]]  # by split
  records: dict[str, int]  # in each file of a split
  label_bytes: int  # before the pixels; the last one is the class


_FACTS = {
  'cifar10': _Facts(
    10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), True
  ),
  'cifar100': _Facts(
    100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), True
  ),
  'fashion_mnist': _Facts(10, (0.2860,), (0.3530,), True),
  'fashion_mnist_mini': _Facts(10, (0.2860,), (0.3530,), True),
}

_CIFAR = {
  'cifar10': _Cifar(
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
    archive='cifar-100-binary.tar.gz',
    md5='03b5dce01913d631647c71ecec9e9cb8',
    folder='cifar-100-binary',
    files={'train': ('train.bin',), 'test': ('test.bin',)},
    records={'train': 50000, 'test': 10000},
    label_bytes=2,
  ),
}

NAMES = tuple(_FACTS)


def load(name: str, data_dir: str = '') -> Dataset:
  """Reads a data set, fetching CIFAR where no copy of it is found.

  CIFAR comes from the first of these that data_dir holds: a directory that
  TensorFlow Datasets prepared, the official packed archive (its checksum is
  checked), the unpacked archive (data_dir may be the unpacked folder itself);
  else the archive is fetched into data_dir. Fashion-MNIST comes from its four
  files in data_dir, else from where Debian's package puts them. The mini set
  is part of lit_jax and needs no data_dir.

  Args:
    name: one of NAMES.
    data_dir: where to look; '' for $LIT_JAX_DATA, else ~/.cache/lit_jax.

  Returns:
    The data set with its 'train' and 'test' splits: images uint8 [N, 32, 32,
    3] for CIFAR and [N, 28, 28, 1] for Fashion-MNIST, labels int32 [N].

  Raises:
    UserError: the name is unknown, or a file is missing, unreadable, damaged,
      of the wrong size or holds a label out of range.
  """
  check_name(name, NAMES)
  folder = home(data_dir)
  if os.path.exists(folder) and not os.path.isdir(folder):
    raise UserError(f'data_dir {folder}: is not a directory; name one')
  if name in _CIFAR:
    splits = _cifar(name, folder)
  elif name == 'fashion_mnist':
    splits = _fashion(folder)
  else:
    splits = _mini()
  facts = _FACTS[name]
  preprocess = ImagePreprocess(facts.mean, facts.std, flip=facts.flip)
  return Dataset(name, splits, facts.classes, preprocess)


# CIFAR: which copy to read.


def _cifar(name: str, folder: str) -> dict[str, Split]:
  cifar = _CIFAR[name]
  infos = _tfds_infos(name, folder)
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


# CIFAR: the official binary files.


def _archive_splits(name: str, path: str) -> dict[str, Split]:
  cifar = _CIFAR[name]
  fix = f'delete it and fetch {_CIFAR_URL}{cifar.archive} again'
  try:
    with open(path, 'rb') as f:
      if _md5(f) != cifar.md5:
        raise UserError(
          f'{path}: its MD5 checksum is not {cifar.md5}, so it is damaged or '
          f'another file; {fix}'
        )
      f.seek(0)
      contents = _members(f, cifar.folder)
  except (OSError, EOFError, tarfile.TarError, zlib.error) as e:
    raise UserError(f'{path}: cannot be read ({reason(e)}); {fix}') from e

  def read(file: str) -> tuple[str, bytes]:
    if file not in contents:
      raise UserError(f'{path}: lacks {cifar.folder}/{file}; {fix}')
    return f'{path}: {file}', contents[file]

  return _cifar_splits(name, read, fix)


def _unpacked_splits(name: str, folder: str) -> dict[str, Split]:
  cifar = _CIFAR[name]
  fix = f'unpack {cifar.archive} from {_CIFAR_URL} again'

  def read(file: str) -> tuple[str, bytes]:
    path = os.path.join(folder, file)
    return path, _read(path, fix)

  return _cifar_splits(name, read, fix)


def _cifar_splits(
  name: str, read: Callable[[str], tuple[str, bytes]], fix: str
) -> dict[str, Split]:
  """Parses every file; read(file) gives its name in messages and its bytes."""
  cifar, classes = _CIFAR[name], _FACTS[name].classes
  splits = {}
  for split, files in cifar.files.items():
    parts = []
    for file in files:
      where, raw = read(file)
      images, labels = _cifar_records(cifar, split, raw, where, fix)
      parts.append(Split(images, _labels(labels, classes, where, fix)))
    splits[split] = Split(
      *(np.concatenate(p) for p in zip(*parts, strict=True))
    )
  return splits


def _cifar_records(
  cifar: _Cifar, split: str, raw: bytes, where: str, fix: str
) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [N, 32, 32, 3] and labels uint8 [N] of one file."""
  height, width, channels = _CIFAR_SHAPE
  count = cifar.records[split]
  size = cifar.label_bytes + height * width * channels
  _check_size(len(raw), count * size, where, fix)
  records = np.frombuffer(raw, np.uint8).reshape(count, size)
  # A record is its labels, then a plane each of red, green and blue.
  planes = records[:, cifar.label_bytes :]
  planes = planes.reshape(count, channels, height, width)
  images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
  return images, records[:, cifar.label_bytes - 1]


def _members(f: io.BufferedReader, folder: str) -> dict[str, bytes]:
  """The files of one folder of a packed tar, by name within the folder."""
  contents = {}
  with tarfile.open(fileobj=f, mode='r|gz') as tar:
    for member in tar:
      where, file = os.path.split(os.path.normpath(member.name))
      data = tar.extractfile(member) if where == folder else None
      if data is not None:
        contents[file] = data.read()
  return contents


def _md5(f: io.BufferedReader | io.BufferedRandom) -> str:
  # A check against damage only, so it may run where MD5 is barred as unsafe.
  digest = hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False))
  return digest.hexdigest()


def _fetch(cifar: _Cifar, folder: str) -> None:
  """Puts the archive in the folder, whole and checked, or not at all."""
  url = _CIFAR_URL + cifar.archive
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


# CIFAR: a directory that TensorFlow Datasets prepared.


def _tfds_infos(name: str, folder: str) -> list[str]:
  """One description file for each prepared version, the newest last."""
  found = glob.glob(
    os.path.join(glob.escape(folder), name, '*', 'dataset_info.json')
  )
  # Other names are of preparations that were cut off.
  infos = [p for p in found if re.fullmatch(r'\d+(\.\d+)+', _version(p))]
  return sorted(infos, key=lambda p: [int(n) for n in _version(p).split('.')])


def _version(info: str) -> str:
  return os.path.basename(os.path.dirname(info))


def _tfds_splits(name: str, folder: str, infos: list[str]) -> dict[str, Split]:
  prepared = _newest_array_record(name, infos)
  fix = "delete it, or prepare it again with file_format='array_record'"
  try:
    # Here, since only this one kind of copy needs the package.
    import tensorflow_datasets as tfds
  except ImportError as e:
    raise UserError(
      f'{prepared}: reading it needs the package tensorflow-datasets '
      f'({reason(e)}); install that, or move the folder away'
    ) from e
  version = os.path.basename(prepared)
  try:
    found: Any = tfds.data_source(
      f'{name}:{version}', data_dir=folder, download=False
    )
    return {
      split: _tfds_split(name, split, found[split], prepared, fix)
      for split in ('train', 'test')
    }
  except UserError:
    raise
  # The package and the readers below it raise errors of every kind.
  except Exception as e:
    raise UserError(f'{prepared}: cannot be read ({reason(e)}); {fix}') from e


def _newest_array_record(name: str, infos: list[str]) -> str:
  """The prepared folder to read: the newest that needs no TensorFlow."""
  readable = [p for p in infos if 'array_record' in _formats(p)]
  if not readable:
    prepared = os.path.dirname(infos[-1])
    formats = ', '.join(sorted(_formats(infos[-1])))
    raise UserError(
      f'{prepared}: its format is {formats}, which needs TensorFlow to read; '
      f"prepare {name} again with file_format='array_record', or move it away"
    )
  return os.path.dirname(readable[-1])


def _formats(info: str) -> set[str]:
  fix = 'delete the folder, or prepare it again'
  try:
    fields = json.loads(_read(info, fix))
    # Old versions of the package name no format and write tfrecord.
    first = fields.get('fileFormat', 'tfrecord')
    return {first, *fields.get('alternativeFileFormats', ())}
  except (ValueError, AttributeError, TypeError) as e:
    raise UserError(f'{info}: is damaged ({reason(e)}); {fix}') from e


def _tfds_split(
  name: str, split: str, source: Any, prepared: str, fix: str
) -> Split:
  cifar = _CIFAR[name]
  where = f'{prepared}: split {split}'
  _check_count(
    len(source), cifar.records[split] * len(cifar.files[split]), where, fix
  )
  examples = [source[i] for i in range(len(source))]
  if any('id' in e for e in examples):
    # The package shuffles what it writes; ids restore the archive's order, so
    # that hold_out picks the same images from every kind of copy.
    examples.sort(key=lambda e: e['id'])
  for i, example in enumerate(examples):
    shape, dtype = example['image'].shape, example['image'].dtype
    if shape != _CIFAR_SHAPE or dtype != np.uint8:
      raise UserError(
        f'{where}: image {i} is {dtype} {shape}, not uint8 {_CIFAR_SHAPE}; '
        f'{fix}'
      )
  labels = np.asarray([e['label'] for e in examples])
  return Split(
    np.stack([e['image'] for e in examples]),
    _labels(labels, _FACTS[name].classes, where, fix),
  )


# Fashion-MNIST.


def _fashion(folder: str) -> dict[str, Split]:
  files = [
    f'{prefix}-{kind}'
    for prefix in _FASHION_PREFIX.values()
    for kind in ('images-idx3-ubyte', 'labels-idx1-ubyte')
  ]
  fix = (
    f'put the four files of {_FASHION_URL} in {folder}, or install the Debian '
    'package dataset-fashion-mnist'
  )
  system = system_folder()
  for place in (folder, system):
    paths = {f: _plain_or_packed(os.path.join(place, f)) for f in files}
    if any(paths.values()):
      missing = [f for f in files if not paths[f]]
      if missing:
        raise UserError(f'{place}: lacks {missing[0]}.gz; {fix}')
      return {
        split: _fashion_split(split, paths, fix) for split in _FASHION_COUNTS
      }
  raise UserError(
    f'fashion_mnist: no {files[0]}.gz in {folder} or {system}; {fix}'
  )


def system_folder() -> str:
  """Where Debian's package dataset-fashion-mnist installs the four files.

  $LIT_JAX_SYSTEM_DATA takes the place of /usr/share/datasets.
  """
  root = os.environ.get('LIT_JAX_SYSTEM_DATA') or '/usr/share/datasets'
  return os.path.join(root, 'fashion-mnist')


def _plain_or_packed(path: str) -> str:
  """The gzipped file, whose contents are checked, else the plain, else ''."""
  return next((p for p in (path + '.gz', path) if os.path.exists(p)), '')


def _fashion_split(split: str, paths: dict[str, str], fix: str) -> Split:
  prefix, count = _FASHION_PREFIX[split], _FASHION_COUNTS[split]
  where = paths[f'{prefix}-images-idx3-ubyte']
  height, width, _ = _FASHION_SHAPE
  images = _idx(where, _IDX_IMAGES, (count, height, width), fix)
  where = paths[f'{prefix}-labels-idx1-ubyte']
  labels = _idx(where, _IDX_LABELS, (count,), fix)
  classes = _FACTS['fashion_mnist'].classes
  return Split(images[..., None], _labels(labels, classes, where, fix))


def _idx(path: str, magic: int, shape: tuple[int, ...], fix: str) -> np.ndarray:
  """Parses an IDX file: a magic number, each dimension, then the bytes."""
  raw = _read(path, fix)
  if path.endswith('.gz'):
    try:
      raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as e:
      raise UserError(f'{path}: is damaged ({reason(e)}); {fix}') from e
  header = 4 * (1 + len(shape))
  if len(raw) < header:
    raise UserError(f'{path}: is cut short, at {len(raw)} bytes; {fix}')
  found, *sizes = (int(n) for n in np.frombuffer(raw[:header], '>u4'))
  if found != magic:
    raise UserError(
      f'{path}: starts with the number {found}, not {magic}, so it is another '
      f'kind of file; {fix}'
    )
  if tuple(sizes) != shape:
    raise UserError(
      f'{path}: declares the shape {tuple(sizes)}, not {shape}; {fix}'
    )
  _check_size(len(raw) - header, int(np.prod(shape)), path, fix)
  return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


# The embedded cut of Fashion-MNIST.


def _mini() -> dict[str, Split]:
  raw = io.BytesIO(_read(_MINI_PATH, _MINI_FIX))
  try:
    with np.load(raw) as arrays:
      return {s: _mini_split(s, arrays) for s in _MINI_COUNTS}
  except (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    AttributeError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
  ) as e:
    raise UserError(
      f'{_MINI_PATH}: is damaged ({reason(e)}); {_MINI_FIX}'
    ) from e


def _mini_split(split: str, arrays: Any) -> Split:
  images, labels = arrays[f'{split}_images'], arrays[f'{split}_labels']
  where = f'{_MINI_PATH}: split {split}'
  count = _MINI_COUNTS[split]
  for array, shape in ((images, (count, *_FASHION_SHAPE)), (labels, (count,))):
    if array.shape != shape or array.dtype != np.uint8:
      raise UserError(
        f'{where}: found {array.dtype} {array.shape}, not uint8 {shape}; '
        f'{_MINI_FIX}'
      )
  classes = _FACTS['fashion_mnist_mini'].classes
  return Split(images, _labels(labels, classes, where, _MINI_FIX))


# Checks that every reader shares.


def _read(path: str, fix: str) -> bytes:
  try:
    with open(path, 'rb') as f:
      return f.read()
  except OSError as e:
    raise UserError(f'{path}: cannot be read ({reason(e)}); {fix}') from e


def _check_size(found: int, size: int, where: str, fix: str) -> None:
  if found != size:
    fault = 'is cut short' if found < size else 'is too long'
    raise UserError(f'{where}: {fault}, {found} bytes, not {size}; {fix}')


def _check_count(found: int, count: int, where: str, fix: str) -> None:
  if found != count:
    raise UserError(f'{where}: holds {found} examples, not {count}; {fix}')


def _labels(
  labels: np.ndarray, classes: int, where: str, fix: str
) -> np.ndarray:
  """The labels as int32 [N], once all are known to be in range."""
  bad = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(bad):
    raise UserError(
      f'{where}: label {bad[0]} is {labels[bad[0]]}, not 0 to {classes - 1}; '
      f'{fix}'
    )
  return labels.astype(np.int32)
