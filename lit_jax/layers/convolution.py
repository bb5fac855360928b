"""Convolution with the maths and parameters of `flax.linen.Conv`.

It carries a backward pass of its own. XLA's CPU backend runs the automatic
gradient of a convolution inside a loop through an unoptimised path (weight
gradients over a hundred times slower); written as plain NHWC/HWIO
convolutions, the same sums stay on the fast path. Products of matrices are
faster still for wide 3x3 convolutions (layers/winograd.py), and for the
kernel's gradient of large images; a layer must allow them (`products`). On a
CPU, a grouped convolution becomes dense ones of several
groups each, and a 1x1 convolution a product of matrices. On other devices
convolution is XLA's own, with its automatic gradient. docs/performance.md has
what each form gains.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from lit_jax.layers import winograd
from lit_jax.layers.device import on_cpu
from lit_jax.layers.pieces import examples_a_piece

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Channels at which XLA's dense convolution reaches its speed on a CPU.
DENSE_WIDTH = 32
# Channels below which it pays to fold the pixels of a 7x7 convolution.
_FEW = 16
# Multiply-accumulates from which on a kernel's gradient is better as products
# of matrices, and pixels of which these take the patches at once.
_LARGE, _PIXELS = 2 * 10**8, 1024

# Fan-out He initialisation, as the original ResNets.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def _convolve(x, kernel, strides, padding, groups=1, rhs_dilation=(1, 1)):
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    rhs_dilation=rhs_dilation,
    dimension_numbers=_DIMENSIONS,
    feature_group_count=groups,
  )


def _same_padding(kernel_shape):
  return [((k - 1) // 2, (k - 1) // 2) for k in kernel_shape[:2]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, strides, products):
  if products and winograd.suits(x, kernel.shape):
    return winograd.convolve(x, kernel)
  if products and kernel.shape[:2] == (2, 2):
    # jax 0.10 gives convolutions without padding to YNNPACK, at half the speed
    # and less; with one column to drop it takes the path of the others.
    return _convolve(x, kernel, strides, ((0, 0), (1, 0)))[:, :, 1:]
  return _convolve(x, kernel, strides, _same_padding(kernel.shape))


# Of a convolution y = x * k the gradients are two further functions, bilinear
# as it is itself. The gradients of each of the three are the other two, so that
# a gradient of a gradient (a critic's penalty) keeps to these forms.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _input_gradient(kernel, dy, strides, size, products):
  """Convolution of dy, spread by the stride, with the mirrored kernel.

  `size` is x's (h, w), which the stride does not tell.
  """
  mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
  if products and winograd.suits(dy, mirrored.shape):
    return winograd.convolve(dy, mirrored)
  kernel_shape, pads = kernel.shape[:2], _same_padding(kernel.shape)
  if strides != (1, 1):
    # An explicit pad and a plain convolution: lhs_dilation is slow on CPU.
    interior = [(0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)]
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), interior)
  padding = []
  for axis, (k, (low, _)) in enumerate(zip(kernel_shape, pads, strict=True)):
    before = k - 1 - low
    after = size[axis] + k - 1 - dy.shape[axis + 1] - before
    padding.append((before, after))
  return _convolve(dy, mirrored, (1, 1), padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _kernel_gradient(x, dy, kernel_shape, strides, products):
  """Convolution of x with dy over the batch: channels of x are the batch."""
  if products and winograd.suits(x, (*kernel_shape, x.shape[3], dy.shape[3])):
    return winograd.kernel_gradient(x, dy)
  work = math.prod(kernel_shape) * dy.size * x.shape[3]
  if products and work >= _LARGE:
    return _patch_products(x, dy, kernel_shape)
  padding = []
  for axis, (k, s) in enumerate(zip(kernel_shape, strides, strict=True), 1):
    low = (k - 1) // 2
    span = (dy.shape[axis] - 1) * s + 1
    padding.append((low, k - 1 + span - x.shape[axis] - low))
  gradient = _convolve(
    x.transpose(3, 1, 2, 0),
    dy.transpose(1, 2, 0, 3),
    (1, 1),
    padding,
    rhs_dilation=strides,
  )
  return gradient.transpose(1, 2, 0, 3)


def _patch_products(x, dy, kernel_shape):
  """The kernel's gradient at stride 1, as products of matrices.

  For every place of the kernel x and dy meet at another shift. Patches are
  taken of the one that has fewer channels.
  """
  low = [before for before, _ in _same_padding(kernel_shape)]
  if x.shape[3] <= dy.shape[3]:
    return _products_of_patches(x, dy, kernel_shape, low)
  # Shifting dy back is shifting x on.
  high = [k - 1 - before for k, before in zip(kernel_shape, low, strict=True)]
  found = _products_of_patches(dy, x, kernel_shape, high)
  return found[::-1, ::-1].swapaxes(2, 3)


def _patches(x, kernel_shape, strides=(1, 1)):
  """What each place of a kernel meets, x padded: [n, h', w', kh · kw · c]."""
  height, width = (
    x.shape[axis] - k + 1 for axis, k in enumerate(kernel_shape, 1)
  )
  shifted = [
    x[:, i : i + height : strides[0], j : j + width : strides[1]]
    for i, j in np.ndindex(*kernel_shape)
  ]
  return jnp.concatenate(shifted, -1)


def _products_of_patches(a, b, kernel_shape, before):
  """Of every shift of a, padded so far before, the product with b, summed.

  A few examples at a time, so that their patches stay in the cache.

  Returns:
    [kh, kw, channels of a, channels of b].
  """
  channels = b.shape[3]
  padding = [(0, 0)]
  for axis, (k, low) in enumerate(zip(kernel_shape, before, strict=True), 1):
    padding.append((low, b.shape[axis] + k - 1 - a.shape[axis] - low))
  a = jnp.pad(a, [*padding, (0, 0)])
  piece = examples_a_piece(b.shape, _PIXELS)
  wide = jnp.promote_types(a.dtype, jnp.float32)

  def add(total, pieces):
    a, b = pieces
    patches = _patches(a, kernel_shape).reshape(b.size // channels, -1)
    product = lax.dot_general(
      patches,
      b.reshape(-1, channels),
      (((0,), (0,)), ((), ())),
      preferred_element_type=wide,
    )
    return total + product, None

  parts = [v.reshape(-1, piece, *v.shape[1:]) for v in (a, b)]
  rows = math.prod(kernel_shape) * a.shape[3]
  total = lax.scan(add, jnp.zeros((rows, channels), wide), parts)[0]
  return total.astype(a.dtype).reshape(*kernel_shape, -1, channels)


def _keep_both(function):
  """The forward rule of a function of two arrays, which keeps them."""
  return lambda a, b, *static: (function(a, b, *static), (a, b))


def _conv_backward(strides, products, kept, dy):
  x, kernel = kept
  return (
    _input_gradient(kernel, dy, strides, x.shape[1:3], products),
    _kernel_gradient(x, dy, kernel.shape[:2], strides, products),
  )


def _input_gradient_backward(strides, size, products, kept, u):
  del size
  kernel, dy = kept
  return (
    _kernel_gradient(u, dy, kernel.shape[:2], strides, products),
    _conv(u, kernel, strides, products),
  )


def _kernel_gradient_backward(kernel_shape, strides, products, kept, u):
  del kernel_shape
  x, dy = kept
  return (
    _input_gradient(u, dy, strides, x.shape[1:3], products),
    _conv(x, u, strides, products),
  )


_conv.defvjp(_keep_both(_conv), _conv_backward)
_input_gradient.defvjp(_keep_both(_input_gradient), _input_gradient_backward)
_kernel_gradient.defvjp(_keep_both(_kernel_gradient), _kernel_gradient_backward)


def block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
  """A grouped kernel as the equal dense one, zero outside its groups.

  Args:
    kernel: [kh, kw, c_in / groups, c_out].
    groups: number of groups.

  Returns:
    [kh, kw, c_in, c_out].
  """
  if groups == 1:
    return kernel
  kh, kw, c_in, c_out = kernel.shape
  grouped = kernel.reshape(kh, kw, c_in, groups, c_out // groups)
  eye = jnp.eye(groups, dtype=kernel.dtype)
  dense = jnp.einsum('hwigo,fg->hwfigo', grouped, eye)
  return dense.reshape(kh, kw, groups * c_in, c_out)


def _pointwise(x, kernel, strides):
  """A 1x1 convolution as a product of matrices.

  Of two dimensions, for with more the gradient begins with transpositions that
  take longer than the product.
  """
  x = x[:, :: strides[0], :: strides[1]]
  y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
  return y.reshape(*x.shape[:-1], -1)


def _grouped(x, kernel, strides, groups):
  """A grouped convolution as dense ones, each of several groups at once."""
  merged = _merged_groups(groups, kernel.shape[2])
  parts = groups // merged
  outputs: list[Any] = [
    _conv(x, block_diagonal(kernel, merged), strides, False)
    for x, kernel in zip(
      jnp.split(x, parts, axis=3), jnp.split(kernel, parts, axis=3), strict=True
    )
  ]
  return jnp.concatenate(outputs, axis=3)


def _merged_groups(groups, width):
  """How many groups of `width` channels make up to 32, and divide `groups`."""
  wanted = max(1, DENSE_WIDTH // width)
  return max(m for m in range(1, wanted + 1) if groups % m == 0)


def space_to_depth(x: jax.Array) -> jax.Array:
  """Every 2x2 pixels become one: [n, 2h, 2w, c] → [n, h, w, 4c]."""
  n, height, width, c = x.shape
  x = x.reshape(n, height // 2, 2, width // 2, 2, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(
    n, height // 2, width // 2, 4 * c
  )


def depth_to_space(x: jax.Array) -> jax.Array:
  """The inverse: [n, h, w, 4c] → [n, 2h, 2w, c]."""
  n, height, width, c = x.shape
  x = x.reshape(n, height, width, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, 2 * height, 2 * width, c // 4)


def _of_patches(x, kernel, strides):
  """One product of matrices, for a kernel that outweighs its images.

  Other forms transpose the kernel for its gradients, which takes longer than
  these products of few pixels.
  """
  pads = [(0, 0), *_same_padding(kernel.shape), (0, 0)]
  patches = _patches(jnp.pad(x, pads), kernel.shape[:2], strides)
  y = patches.reshape(-1, patches.shape[3]) @ kernel.reshape(
    -1, kernel.shape[3]
  )
  return y.reshape(*patches.shape[:3], -1)


def _halved(x, kernel):
  """A 4x4 convolution of stride 2 as a 2x2 one of 2x2 pixels at once.

  The same products, without a stride that the gradients would pay for.
  """
  c_in, c_out = kernel.shape[2:]
  kernel = kernel.reshape(2, 2, 2, 2, c_in, c_out).transpose(0, 2, 1, 3, 4, 5)
  x = space_to_depth(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
  return _conv(x, kernel.reshape(2, 2, 4 * c_in, c_out), (1, 1), True)


def _folded(x, kernel):
  """A wide convolution of few channels, as one of four times as many.

  Pixel 2p + a of the output sums x[2p + a + k - r] w[k]: of 2x2 pixels at once,
  a kernel of half the width, in which w stands once for each a. It multiplies
  by some zeros (1.3 times the products for 7x7), at the speed of many channels.
  """
  size, _, c_in, c_out = kernel.shape
  half = (size + 1) // 2
  for axis in (0, 1):
    shifted = []
    for place in ((0, 1), (1, 0)):
      pads = [(0, 0)] * kernel.ndim
      pads[axis] = place
      shifted.append(jnp.pad(kernel, pads))
    kernel = jnp.stack(shifted, axis=-2)
  # [size + 1, size + 1, c_in, a, a, c_out]
  kernel = kernel.reshape(half, 2, half, 2, c_in, 4 * c_out)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  kernel = kernel.reshape(half, half, 4 * c_in, 4 * c_out)
  # What `_conv` itself does not pad, in pixels.
  rest = (size - 1) // 2 - 2 * ((half - 1) // 2)
  x = jnp.pad(x, ((0, 0), (rest, rest), (rest, rest), (0, 0)))
  return depth_to_space(_conv(space_to_depth(x), kernel, (1, 1), True))


def conv(x, kernel, strides=(1, 1), groups=1, products=False) -> Any:
  """2-D convolution, zero-padded by (k - 1) // 2 on every side, no bias.

  Args:
    x: [n, h, w, c_in].
    kernel: [kh, kw, c_in / groups, c_out], same dtype as x.
    strides: step along h and w.
    groups: number of groups; must divide c_in and c_out.
    products: whether a CPU may take products of matrices, where those are
      faster; of stride 1 only, and of no groups.

  Returns:
    [n, h', w', c_out] in x's dtype.
  """
  if not on_cpu():
    return _convolve(x, kernel, strides, _same_padding(kernel.shape), groups)
  if groups > 1:
    return _grouped(x, kernel, strides, groups)
  if kernel.shape[:2] == (1, 1):
    return _pointwise(x, kernel, strides)
  if products and kernel.size >= x.size:
    return _of_patches(x, kernel, strides)
  even = x.shape[1] % 2 == x.shape[2] % 2 == 0
  if kernel.shape[:2] == (4, 4) and strides == (2, 2) and even:
    return _halved(x, kernel)
  wide = kernel.shape[0] == kernel.shape[1] == 7 and strides == (1, 1)
  if wide and even and min(kernel.shape[2:]) < _FEW:
    return _folded(x, kernel)
  return _conv(x, kernel, strides, products and strides == (1, 1))


class Conv(nn.Module):
  """`flax.linen.Conv` without bias; parameter `kernel`.

  For `products` see `conv`; the classifiers keep to the other form, in which
  their numbers were made.
  """

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  groups: int = 1
  dtype: Any = jnp.float32
  kernel_init: Callable[..., jax.Array] = he_normal
  products: bool = False

  @nn.compact
  def __call__(self, x):
    if self.has_variable('params', 'folded'):
      return self._with_folded_norm(x.astype(self.dtype))
    shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    return self.convolve(x.astype(self.dtype), kernel.astype(self.dtype))

  def _with_folded_norm(self, x):
    """With the kernel [c_out, kh, kw, c_in] of layers/folding.py."""
    return lax.conv_general_dilated(
      x,
      self.get_variable('params', 'folded'),
      self.strides,
      _same_padding(self.kernel_size),
      dimension_numbers=('NHWC', 'OHWI', 'NHWC'),
      feature_group_count=self.groups,
    )

  def convolve(self, x: jax.Array, kernel: jax.Array) -> Any:
    """The convolution itself, in the form that suits the device."""
    return conv(x, kernel, self.strides, self.groups, self.products)
