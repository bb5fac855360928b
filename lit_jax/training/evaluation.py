"""A network's loss, accuracies and IR errors over a whole split.

Every example counts exactly once: the last batch is padded, and the padding
weighs nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Split
from lit_jax.data.preprocess import Preprocess
from lit_jax.training import devices, steps

Variables = dict[str, Any]
# Large enough to be fast, small enough for any device's memory.
_BATCH_PER_DEVICE = 250


class Evaluation(NamedTuple):
  """What a network makes of a split.

  Attributes:
    loss: mean cross-entropy.
    accuracy: part of the examples that are classified rightly, 0 to 1.
    balanced_accuracy: mean of that part within each class that occurs.
    confusion: int64 [classes, classes], how many examples of each label (row)
      were taken for each class (column).
  """

  loss: float
  accuracy: float
  balanced_accuracy: float
  confusion: np.ndarray

  @property
  def numbers(self) -> dict[str, float]:
    """All but the matrix, by name."""
    return {name: getattr(self, name) for name in self._fields[:3]}


def of_confusion(loss: float, confusion: np.ndarray) -> Evaluation:
  """The accuracies that a confusion matrix tells of."""
  right, of_label = np.diag(confusion), confusion.sum(1)
  occurs = of_label > 0
  return Evaluation(
    loss,
    float(right.sum() / confusion.sum()),
    float((right[occurs] / of_label[occurs]).mean()),
    confusion,
  )


def evaluator(
  net: BlockNet, preprocess: Preprocess, split: Split
) -> Callable[[Variables], Evaluation]:
  """A function of variables that evaluates them on the split."""
  program = devices.map_evaluation(
    steps.evaluation_program(net, preprocess, devices.AXIS), 3, 4
  )

  def evaluate(variables: Variables) -> Evaluation:
    sums = _total(
      program(variables, *batch) for batch in _batches(split, labels=True)
    )
    return of_confusion(
      float(sums['loss'] / sums['examples']),
      sums['confusion'].astype(np.int64),
    )

  return evaluate


def ir_errors(
  teacher: BlockNet,
  teacher_variables: Variables,
  student: BlockNet,
  variables: Variables,
  preprocess: Preprocess,
  split: Split,
) -> dict[str, dict[str, float]]:
  """The student's error at every cut, relative to the teacher's variance.

  Returns:
    For every block 'teacher_input' (fed with the teacher's previous IR) and
    'own_input' (with the student's own): mean squared difference to the
    teacher's IR, divided by that IR's variance over examples and elements. 0
    is the teacher's own block, 1 is a constant.
  """
  program = devices.map_evaluation(
    steps.ir_error_program(teacher, student, preprocess, devices.AXIS), 2, 4
  )
  sums = _total(
    program(teacher_variables, variables, *batch)
    for batch in _batches(split, labels=False)
  )
  means = {name: value / sums['examples'] for name, value in sums.items()}
  variance = means['square'] - means['sum'] ** 2
  return {
    name: {
      kind: float(means[kind][i] / variance[i])
      for kind in ('teacher_input', 'own_input')
    }
    for i, name in enumerate(student.block_names)
  }


def _batches(split: Split, labels: bool) -> Iterator[tuple[np.ndarray, ...]]:
  size = _BATCH_PER_DEVICE * jax.local_device_count()
  count = len(split.labels)
  for start in range(0, count, size):
    rows = np.arange(start, start + size)
    valid = (rows < count).astype(np.float32)
    rows = np.minimum(rows, count - 1)
    columns = [split.inputs[rows]]
    if labels:
      columns.append(split.labels[rows])
    yield tuple(devices.shard(x) for x in (*columns, valid))


def _total(parts) -> dict[str, np.ndarray]:
  # float64 on the host: float32 sums of a large split lose digits.
  rows = [
    {name: np.asarray(value, np.float64) for name, value in part.items()}
    for part in parts
  ]
  return {name: np.sum([row[name] for row in rows], 0) for name in rows[0]}
