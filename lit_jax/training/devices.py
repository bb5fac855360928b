"""The programs over all devices of all processes, with `jax.pmap`.

The state stays an ordinary array, without a leading device axis, of which every
process has its own copy; a batch is cut along its examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from lit_jax import hosts
from lit_jax.data.feed import Superbatch
from lit_jax.errors import UserError, integer

AXIS = 'data'


def check_batch(batch_size: int) -> None:
  """Raises UserError unless every device gets the same number of examples."""
  integer('batch size', batch_size, 'an integer', -(2**63), 2**63)
  count = jax.device_count()
  if batch_size < 1 or batch_size % count:
    raise UserError(
      f'batch size {batch_size} is not divisible by the {count} devices; take '
      f'{max(count, batch_size // count * count)} or another multiple of '
      f'{count}'
    )


def map_train(program: Callable[..., Any]) -> Callable[..., Any]:
  """A train program over the devices; donates its state.

  Takes superbatches as `shard_superbatch` cuts them.
  """
  axes = (None, None, Superbatch._make((0, 0, None)), None, None)
  return jax.pmap(
    program,
    axis_name=AXIS,
    in_axes=axes,  # pyright: ignore[reportArgumentType]
    out_axes=None,
    donate_argnums=0,
  )


def map_evaluation(program: Callable[..., Any]) -> Callable[..., Any]:
  """A program of (arguments, batch, valid), of which the last two are cut.

  They are cut along their examples, as `shard` does.
  """
  return jax.pmap(
    program,
    axis_name=AXIS,
    in_axes=(None, 0, 0),  # pyright: ignore[reportArgumentType]
    out_axes=None,
  )


def map_outputs(program: Callable[..., Any]) -> Callable[..., Any]:
  """The same, but for outputs [n, …], which all get: [devices, n, …]."""

  def gathered(*arguments):
    return lax.all_gather(program(*arguments), AXIS)

  return map_evaluation(gathered)


def replicate(tree: Any) -> Any:
  """The same values on each device of this process, as programs return them.

  A program compiles once for such arrays, and again for any other layout.
  """
  mesh = jax.sharding.Mesh(np.asarray(jax.local_devices()), (AXIS,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.device_put(tree, sharding)


def shard_superbatch(superbatch: Superbatch) -> Superbatch:
  """[orders, C, batch, …] → [devices, orders, C, batch / devices, …].

  Of this process: its share of the batch, and its devices. `count` stays as it
  is.
  """
  devices = jax.local_device_count()

  def cut(x):
    orders, slots, batch = x.shape[:3]
    shape = (orders, slots, devices, batch // devices, *x.shape[3:])
    return np.moveaxis(x.reshape(shape), 2, 0)

  inputs, labels = jax.tree.map(cut, (superbatch.inputs, superbatch.labels))
  return Superbatch(inputs, labels, superbatch.count)


def shard(tree: Any) -> Any:
  """Leaves [batch, …] → [devices, batch / devices, …], of this process."""
  count = jax.local_device_count()
  return jax.tree.map(lambda x: x.reshape((count, -1, *x.shape[1:])), tree)


# To save now, below every signal's number.
SAVE = 1


class Agreement:
  """What the processes have been asked, known to all of them at the same call.

  The devices tell each other while they compute, so that nobody waits: of
  several processes each learns after a call what was asked before it.
  """

  def __init__(self):
    self._asked: Any = None
    self._most = jax.pmap(lambda x: lax.pmax(x, AXIS), axis_name=AXIS)

  def reached(self, asked: int | None) -> int | None:
    """What all do now: the greatest that any was asked; None is nothing.

    Args:
      asked: of this process; SAVE, or the number of a signal to stop.
    """
    if hosts.count() == 1:
      return asked
    before, own = self._asked, np.full(jax.local_device_count(), asked or 0)
    self._asked = self._most(own.astype(np.int32))
    return None if before is None else int(before[0]) or None
