"""Weights of 8 bits: a quarter of the file; computed with as float32.

    w ≈ scale · q,  q = round(w / scale) in −127 … 127,  scale = max |w| / 127

of each output channel (Jacob et al. 2018, symmetric). Kernels and embeddings
are rounded; biases and batch norms, which are few, are not.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

_ROUNDED = ('kernel', 'embedding')
_LARGEST = 127


class Int8(NamedTuple):
  """Attributes: int8 […, c]; their unit by channel, float32 [1, …, c]."""

  values: Any
  scale: Any


def rounded(variables: Any) -> Any:
  """The same tree, with an Int8 for every kernel and every embedding."""

  def leaf(path, array):
    return _rounded(array) if path[-1].key in _ROUNDED else array

  return jax.tree_util.tree_map_with_path(leaf, variables)


def _rounded(array) -> Int8:
  axes = tuple(range(array.ndim - 1))
  largest = np.abs(array).max(axes, keepdims=True)
  # A channel of zeros has any unit.
  scale = np.where(largest > 0, largest, 1).astype(np.float32) / _LARGEST
  values = np.rint(array / scale)
  return Int8(values.astype(np.int8), scale)


def restored(variables: Any, numpy: Any = np) -> Any:
  """The tree of float32 arrays that a tree with Int8 stands for.

  Args:
    variables: as `rounded` makes them, or without any Int8.
    numpy: computes it, now, or as part of a program where it is jax.numpy.
  """

  def leaf(own):
    if not isinstance(own, Int8):
      return own
    return numpy.asarray(own.values).astype(np.float32) * own.scale

  return jax.tree.map(leaf, variables, is_leaf=is_int8)


def is_int8(node: Any) -> bool:
  """Whether it is an Int8."""
  return isinstance(node, Int8)
