"""Phases, and the methods that are made of them: teacher → LIT → fine-tune."""

import dataclasses
import pathlib
import zlib
from typing import Any

import jax

from lit_jax.training import evaluation, loop, optim, devices, population, state, steps
from lit_jax.blocks import BlockNet, init, shapes
from lit_jax.data.dataset import Dataset
from lit_jax.data.feed import Feed, Feeds
from lit_jax.errors import UserError
from lit_jax.training.interrupt import Interrupted, StopRequest
from lit_jax.objectives import Objective, check
from lit_jax.training.precision import policy

Variables = dict[str, Any]
SELECTIONS = ('last', 'best')


@dataclasses.dataclass(frozen=True)
class Phase:
  """One stretch of training, with an optimiser and a schedule of its own.

  Parameters and batch statistics carry over from the phase before it.

  Attributes:
    name: also of the folder of its checkpoints.
    objective: what is learned from.
    epochs: how long.
    learning_rate: the highest.
    schedule: 'steps' or 'cosine'.
    milestones: epochs at which 'steps' decays.
    decay: factor at each milestone.
    warmup_epochs: length of the linear rise before.
    copy: parts taken from the teacher before the phase begins.
    frozen: parts that do not learn and run in evaluation mode.
  """

  name: str
  objective: Objective
  epochs: int
  learning_rate: float
  schedule: str = 'steps'
  milestones: tuple[float, ...] = ()
  decay: float = 0.1
  warmup_epochs: float = 0.0
  copy: tuple[str, ...] = ()
  frozen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Member:
  """One of several students that a method trains together.

  Attributes:
    name: of its row and of its folder.
    seed: of its initial values.
    data_seed: of its data order and augmentation.
    objectives: of each phase; they differ from the phase's own in α, β and τ.
  """

  name: str
  seed: int
  data_seed: int
  objectives: tuple[Objective, ...]


@dataclasses.dataclass(frozen=True)
class Method:
  """A way to train a network, or a population of them.

  Attributes:
    name: also of the folder of its phases.
    phases: in order.
    population: the students that are trained together; () is one student,
      of the method's name and the run's seeds.
  """

  name: str
  phases: tuple[Phase, ...]
  population: tuple[Member, ...] = ()

  def members(self, training: 'Training') -> tuple[Member, ...]:
    objectives = tuple(phase.objective for phase in self.phases)
    alone = Member(self.name, training.seed, training.order_seed, objectives)
    return self.population or (alone,)

  @property
  def names(self) -> tuple[str, ...]:
    """The students' names."""
    return tuple(m.name for m in self.population) or (self.name,)

  @property
  def epochs(self) -> int:
    return sum(phase.epochs for phase in self.phases)

  @property
  def needs_teacher(self) -> bool:
    objectives = [phase.objective for phase in self.phases]
    for member in self.population:
      objectives.extend(member.objectives)
    return any(o.needs_teacher for o in objectives) or any(
      phase.copy for phase in self.phases
    )


@dataclasses.dataclass(frozen=True)
class Training:
  """What all phases of a run share.

  Attributes:
    batch_size: examples a step, over all devices.
    seed: of initialisation, data order and augmentation.
    data_seed: of data order and augmentation instead; None is `seed`.
    precision: 'fp32', 'bf16' or 'fp16'.
    momentum: of SGD.
    weight_decay: added to the gradient.
    steps_per_call: how many steps one call of the program makes.
    select: 'last' (a phase ends with its last epoch's network) or 'best'
      (with its best epoch's on the validation split, which must exist).
  """

  batch_size: int
  seed: int
  precision: str
  momentum: float
  weight_decay: float
  steps_per_call: int
  select: str
  data_seed: int | None = None

  @property
  def order_seed(self) -> int:
    """The seed of data order and augmentation."""
    return self.seed if self.data_seed is None else self.data_seed


@dataclasses.dataclass(frozen=True)
class Context:
  """Where methods run: everything that does not depend on the method.

  Attributes:
    workdir: folder of the run.
    dataset: with splits 'train', 'test', and 'validation' where held out.
    training: shared settings.
    stop: set when the run is asked to stop.
    first_call: see `loop.FirstCall`.
  """

  workdir: pathlib.Path
  dataset: Dataset
  training: Training
  stop: StopRequest
  first_call: loop.FirstCall | None = None

  @property
  def held_out(self) -> str:
    splits = self.dataset.splits
    return 'validation' if 'validation' in splits else 'test'


def check_training(training: Training, dataset: Dataset) -> None:
  """Raises UserError when a setting is out of range or does not fit."""
  policy(training.precision)
  devices.check_batch(training.batch_size)
  examples = len(dataset.splits['train'].labels)
  if training.batch_size > examples:
    raise UserError(
      f'batch size {training.batch_size} is larger than the {examples} '
      'training examples'
    )
  check_seed('seed', training.seed)
  check_seed('data_seed', training.order_seed)
  if training.steps_per_call < 1:
    raise UserError(f'steps_per_call is {training.steps_per_call}; at least 1')
  if training.select not in SELECTIONS:
    raise UserError(
      f'unknown select {training.select!r}; choose one of '
      f'{", ".join(SELECTIONS)}'
    )
  if training.select == 'best' and 'validation' not in dataset.splits:
    raise UserError(
      'select=best needs a validation split, for the test split is never '
      'selected on; set validation=5000'
    )


def check_seed(name: str, seed: int) -> None:
  """Raises UserError when the seed is out of range."""
  if not 0 <= seed < 2**32:
    raise UserError(f'{name} is {seed}; it must lie in 0 to 2^32 - 1')


def check_method(method: Method, net: BlockNet) -> None:
  """Raises UserError when a phase's setting is out of range or names no part.

  Everything that would stop a later phase is found before the first begins.
  """
  for member in method.population:
    check_seed(f'seed of {member.name}', member.seed)
    check_seed(f'data_seed of {member.name}', member.data_seed)
    if len(member.objectives) != len(method.phases):
      raise UserError(
        f'{member.name} has {len(member.objectives)} objectives for '
        f'{len(method.phases)} phases; give one for each'
      )
  names = [phase.name for phase in method.phases]
  if len(set(names)) < len(names) or 'student' in names or not names:
    raise UserError(
      f'{method.name} has the phases {", ".join(names)}; give at least one, '
      "each a name of its own, and none 'student'"
    )
  for index, phase in enumerate(method.phases):
    where = f'{method.name}/{phase.name}'
    objectives = [member.objectives[index] for member in method.population]
    try:
      for objective in (phase.objective, *objectives):
        check(objective).compared(len(net.blocks))
      if objectives:
        population.common_objective(objectives)
      optim.schedule(phase.schedule, phase.learning_rate, 1, 1)
    except UserError as error:
      raise UserError(f'{where}: {error}') from None
    if phase.epochs < 1:
      raise UserError(f'{where}: epochs is {phase.epochs}; at least 1')
    if not phase.learning_rate > 0:
      raise UserError(
        f'{where}: learning rate is {phase.learning_rate}; greater than 0'
      )
    for part in (*phase.copy, *phase.frozen):
      if part not in net.parts:
        raise UserError(
          f'{where}: no part {part!r} to copy or freeze; the network has '
          f'{", ".join(net.parts)}'
        )


def check_copies(method: Method, teacher: BlockNet, student: BlockNet) -> None:
  """Raises UserError when a part to copy differs in teacher and student."""
  for phase in method.phases:
    try:
      state.copy_parts(shapes(teacher), shapes(student), phase.copy)
    except UserError as error:
      raise UserError(f'{method.name}/{phase.name}: {error}') from None


def run_method(
  context: Context,
  method: Method,
  net: BlockNet,
  teacher: BlockNet | None,
  teacher_variables: Variables | None,
) -> tuple[loop.PhaseResult, ...]:
  """Trains `net` by a method's phases, resuming where checkpoints stand.

  Args:
    context: workdir, data and settings.
    method: its phases.
    net: the network that learns.
    teacher: None where no phase needs one.
    teacher_variables: likewise.

  Returns:
    Of each member, the last phase's variables, and the seconds of all phases.

  Raises:
    Interrupted: asked to stop; saved.
    UserError: parts that cannot be copied, or a loss that is not finite.
  """
  members = method.members(context.training)
  # A student starts from the same numbers under every method.
  role = 'teacher' if method.name == 'teacher' else 'student'
  variables = tuple(
    init(net, _key(member.seed, zlib.crc32(role.encode())))
    for member in members
  )
  seconds = 0.0
  for index, phase in enumerate(method.phases):
    if context.stop.number is not None:
      raise Interrupted(
        f'stopped before {method.name}/{phase.name}; run the same command '
        'again to go on',
        context.stop.number,
      )
    if phase.copy:
      if teacher_variables is None:
        raise UserError(f'{method.name}/{phase.name} copies, without a teacher')
      variables = tuple(
        state.copy_parts(teacher_variables, own, phase.copy)
        for own in variables
      )
    run = _phase_run(
      context, method, members, index, net, teacher, teacher_variables
    )
    try:
      results = loop.run(run, context.workdir, variables, context.stop)
    finally:
      run.feed.close()
    variables = tuple(result.variables for result in results)
    seconds += results[0].train_seconds
  return tuple(loop.PhaseResult(own, seconds) for own in variables)


def _key(seed, number):
  return jax.random.fold_in(jax.random.key(seed), number)


def _phase_run(
  context, method, members, index, net, teacher, teacher_variables
):
  phase, training = method.phases[index], context.training
  objectives = tuple(member.objectives[index] for member in members)
  objective = population.common_objective(objectives)
  needs_teacher = objective.needs_teacher
  splits = context.dataset.splits
  # Members that all have one order share its images.
  seeds = tuple(member.data_seed for member in members)
  seeds = seeds[:1] if len(set(seeds)) == 1 else seeds
  feeds = [
    Feed(
      splits['train'],
      training.batch_size,
      training.steps_per_call,
      # Other orders in other phases, whatever their number of epochs.
      zlib.crc32(f'{seed}/{index}'.encode()),
    )
    for seed in seeds
  ]
  feed = feeds[0] if len(feeds) == 1 else Feeds(feeds)
  rate = optim.schedule(
    phase.schedule,
    phase.learning_rate,
    feed.steps_per_epoch,
    phase.epochs,
    phase.milestones,
    phase.decay,
    phase.warmup_epochs,
  )
  return loop.PhaseRun(
    method=method.name,
    name=phase.name,
    members=method.names,
    plan=steps.Plan(
      teacher=teacher if needs_teacher else None,
      student=net,
      optimizer=optim.sgd(
        rate, training.momentum, training.weight_decay, phase.frozen
      ),
      objective=objective,
      frozen=phase.frozen,
      preprocess=context.dataset.preprocess,
      axis_name=devices.AXIS,
    ),
    objectives=objectives,
    policy=policy(training.precision),
    teacher=teacher_variables if needs_teacher else None,
    feed=feed,
    epochs=phase.epochs,
    schedule=rate,
    key=population.stack([_key(seed, index) for seed in seeds]),
    held_out=context.held_out,
    evaluate=evaluation.evaluator(
      net, context.dataset.preprocess, splits[context.held_out]
    ),
    select_best=training.select == 'best',
    first_call=context.first_call,
  )
