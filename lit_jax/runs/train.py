"""Trains a method's phases, one after another."""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax

from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset
from lit_jax.data.feed import Feed
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError
from lit_jax.runs.phases import Member, Method, Phase, Training
from lit_jax.training import (
  devices,
  evaluation,
  loop,
  optim,
  population,
  pruning,
  state,
)
from lit_jax.training.interrupt import Observer
from lit_jax.training.precision import policy
from lit_jax.training.task import Evaluation, Plan, Task


@dataclasses.dataclass(frozen=True)
class Context:
  """Where methods run: everything that does not depend on the method.

  Attributes:
    workdir: folder of the run.
    task: what networks are trained for.
    dataset: with splits 'train', 'test' where that is scored, and 'validation'
      where held out.
    training: shared settings.
    observer: told of the first steps, and asked whether to stop.
    check_claim: raises UserError where the workdir is no longer the run's;
      asked before anything is written that would make it again.
    evaluations: on the scored split, of networks by name; None where the device
      could not. Each network is evaluated once.
  """

  workdir: pathlib.Path
  task: Task
  dataset: Dataset
  training: Training
  observer: Observer
  check_claim: Callable[[], None] = lambda: None
  evaluations: dict[str, Evaluation | None] = dataclasses.field(
    default_factory=dict
  )

  @property
  def held_out(self) -> str:
    """The split that is evaluated after each epoch."""
    splits = self.dataset.splits
    return 'validation' if 'validation' in splits else 'test'


# Who teaches: a network, its variables on all devices, what makes its inputs.
Teacher = evaluation.Reader


class _Setting(NamedTuple):
  """A method that is being run: what all its phases share."""

  context: Context
  method: Method
  members: tuple[Member, ...]
  net: BlockNet
  preprocess: Preprocess
  teacher: Teacher | None


def run_method(
  context: Context,
  method: Method,
  net: BlockNet,
  preprocess: Preprocess,
  teacher: Teacher | None,
  start: state.Variables | None = None,
) -> tuple[loop.PhaseResult, ...]:
  """Trains `net` by a method's phases, resuming where checkpoints stand.

  Args:
    context: workdir, task, data and settings.
    method: its phases.
    net: the network that learns.
    preprocess: of its inputs.
    teacher: None where no phase needs one.
    start: the variables that `net` begins with; None draws them.

  Returns:
    Of each member, the last phase's networks, and the seconds of all phases.

  Raises:
    Interrupted: asked to stop; saved.
    UserError: parts that cannot be copied, or a loss that is not finite.
  """
  setting = _setting(context, method, net, preprocess, teacher)
  learners = _fresh(setting)
  if start is not None:
    learners = tuple(own | {state.STUDENT: start} for own in learners)
  seconds = 0.0
  for index, phase in enumerate(method.phases):
    context.observer.interrupt(f'before {method.name}/{phase.name}')
    results = _run_phase(setting, index, phase, learners)
    learners = tuple(
      before | result.learners
      for before, result in zip(learners, results, strict=True)
    )
    seconds += results[0].train_seconds
  return tuple(loop.PhaseResult(own, seconds) for own in learners)


def first_phase(
  context: Context,
  method: Method,
  net: BlockNet,
  preprocess: Preprocess,
  teacher: Teacher | None,
) -> tuple[loop.PhaseRun, state.TrainState]:
  """The first phase of a method, and its first state, without training it.

  Args:
    context: task, data and settings.
    method: as `run_method` takes it, and all that follows.
    net: the network that learns.
    preprocess: of its inputs.
    teacher: None where the phase needs none.

  Returns:
    What `run_method` gives to the loop; its feed is to be closed.
  """
  setting = _setting(context, method, net, preprocess, teacher)
  return _begun(setting, 0, method.phases[0], _fresh(setting))


def _setting(context, method, net, preprocess, teacher):
  members = method.members(context.training)
  return _Setting(context, method, members, net, preprocess, teacher)


def _fresh(setting) -> tuple[state.Learners, ...]:
  """Each member's networks, before the first phase."""
  # A student starts from the same numbers under every method.
  role = 'teacher' if setting.method.name == 'teacher' else 'student'
  number = zlib.crc32(role.encode())
  fresh = setting.context.task.fresh
  return tuple(
    fresh(setting.net, _key(member.seed, number)) for member in setting.members
  )


def _key(seed, number):
  return jax.random.fold_in(jax.random.key(seed), number)


def _run_phase(setting, index, phase, learners):
  context = setting.context
  run, first = _begun(setting, index, phase, learners)
  try:
    return loop.run(
      run, context.workdir, first, context.observer, context.check_claim
    )
  finally:
    run.feed.close()


def _begun(setting, index, phase, learners):
  """A phase, and its first state."""
  context, teacher = setting.context, setting.teacher
  if phase.copy and teacher is None:
    raise UserError(
      f'{setting.method.name}/{phase.name} copies, without a teacher'
    )
  taught = teacher.learners if teacher else None
  learners = [
    _pruned(phase, context.task.begin(own, taught, phase.objective, phase.copy))
    for own in learners
  ]
  run = _phase_run(setting, index, phase, learners[0])
  policy_ = policy(context.training.precision)
  first = population.stack(
    [state.begin_phase(own, run.plan.optimizers, policy_) for own in learners]
  )
  return run, first


def _pruned(phase: Phase, learners: state.Learners) -> state.Learners:
  """The learners, the student with the phase's share of zeros."""
  if not phase.sparsity:
    return learners
  student = learners[state.STUDENT]
  params = pruning.prune(
    student['params'], phase.sparsity, phase.prune_by, phase.frozen
  )
  return learners | {state.STUDENT: student | {'params': params}}


def _phase_run(setting, index, phase: Phase, learners) -> loop.PhaseRun:
  """All that the loop needs of a phase of these learners."""
  context, method, members, net, preprocess, teacher = setting
  training, splits = context.training, context.dataset.splits
  objectives = population.common_terms(
    [member.objectives[index] for member in members]
  )
  # They all compute the same terms.
  used = teacher if objectives[0].needs_teacher else None
  # Members that all have one order share its examples.
  seeds = tuple(dict.fromkeys(member.data_seed for member in members))
  seeds = seeds if len(seeds) == 1 else tuple(m.data_seed for m in members)
  feed = Feed(
    splits['train'],
    training.batch_size,
    training.steps_per_call,
    # Other orders in other phases, whatever their number of epochs.
    [zlib.crc32(f'{seed}/{index}'.encode()) for seed in seeds],
  )
  rate = phase.rate(feed.steps_per_epoch)
  # They all update the same networks.
  objective = objectives[0]
  return loop.PhaseRun(
    method=method.name,
    name=phase.name,
    members=method.names,
    plan=Plan(
      task=context.task,
      teacher=used and used.net,
      student=net,
      optimizers={
        # Parts are the student's; other networks learn as a whole.
        name: optim.optimizer(
          phase.optimizer,
          _at_updates(rate, context.task.updates_every(name, objective)),
          _frozen(phase, name, own),
          keeps_zeros=name == state.STUDENT and phase.sparsity > 0,
        )
        for name, own in learners.items()
      },
      frozen=phase.frozen,
      preprocess=preprocess,
      teacher_preprocess=used.preprocess if used else preprocess,
      axis_name=devices.AXIS,
      sync_batch_norm=training.sync_batch_norm,
      steps=phase.epochs * feed.steps_per_epoch,
      shared=tuple(part for part in phase.frozen if part in phase.copy),
    ),
    constants=loop.Constants(
      teacher=used and used.variables,
      objectives=population.stack(objectives),
      keys=population.stack([_key(seed, index) for seed in seeds]),
    ),
    feed=feed,
    epochs=phase.epochs,
    schedule=rate,
    held_out=loop.HeldOut(
      context.held_out,
      context.task.evaluator(net, preprocess, splits[context.held_out]),
      context.task.selects if training.select == 'best' else None,
    ),
    trackers=training.trackers,
  )


def _at_updates(rate, period):
  """The rate by update, of which there is one in so many steps."""
  if period == 1:
    return rate
  return lambda update: rate(update * period + period - 1)


def _frozen(phase, name, variables) -> tuple[str, ...]:
  """The frozen parts that have parameters."""
  if name != state.STUDENT:
    return ()
  return tuple(part for part in phase.frozen if part in variables['params'])
