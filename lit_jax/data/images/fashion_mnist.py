"""Fashion-MNIST, and the cut of it that is part of lit_jax."""

import gzip
import io
import math
import os
import zlib
from typing import Any

import numpy as np

from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.images import checks, class_names
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError, reason

_FULL, _MINI = NAMES = ('fashion_mnist', 'fashion_mnist_mini')

_URL = 'https://github.com/zalandoresearch/fashion-mnist'
_CLASSES = len(class_names.FASHION_MNIST)
_SHAPE = (28, 28, 1)
_MEAN, _STD = (0.2860,), (0.3530,)  # over the train split, 0 to 1
_COUNTS = {'train': 60000, 'test': 10000}
_PREFIX = {'train': 'train', 'test': 't10k'}
_MINI_COUNTS = {'train': 2000, 'test': 1000}
_MINI_PATH = os.path.join(os.path.dirname(__file__), 'fashion_mnist_mini.npz')
_MINI_FIX = (
  'install lit_jax again, or make the file with '
  "'python -m lit_jax.data.images.make_fashion_mnist_mini'"
)
_IDX_IMAGES = 0x803  # unsigned bytes, three dimensions
_IDX_LABELS = 0x801  # unsigned bytes, one dimension


def load(name: str, folder: str) -> Dataset:
  """Reads Fashion-MNIST, or the cut of it that is part of lit_jax.

  The whole comes from its four files in the folder, else from where Debian's
  package puts them; the cut needs no folder.

  Args:
    name: one of NAMES.
    folder: where to look.

  Returns:
    The data set with its 'train' and 'test' splits: images uint8 [N, 28, 28,
    1], labels int32 [N].

  Raises:
    UserError: a file is missing, unreadable, damaged, of the wrong size or
      holds a label out of range.
  """
  splits = _mini() if name == _MINI else _full(folder)
  preprocess = ImagePreprocess(_MEAN, _STD, flip=True)
  names = class_names.FASHION_MNIST
  return Dataset(name, splits, len(names), preprocess, names)


# The four files.


def _full(folder: str) -> dict[str, Split]:
  files = [
    f'{prefix}-{kind}'
    for prefix in _PREFIX.values()
    for kind in ('images-idx3-ubyte', 'labels-idx1-ubyte')
  ]
  fix = (
    f'put the four files of {_URL} in {folder}, or install the Debian '
    'package dataset-fashion-mnist'
  )
  system = system_folder()
  for place in (folder, system):
    paths = {f: _plain_or_packed(os.path.join(place, f)) for f in files}
    if any(paths.values()):
      missing = [f for f in files if not paths[f]]
      if missing:
        raise UserError(f'{place}: lacks {missing[0]}.gz; {fix}')
      return {split: _split(split, paths, fix) for split in _COUNTS}
  raise UserError(f'{_FULL}: no {files[0]}.gz in {folder} or {system}; {fix}')


def system_folder() -> str:
  """Where Debian's package dataset-fashion-mnist installs the four files.

  $LIT_JAX_SYSTEM_DATA takes the place of /usr/share/datasets.
  """
  root = os.environ.get('LIT_JAX_SYSTEM_DATA') or '/usr/share/datasets'
  return os.path.join(root, 'fashion-mnist')


def _plain_or_packed(path: str) -> str:
  """The gzipped file, whose contents are checked, else the plain, else ''."""
  return next((p for p in (path + '.gz', path) if os.path.exists(p)), '')


def _split(split: str, paths: dict[str, str], fix: str) -> Split:
  prefix, count = _PREFIX[split], _COUNTS[split]
  where = paths[f'{prefix}-images-idx3-ubyte']
  height, width, _ = _SHAPE
  images = _idx(where, _IDX_IMAGES, (count, height, width), fix)
  where = paths[f'{prefix}-labels-idx1-ubyte']
  labels = _idx(where, _IDX_LABELS, (count,), fix)
  return Split(
    images[..., None], checks.check_labels(labels, _CLASSES, where, fix)
  )


def _idx(path: str, magic: int, shape: tuple[int, ...], fix: str) -> np.ndarray:
  """Parses an IDX file: a magic number, each dimension, then the bytes."""
  raw = checks.read(path, fix)
  if path.endswith('.gz'):
    try:
      # A byte more than there can be: a small file can hold a large one.
      with gzip.open(io.BytesIO(raw)) as packed:
        raw = packed.read(4 * (1 + len(shape)) + math.prod(shape) + 1)
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
  checks.check_size(len(raw) - header, int(np.prod(shape)), path, fix)
  return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


# The embedded cut.


def _mini() -> dict[str, Split]:
  names = [f'{s}_{kind}' for s in _MINI_COUNTS for kind in ('images', 'labels')]
  most = sum(_MINI_COUNTS.values()) * (math.prod(_SHAPE) + 1)
  arrays = checks.read_arrays(_MINI_PATH, names, most, _MINI_FIX)
  return {s: _mini_split(s, arrays) for s in _MINI_COUNTS}


def _mini_split(split: str, arrays: Any) -> Split:
  images, labels = arrays[f'{split}_images'], arrays[f'{split}_labels']
  where = f'{_MINI_PATH}: split {split}'
  count = _MINI_COUNTS[split]
  for array, shape in ((images, (count, *_SHAPE)), (labels, (count,))):
    if array.shape != shape or array.dtype != np.uint8:
      raise UserError(
        f'{where}: found {array.dtype} {array.shape}, not uint8 {shape}; '
        f'{_MINI_FIX}'
      )
  return Split(images, checks.check_labels(labels, _CLASSES, where, _MINI_FIX))
