"""Encoded texts on disk: written once, whole or not at all, and mapped.

An entry is a folder with `SPLIT.ids`, the raw uint8 ids, `SPLIT_labels.npy`
and `meta.json`. Its name, the key, is a hash of all that decides its contents,
so an entry never changes and is never out of date.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from lit_jax.data.dataset import Split
from lit_jax.data.texts import characters
from lit_jax.errors import UserError, reason
from lit_jax.files import sync, sync_folder, write_json

_FORMAT = 1
_META = 'meta.json'
_SPLITS = ('train', 'test')
# Younger unfinished entries may not be locked yet.
_SWEEP_AGE = 60  # seconds


def key(facts: dict[str, Any]) -> str:
  """The name of the entry that these facts, in JSON's types, decide."""
  everything = facts | {'format': _FORMAT, 'symbols': characters.SYMBOLS}
  canonical = json.dumps(everything, sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Part:
  """An entry that is being written."""

  def __init__(self, folder: str, length: int):
    """An entry of texts of `length` characters, in the empty `folder`."""
    self.bytes = 0  # that were to be written so far
    self._folder, self._length = folder, length
    self._meta: dict[str, Any] = {}

  def write(
    self, split: str, blocks: Iterator[tuple[np.ndarray, np.ndarray]]
  ) -> np.ndarray:
    """Writes the ids of a split as they come.

    Args:
      split: 'train' or 'test'.
      blocks: ids uint8 [k, length], and labels int32 [k].

    Returns:
      All labels, int32 [n].
    """
    labels = [np.zeros(0, np.int32)]
    # Not through a memory map: where the disk is full, that ends the process.
    with open(os.path.join(self._folder, f'{split}.ids'), 'wb') as f:
      for ids, numbers in blocks:
        self._write(f, np.ascontiguousarray(ids).data)
        labels.append(numbers)
      sync(f)
    return np.concatenate(labels)

  def finish(
    self,
    labels: dict[str, np.ndarray],
    classes: tuple[str, ...],
    notes: dict[str, Any],
  ) -> None:
    """Writes the rest.

    Args:
      labels: of each split, int32 [n].
      classes: the names of the labels.
      notes: what else `read` shall give back, in JSON's types.
    """
    for split, numbers in labels.items():
      path = os.path.join(self._folder, f'{split}_labels.npy')
      with open(path, 'wb') as f:
        self.bytes += numbers.nbytes
        np.save(f, numbers)
        sync(f)
    meta = {
      'format': _FORMAT,
      'key': os.path.basename(self._folder).split('.')[0],
      'symbols': characters.SYMBOLS,
      'length': self._length,
      'counts': {split: len(numbers) for split, numbers in labels.items()},
      'classes': list(classes),
      'notes': notes,
    }
    write_json(os.path.join(self._folder, _META), meta)

  @contextlib.contextmanager
  def scratch(self, size: int) -> Iterator[str]:
    """Room for a file of `size` bytes, which is gone after the block."""
    path = os.path.join(self._folder, 'scratch')
    self.bytes += size
    try:
      yield path
    finally:
      with contextlib.suppress(OSError):
        os.remove(path)
    self.bytes -= size

  def _write(self, f, data):
    self.bytes += data.nbytes
    f.write(data)


@contextlib.contextmanager
def writing(entry: str, length: int) -> Iterator[Part]:
  """A new entry, in place when the block ends, and gone if it raises.

  Of several processes that write the same entry, the first one's stays.

  Args:
    entry: the folder to be, below that of the cache, which is made.
    length: of the texts in characters.

  Raises:
    UserError: it cannot be written, for instance for lack of space.
  """
  root = os.path.dirname(entry)
  folder, lock = '', None
  part = Part('', length)
  try:
    os.makedirs(root, exist_ok=True)
    _sweep(root)
    folder = f'{entry}.{secrets.token_hex(8)}.part'
    os.mkdir(folder)
    lock = _lock(folder)
    part = Part(folder, length)
    yield part
    _rename(folder, entry)
  except OSError as e:
    # Readers of source files raise UserErrors, so this came from writing.
    need = f'they need {part.bytes} bytes or more: ' if part.bytes else ''
    raise UserError(
      f'{root}: the texts cannot be written there ({e.strerror or e}); {need}'
      'make room, or set `cache` to another folder'
    ) from e
  finally:
    if folder:
      shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
      os.close(lock)


def _rename(folder: str, entry: str) -> None:
  try:
    # All within is on the disk already.
    os.rename(folder, entry)
    sync_folder(pathlib.Path(entry).parent)
  except OSError:
    # Another process may have been first, with the same bytes.
    if not os.path.exists(os.path.join(entry, _META)):
      raise


def _lock(folder: str) -> int | None:
  """Locks a folder as long as this process lives; None where that fails."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:  # in use, or of a file system without locks
    os.close(descriptor)
    return None
  return descriptor


def _sweep(root: str) -> None:
  """Removes what killed processes left."""
  for folder in glob.glob(os.path.join(glob.escape(root), '*.part')):
    with contextlib.suppress(OSError):
      if time.time() - os.path.getmtime(folder) < _SWEEP_AGE:
        continue
      lock = _lock(folder)
      if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def read(
  entry: str, length: int
) -> tuple[dict[str, Split], tuple[str, ...], dict[str, Any]]:
  """Opens an entry.

  Args:
    entry: its folder.
    length: that its texts have, in characters.

  Returns:
    The splits, with ids uint8 [n, length] mapped read-only and labels int32
    [n]; the names of the classes; and the notes.

  Raises:
    UserError: it is damaged, or of another length or alphabet.
  """
  try:
    with open(os.path.join(entry, _META)) as f:
      meta = json.load(f)
    _check(meta, os.path.basename(entry), length)
    classes = tuple(map(str, meta['classes']))
    splits = {
      split: _split(entry, split, int(meta['counts'][split]), length)
      for split in _SPLITS
    }
    for split, (_, labels) in splits.items():
      if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f'{split} has labels outside 0 to {len(classes) - 1}')
    return splits, classes, dict(meta['notes'])
  except (OSError, EOFError, KeyError, TypeError, ValueError) as e:
    fault = f'lacks {e}' if isinstance(e, KeyError) else reason(e)
    raise UserError(
      f'{entry}: these encoded texts cannot be used ({fault}); delete that '
      'folder and start again'
    ) from e


def _check(meta: Any, name: str, length: int) -> None:
  if meta['format'] != _FORMAT:
    raise ValueError(f'their format is {meta["format"]}, not {_FORMAT}')
  if meta['symbols'] != characters.SYMBOLS:
    raise ValueError('their alphabet is another one')
  if meta['length'] != length:
    raise ValueError(f'their length is {meta["length"]}, not {length}')
  if meta['key'] != name:
    raise ValueError('they are other texts, for the folder was renamed')


def _split(entry: str, split: str, count: int, length: int) -> Split:
  path = os.path.join(entry, f'{split}.ids')
  size = os.path.getsize(path)
  if size != count * length:
    raise ValueError(f'{split}.ids has {size} bytes, not {count * length}')
  labels = np.load(os.path.join(entry, f'{split}_labels.npy'))
  if labels.shape != (count,) or labels.dtype != np.int32:
    raise ValueError(
      f'{split}_labels.npy is {labels.dtype} {labels.shape}, not int32 '
      f'({count},)'
    )
  return Split(np.memmap(path, np.uint8, 'r', shape=(count, length)), labels)
