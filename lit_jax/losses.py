"""Losses, unreduced: one float32 value an example."""

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """H(y, p): the hard term of Eq. 2, at temperature 1.

  Args:
    logits: [n, classes].
    labels: [n], integers in [0, classes).

  Returns:
    [n] float32.
  """
  chex.assert_rank([logits, labels], [2, 1])
  chex.assert_equal_shape_prefix([logits, labels], 1)
  return optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.float32), labels
  )


def distillation(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  temperature: jax.Array | float,
) -> jax.Array:
  """τ² H(q_τ, p_τ): the soft term of Eq. 2 (Hinton et al., 2014).

  A cross-entropy, not a divergence: it differs from τ² KL(q_τ ‖ p_τ) by the
  teacher's entropy, which has no gradient. τ² keeps the gradient's size
  independent of the temperature.

  Args:
    student_logits: [n, classes].
    teacher_logits: [n, classes].
    temperature: τ > 0.

  Returns:
    [n] float32.
  """
  chex.assert_rank(student_logits, 2)
  chex.assert_equal_shape([student_logits, teacher_logits])
  soft = jax.nn.softmax(teacher_logits.astype(jnp.float32) / temperature)
  log_p = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature)
  return -(temperature**2) * (soft * log_p).sum(-1)


def l2(ir: jax.Array, target: jax.Array) -> jax.Array:
  """Squared error, mean over an example's elements: [n, …] → [n] float32."""
  return _mean(jnp.square(_difference(ir, target)))


def l1(ir: jax.Array, target: jax.Array) -> jax.Array:
  """Absolute error, mean over an example's elements: [n, …] → [n] float32."""
  difference = _difference(ir, target)
  # No gradient where the two are equal; that of jnp.abs is 1 there.
  return _mean(difference * lax.stop_gradient(jnp.sign(difference)))


def smooth_l1(ir: jax.Array, target: jax.Array) -> jax.Array:
  """d²/2 where |d| < 1, else |d| - 1/2; mean: [n, …] → [n] float32."""
  difference = _difference(ir, target)
  return _mean(optax.huber_loss(difference, delta=1.0))


def _difference(ir, target):
  chex.assert_equal_shape([ir, target])
  return ir.astype(jnp.float32) - target.astype(jnp.float32)


def _mean(x):
  return x.mean(tuple(range(1, x.ndim)))


IR_LOSSES = {'l2': l2, 'l1': l1, 'smooth_l1': smooth_l1}
