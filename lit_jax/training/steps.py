"""The train program: many steps of a task in one call.

A pure function, to be run plain, jitted or mapped over devices (devices.py).
In a call the task first prepares all C batches (augmentation, the frozen
teacher's outputs); a loop of its steps follows. `update` is what a step does
with a loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lit_jax.blocks import example, infer
from lit_jax.layers import fold, on_cpu, shared_statistics
from lit_jax.layers.pieces import largest_divisor
from lit_jax.objectives import Objective
from lit_jax.training.packing import repack, unpack
from lit_jax.training.state import STUDENT, TrainState, Variables
from lit_jax.training.task import Metrics, Plan

# Examples that the teacher takes at once on a CPU, which is slower with the
# whole superbatch in one piece; for images 16 to 64 gain about the same, for
# texts 16 is faster than 32.
_PIECE = 16
# Of an accelerator's memory what the teacher's activations take at once, where
# more does not make it faster, and how many as large as its largest IR there
# are at a time: a convolution's input, its output and a shortcut.
_BYTES, _AT_ONCE = 2**30, 4

Program = Callable[..., tuple[TrainState, Metrics]]


def train_program(
  plan: Plan, each: Callable[..., Any] = lambda step: step
) -> Program:
  """The pure program of one order of data.

  `population.train_program` gives it the axes that it has at its edge.

  Args:
    plan: what it is compiled for.
    each: maps a step over stacked states and objectives, to train several
      students on the same inputs (population.py).

  Returns:
    A function of
      state: TrainState, or packed (packing.py).
      teacher: the teacher's variables, by `ready_teacher` or as they are (not
        used where it does not run).
      superbatch: leaves [C, n, …], of which the first `count` batches are used.
      objective: its terms are compiled in; α, β and τ are traced.
      step: int32, that of the state, without an axis of members.
      key: the phase's random key; step i draws from fold_in(key, i).
    that returns the state `count` steps on, in the same form, and metrics:
    arrays [C, …] float32 whose first `count` values hold.
  """

  def program(state, teacher, superbatch, objective, step, key):
    def step_of(state, batch, step):
      def own(state, objective):
        after, metrics = plan.task.step(plan, state, step, objective, batch)
        return after.replace(step=state.step + 1), metrics

      return each(own)(state, objective)

    with shared_statistics(plan.axis_name if plan.sync_batch_norm else None):
      batches = plan.task.prepare(
        plan, objective, teacher, superbatch, step, key
      )
      return _repeated(step_of, state, batches, superbatch.count, step)

  return program


def _repeated(step_of, state, batches, count, first):
  """`count` steps from step `first` on, and their metrics in C slots."""

  def body(i, carry):
    packed, rows = carry
    batch = jax.tree.map(
      lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), batches
    )
    state, values = step_of(unpack(packed), batch, first + i)
    # One row a step, which one kernel writes.
    row = jnp.stack([values[name] for name in names])
    return repack(state, packed), rows.at[i].set(row)

  batch = jax.tree.map(lambda x: x[0], batches)
  values = jax.eval_shape(step_of, unpack(state), batch, first)[1]
  names = sorted(values)
  slots = len(jax.tree.leaves(batches)[0])
  rows = jnp.zeros((slots, len(names), *values[names[0]].shape))
  state, rows = lax.fori_loop(0, count, body, (state, rows))
  return state, {name: rows[:, i] for i, name in enumerate(names)}


def augmented(plan: Plan, inputs: Any, step: jax.Array, key: jax.Array) -> Any:
  """Each batch augmented by its own step's key: leaves [C, n, …] as given."""
  slots, n = jax.tree.leaves(inputs)[0].shape[:2]
  first, total = 0, n
  if plan.axis_name is not None:
    first = lax.axis_index(plan.axis_name) * n
    total = lax.axis_size(plan.axis_name) * n

  def augment(i, batch):
    step_key = jax.random.fold_in(key, step + i)
    return plan.preprocess.augment(batch, step_key, first, total)

  return jax.vmap(augment)(jnp.arange(slots), inputs)


def ready_teacher(plan: Plan, teacher: Variables) -> Variables:
  """The teacher's variables as a program takes them, made once a phase.

  On a GPU its batch norms are folded; a CPU gains nothing by that.
  """
  if on_cpu() or plan.teacher is None:
    return teacher
  net = plan.teacher
  return jax.jit(lambda v: fold(partial(infer, net), v, example(net)))(teacher)


def teacher_outputs(
  plan: Plan, objective: Objective, teacher: Variables | None, inputs: Any
) -> Any:
  """Output and IRs of the frozen teacher for all C batches.

  Args:
    plan: with the teacher's network.
    objective: says what of the teacher is compared.
    teacher: the teacher's variables, by `ready_teacher` or as they are.
    inputs: leaves [C, n, …], before normalisation.

  Returns:
    The output and a tuple of IRs, leaves [C, n, …] that take no gradient; None
    and () where the objective does not compare them; None in all where it
    needs no teacher.
  """
  if not objective.needs_teacher or plan.teacher is None:
    return None
  net = plan.teacher

  def run(inputs):
    x = plan.teacher_preprocess.normalize(inputs)
    output, irs = infer(net, teacher, x)
    # What is not compared is not computed either.
    return (
      output if objective.computes('soft') else None,
      irs if objective.computes('ir') else (),
    )

  lead = jax.tree.leaves(inputs)[0].shape[:2]
  piece = _piece(net, teacher, *lead)
  rows = jax.tree.map(lambda x: x.reshape((-1, piece, *x.shape[2:])), inputs)
  outputs = jax.tree.map(
    lambda t: t.reshape((*lead, *t.shape[2:])), lax.map(run, rows)
  )
  return lax.stop_gradient(outputs)


def _piece(net, teacher, slots, batch):
  """Examples that the teacher takes at once."""
  count = slots * batch
  if on_cpu():
    return _PIECE if count % _PIECE == 0 else count
  irs = jax.eval_shape(net.apply, teacher, example(net))[1]
  largest = max(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(irs)
  )
  most = max(1, _BYTES // (_AT_ONCE * largest * batch))
  return batch * largest_divisor(slots, most)


def update(
  plan: Plan,
  state: TrainState,
  loss: Callable[[Any], tuple[jax.Array, tuple[Any, Metrics]]],
  learner: str = STUDENT,
) -> tuple[TrainState, Metrics]:
  """One step of a learner's optimiser; under fp16 none where it overflows.

  Gradients and metrics are means over the devices, and so are running
  statistics that each has of its own.

  Args:
    plan: with the optimisers and the axis of the devices.
    state: of one member.
    loss: of the learner's parameters: the loss, its new batch statistics, and
      metrics.
    learner: who learns.

  Returns:
    The state with that learner and `skipped` brought forward, and the metrics;
    under fp16 also 'skipped' (0 or 1) and 'loss_scale'.
  """
  own = state.learners[learner]
  frozen = plan.frozen if learner == STUDENT else ()
  loss_scale, finite, (batch_stats, metrics), grads = _gradients(
    plan, own.loss_scale, loss, own.params, frozen
  )
  if plan.axis_name is not None:
    metrics = lax.pmean(metrics, plan.axis_name)
    if not plan.sync_batch_norm:
      # All devices go on alike; what is frozen is, and rounding stays out.
      learning = {k: v for k, v in batch_stats.items() if k not in frozen}
      batch_stats = {**batch_stats, **lax.pmean(learning, plan.axis_name)}
  updates, opt_state = plan.optimizers[learner].update(
    grads, own.opt_state, own.params
  )
  params: Any = optax.apply_updates(own.params, updates)
  after = own.replace(
    params=params, batch_stats=batch_stats, opt_state=opt_state
  )
  skipped = state.skipped
  if loss_scale is not None:
    after = jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, own)
    after = after.replace(loss_scale=loss_scale)
    skipped = skipped + jnp.where(finite, 0, 1)
    metrics['skipped'] = jnp.float32(1) - finite
    metrics['loss_scale'] = loss_scale.scale
  state = state.replace(
    learners=state.learners | {learner: after}, skipped=skipped
  )
  return state, metrics


def _gradients(plan, scale, loss, params, frozen):
  """The next loss scale, whether all is finite, what the loss tells, ∂loss."""
  if scale is None:
    gradient = jax.value_and_grad(loss, has_aux=True)
    (_, told), grads = gradient(params)
    if plan.axis_name is not None:
      grads = lax.pmean(grads, plan.axis_name)
    return None, jnp.bool_(True), told, grads
  # What does not learn has no part in whether a step overflows.
  still = {part: own for part, own in params.items() if part in frozen}
  learning = {part: own for part, own in params.items() if part not in frozen}
  gradient = scale.value_and_grad(
    lambda own: loss({**own, **still}), has_aux=True, axis_name=plan.axis_name
  )
  scale, finite, (_, told), grads = gradient(learning)
  return scale, finite, told, {**grads, **jax.tree.map(jnp.zeros_like, still)}
