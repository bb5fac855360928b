"""What a family of networks brings to training: the protocol of a task.

One frozen (hashable) object in a file of its own, such as tasks/classify.py.
The engine knows no more of it than this.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.feed import Superbatch
from lit_jax.data.preprocess import Preprocess
from lit_jax.objectives import Objective
from lit_jax.report import Column
from lit_jax.training.evaluation import Reader
from lit_jax.training.state import STUDENT, Learners, TrainState, Variables

Metrics = dict[str, jax.Array]


class Plan(NamedTuple):
  """What a train program is compiled for.

  Attributes:
    task: what is trained for.
    teacher: the teacher's network, None where the objective needs none.
    student: the network that is compressed, or trained.
    optimizers: of every learner, by name.
    frozen: the student's parts that do not learn and run in evaluation mode.
    preprocess: of the student's inputs.
    teacher_preprocess: whose `normalize` makes the teacher's inputs.
    axis_name: mapped axis over the devices, or None.
    shared: those frozen parts that are copies of the teacher's.
    sync_batch_norm: whether batch norms take the statistics of the whole batch,
      or each device those of its own part.
    steps: of the phase.
  """

  task: 'Task'
  teacher: BlockNet | None
  student: BlockNet
  optimizers: Mapping[str, optax.GradientTransformation]
  frozen: tuple[str, ...]
  preprocess: Preprocess
  teacher_preprocess: Preprocess
  axis_name: str | None = None
  shared: tuple[str, ...] = ()
  sync_batch_norm: bool = True
  steps: int = 1

  def teacher_share(self, step: jax.Array) -> jax.Array:
    """As `lit_loss` takes it: 1 in the phase's first step, 0 in its last."""
    return 1 - step / jnp.float32(max(1, self.steps - 1))

  @property
  def learning(self) -> tuple[str, ...]:
    """The student's parts that learn."""
    return tuple(p for p in self.student.parts if p not in self.frozen)


class Sheet(NamedTuple):
  """Images in rows and columns.

  Attributes:
    images: uint8 [rows, columns, h, w, 3].
    columns: the heading of each column.
    truth: what the images should be, of the same shape, where it is known.
  """

  images: np.ndarray
  columns: tuple[str, ...]
  truth: np.ndarray | None = None


class Answers(NamedTuple):
  """What a classifier says of each example of a split, in the split's order.

  Attributes:
    classes: int32 [N], the class that each is taken for.
    probabilities: float32 [N], what the softmax gives that class.
  """

  classes: np.ndarray
  probabilities: np.ndarray


class Evaluation(NamedTuple):
  """What networks make of a split.

  Attributes:
    numbers: by name, as the log has them; 'loss' is among them.
    line: the same in words, for a terminal.
    pictures: further JSON values of the row in `results.json`.
    sheets: images by name, for the log, the workdir and the report.
    answers: of a classifier, whose labels are int [N]; None of other tasks.
  """

  numbers: dict[str, float]
  line: str
  pictures: dict[str, Any]
  sheets: Mapping[str, Sheet] = types.MappingProxyType({})
  answers: Answers | None = None

  @property
  def scores(self) -> dict[str, Any]:
    """What a row of the results has of it: all but the loss."""
    numbers = {k: v for k, v in self.numbers.items() if k != 'loss'}
    return numbers | self.pictures


class Selection(NamedTuple):
  """Attributes: a number of the evaluation; whether more of it is better."""

  key: str
  largest: bool = True


class Task(Protocol):
  """How a family of networks is trained and judged.

  A class that inherits from it has what is said here to be so by default.

  Attributes:
    columns: the table's columns of its own.
    selects: the number that `select=best` goes by.
    output_loss: how its outputs are compared (`Objective.output_loss`).
    loss_name: what the 'loss' of an evaluation is, for the report.
    learners: names of the networks that learn; the student alone by default.
  """

  columns: tuple[Column, ...]
  selects: Selection
  output_loss: str
  loss_name: str = 'loss'
  learners: tuple[str, ...] = (STUDENT,)

  def network_options(self, dataset: Dataset) -> dict[str, Any]:
    """Options of every network that the data decide, such as 'classes'."""
    ...

  def check(self, dataset: Dataset, net: BlockNet) -> None:
    """Raises UserError where labels, or a network's output, do not suit it."""
    ...

  def fresh(self, student: BlockNet, key: jax.Array) -> Learners:
    """The networks that learn, before the first phase; 'student' is one."""
    ...

  def updates_every(self, learner: str, objective: Objective) -> int:
    """Steps from one update of a learner to the next; 1 by default.

    The learning rate is that of the step, however few of them update.
    """
    del learner, objective
    return 1

  def judge(self, dataset: Dataset) -> tuple['Task', Dataset] | None:
    """What trains a network to judge this task's; None by default.

    Returns:
      A task, and the data that it learns from.
    """
    del dataset
    return None

  def judged_by(self, judge: Reader, row: Mapping[str, Any]) -> Self:
    """The same task with that network as its judge, and what its row says."""
    del judge, row
    return self

  def begin(
    self,
    learners: Learners,
    teacher: Learners | None,
    objective: Objective,
    copy: tuple[str, ...],
  ) -> Learners:
    """The networks that learn in a phase, as it begins.

    A network that is left out stays as it is.

    Args:
      learners: all networks, as the phases before left them.
      teacher: the teacher's, of the same names; None without a teacher.
      objective: the phase's.
      copy: what is taken from the teacher: parts of the student, and other
        learners as a whole.

    Raises:
      UserError: the teacher does not have it.
    """
    ...

  def prepare(
    self,
    plan: Plan,
    objective: Objective,
    teacher: Variables | None,
    superbatch: Superbatch,
    step: jax.Array,
    key: jax.Array,
  ) -> Any:
    """What the steps of a call need, made for all C batches at once.

    Augmentation on the device and the frozen networks' outputs, which take no
    gradient (steps.augmented, steps.teacher_outputs).

    Args:
      plan: what the program is compiled for.
      objective: of one member, or of several stacked, which differ in traced
        values alone.
      teacher: the teacher's variables.
      superbatch: of one order: leaves [C, n, …].
      step: int32, the first batch's step.
      key: the phase's; step i draws from fold_in(key, i).

    Returns:
      A pytree of leaves [C, …].
    """
    ...

  def step(
    self,
    plan: Plan,
    state: TrainState,
    step: jax.Array,
    objective: Objective,
    batch: Any,
  ) -> tuple[TrainState, Metrics]:
    """One batch of one member.

    Args:
      plan: what the program is compiled for.
      state: without an axis of members; the engine counts its `step`.
      step: int32, the same, but never mapped over members, so that a condition
        on it stays one.
      objective: the member's.
      batch: one of what `prepare` returned.

    Returns:
      The state after it (steps.update), and scalars by name, 'loss' among
      them, each a mean over the devices. One that is NaN was not computed in
      this step, and does not count in the log's means; 'loss' always is.
    """
    ...

  def evaluator(
    self, student: BlockNet, preprocess: Preprocess, split: Split
  ) -> Callable[[Learners], Evaluation]:
    """A function of the learners that evaluates them on a split."""
    ...
