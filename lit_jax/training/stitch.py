"""The teacher with one block of a student's in place of its own.

What that costs of the teacher's score tells which block needs depth. Every
block is fed by the teacher there, as LIT trains it, so that no other block of
the student has a part in it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax.blocks import BlockNet, Train
from lit_jax.data.dataset import Split
from lit_jax.training import devices
from lit_jax.training.evaluation import Reader
from lit_jax.training.state import STUDENT, Variables
from lit_jax.training.task import Task

_NONE = -1


class _Stitched(BlockNet):
  """The teacher's parts, and a student whose block can stand in for one.

  Attributes:
    student: that student.
  """

  student: Any = None

  def setup(self):
    self.replaced = self.param('replaced', lambda key: jnp.int32(_NONE))

  def block(self, h: jax.Array, i: int, train: Train = False) -> jax.Array:
    # Both run, for that compiles as each of them alone does, and the student's
    # is the cheap one.
    own = super().block(h, i, train)
    other = self.student.block(h, i, train)
    return jnp.where(self.replaced == i, other.astype(own.dtype), own)


def stitched(teacher: BlockNet, student: BlockNet) -> BlockNet:
  """The teacher, of which the variables say whose block k is.

  Every task can evaluate it as it does any network, and compiles it once for
  all blocks.

  Args:
    teacher: whose stem, head and other blocks it has.
    student: fits the teacher (`check_pair`).
  """
  # A copy, for a module that is in both networks has variables in each.
  return _Stitched(
    teacher.stem, teacher.blocks, teacher.head, teacher.example, student.copy()
  )


def stitched_variables(
  teacher: Variables, student: Variables, replaced: int | None
) -> Variables:
  """The variables of `stitched`, on all devices.

  Args:
    teacher: the teacher's.
    student: the student's.
    replaced: the block that is the student's; None leaves the teacher whole.
  """
  found = {
    name: {**teacher.get(name, {}), STUDENT: student.get(name, {})}
    for name in teacher | student
  }
  index = np.int32(_NONE if replaced is None else replaced)
  found['params']['replaced'] = devices.replicate(index)
  return found


def evaluator(
  task: Task, teacher: Reader, student: BlockNet, split: Split
) -> Callable[[Variables], dict[str, dict[str, float]]]:
  """A function that tries each block of a student in the teacher.

  Args:
    task: whose selected number is the score.
    teacher: who feeds the blocks, and goes on from what they put out.
    student: its variables are what the function is called with.
    split: on which is scored.

  Returns:
    A function of the student's variables that gives for every block its
    'score', and what is 'lost' by it of the teacher's own: positive is worse,
    whether more or less of the score is better. It compiles one program.
  """
  net = stitched(teacher.net, student)
  evaluate = task.evaluator(net, teacher.preprocess, split)
  key, largest = task.selects
  sign = 1 if largest else -1

  def run(variables: Variables) -> dict[str, dict[str, float]]:
    def score(replaced):
      own = stitched_variables(teacher.variables, variables, replaced)
      return float(evaluate(teacher.learners | {STUDENT: own}).numbers[key])

    # By the same program, so that nothing is lost by rounding alone.
    whole = score(None)
    scores = {name: score(i) for i, name in enumerate(net.block_names)}
    return {
      name: {'score': own, 'lost': sign * (whole - own)}
      for name, own in scores.items()
    }

  return run
