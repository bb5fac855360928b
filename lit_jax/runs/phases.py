"""Phases, and the methods that are made of them: teacher → LIT → fine-tune."""

import dataclasses

import optax

from lit_jax.blocks import BlockNet, shapes
from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError, choose
from lit_jax.objectives import Objective, check
from lit_jax.training import devices, optim, population, pruning, state
from lit_jax.training.precision import policy

SELECTIONS = ('last', 'best')
TEACHER, STUDENT, JUDGE = 'teacher', 'student', 'judge'
# What a network is to its run: the folder that it is saved in, below that of
# its method's phases.
ROLES = (TEACHER, STUDENT, JUDGE)


@dataclasses.dataclass(frozen=True)
class Phase:
  """One stretch of training, with an optimiser and a schedule of its own.

  Parameters and batch statistics carry over from the phase before it.

  Attributes:
    name: also of the folder of its checkpoints.
    objective: what is learned from.
    epochs: how long.
    learning_rate: the highest.
    optimizer: what updates the parts that learn.
    schedule: 'steps', 'cosine' or 'linear' (`optim.schedule`).
    milestones: epochs at which 'steps' decays, or 'linear' begins to.
    decay: factor at each milestone.
    warmup_epochs: length of the linear rise before.
    copy: what is taken from the teacher before the phase begins: parts of the
      student, or another network that learns, as a whole.
    frozen: parts that do not learn and run in evaluation mode.
    sparsity: share of the student's weights that are set to zero as the phase
      begins, and stay zero in it; 0 trains them all (`pruning.prune`).
    prune_by: 'global' (the smallest of all kernels that learn) or 'layer' (the
      same share of each).
  """

  name: str
  objective: Objective
  epochs: int
  learning_rate: float
  optimizer: optim.Optimizer = optim.Sgd()
  schedule: str = 'steps'
  milestones: tuple[float, ...] = ()
  decay: float = 0.1
  warmup_epochs: float = 0.0
  copy: tuple[str, ...] = ()
  frozen: tuple[str, ...] = ()
  sparsity: float = 0.0
  prune_by: str = 'global'

  def rate(self, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step."""
    return optim.schedule(
      self.schedule,
      self.learning_rate,
      steps_per_epoch,
      self.epochs,
      self.milestones,
      self.decay,
      self.warmup_epochs,
    )


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
  def prunes(self) -> bool:
    """Whether the student gets zeros in any phase."""
    return any(phase.sparsity for phase in self.phases)

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
    steps_per_call: how many steps one call of the program makes.
    select: 'last' (a phase ends with its last epoch's network) or 'best'
      (with its best epoch's on the validation split, which must exist).
  """

  batch_size: int
  seed: int
  precision: str
  steps_per_call: int
  select: str
  data_seed: int | None = None

  @property
  def order_seed(self) -> int:
    """The seed of data order and augmentation."""
    return self.seed if self.data_seed is None else self.data_seed


def check_training(training: Training, dataset: Dataset) -> None:
  """Raises UserError when a setting is out of range or does not fit."""
  policy(training.precision)
  devices.check_batch(training.batch_size)
  examples = dataset.splits['train'].examples
  if training.batch_size > examples:
    raise UserError(
      f'batch size {training.batch_size} is larger than the {examples} '
      'training examples'
    )
  check_seed('seed', training.seed)
  check_seed('data_seed', training.order_seed)
  if training.steps_per_call < 1:
    raise UserError(f'steps_per_call is {training.steps_per_call}; at least 1')
  choose('select', training.select, SELECTIONS)
  if training.select == 'best' and 'validation' not in dataset.splits:
    raise UserError(
      'select=best needs a validation split, for the test split is never '
      'selected on; set validation=5000'
    )


def check_seed(name: str, seed: int) -> None:
  """Raises UserError when the seed is out of range."""
  if not 0 <= seed < 2**32:
    raise UserError(f'{name} is {seed}; it must lie in 0 to 2^32 - 1')


def check_method(
  method: Method, net: BlockNet, learners: tuple[str, ...] = ()
) -> None:
  """Raises UserError when a phase's setting is out of range or names no part.

  Everything that would stop a later phase is found before the first begins.

  Args:
    method: a method without phases leaves its student untrained.
    net: the student.
    learners: names of all networks that learn, which can be copied, too.
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
  if len(set(names)) < len(names) or set(names) & set(ROLES):
    raise UserError(
      f'{method.name} has the phases {", ".join(names)}; give each a name of '
      f'its own, and none {" or ".join(map(repr, ROLES))}'
    )
  for index, phase in enumerate(method.phases):
    where = f'{method.name}/{phase.name}'
    objectives = [member.objectives[index] for member in method.population]
    try:
      for objective in (phase.objective, *objectives):
        check(objective).compared(len(net.blocks))
      if objectives:
        population.common_terms(objectives)
      phase.rate(1)
      pruning.check(phase.sparsity, phase.prune_by)
    except UserError as error:
      raise UserError(f'{where}: {error}') from None
    if phase.epochs < 1:
      raise UserError(f'{where}: epochs is {phase.epochs}; at least 1')
    if not phase.learning_rate > 0:
      raise UserError(
        f'{where}: learning rate is {phase.learning_rate}; greater than 0'
      )
    others = tuple(name for name in learners if name != STUDENT)
    for known, parts in (
      ((*net.parts, *others), phase.copy),
      (net.parts, phase.frozen),
    ):
      for part in parts:
        if part not in known:
          raise UserError(
            f'{where}: no part {part!r} to copy or freeze; there are '
            f'{", ".join(known)}'
          )


def check_copies(method: Method, teacher: BlockNet, student: BlockNet) -> None:
  """Raises UserError when a part to copy differs in teacher and student."""
  for phase in method.phases:
    parts = tuple(part for part in phase.copy if part in student.parts)
    try:
      state.copy_parts(shapes(teacher), shapes(student), parts)
    except UserError as error:
      raise UserError(f'{method.name}/{phase.name}: {error}') from None
