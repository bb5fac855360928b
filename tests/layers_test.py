"""Convolution, up-sampling and norms against Flax's: values and gradients."""

import contextlib
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from lit_jax import layers
from lit_jax.layers import convolution, normalisation, winograd

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


@pytest.mark.parametrize('dtypes', ['ff', 'bb', 'bf', 'fb'])
def test_norm_shortcut_and_relu_at_once(dtypes):
  kinds = {'f': jnp.float32, 'b': jnp.bfloat16}
  x, shortcut = (
    normal(i, 4, 6, 6, 3).astype(kinds[d]) for i, d in enumerate(dtypes)
  )
  norm = layers.BatchNorm(kinds[dtypes[0]])
  weights = normal(2, 4, 6, 6, 3)
  variables = norm.init(jax.random.key(0), x)

  def loss(params, x, shortcut):
    y, statistics = norm.apply(
      {**variables, 'params': params}, x, True, shortcut, True,
      mutable=['batch_stats'],
    )  # fmt: skip
    return (y.astype(jnp.float32) * weights).sum(), (y, statistics)

  run = jax.grad(loss, (0, 1, 2), has_aux=True)
  arguments = variables['params'], x, shortcut
  wanted = run(*arguments)
  with layers.plain_forms():
    found = run(*arguments)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
  bound = 1e-5 if dtypes == 'ff' else 4e-2
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    a, b = (np.asarray(v, np.float32) for v in (a, b))
    assert abs(a - b).max() < bound * abs(b).max()
  # A ReLU that is not closed, or a shortcut left out, would be far off.
  assert 0.2 < float((found[1][0] == 0).mean()) < 0.8
  assert abs(np.asarray(found[0][2], np.float32)).max() > 0


def _norm(x, scale, bias):
  """Gradients of a loss of the output; output, mean and variance."""

  def loss(x, scale, bias):
    y, mean, var = normalisation.batch_norm(x, scale, bias)
    return weighted(y), (y, mean, var)

  gradients = jax.grad(loss, (0, 1, 2), has_aux=True)
  return jax.jit(gradients)(x, scale, bias)


# One row an example, several examples a row, slices of one part, and numbers of
# examples that have no fitting divisor.
@pytest.mark.parametrize(
  'shape',
  [
    *((n, 3, 2, 5) for n in (1, 16, 31, 32, 34, 74, 128)),
    (64, 5),
    (96, 3, 5),
  ],
)
def test_sums_in_two_stages(shape):
  x = 3 + normal(0, *shape)
  arguments = x, normal(1, 5), normal(2, 5)
  wanted = _norm(*arguments)
  with layers.plain_forms():
    found = _norm(*arguments)
  axes = tuple(range(x.ndim - 1))
  # Of up to 768 numbers about 3: the squares' sum has 24 bits.
  np.testing.assert_allclose(found[1][1], x.mean(axes), rtol=1e-5)
  np.testing.assert_allclose(found[1][2], x.var(axes), rtol=1e-3, atol=1e-5)
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * (1 + abs(b).max()))


def test_sums_in_two_stages_of_several_members():
  members = 3
  arguments = (
    normal(0, members, 36, 3, 2, 5),
    normal(1, members, 5),
    normal(2, members, 5),
  )
  wanted = [_norm(*(a[i] for a in arguments)) for i in range(members)]
  with layers.plain_forms():
    found = jax.vmap(_norm)(*arguments)
  for i, alone in enumerate(wanted):
    own = jax.tree.map(lambda v, i=i: v[i], found)
    chex.assert_trees_all_close(own, alone, rtol=1e-4, atol=1e-4)


def test_sums_in_two_stages_of_each_half():
  norm = layers.BatchNorm()
  x = jnp.concatenate([normal(0, 34, 3, 2, 5), 2 + normal(1, 34, 3, 2, 5)])
  variables = norm.init(jax.random.key(0), x)

  def run(x):
    return norm.apply(variables, x, True, mutable=['batch_stats'])

  halves = [run(half) for half in jnp.split(x, 2)]
  with layers.plain_forms(), layers.two_batches((1,)):
    y, statistics = run(x)
  wanted = jnp.concatenate([half for half, _ in halves])
  np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
  chex.assert_trees_all_close(statistics, halves[1][1], rtol=1e-5)


def test_conv_init_is_he_fan_out():
  x = jnp.zeros((1, 4, 4, 64))
  kernel = layers.Conv(256).init(jax.random.key(0), x)['params']['kernel']
  # 3 x 3 x 256 outgoing weights a channel. 147456 draws: the deviation is
  # known to 1 / sqrt(2 x 147456) = 0.2 %.
  wanted = np.sqrt(2 / (9 * 256))
  np.testing.assert_allclose(kernel.std(), wanted, rtol=0.01)


# Of one example's patches, of three's, and of all six at once.
@pytest.mark.parametrize(
  'size, pixels, outputs, kernels',
  [
    (8, 64, 5, (2, 3, 7)),
    (8, 192, 2, (3,)),
    (4, 10_000, 3, (7,)),
    pytest.param(8, 192, 2, (2, 7), marks=pytest.mark.slow),
    pytest.param(4, 10_000, 3, (2, 3), marks=pytest.mark.slow),
  ],
)
def test_kernel_gradients_as_products_are_the_same(
  size, pixels, outputs, kernels, monkeypatch
):
  monkeypatch.setattr(convolution, '_LARGE', 0)
  monkeypatch.setattr(convolution, '_PIXELS', pixels)
  for k in kernels:
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


# Products of matrices, where a layer allows them.

# Images, kernel, stride, and whether that takes a form of its own.
PRODUCTS = {
  'winograd, pieces': ((3, 32, 32, 64), (3, 3, 64, 70), 1, 'winograd'),
  'winograd, at once': ((40, 6, 4, 70), (3, 3, 70, 64), 1, 'winograd'),
  'odd height': ((16, 15, 6, 64), (3, 3, 64, 64), 1, None),
  'odd width': ((16, 6, 15, 64), (3, 3, 64, 64), 1, None),
  'few channels': ((16, 8, 8, 60), (3, 3, 60, 64), 1, None),
  'few outputs': ((16, 8, 8, 64), (3, 3, 64, 60), 1, None),
  '2x2': ((3, 9, 7, 5), (2, 2, 5, 8), 1, None),
  'heavy': ((2, 4, 6, 3), (3, 3, 3, 16), 1, '_of_patches'),
  'heavy stride': ((2, 4, 6, 5), (4, 4, 5, 8), 2, '_of_patches'),
  'heavy stride, odd': ((2, 5, 3, 5), (4, 4, 5, 8), 2, '_of_patches'),
  'not heavy': ((4, 4, 8, 5), (3, 3, 5, 14), 1, None),
}


@pytest.mark.parametrize('case', PRODUCTS)
def test_products_are_the_defined_convolution(case, monkeypatch):
  shape, kernel_shape, stride, wanted_form = PRODUCTS[case]
  x, strides = normal(0, *shape), (stride, stride)
  kernel = normal(1, *kernel_shape) / np.prod(kernel_shape[:3]) ** 0.5
  taken = set()
  for module, name in (
    (winograd, 'convolve'),
    (winograd, 'kernel_gradient'),
    (convolution, '_of_patches'),
  ):
    form = getattr(module, name)

    def noted(*args, name=name, form=form):
      taken.add(name)
      return form(*args)

    monkeypatch.setattr(module, name, noted)
  found = orders(
    lambda x, k: layers.conv(x, k, strides, products=True), x, kernel
  )
  winograds = {'convolve', 'kernel_gradient'}
  assert taken == {None: set(), 'winograd': winograds}.get(
    wanted_form, {wanted_form}
  )
  wanted = orders(lambda x, k: defined_conv(x, k, strides), x, kernel)
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * abs(b).max())
    assert abs(b).max() > 1e-3


def test_winograd_is_for_wide_floats():
  x, kernel = normal(0, 2, 4, 4, 64), normal(1, 3, 3, 64, 64)
  assert winograd.suits(x, kernel.shape)
  for narrow in (jnp.bfloat16, jnp.float16):
    assert not winograd.suits(x.astype(narrow), kernel.shape)


def test_winograd_by_hand():
  # In one row 1 2 3 4 under 1 10 100, zeros around it; every other row is 0.
  x = jnp.zeros((1, 2, 4, 1)).at[0, 0, :, 0].set(jnp.arange(1.0, 5))
  kernel = jnp.zeros((3, 3, 1, 1)).at[1, :, 0, 0].set(jnp.array([1, 10, 100]))
  found = winograd.convolve(x, kernel)
  np.testing.assert_allclose(found[0, 0, :, 0], [210, 321, 432, 43], rtol=1e-6)
  np.testing.assert_allclose(found[0, 1, :, 0], 0, atol=1e-4)


# Folded forms: several pixels as channels of one.

# Kernel, strides, size of the image, channels in and out, and the form.
FOLDED = {
  '4x4 stride': (4, (2, 2), (8, 6), 3, 5, '_halved'),
  '4x4 stride of 2 pixels': (4, (2, 2), (2, 2), 3, 5, '_halved'),
  '4x4 stride, odd': (4, (2, 2), (7, 9), 3, 5, '_conv'),
  '4x4 stride, odd width': (4, (2, 2), (6, 5), 3, 5, '_conv'),
  '4x4 stride, odd height': (4, (2, 2), (5, 6), 3, 5, '_conv'),
  '4x4': (4, (1, 1), (8, 6), 3, 5, '_conv'),
  '7x7 of few': (7, (1, 1), (8, 6), 3, 20, '_folded'),
  '7x7 to few': (7, (1, 1), (6, 8), 20, 3, '_folded'),
  '7x7 of 2 pixels': (7, (1, 1), (2, 2), 4, 4, '_folded'),
  '7x7 of few, odd': (7, (1, 1), (7, 9), 3, 20, '_conv'),
  '7x7 of few, odd width': (7, (1, 1), (6, 7), 3, 20, '_conv'),
  '7x7 of few, stride': (7, (2, 2), (8, 8), 3, 20, '_conv'),
  '7x7 of many': (7, (1, 1), (6, 8), 16, 16, '_conv'),
}


def defined_conv(x, kernel, strides):
  """The convolution as XLA has it, with its automatic gradients."""
  pads = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
  return lax.conv_general_dilated(
    x, kernel, strides, pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def orders(function, x, kernel):
  """Value, first gradients, and gradients of a function of the first.

  The last are those of a critic's penalty. Of a convolution alone they would
  not depend on x: a tanh follows it.
  """

  def loss(x, kernel):
    y = function(x, kernel)
    weights = np.random.default_rng(7).normal(size=y.shape)
    return (jnp.tanh(y) * weights.astype(y.dtype)).sum(), y

  def penalty(x, kernel):
    (by_x, by_kernel), _ = jax.grad(loss, (0, 1), has_aux=True)(x, kernel)
    norms = jnp.sqrt(jnp.square(by_x).sum((1, 2, 3)))
    # No critic has the second part, but a layer has that gradient too.
    return jnp.square(norms - 1).mean() + jnp.square(by_kernel).mean()

  def all_of_them(x, kernel):
    first, y = jax.grad(loss, (0, 1), has_aux=True)(x, kernel)
    return y, first, jax.grad(penalty, (0, 1))(x, kernel)

  # Most of the time goes into compilation, for these programs run but once.
  quick = {'xla_backend_optimization_level': 0}
  return jax.jit(all_of_them, compiler_options=quick)(x, kernel)


def folded_case(case, dtype=np.float32):
  """x and kernel, of which y is of order 1; the strides."""
  size, strides, shape, c_in, c_out, _ = FOLDED[case]
  rng = np.random.default_rng(3)
  x = rng.normal(size=(3, *shape, c_in))
  kernel = rng.normal(size=(size, size, c_in, c_out))
  kernel /= size * c_in**0.5
  return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), strides


@pytest.mark.parametrize('case', FOLDED)
def test_folded_conv_is_the_defined_one(case, monkeypatch):
  x, kernel, strides = folded_case(case)
  taken = []
  for name in ('_halved', '_folded', '_conv'):
    form = getattr(convolution, name)

    def noted(*args, name=name, form=form):
      taken.append(name)
      return form(*args)

    monkeypatch.setattr(convolution, name, noted)
  found = orders(lambda x, k: layers.conv(x, k, strides), x, kernel)
  wanted = orders(lambda x, k: defined_conv(x, k, strides), x, kernel)
  close(found, wanted)
  # Nothing here is so small that it would pass whatever it were.
  for leaf in jax.tree.leaves(wanted):
    assert jnp.abs(leaf).max() > 1e-2
  assert taken[0] == FOLDED[case][-1]


@pytest.mark.parametrize(
  'case', ['4x4 stride', '4x4 stride, odd', '7x7 of few', '7x7 to few']
)
def test_folded_conv_in_float64(case):
  with jax.enable_x64(True):
    x, kernel, strides = folded_case(case, np.float64)
    found = orders(lambda x, k: layers.conv(x, k, strides), x, kernel)
    wanted = orders(lambda x, k: defined_conv(x, k, strides), x, kernel)
    chex.assert_trees_all_equal_dtypes(found, wanted)
    assert found[0].dtype == np.float64
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
  'case', ['4x4 stride', '4x4 stride, odd', '7x7 of few', '7x7 to few']
)
def test_plain_forms_of_folded_conv(case, accelerator_forms, monkeypatch):
  monkeypatch.setattr(convolution, '_halved', None)
  monkeypatch.setattr(convolution, '_folded', None)
  x, kernel, strides = folded_case(case)
  found = orders(lambda x, k: layers.conv(x, k, strides), x, kernel)
  wanted = orders(lambda x, k: defined_conv(x, k, strides), x, kernel)
  close(found, wanted)


@pytest.mark.parametrize('strides, size', [((1, 1), (6, 5)), ((2, 1), (7, 6))])
def test_second_gradient_of_conv(strides, size):
  rng = np.random.default_rng(5)
  x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)) / 5, jnp.float32)
  close(
    orders(lambda x, k: layers.conv(x, k, strides), x, kernel),
    orders(lambda x, k: defined_conv(x, k, strides), x, kernel),
  )


def test_space_to_depth_by_hand():
  x = jnp.arange(16.0).reshape(1, 2, 4, 2)
  folded = convolution.space_to_depth(x)
  # Of the first 2x2 pixels: the upper two, then those below them.
  chex.assert_trees_all_equal(
    folded[0, 0, 0], jnp.array([0.0, 1, 2, 3, 8, 9, 10, 11])
  )
  chex.assert_trees_all_equal(convolution.depth_to_space(folded), x)


# Up-sampling.


def transposed(features):
  """Flax's transposed convolution, which upsample_conv says it equals."""
  return nn.ConvTranspose(features, (4, 4), (2, 2), 'SAME', use_bias=False)


def upsampling_inputs(size):
  rng = np.random.default_rng(8)
  x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(4, 4, 3, 5)) / 4, jnp.float32)
  return x, kernel


def flax_upsample(x, kernel):
  return transposed(5).apply({'params': {'kernel': kernel}}, x)


@pytest.mark.parametrize('size', [(4, 5), (1, 1), (2, 3)])
def test_upsample_conv_equals_flax(size):
  x, kernel = upsampling_inputs(size)
  found = orders(layers.upsample_conv, x, kernel)
  assert found[0].shape == (2, 2 * size[0], 2 * size[1], 5)
  close(found, orders(flax_upsample, x, kernel))


def test_upsample_conv_in_plain_forms(accelerator_forms):
  x, kernel = upsampling_inputs((4, 5))
  found = orders(layers.upsample_conv, x, kernel)
  close(found, orders(flax_upsample, x, kernel))


def test_upsample_module_computes_in_the_type_of_its_input():
  x, kernel = upsampling_inputs((4, 5))
  module, variables = layers.UpsampleConv(5), {'params': {'kernel': kernel}}
  chex.assert_trees_all_equal_shapes_and_dtypes(
    jax.eval_shape(module.init, jax.random.key(0), x), variables
  )
  exact = module.apply(variables, x)
  close(exact, flax_upsample(x, kernel))
  half = module.apply(variables, x.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  # Values of up to 5, rounded to 8 bits on the way in and out.
  chex.assert_trees_all_close(half.astype(jnp.float32), exact, atol=0.04)


def test_initial_kernels_of_pytorch():
  # Of a transposed convolution PyTorch takes 16 times the outputs for the fan
  # in. 65536 draws: the largest comes within 1e-3 of the bound.
  kernel = layers.UpsampleConv(32).init(
    jax.random.key(0), jnp.zeros((1, 2, 2, 128))
  )['params']['kernel']
  bound = (16 * 32) ** -0.5
  np.testing.assert_allclose(kernel.max(), bound, rtol=1e-3)
  np.testing.assert_allclose(kernel.min(), -bound, rtol=1e-3)
  np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=1e-2)


# Instance norm.


@pytest.fixture(scope='module')
def instances():
  """x far from zero mean, and a scale and bias that are not the initial ones.

  The second example varies so little that epsilon counts.
  """
  x = 3 * normal(0, 3, 5, 4, 6) + 2
  x = x.at[1].multiply(1e-3)
  return x, {'scale': normal(1, 6) + 1, 'bias': normal(2, 6)}


def test_instance_norm_equals_flax(instances):
  x, params = instances
  flax = nn.InstanceNorm(epsilon=1e-5, use_fast_variance=False)
  ours = layers.InstanceNorm()
  fresh = ours.init(jax.random.key(0), x)
  chex.assert_trees_all_equal(fresh, flax.init(jax.random.key(0), x))
  found = value_and_gradients(ours, params, x)
  wanted = value_and_gradients(flax, params, x)
  # The gradient of what hardly varies is hundreds of times larger.
  chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_instance_norm_by_hand(instances):
  x, params = instances
  wide, scale, bias = (
    np.asarray(v, np.float64) for v in (x, params['scale'], params['bias'])
  )
  mean = wide.mean((1, 2), keepdims=True)
  var = np.square(wide - mean).mean((1, 2), keepdims=True)
  y = (wide - mean) / np.sqrt(var + 1e-5) * scale + bias
  found = layers.instance_norm(x, params['scale'], params['bias'])
  chex.assert_trees_all_close(found, y.astype(np.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_instance_norm_takes_statistics_in_float32(instances, dtype):
  _, params = instances
  # 1024 pixels around 20: sums in the type itself would lose most digits.
  x = (20 + normal(3, 2, 32, 32, 6)).astype(dtype)
  dy = normal(4, *x.shape).astype(dtype)

  def run(x, dy):
    args = x, params['scale'], params['bias']
    y, gradients = jax.vjp(layers.instance_norm, *args)
    return y, *gradients(dy)

  found = run(x, dy)
  exact = run(x.astype(jnp.float32), dy.astype(jnp.float32))
  assert [v.dtype for v in found] == [dtype, dtype, jnp.float32, jnp.float32]
  # The very same numbers, rounded once at the end.
  for own, wide in zip(found[:2], exact[:2], strict=True):
    chex.assert_trees_all_equal(own, wide.astype(dtype))
  close(found[2:], exact[2:])


def test_instances_are_normalised_alone(instances):
  x, params = instances
  module = layers.InstanceNorm()
  whole = module.apply({'params': params}, x)
  alone = module.apply({'params': params}, x[1:2])
  close(whole[1:2], alone)


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


FORMS = {'on a CPU': contextlib.nullcontext, 'plain': layers.plain_forms}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('train', [True, False])
def test_batch_norm_equals_flax(norm_inputs, train, form):
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

  with FORMS[form]():
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


@pytest.mark.parametrize('form', FORMS)
def test_batch_norm_values_by_hand(form):
  # 1 and 3: mean 2, variance 1, so -1 and 1 up to epsilon's 5e-6.
  x = jnp.array([[1.0], [3.0]])
  with FORMS[form]():
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
