"""The train program of one student without the axis that it has at its edge."""

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax.training import population


def with_axis(tree):
  """One member's tree as a program takes it."""
  return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def without_axis(tree):
  return jax.tree.map(lambda x: x[0], tree)


def train_program(plan, wrap=lambda program: program):
  """(state, teacher, superbatch, objective, key) → (state, metrics [C]).

  `wrap` compiles or maps the program; `superbatch` is of one order.
  """
  program = wrap(population.train_program(plan))

  def run(state, teacher, superbatch, objective, key):
    after, metrics = program(
      with_axis(state),
      teacher,
      superbatch,
      with_axis(objective),
      key[None],
    )
    return (
      without_axis(after),
      jax.tree.map(lambda m: m[:, 0], metrics),
    )

  return run


def only(superbatch, i):
  """The superbatch with its i-th batch in the first place, and count 1."""
  return superbatch._replace(
    inputs=np.roll(superbatch.inputs, -i, 1),
    labels=np.roll(superbatch.labels, -i, 1),
    count=np.int32(1),
  )
