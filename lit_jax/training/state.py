"""The state of a phase, and how it begins."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training.dynamic_scale import DynamicScale

from lit_jax.errors import UserError
from lit_jax.training.precision import Policy

Variables = dict[str, Any]
# A network's variables, by the learner's name.
Learners = dict[str, Variables]
# The learner that every task has: the network that is compressed.
STUDENT = 'student'


class Learner(struct.PyTreeNode):
  """One network that learns.

  Attributes:
    params: its parameters, float32.
    batch_stats: its running batch-norm statistics, float32.
    opt_state: the optimiser's state of the parts that learn.
    loss_scale: of its loss under fp16, else None.
  """

  params: dict[str, Any]
  batch_stats: dict[str, Any]
  opt_state: optax.OptState
  loss_scale: DynamicScale | None

  @property
  def variables(self) -> Variables:
    return {'params': self.params, 'batch_stats': self.batch_stats}


class TrainState(struct.PyTreeNode):
  """All that a checkpoint holds.

  At the edge of a program every leaf has a leading axis [members], that of the
  students that are trained together, also where there is but one.

  Attributes:
    step: int32, steps taken in this phase.
    learners: the networks that learn, by name.
    skipped: int32, updates not made since the gradients were not finite.
  """

  step: jax.Array
  learners: dict[str, Learner]
  skipped: jax.Array

  @property
  def variables(self) -> Learners:
    """The variables of every learner."""
    return {name: own.variables for name, own in self.learners.items()}

  @property
  def student(self) -> Learner:
    return self.learners[STUDENT]


def begin_phase(
  learners: Learners,
  optimizers: Mapping[str, optax.GradientTransformation],
  policy: Policy,
) -> TrainState:
  """One member's first state: new optimisers, the given networks carried over.

  Args:
    learners: the variables of each network that learns.
    optimizers: of each.
    policy: of the precision.
  """
  # Copies, for the step program donates its state.
  learners = jax.tree.map(lambda x: jnp.array(x, copy=True), dict(learners))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    learners={
      name: Learner(
        own['params'],
        own['batch_stats'],
        optimizers[name].init(own['params']),
        policy.initial_scale(),
      )
      for name, own in learners.items()
    },
    skipped=jnp.zeros((), jnp.int32),
  )


def copy_parts(
  source: Variables, target: Variables, parts: tuple[str, ...]
) -> Variables:
  """`target` with the named parts of `source`, parameters and statistics.

  Raises:
    UserError: a part that one of the two does not have, or of another shape.
  """
  result = {name: dict(tree) for name, tree in target.items()}
  # A network may have no parameters at all.
  known = source.get('params', {}), target.get('params', {})
  for part in parts:
    if not all(part in params for params in known):
      raise UserError(
        f'cannot copy {part!r}: the networks have the parts '
        f'{", ".join(sorted(known[1]))}'
      )
    for collection in ('params', 'batch_stats'):
      old = target[collection].get(part, {})
      new = source[collection].get(part, {})
      if _shapes(old) != _shapes(new):
        raise UserError(
          f'cannot copy {part!r}: it has other layers in the teacher than in '
          'the student; copy only parts that are equal in both'
        )
      if part in result[collection]:
        result[collection][part] = new
  return result


def equal_parts(
  source: Variables, target: Variables, parts: Iterable[str]
) -> tuple[str, ...]:
  """Those of the parts that `copy_parts` takes."""
  found = []
  for part in parts:
    try:
      copy_parts(source, target, (part,))
      found.append(part)
    except UserError:
      pass
  return tuple(found)


def _shapes(tree):
  return jax.tree.map(lambda x: x.shape, tree)
