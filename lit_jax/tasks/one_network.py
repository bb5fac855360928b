"""What tasks have in common in which the student alone learns."""

from collections.abc import Callable
from typing import Any

import jax

from lit_jax import blocks
from lit_jax.blocks import BlockNet
from lit_jax.objectives import lit_loss
from lit_jax.training import steps
from lit_jax.training.state import STUDENT, Learners, copy_parts
from lit_jax.training.task import Task


class OneNetwork(Task):
  """A task whose step is `lit_loss` of the student.

  What data suit it, and how a network is judged, is left to the task.
  """

  def hard_term(
    self, labels: Any
  ) -> Callable[[Any], tuple[Any, dict[str, Any]]] | None:
    """As `lit_loss` takes it; None for that of `output_loss`."""
    del labels
    return None

  def fresh(self, student: BlockNet, key: jax.Array) -> Learners:
    return {STUDENT: blocks.init(student, key)}

  def begin(self, learners, teacher, objective, copy) -> Learners:
    del objective
    source = teacher[STUDENT] if teacher else {}
    return {STUDENT: copy_parts(source, learners[STUDENT], copy)}

  def prepare(self, plan, objective, teacher, superbatch, step, key):
    inputs = steps.augmented(plan, superbatch.inputs, step, key)
    targets = steps.teacher_outputs(plan, objective, teacher, inputs)
    return inputs, superbatch.labels, targets

  def step(self, plan, state, step, objective, batch):
    inputs, labels, targets = batch
    x = plan.preprocess.normalize(inputs)
    statistics = state.student.batch_stats

    def loss(params):
      variables = {'params': params, 'batch_stats': statistics}
      return lit_loss(
        objective, plan.student, variables, x, labels, targets, plan.learning,
        self.hard_term(labels), teacher_share=plan.teacher_share(step),
      )  # fmt: skip

    return steps.update(plan, state, loss)
