"""The objective's checks, its equations and what compiles again."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import pytest

from lit_jax import objectives
from lit_jax.errors import UserError
from lit_jax.objectives import Objective

LIT = Objective(0.25, 0.75, 4.0)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('alpha', -0.1),
    ('alpha', 1.5),
    ('alpha', math.nan),
    ('beta', -1),
    ('beta', 1.01),
    ('beta', math.nan),
    ('temperature', 0.0),
    ('temperature', -2.0),
    ('temperature', math.nan),
    ('ir_loss', 'l3'),
    ('running_statistics', 'teacher'),
  ],
)
def test_check_refuses(name, value):
  with pytest.raises(UserError) as caught:
    objectives.check(dataclasses.replace(LIT, **{name: value}))
  message = str(caught.value)
  assert name in message
  assert str(value) in message
  assert '\n' not in message


@pytest.mark.parametrize('name', ['ir_loss', 'running_statistics'])
def test_check_names_the_choices(name):
  with pytest.raises(UserError) as caught:
    objectives.check(dataclasses.replace(LIT, **{name: 'x'}))
  choices = {
    'ir_loss': ('l2', 'l1', 'smooth_l1'),
    'running_statistics': ('student', 'both'),
  }
  for choice in choices[name]:
    assert choice in str(caught.value)


@pytest.mark.parametrize('alpha', [0, 1])
@pytest.mark.parametrize('beta', [0, 1])
def test_check_accepts_the_ends(alpha, beta):
  objective = Objective(alpha, beta, 0.5)
  assert objectives.check(objective) is objective


def test_equations():
  # Eq. 2: 1/4 x 2 + 3/4 x 4 = 3.5; Eq. 1: 3/4 x 3.5 + 1/4 x 10 = 5.125.
  kd = objectives.kd_loss(LIT, jnp.float32(2), jnp.float32(4))
  chex.assert_trees_all_equal(kd, jnp.float32(3.5))
  total = objectives.total_loss(LIT, kd, jnp.float32(10))
  chex.assert_trees_all_equal(total, jnp.float32(5.125))


@pytest.mark.parametrize(
  ('objective', 'soft', 'irs'),
  [
    (LIT, True, True),
    (objectives.scratch(), False, False),
    # Plain KD; and with α = 1 nothing is left of the teacher.
    (Objective(0.5, 1.0, 4.0), True, False),
    (Objective(1.0, 1.0, 4.0), False, False),
    # IRs alone: with β = 0 the soft labels have no weight.
    (Objective(0.5, 0.0, 4.0), False, True),
    (Objective(1.0, 0.5, 4.0), False, True),
    (Objective(0.5, 0.5, 4.0, blocks=()), True, False),
    (Objective(0.5, 0.0, 4.0, blocks=()), False, False),
    (Objective(0.5, 0.0, 4.0, blocks=(0,)), False, True),
  ],
)
def test_what_is_needed(objective, soft, irs):
  assert objective.computes('soft') == soft
  assert objective.computes('ir') == irs
  assert objective.needs_teacher == (soft or irs)


def test_scratch_is_cross_entropy():
  scratch = objectives.check(objectives.scratch())
  kd = objectives.kd_loss(scratch, jnp.float32(2), 0.0)
  found = objectives.total_loss(scratch, kd, 0.0)
  chex.assert_trees_all_equal(found, jnp.float32(2))


def test_compared():
  assert LIT.compared(3) == (0, 1, 2)
  assert dataclasses.replace(LIT, blocks=()).compared(3) == ()
  assert dataclasses.replace(LIT, blocks=(0, 2)).compared(3) == (0, 2)


@pytest.mark.parametrize(('blocks', 'bad'), [((0, 3), 3), ((-1,), -1)])
def test_compared_refuses_blocks_that_do_not_exist(blocks, bad):
  objective = dataclasses.replace(LIT, blocks=blocks)
  with pytest.raises(UserError, match=f'block {bad}, .* 0 to 2'):
    objective.compared(3)


def test_weights_do_not_compile_again():
  traces = []

  @jax.jit
  def total(objective, hard, soft, ir):
    traces.append(objective.ir_loss)
    kd = objectives.kd_loss(objective, hard, soft)
    return objectives.total_loss(objective, kd, ir) * objective.temperature

  # (1/4 x 2 + 3/4 x 4) x 3/4 + 1/4 x 10 = 5.125, times τ.
  assert total(LIT, 2.0, 4.0, 10.0) == 4 * 5.125
  # The hard term alone, then the soft one alone, then the IR.
  for weights, wanted in (
    ((1.0, 1.0, 1.0), 2),
    ((0.0, 1.0, 3.0), 12),
    ((0.5, 0.0, 1.0), 10),
  ):
    # Of the same terms, though some have no weight.
    objective = Objective(*weights, terms=objectives.TERMS)
    assert total(objective, 2.0, 4.0, 10.0) == wanted
  assert traces == ['l2']
  for changed in (
    dataclasses.replace(LIT, ir_loss='l1'),
    dataclasses.replace(LIT, blocks=(0,)),
    dataclasses.replace(LIT, teacher_input=False),
    dataclasses.replace(LIT, running_statistics='both'),
    LIT.replace(output_loss='l2'),
    # Nothing but the labels is computed.
    LIT.replace(alpha=1.0, beta=1.0),
  ):
    total(changed, 2.0, 4.0, 10.0)
  assert traces == ['l2', 'l1', 'l2', 'l2', 'l2', 'l2', 'l2']
