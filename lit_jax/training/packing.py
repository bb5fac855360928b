"""A state as an accelerator's programs take it: few long arrays.

A norm has parameters, momenta and statistics of a few numbers each, and a
kernel's launch costs more than they do. Packed, they stand one after another in
vectors, each of which one kernel writes, and a network sees slices. Kernels of
convolutions stand there in cuDNN's order, [c_out, kh, kw, c_in].
"""

import collections
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lit_jax.layers import on_cpu
from lit_jax.training.state import TrainState

# Numbers of an array that goes into a vector, and arrays in one: XLA has a
# limit to what one kernel reads.
_LARGEST, _MOST = 100_000, 40


class _Layout(NamedTuple):
  """How to undo a packing.

  Attributes:
    structure: of the state.
    shapes: of its leaves, without the leading axis of members.
    rows: the leaves of each vector, by their places.
  """

  structure: Any
  shapes: tuple[tuple[int, ...], ...]
  rows: tuple[tuple[int, ...], ...]


class Packed(struct.PyTreeNode):
  """A packed TrainState, in whose place a train program takes and returns it.

  Attributes:
    vectors: float32 [members, …].
    others: all that is not in a vector.
    layout: how to unpack it.
  """

  vectors: list[jax.Array]
  others: list[jax.Array]
  layout: _Layout = struct.field(pytree_node=False)

  @property
  def step(self) -> jax.Array:
    """As of a TrainState."""
    return unpack(self).step


def pack(state: TrainState) -> TrainState | Packed:
  """The state as programs for the device at hand take it.

  On a CPU it stays as it is. A leading axis of members stays in every array.
  """
  return state if on_cpu() else _packed(state, _layout(state))


def repack(state: TrainState, like: TrainState | Packed) -> TrainState | Packed:
  """The state packed as the other one is."""
  return _pack(state, like.layout) if isinstance(like, Packed) else state


def unpacked(state: TrainState | Packed) -> TrainState:
  """The inverse of `pack`, compiled."""
  return _unpacked(state) if isinstance(state, Packed) else state


def unpack(state: TrainState | Packed) -> TrainState:
  """The same within a program; a state that is not packed stays as it is."""
  if not isinstance(state, Packed):
    return state
  structure, shapes, rows = state.layout
  leaves = {}
  for row, vector in zip(rows, state.vectors, strict=True):
    ends = np.cumsum([math.prod(shapes[place]) for place in row])[:-1]
    parts = jnp.split(vector, ends, axis=-1)
    for place, part in zip(row, parts, strict=True):
      shape = _stored_shape(shapes[place])
      leaves[place] = part.reshape(*vector.shape[:-1], *shape)
  rest = [place for place in range(len(shapes)) if place not in leaves]
  leaves |= dict(zip(rest, state.others, strict=True))
  return structure.unflatten(
    jnp.moveaxis(leaves[place], -4, -1) if _is_kernel(shape) else leaves[place]
    for place, shape in enumerate(shapes)
  )


def _layout(state):
  paths, structure = jax.tree_util.tree_flatten_with_path(state)
  members = state.step.ndim
  shapes = tuple(leaf.shape[members:] for _, leaf in paths)
  groups = collections.defaultdict(list)
  for place, (path, leaf) in enumerate(paths):
    shape = shapes[place]
    small = 0 < len(shape) and math.prod(shape) <= _LARGEST
    if small and leaf.dtype == jnp.float32:
      # What is computed at about the same time.
      kind = jax.tree_util.keystr(path[:3]), len(shape)
      groups[kind].append(place)
  rows = tuple(
    tuple(places[i : i + _MOST])
    for places in groups.values()
    for i in range(0, len(places), _MOST)
  )
  return _Layout(structure, shapes, rows)


def _pack(state, layout):
  leaves = [
    jnp.moveaxis(leaf, -1, -4) if _is_kernel(shape) else leaf
    for leaf, shape in zip(jax.tree.leaves(state), layout.shapes, strict=True)
  ]

  def flat(place):
    leaf = leaves[place]
    members = leaf.ndim - len(layout.shapes[place])
    return leaf.reshape(*leaf.shape[:members], -1)

  vectors = [jnp.concatenate(list(map(flat, row)), -1) for row in layout.rows]
  packed = {place for row in layout.rows for place in row}
  others = [leaf for i, leaf in enumerate(leaves) if i not in packed]
  return Packed(vectors, others, layout)


def _is_kernel(shape):
  """Whether an array is a convolution's kernel, [kh, kw, c_in, c_out]."""
  return len(shape) == 4


def _stored_shape(shape):
  return (shape[3], *shape[:3]) if _is_kernel(shape) else shape


_packed = jax.jit(_pack, static_argnums=1)
_unpacked = jax.jit(unpack)
