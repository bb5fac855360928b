"""A block of equal units, of which the first may change width and length."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from lit_jax.layers import on_cpu


class Block(nn.Module):
  """Units one after another; the first one has the stride.

  Attributes:
    count: how many.
    stride: of the first.
    unit: makes one.
    takes_two_batches: whether two batches may run as one (passes.py): where
      examples meet in `layers.BatchNorm` alone, and where it pays.
  """

  count: int
  stride: int
  unit: Any
  takes_two_batches: bool = False

  @nn.compact
  def __call__(self, x, train=False):
    x = self.unit(stride=self.stride, name='units_0')(x, train)
    if on_cpu() and not (train or self.is_initializing()) and self.count > 2:
      return self._loop(x)
    for i in range(1, self.count):
      x = self.unit(stride=1, name=f'units_{i}')(x, train)
    return x

  def _loop(self, x):
    """The equal units, all but the first, as one loop: its memory is reused."""
    unit = self.unit(stride=1, parent=None)
    names = [f'units_{i}' for i in range(1, self.count)]
    stacked = {
      collection: jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(tree[name] for name in names)
      )
      for collection, tree in self.variables.items()
    }
    return lax.scan(lambda h, v: (unit.apply(v, h), None), x, stacked)[0]
