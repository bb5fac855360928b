"""Convolution and batch norm with the maths and parameters of `flax.linen`.

Both carry a backward pass of their own. XLA's CPU backend runs the automatic
gradient of a convolution inside a loop through an unoptimised path (weight
gradients over a hundred times slower); written as plain NHWC/HWIO
convolutions, the same sums stay on the fast path. On a CPU, a grouped
convolution becomes dense ones of several groups each, a 1x1 convolution a
product of matrices, and one along a text is done by Winograd's method
(temporal.py). On other devices convolution is XLA's own, with its automatic
gradient. docs/performance.md has what each form gains.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from lit_jax import temporal

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
_STATISTICS_MOMENTUM = 0.9
_EPSILON = 1e-5
# Channels at which XLA's dense convolution reaches its speed on a CPU.
_DENSE_WIDTH = 32

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, strides):
  return _convolve(x, kernel, strides, _same_padding(kernel.shape))


def _conv_forward(x, kernel, strides):
  return _conv(x, kernel, strides), (x, kernel)


def _conv_backward(strides, residuals, dy):
  x, kernel = residuals
  dx = _input_gradient(x.shape, kernel, strides, dy)
  return dx, _kernel_gradient(x, kernel.shape[:2], strides, dy)


_conv.defvjp(_conv_forward, _conv_backward)


def _input_gradient(x_shape, kernel, strides, dy):
  """Convolution of dy, spread by the stride, with the mirrored kernel."""
  kernel_shape, pads = kernel.shape[:2], _same_padding(kernel.shape)
  if strides != (1, 1):
    # An explicit pad and a plain convolution: lhs_dilation is slow on CPU.
    interior = [(0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)]
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), interior)
  padding = []
  for axis, (k, (low, _)) in enumerate(zip(kernel_shape, pads, strict=True), 1):
    before = k - 1 - low
    padding.append((before, x_shape[axis] + k - 1 - dy.shape[axis] - before))
  mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
  return _convolve(dy, mirrored, (1, 1), padding)


def _kernel_gradient(x, kernel_shape, strides, dy):
  """Convolution of x with dy over the batch: channels of x are the batch."""
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
    _conv(x, block_diagonal(kernel, merged), strides)
    for x, kernel in zip(
      jnp.split(x, parts, axis=3), jnp.split(kernel, parts, axis=3), strict=True
    )
  ]
  return jnp.concatenate(outputs, axis=3)


def _merged_groups(groups, width):
  """How many groups of `width` channels make up to 32, and divide `groups`."""
  wanted = max(1, _DENSE_WIDTH // width)
  return max(m for m in range(1, wanted + 1) if groups % m == 0)


def conv(x, kernel, strides=(1, 1), groups=1):
  """2-D convolution, zero-padded by (k - 1) // 2 on every side, no bias.

  Args:
    x: [n, h, w, c_in].
    kernel: [kh, kw, c_in / groups, c_out], same dtype as x.
    strides: step along h and w.
    groups: number of groups; must divide c_in and c_out.

  Returns:
    [n, h', w', c_out] in x's dtype.
  """
  if not on_cpu():
    return _convolve(x, kernel, strides, _same_padding(kernel.shape), groups)
  if groups > 1:
    return _grouped(x, kernel, strides, groups)
  if kernel.shape[:2] == (1, 1):
    return _pointwise(x, kernel, strides)
  if _suits_winograd(x, kernel, strides):
    return temporal.winograd(x, kernel)
  return _conv(x, kernel, strides)


def _suits_winograd(x, kernel, strides):
  """Along a text, of many channels; 16 bits would lose too much in its sums."""
  return (
    x.shape[1] == 1
    and kernel.shape[:2] == (1, 3)
    and strides == (1, 1)
    and x.shape[-1] >= _DENSE_WIDTH
    and x.dtype == jnp.float32
  )


_plain = contextvars.ContextVar('plain', default=False)


def on_cpu() -> bool:
  """Whether a computation is for the CPU, which has fast forms of its own."""
  return jax.default_backend() == 'cpu' and not _plain.get()


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
  """What is traced within is the network as it is defined, on any device.

  For counting what it costs: a CPU's fast form may multiply by zeros.
  """
  token = _plain.set(True)
  try:
    yield
  finally:
    _plain.reset(token)


class Conv(nn.Module):
  """`flax.linen.Conv` without bias; parameter `kernel`."""

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  groups: int = 1
  dtype: Any = jnp.float32
  kernel_init: Callable[..., jax.Array] = he_normal

  @nn.compact
  def __call__(self, x):
    shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return conv(x, kernel, self.strides, self.groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x, scale, bias, axis_name=None):
  """Normalises by the batch's own statistics (Ioffe & Szegedy, 2015).

  Args:
    x: [..., c].
    scale: [c], float32.
    bias: [c], float32.
    axis_name: mapped axis whose devices share the statistics, or None.

  Returns:
    y like x; mean and (biased) variance, each [c] float32. Statistics are
    taken in float32 whatever x's dtype; no gradient flows through them.
  """
  return _batch_norm_forward(x, scale, bias, axis_name)[0]


def _reduce(x, axis_name):
  return x if axis_name is None else lax.psum(x, axis_name)


def _batch_norm_forward(x, scale, bias, axis_name):
  axes = tuple(range(x.ndim - 1))
  wide = x.astype(jnp.float32)
  count = _reduce(jnp.float32(x.size // x.shape[-1]), axis_name)
  total, squares = _reduce((wide.sum(axes), (wide * wide).sum(axes)), axis_name)
  mean = total / count
  var = jnp.maximum(squares / count - mean * mean, 0.0)
  inverse = lax.rsqrt(var + _EPSILON)
  y = _affine(wide, inverse * scale, bias - mean * inverse * scale)
  return (y.astype(x.dtype), mean, var), (x, scale, mean, inverse, count)


def _batch_norm_backward(axis_name, residuals, cotangents):
  x, scale, mean, inverse, count = residuals
  axes = tuple(range(x.ndim - 1))
  dy = cotangents[0].astype(jnp.float32)
  centred = x.astype(jnp.float32) - jnp.expand_dims(mean, axes)
  dbias = dy.sum(axes)
  dscale = (dy * centred).sum(axes) * inverse
  # The parameters' gradients stay per device (the step averages them); the
  # input's needs the sums over every example that shared the statistics.
  all_dbias, all_dscale = _reduce((dbias, dscale), axis_name)
  slope = scale * inverse
  dx = (
    dy * jnp.expand_dims(slope, axes)
    - jnp.expand_dims(slope * all_dbias / count, axes)
    - centred * jnp.expand_dims(slope * inverse * all_dscale / count, axes)
  )
  return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _affine(x, slope, offset):
  axes = tuple(range(x.ndim - 1))
  return x * jnp.expand_dims(slope, axes) + jnp.expand_dims(offset, axes)


def _running(old, batch):
  """The running statistic after a batch's."""
  batch = lax.stop_gradient(batch)
  return _STATISTICS_MOMENTUM * old + (1 - _STATISTICS_MOMENTUM) * batch


class BatchNorm(nn.Module):
  """`flax.linen.BatchNorm`, momentum 0.9, epsilon 1e-5, over all but channels.

  Parameters `scale`, `bias`; running `mean`, `var` (biased, as in Flax) in
  `batch_stats`. In training mode the batch's statistics are shared by the
  devices of `axis_name`, so that many devices give one device's numbers.
  """

  axis_name: str | None = None
  dtype: Any = jnp.float32
  scale_init: Callable[..., jax.Array] = nn.initializers.ones

  @nn.compact
  def __call__(self, x, train=False):
    features = (x.shape[-1],)
    scale = self.param('scale', self.scale_init, features, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, features)
    var = self.variable('batch_stats', 'var', jnp.ones, features)
    if train:
      outputs: Any = batch_norm(x, scale, bias, self.axis_name)
      y, batch_mean, batch_var = outputs
      if not self.is_initializing():
        mean.value = _running(mean.value, batch_mean)
        var.value = _running(var.value, batch_var)
      return y.astype(self.dtype)
    slope = scale * lax.rsqrt(var.value + _EPSILON)
    y = _affine(x.astype(jnp.float32), slope, bias - mean.value * slope)
    return y.astype(self.dtype)
