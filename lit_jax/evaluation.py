"""A network's loss, accuracy and IR errors over a whole split.

Every example counts exactly once: the last batch is padded, and the padding
weighs nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lit_jax import parallel, steps
from lit_jax.blocks import BlockNet
from lit_jax.data.augment import Preprocess
from lit_jax.data.sources import Split

Variables = dict[str, Any]
# Large enough to be fast, small enough for any device's memory.
_BATCH_PER_DEVICE = 250


def evaluator(
  net: BlockNet, preprocess: Preprocess, split: Split
) -> Callable[[Variables], dict[str, float]]:
  """A function of variables that returns 'loss' and 'accuracy' (0 to 1)."""
  program = parallel.map_evaluation(
    steps.evaluation_program(net, preprocess, parallel.AXIS), 3, 4
  )

  def evaluate(variables: Variables) -> dict[str, float]:
    sums = _total(
      program(variables, *batch) for batch in _batches(split, labels=True)
    )
    return {
      'loss': float(sums['loss'] / sums['examples']),
      'accuracy': float(sums['correct'] / sums['examples']),
    }

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
  program = parallel.map_evaluation(
    steps.ir_error_program(teacher, student, preprocess, parallel.AXIS), 2, 4
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
    columns = [split.images[rows]]
    if labels:
      columns.append(split.labels[rows])
    yield tuple(parallel.shard(x) for x in (*columns, valid))


def _total(parts) -> dict[str, np.ndarray]:
  # float64 on the host: float32 sums of a large split lose digits.
  rows = [
    {name: np.asarray(value, np.float64) for name, value in part.items()}
    for part in parts
  ]
  return {name: np.sum([row[name] for row in rows], 0) for name in rows[0]}
