"""Losses and their gradients by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax import losses

# Odds of 1 : 3 and of 1 : 1 : 2, so that the probabilities are round.
TWO = jnp.log(jnp.array([[1.0, 3.0]]))  # 1/4, 3/4
THREE = jnp.log(jnp.array([[1.0, 1.0, 2.0]]))  # 1/4, 1/4, 1/2


def close(found, wanted):
  chex.assert_trees_all_close(found, jnp.asarray(wanted), atol=1e-6)


def gradient(loss, x, *rest):
  return jax.grad(lambda x: loss(x, *rest).sum())(x)


def test_cross_entropy():
  logits = jnp.concatenate([TWO, TWO + 100])
  labels = jnp.array([0, 1])
  # -log(1/4), -log(3/4); a shift of all logits changes nothing.
  wanted = [np.log(4), np.log(4 / 3)]
  chex.assert_trees_all_close(
    losses.cross_entropy(logits, labels),
    jnp.array(wanted, jnp.float32),
    atol=1e-5,
  )
  # p - y.
  chex.assert_trees_all_close(
    gradient(losses.cross_entropy, logits, labels),
    jnp.array([[-3 / 4, 3 / 4], [1 / 4, -1 / 4]]),
    atol=1e-5,
  )


def test_cross_entropy_of_half_precision_is_float32():
  found = losses.cross_entropy(
    TWO.astype(jnp.bfloat16), jnp.array([0], jnp.int32)
  )
  assert found.dtype == jnp.float32


def test_distillation_at_temperature_1():
  student, teacher = TWO, TWO[:, ::-1]
  # q = 3/4, 1/4 and p = 1/4, 3/4: 3/4 log 4 + 1/4 log(4/3).
  wanted = 3 / 4 * np.log(4) + 1 / 4 * np.log(4 / 3)
  close(losses.distillation(student, teacher, 1.0), [wanted])
  # p - q.
  close(gradient(losses.distillation, student, teacher, 1.0), [[-0.5, 0.5]])


def test_distillation_at_another_temperature():
  # Logits three times as far apart have the same probabilities at τ = 3.
  student, teacher = 3 * THREE, 3 * THREE[:, ::-1]
  entropy = 1 / 2 * np.log(4) + 1 / 4 * np.log(4) + 1 / 4 * np.log(2)
  close(losses.distillation(student, teacher, 3.0), [9 * entropy])
  # τ² H has the gradient τ (p_τ - q_τ): 1/4 - 1/2, 0 and 1/2 - 1/4, times 3.
  close(
    gradient(losses.distillation, student, teacher, 3.0),
    [[-0.75, 0.0, 0.75]],
  )


def test_distillation_is_least_at_the_teachers_logits():
  entropy = 2 * (1 / 4 * np.log(4)) + 1 / 2 * np.log(2)
  # The teacher's entropy stays: a cross-entropy, not a divergence.
  close(losses.distillation(THREE, THREE, 1.0), [entropy])
  close(gradient(losses.distillation, THREE, THREE, 1.0), jnp.zeros((1, 3)))


# Differences 1/4, 1/2, -1, 2 and, in the other example, -3, 1/2, 1/2, -1/2.
IR = jnp.array([[[1.25, 1.5], [1.0, 4.0]], [[0.0, 0.5], [4.5, -1.5]]])
TARGET = jnp.array([[[1.0, 1.0], [2.0, 2.0]], [[3.0, 0.0], [4.0, -1.0]]])


@pytest.mark.parametrize(
  ('name', 'values', 'slopes'),
  [
    # (1/16 + 1/4 + 1 + 4) / 4 and (9 + 3/4) / 4; 2 d / 4.
    (
      'l2',
      [5.3125 / 4, 9.75 / 4],
      [0.125, 0.25, -0.5, 1, -1.5, 0.25, 0.25, -0.25],
    ),
    # (1/4 + 1/2 + 1 + 2) / 4 and (3 + 3/2) / 4; sign(d) / 4.
    (
      'l1',
      [3.75 / 4, 4.5 / 4],
      [0.25, 0.25, -0.25, 0.25, -0.25, 0.25, 0.25, -0.25],
    ),
    # (1/32 + 1/8 + 1/2 + 3/2) / 4 and (5/2 + 3/8) / 4; d / 4, at most 1 / 4.
    (
      'smooth_l1',
      [2.15625 / 4, 2.875 / 4],
      [0.0625, 0.125, -0.25, 0.25, -0.25, 0.125, 0.125, -0.125],
    ),
  ],
)
def test_ir_losses(name, values, slopes):
  loss = losses.IR_LOSSES[name]
  close(loss(IR, TARGET), values)
  close(gradient(loss, IR, TARGET), jnp.array(slopes).reshape(2, 2, 2))


def test_smooth_l1_around_its_knee():
  # At |d| = 1 - e, 1, 1 + e for e = 1/8: (1 - e)² / 2, 1/2, 1/2 + e.
  d = jnp.array([[0.875], [1.0], [1.125]])
  zero = jnp.zeros_like(d)
  close(losses.smooth_l1(d, zero), [0.3828125, 0.5, 0.625])
  # The slope is d below and stays 1 above: it has no jump.
  close(gradient(losses.smooth_l1, d, zero), [[0.875], [1.0], [1.0]])
  close(gradient(losses.smooth_l1, -d, zero), [[-0.875], [-1.0], [-1.0]])


def test_ir_losses_of_half_precision_are_float32():
  # 300² is beyond float16's 65504.
  ir, target = jnp.full((1, 4), 300, jnp.float16), jnp.zeros((1, 4))
  found = losses.l2(ir, target.astype(jnp.float16))
  assert found.dtype == jnp.float32
  close(found, [90000.0])


@pytest.mark.parametrize('loss', losses.IR_LOSSES.values())
@pytest.mark.parametrize(
  ('ir', 'target'), [((3, 1), (3,)), ((3, 4), (3, 1)), ((3, 4), (1, 4))]
)
def test_ir_losses_refuse_other_shapes(loss, ir, target):
  with pytest.raises(AssertionError):
    loss(jnp.zeros(ir), jnp.zeros(target))


@pytest.mark.parametrize(
  ('logits', 'labels'), [((3, 5), (3, 1)), ((3, 5), (4,)), ((3,), (3,))]
)
def test_cross_entropy_refuses_other_shapes(logits, labels):
  with pytest.raises(AssertionError):
    losses.cross_entropy(jnp.zeros(logits), jnp.zeros(labels, jnp.int32))


@pytest.mark.parametrize(
  ('student', 'teacher'),
  [((3, 5), (3, 1)), ((3, 5), (1, 5)), ((3,), (3,)), ((3, 5), (3, 6))],
)
def test_distillation_refuses_other_shapes(student, teacher):
  with pytest.raises(AssertionError):
    losses.distillation(jnp.zeros(student), jnp.zeros(teacher), 1.0)
