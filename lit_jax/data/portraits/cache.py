"""Decoded images on disk: written once, whole or not at all, and mapped.

An entry is a folder with `SPLIT.images`, the raw uint8 pixels,
`SPLIT_labels.npy` and `meta.json`. Its name, the key, is a hash of all that
decides its contents, so an entry never changes and is never out of date.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lit_jax.data import entries
from lit_jax.errors import UserError
from lit_jax.files import sync, write_json

SPLITS = ('train', 'test')
_FORMAT = 1


def key(facts: dict[str, Any]) -> str:
  """The name of the entry that these facts, in JSON's types, decide."""
  canonical = json.dumps(facts | {'format': _FORMAT}, sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Part:
  """An entry that is being written."""

  def __init__(self, room: entries.Room, size: int):
    """An entry of images of `size` in height and width, in an empty room."""
    self._room, self._size = room, size
    self._digest = hashlib.sha256()
    self._counts: dict[str, int] = {}

  def write(
    self, split: str, examples: Iterable[tuple[np.ndarray, np.ndarray]]
  ) -> int:
    """Writes a split's images as they come.

    Args:
      split: one of SPLITS.
      examples: images uint8 [size, size, 3], each with its label uint8 [c].

    Returns:
      How many came.
    """
    labels = []
    # Not through a memory map: where the disk is full, that ends the process.
    with self._file(f'{split}.images') as f:
      for image, label in examples:
        pixels = np.ascontiguousarray(image).data
        self._room.bytes += pixels.nbytes
        self._digest.update(pixels)
        f.write(pixels)
        labels.append(label)
    stacked = np.asarray(labels, np.uint8)
    self._digest.update(stacked.data)
    with self._file(f'{split}_labels.npy') as f:
      self._room.bytes += stacked.nbytes
      np.save(f, stacked)
    self._counts[split] = len(labels)
    return len(labels)

  def finish(self, names: tuple[str, ...], notes: dict[str, Any]) -> None:
    """Writes the rest.

    Args:
      names: of the labels' columns.
      notes: what else `read` shall give back, in JSON's types.
    """
    meta = {
      'format': _FORMAT,
      'key': os.path.basename(self._room.folder).split('.')[0],
      'size': self._size,
      'counts': self._counts,
      'names': list(names),
      'content': self._digest.hexdigest()[:32],
      'notes': notes,
    }
    write_json(os.path.join(self._room.folder, entries.META), meta)

  @contextlib.contextmanager
  def _file(self, name):
    with open(os.path.join(self._room.folder, name), 'wb') as f:
      yield f
      sync(f)


@contextlib.contextmanager
def writing(entry: str, size: int, count: int) -> Iterator[Part]:
  """A new entry of `count` images at most; see `entries.writing`.

  Raises:
    UserError: it cannot be written; also at once, where the disk has less room
      than the images need.
  """
  with entries.writing(entry, 'the decoded images') as room:
    need, free = count * size * size * 3, shutil.disk_usage(room.folder).free
    if need > free:
      raise UserError(
        f'{os.path.dirname(entry)}: the decoded images need {need} bytes, and '
        f'there are {free}; make room, or set `cache` to another folder'
      )
    yield Part(room, size)


class Entry(NamedTuple):
  """What an entry holds.

  Attributes:
    splits: images uint8 [n, size, size, 3], mapped read-only, and labels uint8
      [n, c] of 0 or 1, by split.
    names: of the labels' columns.
    content: a hash of all pixels and labels.
    notes: as `finish` got them.
  """

  splits: dict[str, tuple[np.ndarray, np.ndarray]]
  names: tuple[str, ...]
  content: str
  notes: dict[str, Any]


def read(entry: str, size: int) -> Entry:
  """Opens an entry of images of `size` in height and width.

  Raises:
    UserError: it is damaged, or of another size.
  """
  with entries.reading(entry, 'decoded images') as meta:
    if meta['format'] != _FORMAT:
      raise ValueError(f'their format is {meta["format"]}, not {_FORMAT}')
    if meta['size'] != size:
      raise ValueError(f'their size is {meta["size"]}, not {size}')
    if meta['key'] != os.path.basename(entry):
      raise ValueError('they are other images, for the folder was renamed')
    names = tuple(map(str, meta['names']))
    splits = {}
    for split in SPLITS:
      shape = (int(meta['counts'][split]), size, size, 3)
      splits[split] = _split(entry, split, shape, len(names))
    return Entry(splits, names, str(meta['content']), dict(meta['notes']))


def _split(entry, split, shape, columns):
  path = os.path.join(entry, f'{split}.images')
  found, wanted = os.path.getsize(path), int(np.prod(shape))
  if found != wanted:
    raise ValueError(f'{split}.images has {found} bytes, not {wanted}')
  labels = np.load(os.path.join(entry, f'{split}_labels.npy'))
  if labels.shape != (shape[0], columns) or labels.dtype != np.uint8:
    raise ValueError(
      f'{split}_labels.npy is {labels.dtype} {labels.shape}, not uint8 '
      f'{(shape[0], columns)}'
    )
  if labels.max() > 1:
    raise ValueError(f'{split}_labels.npy has values other than 0 and 1')
  return np.memmap(path, np.uint8, 'r', shape=shape), labels
