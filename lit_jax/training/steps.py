"""The train program, many steps in one call, and the evaluation programs.

All are pure functions, to be run plain, jitted or mapped over devices
(parallel.py). In a call of the train program the frozen teacher runs once, on
all C batches; a loop of student steps follows:

  1. The student runs from the input, giving its logits and its IRs S_1 … S_k.
     Block 1 of both kinds of pass has the same input, so S_1(x) is compared
     from this run.
  2. Blocks 2 … k run once more on the teacher's IRs, with batch statistics of
     their own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lit_jax import losses, objectives
from lit_jax.blocks import BlockNet
from lit_jax.data.feed import Superbatch
from lit_jax.data.preprocess import Preprocess
from lit_jax.layers import on_cpu
from lit_jax.objectives import Objective
from lit_jax.training.state import TrainState

# Examples that the teacher takes at once on a CPU, which is slower with the
# whole superbatch in one piece; for images 16 to 64 gain about the same, for
# texts 16 is faster than 32.
_PIECE = 16

Metrics = dict[str, jax.Array]
Variables = dict[str, Any]


class Plan(NamedTuple):
  """What a train program is compiled for.

  Attributes:
    teacher: the teacher's network, None where the objective needs none.
    student: the network that learns.
    optimizer: of the student's parameters.
    objective: its settings; α, β and τ are given again at each call.
    frozen: parts that do not learn and run in evaluation mode.
    preprocess: of the inputs.
    axis_name: mapped axis over the devices, or None.
  """

  teacher: BlockNet | None
  student: BlockNet
  optimizer: optax.GradientTransformation
  objective: Objective
  frozen: tuple[str, ...]
  preprocess: Preprocess
  axis_name: str | None = None


def train_program(
  plan: Plan, each: Callable[..., Any] = lambda step: step
) -> Callable[..., tuple[TrainState, Metrics]]:
  """The pure program (state, teacher variables, superbatch, objective, key).

  Args:
    plan: what it is compiled for.
    each: maps a step over stacked states and objectives, to train several
      students on the same inputs (population.py).

  Returns:
    A function of
      state: TrainState.
      teacher: the teacher's variables (not used where it does not run).
      superbatch: C batches, of which the first `count` are used.
      objective: as in the plan, up to α, β and τ; a term that has no weight
        in the plan is not computed, and stays out.
      key: the phase's random key; step i draws from fold_in(key, i).
    that returns the state `count` steps on, and metrics: arrays [C] float32
    whose first `count` values hold, each the mean over its batch.
  """
  learning = tuple(p for p in plan.student.parts if p not in plan.frozen)
  compared = plan.objective.compared(len(plan.student.blocks))

  def program(state, teacher, superbatch: Superbatch, objective, key):
    # All students of a program are at the same step.
    inputs = _augmented(plan, state.step.max(), superbatch.inputs, key)
    targets = _teacher_targets(plan, teacher, inputs)

    def body(i, carry):
      state, metrics = carry
      batch = jax.tree.map(
        lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False),
        (inputs, superbatch.labels, targets),
      )
      state, values = step(state, objective, batch)
      metrics = jax.tree.map(lambda m, v: m.at[i].set(v), metrics, values)
      return state, metrics

    batch = jax.tree.map(lambda x: x[0], (inputs, superbatch.labels, targets))
    values = jax.eval_shape(step, state, objective, batch)[1]
    slots = inputs.shape[0]
    metrics = jax.tree.map(lambda v: jnp.zeros((slots, *v.shape)), values)
    return lax.fori_loop(0, superbatch.count, body, (state, metrics))

  def step(state, objective, batch):
    def own(state, objective):
      loss = _student_loss(plan, learning, compared, state, batch, objective)
      return _update(plan, state, loss)

    return each(own)(state, objective)

  return program


def _augmented(plan, first_step, inputs, key):
  """Each batch augmented by its own step's key: uint8 [C, n, …]."""
  n = inputs.shape[1]
  first, total = 0, n
  if plan.axis_name is not None:
    first = lax.axis_index(plan.axis_name) * n
    total = lax.axis_size(plan.axis_name) * n

  def augment(i, batch):
    step_key = jax.random.fold_in(key, first_step + i)
    return plan.preprocess.augment(batch, step_key, first, total)

  return jax.vmap(augment)(jnp.arange(inputs.shape[0]), inputs)


def _teacher_targets(plan, teacher, inputs):
  """Logits and IRs of the frozen teacher for all C batches, each [C, n, …]."""
  if plan.teacher is None:
    return None

  def run(inputs):
    x = plan.preprocess.normalize(inputs)
    logits, irs = _infer(plan.teacher, teacher, x)
    return logits, irs if plan.objective.needs_irs else ()

  count = inputs.shape[0] * inputs.shape[1]
  piece = _PIECE if on_cpu() and count % _PIECE == 0 else count
  rows = inputs.reshape((-1, piece, *inputs.shape[2:]))
  split = jax.tree.map(
    lambda t: t.reshape((*inputs.shape[:2], *t.shape[2:])), lax.map(run, rows)
  )
  return lax.stop_gradient(split)


def _student_loss(plan, learning, compared, state, batch, objective):
  """Eq. 1 as a function of the student's parameters."""
  inputs, labels, targets = batch
  settings = plan.objective

  def loss(params):
    variables = {'params': params, 'batch_stats': state.batch_stats}
    x = plan.preprocess.normalize(inputs)
    (logits, irs), batch_stats = _apply(plan.student, variables, learning, x)
    hard = losses.cross_entropy(logits, labels).mean()
    metrics = {'hard': hard}
    soft = ir = 0.0
    if settings.needs_soft_labels:
      soft = losses.distillation(
        logits, targets[0], objective.temperature
      ).mean()
      metrics['soft'] = soft
    if settings.needs_irs:
      for i in compared:
        h, batch_stats = _compared_ir(
          plan, learning, i, params, state.batch_stats, batch_stats, irs,
          targets[1],
        )  # fmt: skip
        value = losses.IR_LOSSES[settings.ir_loss](h, targets[1][i + 1]).mean()
        metrics[f'ir/blocks_{i}'] = value
        ir = ir + value
    total = objectives.total_loss(
      objective, objectives.kd_loss(objective, hard, soft), ir
    )
    metrics['loss'] = total
    metrics['accuracy'] = jnp.mean(logits.argmax(-1) == labels)
    return total, (batch_stats, metrics)

  return loss


def _compared_ir(
  plan, learning, i, params, old_stats, new_stats, irs, teacher_irs
):
  """The output of block i that is compared, and the statistics to keep."""
  settings = plan.objective
  if i == 0 or not settings.teacher_input:
    return irs[i + 1], new_stats
  both = settings.running_statistics == 'both'
  variables = {
    'params': params,
    'batch_stats': new_stats if both else old_stats,
  }
  h, stats = _apply(
    plan.student, variables, learning, teacher_irs[i], i, method='block'
  )
  return h, stats if both else new_stats


def _apply(net, variables, learning, *args, **kwargs):
  """The network with its learning parts in training mode; new statistics."""
  result, new = net.apply(
    variables, *args, train=learning, mutable=['batch_stats'], **kwargs
  )
  # A block run alone leaves the other parts' statistics out.
  statistics = variables['batch_stats'] | new.get('batch_stats', {})
  return result, statistics


def _infer(net, variables, *args, **kwargs) -> Any:
  """The network in evaluation mode."""
  return net.apply(variables, *args, **kwargs)


def _update(plan, state, loss):
  """One step of the optimiser; under fp16 none where gradients overflow."""
  if state.loss_scale is None:
    gradient = jax.value_and_grad(loss, has_aux=True)
    (_, (batch_stats, metrics)), grads = gradient(state.params)
    if plan.axis_name is not None:
      grads = lax.pmean(grads, plan.axis_name)
    loss_scale, finite = None, jnp.bool_(True)
  else:
    gradient = state.loss_scale.value_and_grad(
      loss, has_aux=True, axis_name=plan.axis_name
    )
    loss_scale, finite, (_, (batch_stats, metrics)), grads = gradient(
      state.params
    )
  if plan.axis_name is not None:
    metrics = lax.pmean(metrics, plan.axis_name)
  updates, opt_state = plan.optimizer.update(
    grads, state.opt_state, state.params
  )
  after = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
    loss_scale=loss_scale,
  )
  if loss_scale is not None:
    skipped = state.replace(
      step=state.step + 1, loss_scale=loss_scale, skipped=state.skipped + 1
    )
    after = jax.tree.map(lambda a, b: jnp.where(finite, a, b), after, skipped)
    metrics['skipped'] = jnp.float32(1) - finite
    metrics['loss_scale'] = loss_scale.scale
  return after, metrics


def evaluation_program(
  net: BlockNet, preprocess: Preprocess, axis_name: str | None = None
) -> Callable[..., Metrics]:
  """The pure program (variables, inputs, labels, valid) → sums.

  Inputs are uint8 [n, …]; `valid` is float32 [n], 0 for the padding of the last
  batch. Returns float32 sums over the valid examples: 'loss'; 'confusion'
  [classes, classes], how many of each label (row) were taken for each class
  (column); and 'examples', their number.
  """

  def program(variables, inputs, labels, valid):
    logits, _ = _infer(net, variables, preprocess.normalize(inputs))
    classes = logits.shape[-1]
    found = jax.nn.one_hot(logits.argmax(-1), classes) * valid[:, None]
    sums = {
      'loss': (losses.cross_entropy(logits, labels) * valid).sum(),
      'confusion': jax.nn.one_hot(labels, classes).T @ found,
      'examples': valid.sum(),
    }
    return sums if axis_name is None else lax.psum(sums, axis_name)

  return program


def ir_error_program(
  teacher: BlockNet,
  student: BlockNet,
  preprocess: Preprocess,
  axis_name: str | None = None,
) -> Callable[..., Metrics]:
  """The pure program (teacher's, student's variables, inputs, valid) → sums.

  Returns by block, each [k] float32: sums over the valid examples of the
  student's squared error against the teacher's IR ('teacher_input': the block
  fed with the teacher's previous IR; 'own_input': with the student's own), of
  the teacher's IR and of its square, each a mean over the elements of an
  example; and 'examples', their number.
  """

  def program(teacher_variables, student_variables, inputs, valid):
    x = preprocess.normalize(inputs)
    _, targets = _infer(teacher, teacher_variables, x)
    _, own = _infer(student, student_variables, x)
    rows = {'teacher_input': [], 'own_input': [], 'sum': [], 'square': []}
    for i in range(len(student.blocks)):
      target = targets[i + 1].astype(jnp.float32)
      fed = _infer(student, student_variables, targets[i], i, method='block')
      rows['teacher_input'].append(losses.l2(fed, target))
      rows['own_input'].append(losses.l2(own[i + 1], target))
      axes = tuple(range(1, target.ndim))
      rows['sum'].append(target.mean(axes))
      rows['square'].append(jnp.square(target).mean(axes))
    sums = {
      name: (jnp.stack(v) * valid[None]).sum(-1) for name, v in rows.items()
    }
    sums['examples'] = valid.sum()
    return sums if axis_name is None else lax.psum(sums, axis_name)

  return program
