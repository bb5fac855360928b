"""What a run is to do: teacher, students, data, settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lit_jax import models
from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset
from lit_jax.report import Column, Row
from lit_jax.runs.phases import TEACHER, Method, Training
from lit_jax.training.precision import policy
from lit_jax.training.task import Task

# As `models.build` takes a network.
Network = models.Spec | BlockNet
JsonRow = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Student:
  """A network to train, how, and who teaches it.

  Attributes:
    network: as `models.build` takes it.
    method: how it is trained; its name is that of the row and the folder.
    teacher: 'teacher' is the run's own; else the name of a student before it.
    start: what it begins as, named as `Job.teacher_checkpoint` is; '' draws its
      values.
    variables: what it begins as, instead of a checkpoint.
  """

  network: Network
  method: Method
  teacher: str = TEACHER
  start: str = ''
  variables: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Judge:
  """A network that is trained before all others, to judge them.

  Attributes:
    task: what it is trained for (`Task.judge`).
    dataset: what it learns from.
    network: as `models.build` takes it.
    method: how it is trained.
  """

  task: Task
  dataset: Dataset
  network: Network
  method: Method


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A system from outside.

  Attributes:
    name: of its row and its folder.
    row: makes the row from the data set. Called when all else is done, and
      once.
  """

  name: str
  row: Callable[[Dataset], Row]


@dataclasses.dataclass(frozen=True)
class Reference:
  """Numbers from elsewhere, to stand beside the run's own.

  Attributes:
    column: where they stand; its key is the one they have in a row.
    values: by the row's name.
    note: whose they are.
  """

  column: Column
  values: Mapping[str, float | str]
  note: str


@dataclasses.dataclass(frozen=True)
class Job:
  """What a run is to do.

  Attributes:
    dataset: with a 'validation' split where one is held out, on which rows are
      scored where there is no 'test' split.
    task: what the networks are trained for.
    teacher: the teacher's network, as `models.build` takes it.
    teacher_checkpoint: 'embedded', or the folder of a saved network or of a
      workdir whose teacher is used; '' trains the teacher.
    teacher_method: how the teacher is trained.
    students: in the order in which they are trained.
    training: shared settings.
    config: everything that defines the run, as JSON values; a workdir takes
      one configuration.
    baselines: systems from outside, each a row beside.
    reference: numbers from elsewhere.
    teacher_variables: of a trained teacher, instead of a checkpoint.
    judge: None where the task needs none.
    stitch: whether the blocks of students that learned from the teacher's are
      tried in the teacher, one by one (`training/stitch.py`).
  """

  dataset: Dataset
  task: Task
  teacher: Network
  teacher_checkpoint: str
  teacher_method: Method
  students: tuple[Student, ...]
  training: Training
  config: Mapping[str, Any]
  baselines: tuple[Baseline, ...] = ()
  reference: Reference | None = None
  teacher_variables: Mapping[str, Any] | None = None
  judge: Judge | None = None
  stitch: bool = False

  @property
  def gives_teacher(self) -> bool:
    """Whether the teacher comes trained."""
    return bool(self.teacher_checkpoint) or self.teacher_variables is not None

  @property
  def needs_teacher(self) -> bool:
    """Whether any student uses the teacher, or the teacher is all there is."""
    return not self.students or any(
      s.method.needs_teacher and s.teacher == TEACHER for s in self.students
    )

  @property
  def starts(self) -> dict[str, str]:
    """What students begin as, by method; of those alone that begin so."""
    return {s.method.name: s.start for s in self.students if s.start}

  @property
  def names(self) -> tuple[str, ...]:
    """The names of all rows but the teacher's."""
    students = [name for s in self.students for name in s.method.names]
    return (*students, *(baseline.name for baseline in self.baselines))

  def network_of(self, name: str) -> Network:
    """That of the student with that name."""
    return next(s.network for s in self.students if name in s.method.names)

  def build(self, network: Network) -> BlockNet:
    """A network that computes in the job's precision."""
    return models.build(network, policy(self.training.precision).dtype)
