"""Convolution and batch norm against Flax's, values and gradients."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from lit_jax import layers
from lit_jax.layers import convolution

# Sums of at most some hundred products of order 1, in another order.
close = functools.partial(chex.assert_trees_all_close, rtol=2e-5, atol=2e-5)


def normal(seed, *shape):
  draws = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(draws, jnp.float32)


def weighted(y, seed=7):
  """A scalar whose gradient by y is different at every element."""
  return (y.astype(jnp.float32) * normal(seed, *y.shape)).sum()


# Convolution.

CASES = {
  '3x3': ((3, 3), (1, 1), 1, (8, 8)),
  'stride': ((3, 3), (2, 2), 1, (8, 8)),
  # Sizes that the stride does not divide leave pixels at the far side over.
  'odd sizes': ((3, 3), (2, 2), 1, (7, 9)),
  'uneven stride': ((3, 3), (1, 3), 1, (8, 8)),
  '1x1': ((1, 1), (1, 1), 1, (5, 5)),
  '1x1 stride': ((1, 1), (2, 2), 1, (8, 6)),
  '1xk': ((1, 5), (1, 1), 1, (6, 7)),
  'kx1 stride': ((5, 1), (2, 1), 1, (6, 7)),
  'even kernel': ((2, 4), (1, 1), 1, (6, 7)),
  'groups': ((3, 3), (1, 1), 2, (6, 6)),
  'groups stride': ((3, 3), (2, 2), 4, (7, 7)),
}


def conv_pair(kernel_size, strides, groups, dtype=jnp.float32):
  """Ours and Flax's convolution to 8 channels; both have one `kernel`."""
  padding = tuple(((k - 1) // 2, (k - 1) // 2) for k in kernel_size)
  ours = layers.Conv(8, kernel_size, strides, groups, dtype)
  flax = nn.Conv(
    8,
    kernel_size,
    strides,
    padding,
    feature_group_count=groups,
    use_bias=False,
    dtype=dtype,
  )
  return ours, flax


def kernels(kernel_size, groups):
  return {'kernel': normal(1, *kernel_size, 4 // groups, 8) / 6}


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(module, params, x):
  def loss(params, x):
    y = module.apply({'params': params}, x)
    return weighted(y), y

  return jax.grad(loss, (0, 1), has_aux=True)(params, x)


@pytest.mark.parametrize('case', CASES)
def test_conv_equals_flax(case):
  kernel_size, strides, groups, size = CASES[case]
  ours, flax = conv_pair(kernel_size, strides, groups)
  x = normal(0, 3, *size, 4)
  params = kernels(kernel_size, groups)
  for module in (ours, flax):
    chex.assert_trees_all_equal_shapes_and_dtypes(
      params, jax.eval_shape(module.init, jax.random.key(1), x)['params']
    )
  close(
    value_and_gradients(ours, params, x), value_and_gradients(flax, params, x)
  )


@pytest.mark.parametrize('groups', [1, 2])
def test_conv_in_bfloat16(groups):
  ours, flax = conv_pair((3, 3), (2, 2), groups, jnp.bfloat16)
  exact, _ = conv_pair((3, 3), (2, 2), groups)
  x = normal(0, 3, 8, 8, 4)
  params = kernels((3, 3), groups)
  grads, y = value_and_gradients(ours, params, x)
  assert y.dtype == jnp.bfloat16
  # Parameters, and so their gradients, are float32 under every policy.
  chex.assert_trees_all_equal_dtypes(grads, (params, x))
  wanted, flax_y = value_and_gradients(flax, params, x)
  exact_grads, exact_y = value_and_gradients(exact, params, x)
  # bfloat16 keeps 8 bits: each operand and result is off by up to 2**-9 of
  # its size, and the largest values here are about 10 (48 for the kernel's
  # gradient).
  for found, reference in ((grads, wanted), (grads, exact_grads)):
    chex.assert_trees_all_close(found, reference, rtol=2e-2, atol=0.1)
  for reference in (flax_y, exact_y):
    chex.assert_trees_all_close(
      y.astype(jnp.float32),
      reference.astype(jnp.float32),
      rtol=2e-2,
      atol=2e-2,
    )


def test_conv_values_by_hand():
  # One row 1 2 3 4 under the kernel 1 10 100 with a zero at each end; stride 2
  # keeps the first and the third sum.
  x = jnp.arange(1.0, 5).reshape(1, 1, 4, 1)
  kernel = jnp.array([1.0, 10, 100]).reshape(1, 3, 1, 1)
  found = layers.conv(x, kernel, (1, 2))
  chex.assert_trees_all_equal(
    found.reshape(2), jnp.array([10.0 + 200, 2 + 30 + 400])
  )


def test_conv_init_is_he_fan_out():
  x = jnp.zeros((1, 4, 4, 64))
  kernel = layers.Conv(256).init(jax.random.key(0), x)['params']['kernel']
  # 3 x 3 x 256 outgoing weights a channel. 147456 draws: the deviation is
  # known to 1 / sqrt(2 x 147456) = 0.2 %.
  wanted = np.sqrt(2 / (9 * 256))
  np.testing.assert_allclose(kernel.std(), wanted, rtol=0.01)


def test_kernel_gradients_as_products_are_the_same(monkeypatch):
  monkeypatch.setattr(convolution, '_LARGE', 0)
  # Of one example's patches, of three's, and of all six at once.
  for size, pixels, outputs in ((8, 64, 5), (8, 192, 2), (4, 10_000, 3)):
    monkeypatch.setattr(convolution, '_PIXELS', pixels)
    for k in (2, 3, 7):
      x, kernel = normal(0, 6, size, size, 3), normal(1, k, k, 3, outputs)

      def slopes(kernel, products, x=x):
        def loss(x, kernel):
          y = convolution._conv(x, kernel, (1, 1), products)
          return jnp.sum(jnp.sin(y))

        return jax.grad(loss, (0, 1))(x, kernel)

      found = slopes(kernel, True)
      wanted = slopes(kernel, False)
      chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-4)

      # Once more, as a critic's penalty does.
      def penalty(kernel, products, slopes=slopes):
        return jnp.sum(jnp.square(slopes(kernel, products)[0]))

      found = jax.grad(penalty)(kernel, True)
      wanted = jax.grad(penalty)(kernel, False)
      np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('groups', [1, 2])
def test_conv_gradient_inside_loops(groups):
  ours, _ = conv_pair((3, 3), (2, 2), groups)
  xs = normal(0, 3, 2, 8, 8, 4)
  params = kernels((3, 3), groups)

  def gradient(x):
    return value_and_gradients(ours, params, x)[0]

  def body(i, total):
    return jax.tree.map(jnp.add, total, gradient(xs[i]))

  # A trip count that is not known beforehand makes it a real loop.
  @jax.jit
  def loops(count):
    _, scanned = lax.scan(lambda c, x: (c, gradient(x)), 0, xs)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, xs[0]))
    return scanned, lax.fori_loop(0, count, body, zeros)

  outside = jax.tree.map(lambda *g: jnp.stack(g), *map(gradient, xs))
  scanned, total = loops(3)
  close(scanned, outside)
  close(total, jax.tree.map(lambda g: g.sum(0), outside))


def test_conv_gradient_through_a_loop():
  kernel = normal(0, 3, 3, 4, 4) / 6
  x = normal(1, 2, 6, 6, 4)

  def plain(kernel):
    return weighted(functools.reduce(layers.conv, [kernel] * 3, x))

  def looped(kernel):
    y, _ = lax.scan(lambda h, _: (layers.conv(h, kernel), None), x, length=3)
    return weighted(y)

  close(jax.jit(jax.grad(looped))(kernel), jax.jit(jax.grad(plain))(kernel))


@pytest.mark.parametrize(
  'groups, width, merged',
  [(32, 4, 8), (32, 8, 4), (32, 16, 2), (32, 64, 1), (6, 8, 3), (5, 4, 5)],
)
def test_groups_are_merged_up_to_32_channels(groups, width, merged):
  assert layers.convolution._merged_groups(groups, width) == merged


@pytest.mark.parametrize('groups', [16, 12])
def test_merged_groups_equal_flax(groups):
  # 16 groups of 4 are two dense convolutions, 12 groups two of 6 groups.
  x = normal(0, 2, 6, 6, 4 * groups)
  params = {'kernel': normal(1, 3, 3, 4, 2 * groups) / 6}
  ours = layers.Conv(2 * groups, (3, 3), (2, 2), groups)
  flax = nn.Conv(
    2 * groups,
    (3, 3),
    (2, 2),
    ((1, 1), (1, 1)),
    feature_group_count=groups,
    use_bias=False,
  )
  close(
    value_and_gradients(ours, params, x), value_and_gradients(flax, params, x)
  )


def test_block_diagonal_by_hand():
  # Two inputs, one a group; four outputs, two a group.
  kernel = jnp.array([1.0, 2, 3, 4]).reshape(1, 1, 1, 4)
  chex.assert_trees_all_equal(
    layers.block_diagonal(kernel, 2).reshape(2, 4),
    jnp.array([[1.0, 2, 0, 0], [0, 0, 3, 4]]),
  )


def test_block_diagonal_is_the_same_convolution():
  x, kernel = normal(0, 2, 5, 5, 6), normal(1, 3, 3, 2, 9)
  dense = layers.block_diagonal(kernel, 3)
  assert dense.shape == (3, 3, 6, 9)
  close(layers.conv(x, dense), layers.conv(x, kernel, groups=3))
  assert layers.block_diagonal(kernel, 1) is kernel


# Batch norm.


@pytest.fixture(scope='module')
def norm_inputs():
  """x far from zero mean, and variables that are not the initial ones."""
  x = 3 * normal(0, 4, 3, 3, 5) + 2
  variables = {
    'params': {'scale': normal(1, 5) + 1, 'bias': normal(2, 5)},
    'batch_stats': {'mean': normal(3, 5), 'var': normal(4, 5) ** 2 + 0.1},
  }
  return x, variables


@functools.partial(jax.jit, static_argnums=0)
def normed(apply, variables, x):
  """Gradients by parameters and input, the value and the statistics."""

  def loss(params, x):
    y, new = apply(variables | {'params': params}, x)
    return weighted(y), (y, new)

  return jax.grad(loss, (0, 1), has_aux=True)(variables['params'], x)


@pytest.mark.parametrize('train', [True, False])
def test_batch_norm_equals_flax(norm_inputs, train):
  x, variables = norm_inputs
  flax = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)
  fresh = layers.BatchNorm().init(jax.random.key(0), x, train)
  chex.assert_trees_all_equal(dict(fresh), flax.init(jax.random.key(0), x))

  def ours_apply(variables, x):
    return layers.BatchNorm().apply(
      variables, x, train, mutable=['batch_stats']
    )

  def flax_apply(variables, x):
    return flax.apply(variables, x, mutable=['batch_stats'])

  found = normed(ours_apply, variables, x)
  close(found, normed(flax_apply, variables, x))
  statistics = found[1][1]['batch_stats']
  if train:
    # 0.9 of the old, 0.1 of the batch's; the biased variance, as NumPy's.
    rows, old = np.asarray(x).reshape(-1, 5), variables['batch_stats']
    close(statistics['mean'], 0.9 * old['mean'] + 0.1 * rows.mean(0))
    close(statistics['var'], 0.9 * old['var'] + 0.1 * rows.var(0))
  else:
    chex.assert_trees_all_equal(statistics, variables['batch_stats'])


def test_batch_norm_values_by_hand():
  # 1 and 3: mean 2, variance 1, so -1 and 1 up to epsilon's 5e-6.
  x = jnp.array([[1.0], [3.0]])
  y, mean, var = layers.batch_norm(x, jnp.array([10.0]), jnp.array([5.0]))
  close(y, jnp.array([[-5.0], [15.0]]), atol=1e-4)
  chex.assert_trees_all_equal((mean, var), (jnp.array([2.0]), jnp.ones(1)))


def test_batch_norm_of_equal_values():
  # Rounding makes the difference of two sums of squares negative for some of
  # these, by far more than epsilon.
  x = jnp.tile(jnp.linspace(1000, 1001, 50), (64, 1))
  y, _, var = layers.batch_norm(x, jnp.ones(50), jnp.zeros(50))
  assert bool((var >= 0).all())
  assert bool(jnp.isfinite(y).all())


def test_batch_norm_statistics_have_no_gradient(norm_inputs):
  x, variables = norm_inputs
  scale, bias = variables['params'].values()

  def loss(x):
    _, mean, var = layers.batch_norm(x, scale, bias)
    return mean.sum() + var.sum()

  chex.assert_trees_all_equal(jax.grad(loss)(x), jnp.zeros_like(x))


def test_batch_norm_keeps_the_type(norm_inputs):
  x, variables = norm_inputs
  half = layers.BatchNorm(dtype=jnp.bfloat16)
  y, new = half.apply(
    variables, x.astype(jnp.bfloat16), True, mutable=['batch_stats']
  )
  assert y.dtype == jnp.bfloat16
  chex.assert_trees_all_equal_dtypes(
    new['batch_stats'], variables['batch_stats']
  )
  exact, _ = layers.BatchNorm().apply(
    variables, x, True, mutable=['batch_stats']
  )
  # Rounded on the way in and out: twice 2**-9 of values of about 5.
  chex.assert_trees_all_close(y.astype(jnp.float32), exact, atol=0.05)


def over_devices(norm, axis_name, variables, x):
  """What `normed` gives on two devices, put together to one batch's."""

  def apply(variables, x):
    with layers.shared_statistics(axis_name):
      return norm.apply(variables, x, mutable=['batch_stats'])

  # The loss's weights are those of the device's own half of the batch.
  weights = normal(7, *x.shape).reshape(2, 2, *x.shape[1:])

  def one(x, weights):
    def loss(params, x):
      y, new = apply(variables | {'params': params}, x)
      return (y * weights).sum(), (y, new)

    grads, aux = jax.grad(loss, (0, 1), has_aux=True)(variables['params'], x)
    return (lax.psum(grads[0], 'data'), grads[1]), aux

  halves = x.reshape(2, 2, *x.shape[1:])
  (dparams, dx), (y, new) = jax.pmap(one, axis_name='data')(halves, weights)
  first = jax.tree.map(lambda v: v[0], (dparams, new))
  chex.assert_trees_all_close(first[0], jax.tree.map(lambda v: v[1], dparams))
  return (first[0], dx.reshape(x.shape)), (y.reshape(x.shape), first[1])


class OursInTraining(layers.BatchNorm):
  def __call__(self, x):
    return super().__call__(x, True)


@pytest.mark.parametrize(
  'norm',
  [
    OursInTraining(),
    nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5),
  ],
  ids=['ours', 'flax'],
)
def test_batch_norm_over_two_devices(norm, norm_inputs):
  x, variables = norm_inputs

  def whole(variables, x):
    return norm.apply(variables, x, mutable=['batch_stats'])

  wanted = normed(whole, variables, x)
  close(over_devices(norm, 'data', variables, x), wanted)
  # Without the axis each device has statistics of its own: other numbers.
  with pytest.raises(AssertionError):
    close(over_devices(norm, None, variables, x), wanted)


class _OwnNorm(nn.Module):
  """Keeps a statistic of the batch that nothing shares over devices."""

  @nn.compact
  def __call__(self, x):
    mean = self.variable('batch_stats', 'mean', jnp.zeros, x.shape[-1:])
    mean.value = x.mean(0)
    return x - mean.value[None]


class _OwnNormOfSeveral(nn.Module):
  """The same, of a dictionary of statistics."""

  @nn.compact
  def __call__(self, x):
    old = self.variable('batch_stats', 'all', lambda: {'mean': jnp.zeros(5)})
    old.value = {'mean': x.mean(0)}
    return x


class _Norms(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=False)(x)
    x = layers.BatchNorm()(x, True)
    x = nn.SpectralNorm(nn.Dense(5))(x, update_stats=False)
    return _OwnNormOfSeveral(name='odder')(_OwnNorm(name='odd')(x))


def test_statistics_that_cannot_be_shared_are_named():
  def init():
    return _Norms().init(jax.random.key(0), jnp.zeros((2, 5)))

  assert layers.unshared_statistics(init) == {
    'odd': '_OwnNorm',
    'odder': '_OwnNormOfSeveral',
  }
