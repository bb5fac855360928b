"""The state of a phase, and how it begins."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training.dynamic_scale import DynamicScale

from lit_jax.errors import UserError
from lit_jax.training.precision import Policy


class TrainState(struct.PyTreeNode):
  """All that a checkpoint holds.

  Attributes:
    step: int32, steps taken in this phase.
    params: the student's parameters, float32.
    batch_stats: its running batch-norm statistics, float32.
    opt_state: the optimiser's state of the parts that learn.
    loss_scale: under fp16, else None.
    skipped: int32, steps not taken since the gradients were not finite.
  """

  step: jax.Array
  params: dict[str, Any]
  batch_stats: dict[str, Any]
  opt_state: optax.OptState
  loss_scale: DynamicScale | None
  skipped: jax.Array

  @property
  def variables(self) -> dict[str, Any]:
    return {'params': self.params, 'batch_stats': self.batch_stats}


def begin_phase(
  variables: dict[str, Any],
  optimizer: optax.GradientTransformation,
  policy: Policy,
) -> TrainState:
  """A phase's first state: new optimiser, the given network carried over."""
  # Copies, for the step program donates its state.
  params, batch_stats = jax.tree.map(
    lambda x: jnp.array(x, copy=True),
    (variables['params'], variables['batch_stats']),
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
    loss_scale=policy.initial_scale(),
    skipped=jnp.zeros((), jnp.int32),
  )


def copy_parts(
  source: dict[str, Any], target: dict[str, Any], parts: tuple[str, ...]
) -> dict[str, Any]:
  """`target` with the named parts of `source`, parameters and statistics.

  Raises:
    UserError: a part that one of the two does not have, or of another shape.
  """
  result = {name: dict(tree) for name, tree in target.items()}
  for part in parts:
    if part not in source['params'] or part not in target['params']:
      raise UserError(
        f'cannot copy {part!r}: the networks have the parts '
        f'{", ".join(sorted(target["params"]))}'
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


def _shapes(tree):
  return jax.tree.map(lambda x: x.shape, tree)
