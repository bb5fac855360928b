"""Up-sampling by two: a transposed convolution without one.

XLA computes the weight gradient of a transposed convolution slowly on GPUs
(jax#31662). The same sums are a plain 2x2 convolution to four times the
channels, one set for each of the four pixels that an input pixel becomes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lit_jax.layers.convolution import conv

# PyTorch's default for a transposed convolution: uniform within
# 1 / sqrt(16 · features).
_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 4x4 transposed convolution of stride 2, cropped to twice the size.

  Equal to `flax.linen.ConvTranspose(c_out, (4, 4), (2, 2), 'SAME')` without a
  bias, and to PyTorch's `ConvTranspose2d(c_in, c_out, 4, 2, 1)` whose kernel
  is mirrored.

  Args:
    x: [n, h, w, c_in].
    kernel: [4, 4, c_in, c_out], same dtype as x.

  Returns:
    [n, 2h, 2w, c_out] in x's dtype.
  """
  n, h, w, c_in = x.shape
  features = kernel.shape[3]
  # Output row 2i is made of input rows i - 1 and i, by the kernel's rows 0 and
  # 2; row 2i + 1 of rows i and i + 1, by 1 and 3. Columns likewise.
  phases = kernel.reshape(2, 2, 2, 2, c_in, features)
  phases = phases.transpose(0, 2, 4, 1, 3, 5)
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  phases = phases.reshape(2, 2, c_in, 4 * features)
  y: Any = conv(padded, phases, products=True)
  y = y.reshape(n, h + 1, w + 1, 2, 2, features)
  rows = [
    jnp.stack([y[:, a : h + a, b : w + b, a, b] for b in (0, 1)], axis=3)
    for a in (0, 1)
  ]
  return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, features)


class UpsampleConv(nn.Module):
  """`upsample_conv` to so many features; parameter `kernel`."""

  features: int

  @nn.compact
  def __call__(self, x):
    shape = (4, 4, x.shape[-1], self.features)
    kernel = self.param('kernel', _uniform, shape, jnp.float32)
    return upsample_conv(x, kernel.astype(x.dtype))
