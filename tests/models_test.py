"""Networks by specification, and students compressed in some blocks only."""

import jax
import pytest

from lit_jax import blocks, models, phases
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
