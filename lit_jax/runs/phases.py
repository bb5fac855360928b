"""Phases, and the methods that are made of them: teacher → LIT → fine-tune."""

import contextlib
import dataclasses

import numpy as np
import optax

from lit_jax.blocks import BlockNet, shapes
from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError, choose, integer, number, shown
from lit_jax.objectives import Objective, check
from lit_jax.training import (
  devices,
  optim,
  population,
  pruning,
  state,
  trackers,
)
from lit_jax.training.precision import policy

SELECTIONS = ('last', 'best')
TEACHER, STUDENT, JUDGE = 'teacher', 'student', 'judge'
# What a network is to its run: the folder that it is saved in, below that of
# its method's phases.
ROLES = (TEACHER, STUDENT, JUDGE)
# Steps are counted in int32.
_MOST = 2**31
_LEAST_RATE = float(np.finfo(np.float32).tiny)
# A file system takes 255 bytes.
_NAME_BYTES = 200


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
    return any(o.needs_teacher for o in self._objectives) or any(
      phase.copy for phase in self.phases
    )

  @property
  def compares_irs(self) -> bool:
    """Whether blocks learn from the teacher's in any phase."""
    return any(o.computes('ir') for o in self._objectives)

  @property
  def _objectives(self) -> list[Objective]:
    """Of all phases and members."""
    objectives = [phase.objective for phase in self.phases]
    for member in self.population:
      objectives.extend(member.objectives)
    return objectives


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
    sync_batch_norm: as `Plan.sync_batch_norm`.
    trackers: that are told of the metrics, beside TensorBoard.
  """

  batch_size: int
  seed: int
  precision: str
  steps_per_call: int
  select: str
  data_seed: int | None = None
  sync_batch_norm: bool = True
  trackers: tuple[str, ...] = ()

  @property
  def order_seed(self) -> int:
    """The seed of data order and augmentation."""
    return self.seed if self.data_seed is None else self.data_seed


def check_settings(training: Training) -> None:
  """Raises UserError when a setting is out of range, whatever the data are.

  How many devices share a batch is not asked either.
  """
  policy(training.precision)
  check_seed('seed', training.seed)
  check_seed('data_seed', training.order_seed)
  _check_count('steps_per_call', training.steps_per_call)
  choose('select', training.select, SELECTIONS)
  trackers.check(training.trackers)


def check_training(training: Training, dataset: Dataset) -> None:
  """Raises UserError when a setting is out of range or does not fit."""
  check_settings(training)
  devices.check_batch(training.batch_size)
  examples = dataset.splits['train'].examples
  if training.batch_size > examples:
    raise UserError(
      f'batch size {shown(training.batch_size)} is larger than the {examples} '
      'training examples'
    )
  if training.select == 'best' and 'validation' not in dataset.splits:
    raise UserError(
      'select=best needs a validation split, for the test split is never '
      'selected on; set validation=5000'
    )


def check_seed(name: str, seed: int) -> None:
  """Raises UserError when the seed is out of range."""
  integer(name, seed, 'it must lie in 0 to 2^32 - 1', 0, 2**32)


def _check_count(name, count):
  integer(name, count, 'at least 1, and an integer below 2^31', 1, _MOST)


def check_name(what: str, name: str) -> None:
  """Raises UserError unless a folder of any system can have that name."""
  if (
    not name.isprintable()
    or name != name.strip(' .')
    or set(name) & set('/\\:')
    or not 1 <= len(name.encode()) <= _NAME_BYTES
  ):
    raise UserError(
      f'{what} {shown(name)} is no name for a folder; write 1 to {_NAME_BYTES} '
      'letters, digits, _ and -'
    )


def check_phases(method: Method) -> None:
  """Raises UserError when a setting is out of range, whatever the network is.

  Args:
    method: a method without phases leaves its student untrained.
  """
  check_name('method', method.name)
  for member in method.population:
    check_name('member', member.name)
    check_seed(f'seed of {member.name}', member.seed)
    check_seed(f'data_seed of {member.name}', member.data_seed)
    if len(member.objectives) != len(method.phases):
      raise UserError(
        f'{member.name} has {len(member.objectives)} objectives for '
        f'{len(method.phases)} phases; give one for each'
      )
  names = [phase.name for phase in method.phases]
  for name in names:
    check_name(f'{method.name}: phase', name)
  if len(set(names)) < len(names) or set(names) & set(ROLES):
    raise UserError(
      f'{method.name} has the phases {", ".join(names)}; give each a name of '
      f'its own, and none {" or ".join(map(repr, ROLES))}'
    )
  for where, phase, objectives in _of_each_phase(method):
    with _told(where):
      for objective in objectives:
        check(objective)
      if method.population:
        population.common_terms(objectives[1:])
      _check_schedule(phase)
      phase.optimizer.check()
      pruning.check(phase.sparsity, phase.prune_by)


def _of_each_phase(method):
  """Where it is, in words, the phase, and its objective and the members'."""
  for index, phase in enumerate(method.phases):
    members = [member.objectives[index] for member in method.population]
    yield f'{method.name}/{phase.name}', phase, [phase.objective, *members]


@contextlib.contextmanager
def _told(where):
  """Says where a UserError comes from."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{where}: {error}') from None


def _check_schedule(phase):
  _check_count('epochs', phase.epochs)
  number(
    'learning rate', phase.learning_rate,
    'greater than 0 and finite, also as float32',
    lambda value: value >= _LEAST_RATE,
  )  # fmt: skip
  for milestone in phase.milestones:
    number(
      f'of milestones {shown(phase.milestones)} one', milestone,
      'each must be at least 0 and finite', lambda value: value >= 0,
    )  # fmt: skip
  number(
    'decay', phase.decay, 'greater than 0 and finite', lambda value: value > 0,
  )  # fmt: skip
  number(
    'warmup_epochs', phase.warmup_epochs,
    f'at least 0 and at most the {phase.epochs} epochs of the phase',
    lambda value: 0 <= value <= phase.epochs,
  )  # fmt: skip
  # Kinds of schedules have names.
  phase.rate(1)


def check_method(
  method: Method,
  net: BlockNet,
  learners: tuple[str, ...] = (),
  steps_per_epoch: int = 1,
) -> None:
  """Raises UserError when a phase's setting is out of range or names no part.

  Everything that would stop a later phase is found before the first begins,
  and so is what would train nothing, or let parts shrink that are not trained.

  Args:
    method: a method without phases leaves its student untrained.
    net: the student.
    learners: names of all networks that learn, which can be copied, too.
    steps_per_epoch: where they are known.
  """
  check_phases(method)
  others = tuple(name for name in learners if name != STUDENT)
  for where, phase, objectives in _of_each_phase(method):
    with _told(where):
      if phase.epochs * steps_per_epoch >= _MOST:
        raise UserError(
          f'{phase.epochs} epochs of {steps_per_epoch} steps are too many to '
          f'count; take fewer than {_MOST // steps_per_epoch} epochs'
        )
      for objective in objectives:
        objective.compared(len(net.blocks))
      for known, parts in (
        ((*net.parts, *others), phase.copy),
        (net.parts, phase.frozen),
      ):
        for part in parts:
          if part not in known:
            raise UserError(
              f'no part {shown(part)} to copy or freeze; there are '
              f'{", ".join(known)}'
            )
      # A population's own objectives take the place of the phase's.
      for objective in objectives[1:] or objectives:
        _check_learning(phase, objective, net)


def _check_learning(phase, objective, net):
  """What a loss reaches must learn, and what it does not must not shrink."""
  reached = _reached(objective, net)
  if set(reached) <= set(phase.frozen):
    raise UserError(
      f'nothing learns: of the parts that its loss reaches '
      f'({", ".join(reached)}) all are frozen; leave one out of frozen'
    )
  idle = [part for part in net.parts if part not in (*reached, *phase.frozen)]
  if not idle or not phase.optimizer.decays:
    return
  # A part may have no parameters.
  if idle := [part for part in idle if part in shapes(net)['params']]:
    raise UserError(
      f'with beta 0 no loss reaches {", ".join(idle)}, which weight decay '
      f'alone would shrink to nothing; add {",".join(idle)} to frozen, or '
      'compare more blocks'
    )


def _reached(objective, net):
  """The student's parts that get a gradient from what has weight."""
  # A member of a population may compute terms for others.
  weighed = objective.replace(terms=None)
  if weighed.computes('hard') or weighed.computes('soft'):
    return net.parts
  compared = weighed.compared(len(net.blocks))
  if weighed.teacher_input and not weighed.anneal_input:
    # Fed by the teacher, a block is on its own; the first one is fed by the
    # stem.
    stem = ('stem',) if 0 in compared else ()
    return (*stem, *(net.block_names[i] for i in compared))
  return ('stem', *net.block_names[: max(compared) + 1])


def check_copies(method: Method, teacher: BlockNet, student: BlockNet) -> None:
  """Raises UserError when a part to copy differs in teacher and student."""
  for phase in method.phases:
    parts = tuple(part for part in phase.copy if part in student.parts)
    try:
      state.copy_parts(shapes(teacher), shapes(student), parts)
    except UserError as error:
      raise UserError(f'{method.name}/{phase.name}: {error}') from None
