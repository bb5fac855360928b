"""Encoded texts on disk: written once, whole or not at all, and mapped.

An entry is a folder with `SPLIT.ids`, the raw uint8 ids, `SPLIT_labels.npy`
and `meta.json`. Its name, the key, is a hash of all that decides its contents,
so an entry never changes and is never out of date.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from lit_jax.data import entries
from lit_jax.data.dataset import Split
from lit_jax.data.texts import characters
from lit_jax.files import sync, write_json

_FORMAT = 1
_SPLITS = ('train', 'test')


def key(facts: dict[str, Any]) -> str:
  """The name of the entry that these facts, in JSON's types, decide."""
  everything = facts | {'format': _FORMAT, 'symbols': characters.SYMBOLS}
  canonical = json.dumps(everything, sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Part:
  """An entry that is being written."""

  def __init__(self, room: entries.Room, length: int):
    """An entry of texts of `length` characters, in an empty room."""
    self._room, self._folder, self._length = room, room.folder, length

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
        self._room.bytes += numbers.nbytes
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
    write_json(os.path.join(self._folder, entries.META), meta)

  @contextlib.contextmanager
  def scratch(self, size: int) -> Iterator[str]:
    """Room for a file of `size` bytes, which is gone after the block."""
    path = os.path.join(self._folder, 'scratch')
    self._room.bytes += size
    try:
      yield path
    finally:
      with contextlib.suppress(OSError):
        os.remove(path)
    self._room.bytes -= size

  def _write(self, f, data):
    self._room.bytes += data.nbytes
    f.write(data)


@contextlib.contextmanager
def writing(entry: str, length: int) -> Iterator[Part]:
  """A new entry of texts of `length` characters; see `entries.writing`.

  Raises:
    UserError: it cannot be written, for instance for lack of space.
  """
  with entries.writing(entry, 'the texts') as room:
    yield Part(room, length)


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
  with entries.reading(entry, 'encoded texts') as meta:
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
