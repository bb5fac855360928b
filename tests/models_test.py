"""Networks by specification, and students compressed in some blocks only."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax import blocks, layers, models, phases
from lit_jax.errors import UserError
from lit_jax.objectives import Objective

COMMON = {'family': 'resnet', 'classes': 10, 'input_shape': [8, 8, 3]}
TEACHER = COMMON | {'depth': 14}  # two units a block


def _student(units):
  return models.build(COMMON | {'units': units})


def _copying(*parts):
  phase = phases.Phase('lit', Objective(0.95, 0.75, 6.0), 1, 0.1, copy=parts)
  return phases.Method('lit', (phase,))


def test_units_of_each_block():
  net = _student([2, 1, 3])
  blocks.check_pair(models.build(TEACHER), net)
  params = blocks.shapes(net)['params']
  counts = [len(params[name]) for name in net.block_names]
  assert counts == [2, 1, 3]


def test_equal_units_are_the_depth():
  deep, same = models.build(TEACHER), _student([2, 2, 2])
  assert jax.tree.structure(blocks.shapes(deep)) == jax.tree.structure(
    blocks.shapes(same)
  )


@pytest.mark.parametrize('family', ['resnet', 'resnext'])
def test_the_loop_over_equal_units_is_the_units_one_by_one(family):
  net = models.build(COMMON | {'family': family, 'units': [4, 3, 1]})
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: jnp.asarray(rng.uniform(0.05, 0.1, leaf.shape), leaf.dtype),
    blocks.shapes(net),
  )
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
  _, irs = net.apply(variables, x)

  def one_by_one(variables, h, i):
    block = net.blocks[i]
    for j in range(block.count):
      unit = block.unit(stride=block.stride if j == 0 else 1)
      name = (f'blocks_{i}', f'units_{j}')
      own = {c: tree[name[0]][name[1]] for c, tree in variables.items()}
      h = unit.apply(own, h)
    return h

  def looped(variables, h, i):
    return net.apply(variables, h, i, method='block')

  # Two of the blocks have a loop, and none in the network as defined.
  assert str(jax.make_jaxpr(net.apply)(variables, x)).count('scan[') == 2
  with layers.plain_forms():
    assert 'scan[' not in str(jax.make_jaxpr(net.apply)(variables, x))

  for i in range(3):
    h = one_by_one(variables, irs[i], i)
    chex.assert_trees_all_close(irs[i + 1], h, rtol=1e-5)

  def gradient(function):
    return jax.grad(
      lambda variables, h: function(variables, h, 0).mean(), (0, 1)
    )(variables, irs[0])

  chex.assert_trees_all_close(
    gradient(looped), gradient(one_by_one), rtol=1e-4, atol=1e-9
  )


@pytest.mark.parametrize('units', [[2, 1], [2, 0, 1], [1, 1, 1, 1]])
def test_units_are_three_and_positive(units):
  with pytest.raises(UserError, match='give three, each positive'):
    _student(units)


def test_a_block_of_the_teacher_can_be_copied_where_it_is_equal():
  teacher, student = models.build(TEACHER), _student([2, 1, 1])
  phases.check_copies(_copying('stem', 'blocks_0'), teacher, student)
  with pytest.raises(UserError, match="lit/lit: cannot copy 'blocks_1'"):
    phases.check_copies(_copying('blocks_1'), teacher, student)


def test_an_option_of_another_family_is_refused():
  with pytest.raises(UserError, match='resnet.*cardinality'):
    models.build(TEACHER | {'cardinality': 32})


@pytest.mark.parametrize(
  'spec, title',
  [
    ({'family': 'resnet', 'depth': 20}, 'resnet-20'),
    ({'family': 'resnet', 'units': [18, 3, 3]}, 'resnet-18/3/3'),
    (
      {'family': 'resnext', 'depth': 20, 'cardinality': 16, 'base_width': 4},
      'resnext-20 (16x4d)',
    ),
  ],
)
def test_title(spec, title):
  assert models.title(spec) == title
