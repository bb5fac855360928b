"""Batch norms of frozen networks within the convolutions before them."""

import functools

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import inputs, trained
from flax import linen as nn

from lit_jax import blocks, layers, models

NETWORKS = {
  'resnet': {'family': 'resnet', 'depth': 8},
  'shortcut of 1x1': {'family': 'resnet', 'depth': 8, 'shortcut': 'conv'},
  'resnext': {'family': 'resnext', 'depth': 8},
  'vdcnn': {'family': 'vdcnn', 'depth': 9},
}


def folded(net, variables):
  run = functools.partial(blocks.infer, net)
  fold = jax.jit(lambda v: layers.fold(run, v, blocks.example(net)))
  return fold(variables)


def names(variables):
  paths = flax.traverse_util.flatten_dict(variables)
  return [path[-1] for path in paths]


@pytest.mark.parametrize(
  'network',
  [
    pytest.param(n, marks=() if n == 'resnet' else pytest.mark.slow)
    for n in NETWORKS
  ],
)
def test_a_folded_network_is_the_same(network):
  net = models.build(NETWORKS[network])
  variables = trained(blocks.init(net, jax.random.key(0)))
  after = folded(net, variables)
  # Every norm is folded: all of theirs that is left is a bias.
  norms = names(variables).count('scale')
  assert names(after).count('folded') == norms > 0
  assert after['batch_stats'] == {} and 'scale' not in names(after)
  run, x = jax.jit(functools.partial(blocks.infer, net)), inputs(net)
  found, wanted = run(after, x), run(variables, x)
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * abs(b).max())


@pytest.mark.parametrize(
  'network', ['resnet', pytest.param('vdcnn', marks=pytest.mark.slow)]
)
def test_in_bfloat16_it_is_as_near_to_float32(network):
  exact = models.build(NETWORKS[network])
  net = models.build(NETWORKS[network], jnp.bfloat16)
  variables = trained(blocks.init(net, jax.random.key(0)))
  x, after = inputs(net), folded(net, variables)
  assert {
    leaf.dtype
    for path, leaf in flax.traverse_util.flatten_dict(after).items()
    if path[-1] == 'folded'
  } == {jnp.dtype(jnp.bfloat16)}
  runs = [(exact, variables), (net, variables), (net, after)]
  wanted, plain, found = (
    jax.tree.leaves(jax.jit(functools.partial(blocks.infer, n))(v, x))
    for n, v in runs
  )

  def error(values):
    return [
      float(jnp.sqrt(jnp.mean((a.astype(jnp.float32) - b) ** 2)))
      for a, b in zip(values, wanted, strict=True)
    ]

  for own, other in zip(error(found), error(plain), strict=True):
    assert own < 1.5 * other + 1e-6


class Twice(nn.Module):
  """A convolution that a norm reads, and a sum as well."""

  @nn.compact
  def __call__(self, x):
    h = layers.Conv(4, name='conv')(x)
    y = layers.BatchNorm(name='norm')(h)
    once = layers.BatchNorm(name='other_norm')(
      layers.Conv(4, name='other_conv')(y)
    )
    return once + h


def test_a_convolution_that_is_read_twice_stays():
  net = Twice()
  x = jnp.asarray(
    np.random.default_rng(0).normal(size=(2, 6, 6, 3)), jnp.float32
  )
  variables = trained(net.init(jax.random.key(0), x))
  after = layers.fold(net.apply, variables, x)
  assert set(after['params']['conv']) == {'kernel'}
  assert set(after['params']['other_conv']) == {'folded'}
  chex.assert_trees_all_close(
    net.apply(after, x), net.apply(variables, x), rtol=1e-5, atol=1e-5
  )
