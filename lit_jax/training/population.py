"""Several students trained at once by one program.

Members differ in their initial values and in α, β and τ. Their states, and
whatever else belongs to each, are stacked along a leading axis; a student that
is trained alone has no such axis. Members that see the same inputs share them,
and the teacher's outputs for them; otherwise each brings its own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lit_jax.data.feed import Superbatch
from lit_jax.errors import UserError
from lit_jax.layers import on_cpu
from lit_jax.objectives import Objective
from lit_jax.training import steps


def stack(trees: Sequence[Any]) -> Any:
  """One tree of the members' trees; a lone member's as it is."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> tuple[Any, ...]:
  """The members' trees; the inverse of `stack`."""
  if count == 1:
    return (tree,)
  return tuple(jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count))


def common_objective(objectives: Sequence[Objective]) -> Objective:
  """An objective that computes every term that one of these gives weight to.

  Raises:
    UserError: they differ in more than α, β and τ, or in whether statistics
      have a second pass to follow.
  """
  first = objectives[0]
  structure = jax.tree.structure(first)
  if any(jax.tree.structure(other) != structure for other in objectives):
    raise UserError('members of a population differ in α, β and τ alone')
  if first.running_statistics == 'both' and (
    len({o.needs_irs for o in objectives}) > 1
  ):
    raise UserError(
      "running_statistics 'both' follow a pass that a member of beta 1 has "
      'not; train that one by itself'
    )
  # Between the least and the greatest, so that 0 and 1 together need both.
  beta = sum(o.beta for o in objectives) / len(objectives)
  alpha = min(o.alpha for o in objectives)
  return dataclasses.replace(first, alpha=alpha, beta=beta)


def train_program(
  plan: steps.Plan, count: int, shared_data: bool
) -> Callable[..., Any]:
  """`steps.train_program` for so many members.

  Args:
    plan: with the members' `common_objective`.
    count: of members; 1 is the plain program.
    shared_data: whether all see the same inputs.

  Returns:
    A function like that of `steps.train_program`. States and objectives are
    stacked, and so are superbatches and keys where data is not shared. Metrics
    are [C, members] float32.
  """
  if count == 1:
    return steps.train_program(plan)
  if shared_data:
    return steps.train_program(plan, over_members)
  alone = steps.train_program(plan)

  def program(states, teacher, superbatch: Superbatch, objectives, keys):
    def member(state, inputs, labels, objective, key):
      own = Superbatch(inputs, labels, superbatch.count)
      return alone(state, teacher, own, objective, key)

    states, metrics = over_members(member)(
      states, superbatch.inputs, superbatch.labels, objectives, keys
    )
    return states, jax.tree.map(lambda m: m.swapaxes(0, 1), metrics)

  return program


def over_members(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function for stacked arguments, giving stacked results.

  On a CPU one member after another, which has the numbers of a member alone;
  elsewhere all at once, in as many kernels as one member takes.
  """
  if on_cpu():
    return lambda *stacked: lax.map(lambda own: function(*own), stacked)
  return jax.vmap(function)
