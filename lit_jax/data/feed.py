"""Arrays to superbatches: which examples a step sees, in what order.

The order of an epoch is a shuffle by (seed, epoch), so any step's batch is
known from the seed and the step's number alone. An epoch's last part batch is
dropped; the next epoch's fresh shuffle gives those examples another place.
"""

import functools
from collections.abc import Sequence
from concurrent import futures
from typing import NamedTuple

import numpy as np

from lit_jax.data.dataset import Split


class Superbatch(NamedTuple):
  """The batches of up to C consecutive steps.

  Attributes:
    inputs: uint8 [C, batch, …].
    labels: int32 [C, batch].
    count: int32 scalar, how many of the C batches are to be used.
  """

  inputs: np.ndarray
  labels: np.ndarray
  count: np.ndarray


class Feed:
  """Superbatches of a split, prepared one ahead in a thread."""

  def __init__(
    self, split: Split, batch_size: int, steps_per_call: int, seed: int
  ):
    """A feed of `split`, which holds at least one batch."""
    self._split = split
    self._batch_size = batch_size
    self._steps_per_call = steps_per_call
    self._seed = seed
    # An epoch asks for its order at every call; of millions it takes long.
    self._order = functools.lru_cache(maxsize=2)(self._shuffled)
    self._pool = futures.ThreadPoolExecutor(max_workers=1)
    self._ahead: tuple[int, futures.Future[Superbatch]] | None = None

  @property
  def steps_per_epoch(self) -> int:
    return len(self._split.labels) // self._batch_size

  def superbatch(self, step: int) -> Superbatch:
    """The batches from `step` on, at most to the end of its epoch."""
    ahead, self._ahead = self._ahead, None
    if ahead is not None and ahead[0] == step:
      result = ahead[1].result()
    else:
      result = self._make(step)
    following = step + int(result.count)
    self._ahead = following, self._pool.submit(self._make, following)
    return result

  def close(self) -> None:
    self._pool.shutdown()

  def _make(self, step):
    epoch, position = divmod(step, self.steps_per_epoch)
    count = min(self._steps_per_call, self.steps_per_epoch - position)
    start = position * self._batch_size
    rows = self._order(epoch)[start : start + count * self._batch_size]
    # Always C batches, for a program has one shape; the surplus is not used.
    wanted = self._steps_per_call * self._batch_size
    rows = np.resize(rows, wanted)
    lead = (self._steps_per_call, self._batch_size)
    inputs, labels = self._split.inputs[rows], self._split.labels[rows]
    return Superbatch(
      inputs.reshape(lead + inputs.shape[1:]),
      labels.reshape(lead),
      np.asarray(count, np.int32),
    )

  def _shuffled(self, epoch):
    shuffle = np.random.default_rng([self._seed, epoch])
    return shuffle.permutation(len(self._split.labels))


class Feeds:
  """Feeds of one split in several orders, stacked along a leading axis."""

  def __init__(self, feeds: Sequence[Feed]):
    self._feeds = tuple(feeds)

  @property
  def steps_per_epoch(self) -> int:
    return self._feeds[0].steps_per_epoch

  def superbatch(self, step: int) -> Superbatch:
    """The feeds' batches from `step` on; they all have the same `count`."""
    parts = [feed.superbatch(step) for feed in self._feeds]
    inputs, labels, _ = zip(*parts, strict=True)
    return Superbatch(np.stack(inputs), np.stack(labels), parts[0].count)

  def close(self) -> None:
    for feed in self._feeds:
      feed.close()
