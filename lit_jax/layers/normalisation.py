"""Batch norm, instance norm, and whose examples share batch statistics.

Within `shared_statistics` every batch norm, ours or `flax.linen.BatchNorm`,
normalises by the statistics of all devices' examples, so that many devices
give one device's numbers. Within `two_batches` ours normalises each half of the
examples by its own. A network says nothing of either itself.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax import lax

from lit_jax.layers.device import on_cpu
from lit_jax.layers.pieces import largest_divisor

_STATISTICS_MOMENTUM = 0.9
_EPSILON = 1e-5
# A GPU sums a batch's pixels in two stages: first in at most so many rows (few
# would leave much of it without work, and more give the second stage kernels of
# its own), then at most so many parts at a time, which XLA was seen to join
# with what is computed from the sum.
_ROWS, _PARTS = 32, 15


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
  static = _Static(axis_name, 1, False)
  outputs: Any = _batch_norm(x, scale, bias, None, static)
  y, mean, var = outputs
  return y, mean[0], var[0]


class _Static(NamedTuple):
  """How a batch norm is made.

  Attributes:
    axis_name: mapped axis whose devices share the statistics, or None.
    batches: equal parts of the examples, each with statistics of its own.
    relu: whether a ReLU ends it.
  """

  axis_name: str | None
  batches: int
  relu: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _batch_norm(x, scale, bias, shortcut, static):
  """Norm, sum with a shortcut (or None) and ReLU, which a GPU makes at once.

  Where the ReLU was open is read from what it put out, so that nothing else is
  kept between the passes.

  Returns:
    y like x, or like x + shortcut; mean and variance, [batches, c] float32.
  """
  return _batch_norm_forward(x, scale, bias, shortcut, static)[0]


def _at_once(*arrays):
  """Small arrays of one shape, which one kernel of a GPU computes.

  XLA would make several, or compute some of them again for every pixel.
  """
  if on_cpu():
    return arrays
  return tuple(lax.optimization_barrier(jnp.stack(arrays)))


def _sums(a, b, batches):
  """Sums by channel of two arrays [n, …, c], which a GPU reads once.

  XLA makes two kernels of two sums, and one of a sum of pairs.

  Returns:
    [batches, c] each.
  """
  if on_cpu() and batches == 1:
    axes = tuple(range(a.ndim - 1))
    return a.sum(axes)[None], b.sum(axes)[None]
  zero = jnp.zeros((), a.dtype)

  def add(x, y):
    return tuple(jax.tree.map(jnp.add, x, y))

  # Of few examples first: all at once would be one long row of atomic sums.
  each = len(a) // batches
  rows = largest_divisor(each, _ROWS)
  rows = batches * (each if rows < _ROWS // 4 else rows)
  flat = tuple(x.reshape(rows, -1, x.shape[-1]) for x in (a, b))
  pair = jnp.stack(lax.reduce(flat, (zero, zero), add, (1,)))
  parts = pair.reshape(2, batches, -1, pair.shape[-1])
  count = parts.shape[2]
  slices = jnp.split(parts, count // largest_divisor(count, _PARTS), 2)
  first, second = functools.reduce(jnp.add, slices).sum(2)
  return first, second


def _reduce(x, axis_name):
  return x if axis_name is None else lax.psum(x, axis_name)


def _by_example(v, x):
  """[batches, c], to be broadcast with x [n, …, c]."""
  if len(v) > 1:
    v = jnp.repeat(v, len(x) // len(v), axis=0)
  return v.reshape(len(v), *[1] * (x.ndim - 2), -1)


def _batch_norm_forward(x, scale, bias, shortcut, static):
  wide = x.astype(jnp.float32)
  count = x.size // x.shape[-1] // static.batches
  count = _reduce(jnp.float32(count), static.axis_name)
  sums = _sums(wide, wide * wide, static.batches)
  total, squares = _reduce(sums, static.axis_name)
  mean = total / count
  var = jnp.maximum(squares / count - mean * mean, 0.0)
  inverse = lax.rsqrt(var + _EPSILON)
  slope = inverse * scale[None]
  mean, var, inverse, slope, offset = _at_once(
    mean, var, inverse, slope, bias[None] - mean * slope
  )
  y = wide * _by_example(slope, x) + _by_example(offset, x)
  if shortcut is not None:
    y = y + shortcut.astype(jnp.float32)
  if static.relu:
    y = jnp.maximum(y, 0.0)
  y = y.astype(x.dtype if shortcut is None else jnp.result_type(x, shortcut))
  kept = x, scale, mean, inverse, count, shortcut, y if static.relu else None
  return (y, mean, var), kept


def _batch_norm_backward(static, kept, cotangents):
  x, scale, mean, inverse, count, shortcut, y = kept
  dy = cotangents[0]
  if static.relu:
    dy = jnp.where(y > 0, dy, jnp.zeros((), dy.dtype))
  wide = dy.astype(jnp.float32)
  centred = x.astype(jnp.float32) - _by_example(mean, x)
  dbias, dscale = _sums(wide, wide * centred, static.batches)
  dscale = dscale * inverse
  # The parameters' gradients stay per device (the step averages them); the
  # input's needs the sums over every example that shared the statistics.
  all_dbias, all_dscale = _reduce((dbias, dscale), static.axis_name)
  slope = scale[None] * inverse
  dscale, dbias, of_centred, constant = _at_once(
    dscale,
    dbias,
    slope * inverse * all_dscale / count,
    slope * all_dbias / count,
  )
  dx = (
    wide * _by_example(slope, x)
    - _by_example(constant, x)
    - centred * _by_example(of_centred, x)
  )
  return (
    dx.astype(x.dtype),
    # Two numbers that are added fuse where a sum of an axis does not.
    functools.reduce(jnp.add, dscale),
    functools.reduce(jnp.add, dbias),
    None if shortcut is None else dy.astype(shortcut.dtype),
  )


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def slope_and_offset(
  scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """A batch norm in evaluation mode as x · slope + offset; all [c]."""
  slope = scale * lax.rsqrt(var + _EPSILON)
  return slope, bias - mean * slope


def _running(old, batch):
  """The running statistic after a batch's."""
  batch = lax.stop_gradient(batch)
  return _STATISTICS_MOMENTUM * old + (1 - _STATISTICS_MOMENTUM) * batch


_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  'axis', default=None
)


@contextlib.contextmanager
def shared_statistics(axis_name: str | None) -> Iterator[None]:
  """What is traced within shares its batch statistics over a mapped axis.

  Args:
    axis_name: of `jax.pmap`, `jax.shard_map` or `jax.vmap`; None shares
      nothing.
  """
  token = _axis.set(axis_name)
  try:
    with nn.intercept_methods(_share):
      yield
  finally:
    _axis.reset(token)


def shared_axis() -> str | None:
  """The axis that statistics are shared over where this is traced, if any."""
  return _axis.get()


def _share(call, args, kwargs, context):
  """Gives a `flax.linen.BatchNorm` without an axis that of the context."""
  norm = context.module
  if not isinstance(norm, nn.BatchNorm) or norm.axis_name is not None:
    return call(*args, **kwargs)
  # Flax's modules are frozen; this one is a copy made for this one trace.
  object.__setattr__(norm, 'axis_name', _axis.get())
  try:
    return call(*args, **kwargs)
  finally:
    object.__setattr__(norm, 'axis_name', None)


_running_follow: contextvars.ContextVar[tuple[int, ...] | None] = (
  contextvars.ContextVar('running_follow', default=None)
)


@contextlib.contextmanager
def two_batches(follow: tuple[int, ...]) -> Iterator[None]:
  """What is traced within takes its examples as two batches in one.

  Every `BatchNorm` in training mode then normalises the first half and the
  second half of the examples each by its own statistics, as if it ran twice.

  Args:
    follow: the halves, 0 and 1, that the running statistics follow, in order.
  """
  token = _running_follow.set(follow)
  try:
    yield
  finally:
    _running_follow.reset(token)


def unshared_statistics(init: Callable[[], Any]) -> dict[str, str]:
  """Modules whose batch statistics `shared_statistics` cannot share.

  Args:
    init: makes a network's variables, at least in the abstract.

  Returns:
    The class of each module that keeps 'batch_stats' of a kind of its own, by
    its path in the network, such as 'blocks_0/norm'.
  """
  kinds, inner = {}, {}

  def note(call, args, kwargs, context):
    module = context.module
    kinds[module.path] = type(module)
    if hasattr(module, 'unshared_statistics'):  # What is made of another API.
      for path, name in module.unshared_statistics().items():
        inner['/'.join((*module.path, path))] = name
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    statistics = init().get('batch_stats', {})
  # Spectral norm keeps what depends on the weights alone.
  known = (BatchNorm, nn.BatchNorm, nn.SpectralNorm)
  owners = {
    _owner(path, kinds) for path in traverse_util.flatten_dict(statistics)
  }
  return {
    '/'.join(owner): kinds[owner].__name__
    for owner in sorted(owners)
    if not issubclass(kinds[owner], known)
    and not hasattr(kinds[owner], 'unshared_statistics')
  } | inner


def _owner(path, kinds):
  """The innermost module that a variable belongs to."""
  prefixes = (path[:n] for n in range(len(path) - 1, -1, -1))
  return next(prefix for prefix in prefixes if prefix in kinds)


def _normalised(x, scale, bias, shortcut, relu):
  """y, and the statistics of each batch that the running ones follow."""
  follow = _running_follow.get()
  batches = 1 if follow is None else 2
  # A CPU's numbers are those of the three one after another.
  static = _Static(_axis.get(), batches, relu and not on_cpu())
  within = shortcut if static.relu else None
  outputs: Any = _batch_norm(x, scale, bias, within, static)
  y, means, variances = outputs
  if not static.relu:
    y = _ended(y, shortcut, relu)
  return y, [(means[i], variances[i]) for i in follow or (0,)]


def _ended(y, shortcut, relu):
  """What follows a norm in a unit."""
  y = y if shortcut is None else y + shortcut
  return nn.relu(y) if relu else y


class BatchNorm(nn.Module):
  """`flax.linen.BatchNorm`, momentum 0.9, epsilon 1e-5, over all but channels.

  Parameters `scale`, `bias`; running `mean`, `var` (biased, as in Flax) in
  `batch_stats`. A call can end with the sum with a shortcut and a ReLU, which
  an accelerator makes at once with it.
  """

  dtype: Any = jnp.float32
  scale_init: Callable[..., jax.Array] = nn.initializers.ones

  @nn.compact
  def __call__(self, x, train=False, shortcut=None, relu=False):
    if self._is_folded():
      offset = self.get_variable('params', 'bias')
      offset = offset.reshape((1,) * (x.ndim - 1) + (-1,))
      return _ended(x + offset, shortcut, relu)
    features = (x.shape[-1],)
    scale = self.param('scale', self.scale_init, features, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, features)
    var = self.variable('batch_stats', 'var', jnp.ones, features)
    if train:
      y, batches = _normalised(x, scale, bias, shortcut, relu)
      if not self.is_initializing():
        for batch_mean, batch_var in batches:
          mean.value = _running(mean.value, batch_mean)
          var.value = _running(var.value, batch_var)
      return y.astype(self.dtype)
    slope, offset = slope_and_offset(scale, bias, mean.value, var.value)
    slope, offset = _by_example(slope[None], x), _by_example(offset[None], x)
    y = x.astype(jnp.float32) * slope + offset
    return _ended(y.astype(self.dtype), shortcut, relu)

  def _is_folded(self):
    """Whether the convolution before it has its product (folding.py)."""
    has_scale = self.has_variable('params', 'scale')
    return self.has_variable('params', 'bias') and not has_scale


@jax.custom_vjp
def instance_norm(x, scale, bias):
  """Normalises each channel of each example over its pixels.

  Ulyanov et al., 2016. Its gradient can be taken once.

  Args:
    x: [n, h, w, c].
    scale: [c], float32.
    bias: [c], float32.

  Returns:
    y like x; the statistics, of biased variance, are taken in float32 at least.
  """
  return _instance_norm_forward(x, scale, bias)[0]


def _over_pixels(x):
  return x.mean((1, 2), keepdims=True)


def _instance_norm_forward(x, scale, bias):
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean = _over_pixels(wide)
  var = _over_pixels(jnp.square(wide - mean))
  inverse = lax.rsqrt(var + _EPSILON)
  slope = inverse * scale[None, None, None]
  y = wide * slope + (bias[None, None, None] - mean * slope)
  return y.astype(x.dtype), (x, scale, mean, inverse)


def _instance_norm_backward(kept, dy):
  x, scale, mean, inverse = kept
  dy = dy.astype(mean.dtype)
  normal = (x.astype(mean.dtype) - mean) * inverse
  dbias, dscale = _over_pixels(dy), _over_pixels(dy * normal)
  dx = scale[None, None, None] * inverse * (dy - dbias - normal * dscale)
  pixels = x.shape[1] * x.shape[2]
  sums = [pixels * d.sum((0, 1, 2)) for d in (dscale, dbias)]
  return dx.astype(x.dtype), *(s.astype(scale.dtype) for s in sums)


instance_norm.defvjp(_instance_norm_forward, _instance_norm_backward)


class InstanceNorm(nn.Module):
  """`instance_norm`, epsilon 1e-5; parameters `scale`, `bias`.

  It is the same in training and evaluation: there are no running statistics.
  """

  @nn.compact
  def __call__(self, x):
    features = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, features, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, features, jnp.float32)
    return instance_norm(x, scale, bias)
