"""Images of files as data sets, decoded once into the cache and then mapped.

Images pass through memory some dozens at a time: read, cut, resized, each in a
thread, and appended to the cache on disk, which later starts only map.
"""

import collections
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from rich import console, progress

from lit_jax.data.portraits import cache
from lit_jax.data.portraits.pictures import Unusable
from lit_jax.errors import UserError

# Reads an image uint8 [s, s, 3] and its label uint8 [c], or says that it is
# Unusable; several are called at once.
Read = Callable[[], tuple[np.ndarray, np.ndarray]]


class Listing(NamedTuple):
  """What there is to read.

  Attributes:
    names: of the labels' columns.
    splits: each image of 'train' and of 'test', in order.
    faults: what is known to be unusable before any image is read.
  """

  names: tuple[str, ...]
  splits: dict[str, list[Read]]
  faults: Sequence[Unusable] = ()


def load(
  place: str,
  facts: dict[str, Any],
  size: int,
  on_bad: str,
  folder: str,
  listed: Callable[[], Listing],
) -> cache.Entry:
  """The images of a source, from the cache where they were read before.

  Args:
    place: where they come from, for messages.
    facts: all that decides what is read, in JSON's types, but for `size`.
    size: height and width of the images.
    on_bad: what an image does that cannot be used: 'stop', or 'skip', with
      which they are counted on stderr.
    folder: of the cache.
    listed: lists what there is, which may take long; is called where the cache
      lacks it.

  Returns:
    The cache's entry.

  Raises:
    UserError: what `listed` raises; an image cannot be used (with
      on_bad='stop'), or none of a split can; the cache cannot be written or is
      damaged.
  """
  entry = os.path.join(folder, cache.key(facts | {'size': size}))
  if not os.path.exists(entry):
    _prepare(place, listed(), size, on_bad, entry)
  found = cache.read(entry, size)
  if found.notes:
    # What another start skipped, this one may want to know of.
    if on_bad == 'stop':
      raise _fault(found.notes['first'])
    counts = found.notes['counts']
    kinds = ', '.join(f'{count} {kind}' for kind, count in counts.items())
    print(
      f'{place}: {sum(counts.values())} unusable images were skipped: {kinds}',
      file=sys.stderr,
    )
  return found


class _Faults:
  """Counts what cannot be used, or stops at it."""

  def __init__(self, skip: bool):
    self._skip = skip
    self._counts: collections.Counter[str] = collections.Counter()
    self._first = ''

  def add(self, fault: Unusable) -> None:
    if not self._skip:
      raise _fault(str(fault)) from fault
    self._counts[fault.kind] += 1
    self._first = self._first or str(fault)

  @property
  def notes(self) -> dict[str, Any]:
    if not self._counts:
      return {}
    return {'counts': dict(self._counts), 'first': self._first}


def _fault(words: str) -> UserError:
  return UserError(f"{words}; put it right, or set on_bad='skip'")


def _prepare(place, listing, size, on_bad, entry):
  faults = _Faults(on_bad == 'skip')
  for fault in listing.faults:
    faults.add(fault)
  total = sum(map(len, listing.splits.values()))
  print(f'reading {place} into {entry}', file=sys.stderr)
  with (
    cache.writing(entry, size, total) as part,
    _bar() as bar,
    futures.ThreadPoolExecutor(os.cpu_count()) as pool,
  ):
    task = bar.add_task('decoding images', total=total)
    for split in cache.SPLITS:
      reads = listing.splits[split]
      examples = _usable(pool, reads, faults, lambda: bar.advance(task))
      if not part.write(split, examples):
        raise UserError(
          f'{place}: no image of the {split} split can be used; mend or '
          'replace them'
        )
    part.finish(listing.names, faults.notes)


def _bar():
  return progress.Progress(
    progress.TextColumn('{task.description}'),
    progress.BarColumn(bar_width=None),
    progress.MofNCompleteColumn(),
    progress.TimeRemainingColumn(),
    transient=True,
    console=console.Console(stderr=True),
  )


def _usable(pool, reads, faults, done) -> Iterator[tuple[np.ndarray, Any]]:
  """What the threads read, in order; a few wait for each of them."""
  waiting: collections.deque[futures.Future] = collections.deque()
  most = 8 * (os.cpu_count() or 1)
  try:
    for read in reads:
      if len(waiting) == most:
        yield from _first(waiting, faults, done)
      waiting.append(pool.submit(read))
    while waiting:
      yield from _first(waiting, faults, done)
  finally:
    for future in waiting:
      future.cancel()


def _first(waiting, faults, done):
  try:
    yield waiting.popleft().result()
  except Unusable as fault:
    faults.add(fault)
  done()
