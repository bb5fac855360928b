"""Batch norm with the maths and parameters of `flax.linen.BatchNorm`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

_STATISTICS_MOMENTUM = 0.9
_EPSILON = 1e-5


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
