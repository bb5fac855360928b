"""Arrays to superbatches: which examples a step sees, in what order.

The order of an epoch is a shuffle by (seed, epoch), so any step's batch is
known from the seed and the step's number alone. An epoch's last part batch is
dropped; the next epoch's fresh shuffle gives those examples another place.
"""

import functools
from collections.abc import Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from lit_jax import hosts
from lit_jax.data.dataset import Split


class Superbatch(NamedTuple):
  """The batches of up to C consecutive steps, in each of several orders.

  Attributes:
    inputs: leaves [orders, C, batch, …], of the batch this process's share.
    labels: likewise.
    count: int32 scalar, how many of the C batches are to be used.
  """

  inputs: Any
  labels: Any
  count: np.ndarray


class Feed:
  """Superbatches of a split, prepared one ahead in a thread."""

  def __init__(
    self,
    split: Split,
    batch_size: int,
    steps_per_call: int,
    seeds: Sequence[int],
  ):
    """A feed of `split`, which holds at least one batch; an order a seed."""
    self._split = split
    self._batch_size = batch_size
    # What goes beyond an epoch would be computed and not used.
    self._steps_per_call = min(steps_per_call, self.steps_per_epoch)
    self._seeds = tuple(seeds)
    # An epoch asks for its orders at every call; of millions it takes long.
    self._orders = functools.lru_cache(maxsize=2)(self._shuffled)
    self._pool = futures.ThreadPoolExecutor(max_workers=1)
    self._ahead: tuple[int, futures.Future[Superbatch]] | None = None

  @property
  def steps_per_epoch(self) -> int:
    return self._split.examples // self._batch_size

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
    stop = start + count * self._batch_size
    # Always C batches, for a program has one shape; the surplus is not used.
    shape = (self._steps_per_call, self._batch_size)
    rows = [np.resize(o[start:stop], shape) for o in self._orders(epoch)]
    own = hosts.share(np.stack(rows), 2)
    return Superbatch(*self._split.take(own), np.asarray(count, np.int32))

  def _shuffled(self, epoch):
    return [
      np.random.default_rng([seed, epoch]).permutation(self._split.examples)
      for seed in self._seeds
    ]
