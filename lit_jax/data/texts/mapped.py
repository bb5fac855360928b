"""Files of texts as data sets, encoded once into the cache and then mapped.

Texts pass through memory a few megabytes at a time: read, checked, encoded (see
`files`) and appended to the cache on disk, which later starts only map.
"""

import hashlib
import os
import sys
from typing import Any

from lit_jax.data.dataset import Dataset
from lit_jax.data.preprocess import TextPreprocess
from lit_jax.data.texts import cache, files
from lit_jax.data.texts.find import SPLITS, Source
from lit_jax.errors import UserError, reason


def load(
  name: str, source: Source, length: int, on_bad: str, folder: str
) -> Dataset:
  """The texts of a source, from the cache where they were read before.

  Args:
    name: of the data set.
    source: its files.
    length: characters of a text.
    on_bad: what a row does that cannot be used: 'stop', or 'skip'.
    folder: of the cache.

  Returns:
    The data set with ids uint8 [N, length], memory-mapped, and labels int32
    [N]; its content is the name of the cache's entry.

  Raises:
    UserError: a file is unreadable or damaged, or holds no rows; a row cannot
      be used (with on_bad='stop'), or none can; the cache cannot be written or
      is damaged.
  """
  entry = os.path.join(folder, cache.key(_facts(source, length, on_bad)))
  if not os.path.exists(entry):
    print(f'reading {source.place} into {entry}', file=sys.stderr)
    _prepare(source, length, on_bad, entry)
  splits, classes, notes = cache.read(entry, length)
  if notes:
    print(f'{source.place}: {_skipped(notes)}', file=sys.stderr)
  content = os.path.basename(entry)
  return Dataset(name, splits, len(classes), TextPreprocess(), classes, content)


def _facts(source: Source, length: int, on_bad: str) -> dict[str, Any]:
  """All that decides what the cache holds."""
  return {
    'kind': source.kind,
    'files': {s: [_hash(f) for f in fs] for s, fs in source.files.items()},
    'columns': source.columns._asdict(),
    'length': length,
    'on_bad': on_bad,
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


def _prepare(source: Source, length: int, on_bad: str, entry: str) -> None:
  numbers = files.Numbers(source.columns)
  labels, notes = {}, {}
  with cache.writing(entry, length) as part:
    for split in SPLITS:
      faults = files.Faults(on_bad == 'skip')
      blocks = files.encoded(source, split, numbers, faults, part, length)
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
  paths = source.files.get(split, ())
  return paths[0] if len(paths) == 1 else f'{source.place}: {split} split'


def _skipped(notes: dict[str, dict[str, int]]) -> str:
  parts = []
  for split, counts in notes.items():
    kinds = ', '.join(f'{count} {kind}' for kind, count in counts.items())
    parts.append(f'{sum(counts.values())} of {split} ({kinds})')
  return f'unusable rows were skipped: {"; ".join(parts)}'
