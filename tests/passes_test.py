"""Both passes of a block in one, on the student's IR and on the teacher's."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import inputs, trained
from flax import linen as nn

from lit_jax import blocks, layers, models, objectives, passes

# Small, for what is compiled, and with every kind of unit.
SHAPE = (8, 8, 3)
NETWORKS = {
  'resnet': {'family': 'resnet', 'depth': 8, 'input_shape': SHAPE},
  'shortcut of 1x1': {
    'family': 'resnet',
    'depth': 8,
    'input_shape': SHAPE,
    'shortcut': 'conv',
  },
  'resnext': {
    'family': 'resnext',
    'units': (1, 1, 1),
    'input_shape': SHAPE,
    'cardinality': 4,
  },
}


def both_ways(monkeypatch, function, *arguments):
  """A function as it runs on an accelerator, with merged passes and without."""
  found = []
  for form in (passes._in_one, passes._one_after_another):
    monkeypatch.setattr(passes, '_in_one', form)
    with layers.plain_forms():
      # Traced anew: a jitted function does not know of the forms.
      found.append(jax.jit(lambda *a: function(*a))(*arguments))
  return found


def step(net, objective):
  """Loss, terms, statistics and gradients of a batch."""
  labels = jnp.arange(6) % 4

  def loss(params, statistics, x, taught):
    variables = {'params': params, 'batch_stats': statistics}
    return objectives.lit_loss(objective, net, variables, x, labels, taught)

  return jax.value_and_grad(loss, has_aux=True)


def a_batch(spec, dtype=jnp.float32):
  net = models.build(spec | {'classes': 4}, dtype)
  variables = trained(blocks.init(net, jax.random.key(0)))
  x = inputs(net, 6)
  taught = blocks.infer(net, trained(blocks.init(net, jax.random.key(1))), x)
  return net, (variables['params'], variables['batch_stats'], x, taught)


def far(found, wanted):
  """The largest difference of two trees, of each leaf's largest value."""
  return max(
    float(abs(a - b).max() / (abs(b).max() + 1e-6))
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True)
  )


@pytest.mark.parametrize(
  'network, follow',
  [
    ('resnet', 'student'),
    pytest.param('resnet', 'both', marks=pytest.mark.slow),
    pytest.param('shortcut of 1x1', 'student', marks=pytest.mark.slow),
    pytest.param('resnext', 'student', marks=pytest.mark.slow),
  ],
)
def test_both_batches_in_one_are_two_passes(network, follow, monkeypatch):
  net, arguments = a_batch(NETWORKS[network])
  objective = objectives.Objective(0.5, 0.5, 4.0, running_statistics=follow)
  merged, plain = both_ways(monkeypatch, step(net, objective), *arguments)
  (loss, (statistics, terms)), grads = merged
  (own_loss, (own_statistics, own_terms)), own_grads = plain
  np.testing.assert_allclose(loss, own_loss, rtol=1e-5)
  chex.assert_trees_all_close(terms, own_terms, rtol=1e-4)
  assert far(statistics, own_statistics) < 1e-5
  assert far(grads, own_grads) < 1e-3


@pytest.mark.slow
def test_in_bfloat16_they_are_as_near_to_float32(monkeypatch):
  objective = objectives.Objective(0.5, 0.5, 4.0)
  exact, arguments = a_batch(NETWORKS['resnet'])
  wanted = jax.tree.leaves(jax.jit(step(exact, objective))(*arguments)[1])
  net, arguments = a_batch(NETWORKS['resnet'], jnp.bfloat16)

  def error(grads):
    return float(
      jnp.sqrt(
        sum(
          jnp.square(a - b).sum()
          for a, b in zip(jax.tree.leaves(grads), wanted, strict=True)
        )
      )
    )

  merged, plain = (
    error(value[1])
    for value in both_ways(monkeypatch, step(net, objective), *arguments)
  )
  assert 0 < merged < 1.2 * plain


class Scaled(nn.Module):
  """A block whose examples meet elsewhere: it says nothing of two batches."""

  @nn.compact
  def __call__(self, h, train=False):
    h = h / jnp.abs(h).mean(keepdims=True)
    return h + layers.BatchNorm()(layers.Conv(h.shape[-1])(h), train)


@pytest.mark.parametrize(
  'share',
  [0.25, *(pytest.param(s, marks=pytest.mark.slow) for s in (1.0, 0.0))],
)
def test_blocks_are_fed_with_a_mixture(share, monkeypatch):
  net, (params, statistics, x, (_, irs)) = a_batch(NETWORKS['resnet'])
  variables = {'params': params, 'batch_stats': statistics}
  feeding = passes.Feeding((1, 2), irs, False, share)
  run = jax.jit(lambda v, x: passes.run(net, v, net.parts, x, feeding).blocks)
  merged, plain = both_ways(monkeypatch, run, variables, x)
  _, (_, *own) = net.apply(variables, x, True, mutable=['batch_stats'])[0]
  wanted = [own[0]] + [
    net.apply(
      variables, share * irs[i] + (1 - share) * own[i - 1], i, True,
      method='block', mutable=['batch_stats'],
    )[0]
    for i in (1, 2)
  ]  # fmt: skip
  for found in (merged, plain):
    chex.assert_trees_all_close(found, tuple(wanted), rtol=1e-4, atol=1e-5)


def test_a_block_of_ones_own_takes_one_batch_at_a_time(monkeypatch):
  net, arguments = a_batch(NETWORKS['resnet'])
  own = net.clone(blocks=(net.blocks[0], net.blocks[1], Scaled()))
  x = jnp.zeros((6, *SHAPE))
  variables = blocks.init(own, jax.random.key(0))
  irs = tuple(
    jax.random.normal(jax.random.key(i), h.shape)
    for i, h in enumerate(jax.eval_shape(own.apply, variables, x)[1])
  )
  feeding = passes.Feeding((1, 2), irs, False)
  run = functools.partial(
    passes.run, own, variables, own.parts, feeding=feeding
  )
  merged, plain = both_ways(monkeypatch, run, x)
  chex.assert_trees_all_equal(merged, plain)
