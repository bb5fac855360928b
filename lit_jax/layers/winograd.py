"""3x3 convolutions of fewer products: Winograd's F(2x2, 3x3).

Two neighbouring outputs of three weights take four products of sums instead of
six; in two dimensions, 2x2 outputs take 16 instead of 36 (Lavin and Gray 2015,
section 4.1). The sums are of few neighbours, and the products are ones of
matrices over all tiles of 2x2 pixels. Only the rounding differs from the plain
form.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lit_jax.layers.pieces import examples_a_piece

# Channels from which on the products that are spared outweigh the sums.
_CHANNELS = 64
# Pixels of which the sums are taken at once, so that they stay in the cache.
_PIXELS = 1024


def suits(x: jax.Array, kernel_shape: tuple[int, ...]) -> bool:
  """Whether a CPU can convolve so, and is faster than in the plain form.

  Args:
    x: the images [n, h, w, c_in]; narrow floats would lose digits in the sums.
    kernel_shape: (kh, kw, c_in, c_out); the stride is 1.
  """
  return (
    kernel_shape[:2] == (3, 3)
    and x.shape[1] % 2 == x.shape[2] % 2 == 0
    and min(kernel_shape[2:]) >= _CHANNELS
    and jnp.finfo(x.dtype).bits >= 32
  )


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A convolution of stride 1, zero-padded by 1.

  Args:
    x: [n, h, w, c_in], h and w even.
    kernel: [3, 3, c_in, c_out], same dtype as x.

  Returns:
    [n, h, w, c_out] in x's dtype.
  """
  kernels = _both(_of_kernel, kernel)

  def convolved(piece):
    sums = jax.tree.map(_product, _of_input(piece), kernels)
    rows = [jnp.stack(row, axis=3) for row in _both(_to_output, sums)]
    return jnp.stack(rows, axis=2).reshape(*piece.shape[:3], -1)

  return lax.map(convolved, _in_pieces(x)).reshape(*x.shape[:3], -1)


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
  """The gradient of `convolve` by its kernel.

  Args:
    x: [n, h, w, c_in].
    dy: [n, h, w, c_out], same dtype as x.

  Returns:
    [3, 3, c_in, c_out] in x's dtype.
  """

  def add(total, pieces):
    x, dy = pieces
    found = jax.tree.map(_product_over_tiles, _of_input(x), _of_output(dy))
    return jax.tree.map(jnp.add, total, found), None

  zero = jnp.zeros((x.shape[3], dy.shape[3]), x.dtype)
  total = lax.scan(add, [[zero] * 4] * 4, (_in_pieces(x), _in_pieces(dy)))[0]
  return jnp.stack([jnp.stack(row) for row in _both(_to_kernel, total)])


def _in_pieces(x):
  """[n, h, w, c] → [pieces, examples of each, h, w, c]."""
  return x.reshape(-1, examples_a_piece(x.shape, _PIXELS), *x.shape[1:])


def _product(a, b):
  return (a.reshape(-1, a.shape[3]) @ b).reshape(*a.shape[:3], -1)


def _product_over_tiles(a, b):
  return a.reshape(-1, a.shape[3]).T @ b.reshape(-1, b.shape[3])


def _both(transform, grid):
  """A transform of every row of a grid of arrays, then of every column."""
  rows = [transform(*row) for row in grid]
  columns = [transform(*column) for column in zip(*rows, strict=True)]
  return [list(row) for row in zip(*columns, strict=True)]


def _neighbours(x, size):
  """Of every tile the pixels [i][j] of `size` a side, two apart."""
  height, width = (s - size + 2 for s in x.shape[1:3])
  return [
    [x[:, i : i + height : 2, j : j + width : 2] for j in range(size)]
    for i in range(size)
  ]


def _of_input(x):
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return _both(
    lambda a, b, c, d: (a - c, b + c, c - b, b - d), _neighbours(x, 4)
  )


def _of_output(dy):
  return _both(lambda a, b: (a, a + b, a - b, -b), _neighbours(dy, 2))


def _of_kernel(a, b, c):
  return a, (a + b + c) / 2, (a - b + c) / 2, c


def _to_output(a, b, c, d):
  return a + b + c, b - c - d


def _to_kernel(a, b, c, d):
  return a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d
