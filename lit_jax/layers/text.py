"""Layers along a text: activations are [n, 1, length, channels]."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lit_jax.layers import convolution

# Winograd's F(4, 3) (Lavin & Gray 2016): a convolution of three makes four
# places out of six by six products of channels, where plainly it takes twelve.
_INPUT = (
  (4, 0, -5, 0, 1, 0),
  (0, -4, -4, 1, 1, 0),
  (0, 4, -4, -1, 1, 0),
  (0, -2, -1, 2, 1, 0),
  (0, 2, -1, -2, 1, 0),
  (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
  (1 / 4, 0, 0),
  (-1 / 6, -1 / 6, -1 / 6),
  (-1 / 6, 1 / 6, -1 / 6),
  (1 / 24, 1 / 12, 1 / 6),
  (1 / 24, -1 / 12, 1 / 6),
  (0, 0, 1),
)
_OUTPUT = (
  (1, 1, 1, 1, 1, 0),
  (0, 1, -1, 2, -2, 0),
  (0, 1, 1, 4, 4, 0),
  (0, 1, -1, 8, -8, 1),
)
# Up to so many largest values are looked for one after another.
_FEW = 16


def _combine(matrix, parts: Sequence[Any]) -> list[Any]:
  """matrix @ parts, leaving out what is times 0."""
  return [
    functools.reduce(
      jnp.add, [f * part for f, part in zip(row, parts, strict=True) if f]
    )
    for row in matrix
  ]


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A convolution of three places, zero-padded by one, in half the products.

  Rounding in float32 is up to 3e-6 of the largest value, where the plain form's
  is 1e-6 and that of TF32, a GPU's short float32, 5e-4. On a CPU the automatic
  gradient is fast as well.

  Args:
    x: [n, 1, length, c_in].
    kernel: [1, 3, c_in, c_out].

  Returns:
    [n, 1, length, c_out].
  """
  n, _, length, c = x.shape
  tiles = -(-length // 4)
  padding = ((0, 0), (1, 4 * tiles + 3 - length), (0, 0))
  fours = jnp.pad(x[:, 0], padding).reshape(n, tiles + 1, 4 * c)
  inputs = [fours[:, :-1, i * c : (i + 1) * c] for i in range(4)]
  inputs += [fours[:, 1:, i * c : (i + 1) * c] for i in range(2)]
  products = [
    part.reshape(-1, c) @ weight
    for part, weight in zip(
      _combine(_INPUT, inputs), _combine(_KERNEL, list(kernel[0])), strict=True
    )
  ]
  y = jnp.stack(_combine(_OUTPUT, products), axis=1)
  return y.reshape(n, 1, 4 * tiles, -1)[:, :, :length]


def conv(x: jax.Array, kernel: jax.Array, strides=(1, 1)) -> Any:
  """`layers.conv` along a text.

  On a CPU by Winograd's method where there are many channels; 16 bits would
  lose too much in its sums. On a GPU as a convolution of one dimension, whose
  kernel gradient cuDNN has without transpositions; those of bfloat16 are said
  to fail there (github.com/jax-ml/jax/issues/37922).

  Args:
    x: [n, 1, length, c_in].
    kernel: [1, k, c_in, c_out], same dtype as x.
    strides: (1, step along the length).

  Returns:
    [n, 1, length', c_out] in x's dtype.
  """
  if (
    convolution.on_cpu()
    and kernel.shape[:2] == (1, 3)
    and strides == (1, 1)
    and x.shape[-1] >= convolution.DENSE_WIDTH
    and x.dtype == jnp.float32
  ):
    return winograd(x, kernel)
  if not convolution.on_cpu() and x.dtype != jnp.bfloat16:
    return _of_one_dimension(x, kernel, strides)
  return convolution.conv(x, kernel, strides)


def _of_one_dimension(x, kernel, strides):
  pad = (kernel.shape[1] - 1) // 2
  y = lax.conv_general_dilated(
    x[:, 0],
    kernel[0],
    strides[1:],
    [(pad, pad)],
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )
  return y[:, None]


class TextConv(convolution.Conv):
  """`layers.Conv` along a text: activations are [n, 1, length, channels]."""

  kernel_size: tuple[int, int] = (1, 3)

  def convolve(self, x: jax.Array, kernel: jax.Array) -> Any:
    return conv(x, kernel, self.strides)


def max_pool(x: jax.Array) -> jax.Array:
  """The largest of three neighbours, at every second place.

  The gradient goes to the first of equal ones. XLA's own window maximum has a
  gradient that is ten times slower on a CPU.

  Args:
    x: [n, 1, length, c].

  Returns:
    [n, 1, (length + 1) // 2, c].
  """
  length = x.shape[2]
  half = (length + 1) // 2
  padding = ((0, 0), (0, 0), (1, 2 * half - length), (0, 0))
  padded = jnp.pad(x, padding, constant_values=-jnp.inf)
  a, b, c = (padded[:, :, i : i + 2 * half - 1 : 2] for i in range(3))
  first = jnp.where(a >= b, a, b)
  return jnp.where(first >= c, first, c)


def k_max(x: jax.Array, k: int) -> jax.Array:
  """The k largest values along the length, in the order of their places.

  Kalchbrenner et al. 2014. Of equal values the first are taken.

  Args:
    x: [n, 1, length, c].
    k: at most length.

  Returns:
    [n, 1, k, c].
  """
  places = (_few_places if k <= _FEW else _many_places)(lax.stop_gradient(x), k)
  return jnp.take_along_axis(x, jnp.sort(places, axis=2), 2)


def _many_places(x, k):
  return lax.top_k(x.swapaxes(2, 3), k)[1].swapaxes(2, 3)


def _few_places(x, k):
  """The largest, k times over; on a CPU faster than sorting the whole."""
  index = lax.broadcasted_iota(jnp.int32, x.shape, 2)
  places = []
  for _ in range(k):
    largest = x.max(2, keepdims=True)
    place = jnp.where(x == largest, index, x.shape[2]).min(2, keepdims=True)
    x = jnp.where(index == place, -jnp.inf, x)
    places.append(place)
  return jnp.concatenate(places, axis=2)


@jax.custom_vjp
def embed(table: jax.Array, ids: jax.Array) -> jax.Array:
  """Rows of a table by id; 0 has the zero vector, which does not learn.

  The table's gradient is a product of matrices: sums by id, which GPUs make in
  any order, would not be the same twice.

  Args:
    table: [vocabulary - 1, c].
    ids: unsigned integers [...] below vocabulary.

  Returns:
    [..., c].
  """
  rows = jnp.pad(table, ((1, 0), (0, 0)))
  return rows.at[ids.astype(jnp.int32)].get(mode='clip')


def _embed_forward(table, ids):
  return embed(table, ids), (ids, len(table))


def _embed_backward(residuals, dy):
  ids, count = residuals
  chosen = jax.nn.one_hot(ids.reshape(-1), count + 1, dtype=dy.dtype)
  gradient = chosen[:, 1:].T @ dy.reshape(-1, dy.shape[-1])
  return gradient, np.zeros(ids.shape, jax.dtypes.float0)


embed.defvjp(_embed_forward, _embed_backward)
