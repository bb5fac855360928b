"""Layers along a text, against their plain forms in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lit_jax import layers
from lit_jax.layers import text

RNG = np.random.default_rng(0)


def _normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def _plain(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1, 1), ((0, 0), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip


# Whole fours, and one, two and three places over; and less than a four.
@pytest.mark.parametrize('length', [8, 9, 10, 11, 3, 1])
def test_winograd_is_the_convolution(length):
  x, kernel = _normal(3, 1, length, 5), _normal(1, 3, 5, 4)
  padded = np.pad(x.astype(np.float64)[:, 0], ((0, 0), (1, 1), (0, 0)))
  wanted = sum(padded[:, i : i + length] @ kernel[0, i] for i in range(3))
  found = text.winograd(jnp.asarray(x), jnp.asarray(kernel))
  assert found.shape == (3, 1, length, 4)
  np.testing.assert_allclose(found[:, 0], wanted, rtol=0, atol=2e-5)


def test_winograds_gradients_are_those_of_the_convolution():
  x, kernel, dy = (
    _normal(2, 1, 10, 6),
    _normal(1, 3, 6, 4),
    _normal(2, 1, 10, 4),
  )

  def gradients(form):
    return jax.grad(lambda x, k: (form(x, k) * dy).sum(), (0, 1))(x, kernel)

  chex.assert_trees_all_close(
    gradients(text.winograd), gradients(_plain), rtol=0, atol=5e-5
  )


def _products(x, kernel, **options):
  """How many products of matrices, and convolutions, a convolution makes."""
  jaxpr = str(
    jax.make_jaxpr(lambda x, k: text.conv(x, k, **options))(x, kernel)
  )
  return jaxpr.count('dot_general'), jaxpr.count('conv_general_dilated')


def test_which_convolutions_are_winograds():
  wide, narrow = jnp.ones((2, 1, 9, 32)), jnp.ones((2, 1, 9, 16))
  kernel = jnp.ones((1, 3, 32, 8))
  assert _products(wide, kernel) == (6, 0)
  assert _products(narrow, kernel[:, :, :16]) == (0, 1)
  assert _products(wide, kernel, strides=(1, 2)) == (0, 1)
  short = jnp.bfloat16
  assert _products(wide.astype(short), kernel.astype(short)) == (0, 1)
  # Elsewhere, and where its cost is counted, the plain one.
  with layers.plain_forms():
    assert _products(wide, kernel) == (0, 1)


@pytest.mark.parametrize('step', [1, 2])
@pytest.mark.parametrize('size', [1, 3])
def test_one_dimension_is_the_convolution(size, step, accelerator_forms):
  x, kernel = _normal(2, 1, 9, 6), _normal(1, size, 6, 4)

  def values(dtype):
    """The convolution and its gradients, and how many dimensions it has."""

    def run(x, kernel):
      y = text.conv(x.astype(dtype), kernel.astype(dtype), (1, step))
      return (y.astype(jnp.float32) ** 2).sum(), y

    jaxpr = str(jax.make_jaxpr(run)(x, kernel))
    flat = 'rhs_spec=(2, 1, 0)' in jaxpr
    gradient = jax.grad(run, (0, 1), has_aux=True)(x, kernel)
    return flat, jax.tree.map(lambda v: v.astype(jnp.float32), gradient)

  # bfloat16 keeps the plain form, with which the others are compared.
  flat, plain = values(jnp.bfloat16)
  assert not flat
  for dtype, bound in ((jnp.float32, 2**-6), (jnp.float16, 2**-6)):
    flat, found = values(dtype)
    assert flat
    for a, b in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
      assert a.shape == b.shape
      np.testing.assert_allclose(a, b, rtol=0, atol=bound * abs(b).max())
  pads = [(0, 0), ((size - 1) // 2,) * 2]
  wanted = lax.conv_general_dilated(
    x, kernel, (1, step), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  found = text.conv(jnp.asarray(x), jnp.asarray(kernel), (1, step))
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize('length', [1, 2, 7, 8])
def test_max_pool_by_hand(length):
  x = _normal(2, 1, length, 3)
  found = text.max_pool(jnp.asarray(x))
  wanted = [x[:, 0, max(0, i - 1) : i + 2].max(1) for i in range(0, length, 2)]
  np.testing.assert_array_equal(found[:, 0], np.stack(wanted, 1))


def test_max_pools_gradient_goes_to_the_first_of_equals():
  x = jnp.asarray([5.0, 5, 5, 1, 2, 2, 7]).reshape(1, 1, 7, 1)
  dy = jnp.asarray([1.0, 10, 100, 1000]).reshape(1, 1, 4, 1)
  gradient = jax.grad(lambda x: (text.max_pool(x) * dy).sum())(x)
  # Windows: 5 5 | 5 5 1 | 1 2 2 | 2 7.
  wanted = [1, 10, 0, 0, 100, 0, 1000]
  np.testing.assert_array_equal(gradient.ravel(), wanted)


@pytest.mark.parametrize('few', [0, 16])
def test_k_max_keeps_the_order_and_takes_the_first_of_equals(few, monkeypatch):
  # One largest value after another, or all at once.
  monkeypatch.setattr(text, '_FEW', few)
  channels = [[3.0, 1, 2, 3, 0], [0, 4, 0, 0, 9]]
  x = jnp.asarray(channels).T.reshape(1, 1, 5, 2)
  found = text.k_max(x, 3)
  np.testing.assert_array_equal(found[0, 0, :, 0], [3, 2, 3])
  np.testing.assert_array_equal(found[0, 0, :, 1], [0, 4, 9])
  dy = jnp.asarray([[1.0, 10, 100], [2, 20, 200]]).T.reshape(1, 1, 3, 2)
  gradient = jax.grad(lambda x: (text.k_max(x, 3) * dy).sum())(x)
  np.testing.assert_array_equal(gradient[0, 0, :, 0], [1, 0, 10, 100, 0])
  np.testing.assert_array_equal(gradient[0, 0, :, 1], [2, 20, 0, 0, 200])


def test_embed_and_its_gradient_by_hand():
  table = jnp.asarray([[1.0, 2], [3, 4], [5, 6]])
  ids = jnp.asarray([[0, 3, 1], [3, 0, 0]], jnp.uint8)
  found = text.embed(table, ids)
  wanted = [[[0, 0], [5, 6], [1, 2]], [[5, 6], [0, 0], [0, 0]]]
  np.testing.assert_array_equal(found, wanted)
  dy = jnp.arange(12.0).reshape(2, 3, 2)
  gradient = jax.grad(lambda t: (text.embed(t, ids) * dy).sum())(table)
  # Of id 1: the third place; of id 2 none; of id 3 the second and the fourth.
  np.testing.assert_array_equal(gradient, [[4, 5], [0, 0], [2 + 6, 3 + 7]])
