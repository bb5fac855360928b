"""The train program as it is called: for one student, or for several at once.

At its edge every state, objective and metric has an axis of members, also
where there is one. Members differ in their initial values and in α, β and τ.
Those that see the same inputs share one order of data, and the teacher's
outputs for it; otherwise each brings its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lit_jax.data.feed import Superbatch
from lit_jax.errors import UserError
from lit_jax.layers import on_cpu
from lit_jax.objectives import TERMS, Objective
from lit_jax.training import steps
from lit_jax.training.task import Plan


def stack(trees: Sequence[Any]) -> Any:
  """One tree of the members' trees: leaves [members, …], on the host.

  Random keys stay where they are.
  """
  return jax.tree.map(lambda *leaves: _stacked(leaves), *trees)


def _stacked(leaves):
  first = leaves[0]
  if isinstance(first, jax.Array) and jnp.issubdtype(
    first.dtype, jax.dtypes.prng_key
  ):
    return jnp.stack(leaves)
  # By NumPy, for which nothing is compiled.
  return np.stack([np.asarray(leaf) for leaf in leaves])


def unstack(tree: Any, count: int) -> tuple[Any, ...]:
  """The members' trees, on the host; the inverse of `stack`."""
  tree = jax.device_get(tree)
  return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count))


def common_terms(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
  """The objectives, each computing every term that one of them needs.

  They are then of one structure, and can be stacked.

  Raises:
    UserError: they differ in more than α, β and τ, or in whether statistics
      have a second pass to follow.
  """
  structures = {
    jax.tree.structure(own.replace(terms=TERMS)) for own in objectives
  }
  if len(structures) > 1:
    raise UserError('members of a population differ in α, β and τ alone')
  if objectives[0].running_statistics == 'both' and (
    len({own.computes('ir') for own in objectives}) > 1
  ):
    raise UserError(
      "running_statistics 'both' follow a pass that a member of beta 1 has "
      'not; train that one by itself'
    )
  terms = tuple(t for t in TERMS if any(o.computes(t) for o in objectives))
  return tuple(own.replace(terms=terms) for own in objectives)


def train_program(plan: Plan, members: int = 1, orders: int = 1) -> Any:
  """The pure program of so many members, with its axes.

  Args:
    plan: what it is compiled for.
    members: students that are trained together.
    orders: of the data: 1, which all members share, or one for each.

  Returns:
    A function of
      states: TrainState, leaves [members, …], or packed (packing.py).
      teacher: the teacher's variables (not used where it does not run).
      superbatch: leaves [orders, C, n, …], and `count`.
      objectives: leaves [members].
      keys: [orders].
    that returns the states `count` steps on, and metrics [C, members] float32
    whose first `count` rows hold.
  """
  if members == 1:
    return _alone(steps.train_program(plan))
  if orders == 1:
    return _on_shared_data(steps.train_program(plan, over_members))
  return _on_own_data(steps.train_program(plan))


def _first(tree):
  return jax.tree.map(lambda x: x[0], tree)


def _batches(superbatch: Superbatch, pick: Callable[[Any], Any]) -> Superbatch:
  """The superbatch of one order."""
  return Superbatch(
    pick(superbatch.inputs), pick(superbatch.labels), superbatch.count
  )


def _alone(program):
  """A lone member has no axis within, so that nothing is computed for it."""

  def run(states, teacher, superbatch, objectives, keys):
    state, objective = _first(states), _first(objectives)
    state, metrics = program(
      state, teacher, _batches(superbatch, _first), objective, state.step,
      keys[0],
    )  # fmt: skip
    return (
      jax.tree.map(lambda x: x[None], state),
      jax.tree.map(lambda m: m[:, None], metrics),
    )

  return run


def _on_shared_data(program):
  def run(states, teacher, superbatch, objectives, keys):
    return program(
      states, teacher, _batches(superbatch, _first), objectives,
      # All members are at the same step.
      states.step[0], keys[0],
    )  # fmt: skip

  return run


def _on_own_data(program):
  def run(states, teacher, superbatch, objectives, keys):
    def member(state, inputs, labels, objective, key):
      own = Superbatch(inputs, labels, superbatch.count)
      return program(state, teacher, own, objective, states.step[0], key)

    states, metrics = over_members(member)(
      states, superbatch.inputs, superbatch.labels, objectives, keys
    )
    return states, jax.tree.map(lambda m: m.swapaxes(0, 1), metrics)

  return run


def over_members(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function for stacked arguments, giving stacked results.

  On a CPU one member after another, which has the numbers of a member alone;
  elsewhere all at once, in as many kernels as one member takes.
  """
  if on_cpu():
    return lambda *stacked: lax.map(lambda own: function(*own), stacked)
  return jax.vmap(function)
