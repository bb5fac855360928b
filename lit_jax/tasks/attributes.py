"""Attributes: a network that tells which of several hold of an image.

One learner; each attribute is a binary class of its own, and any number of
them may hold. It judges translations (translate.py), and can be a task itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from lit_jax import blocks
from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError
from lit_jax.report import Column
from lit_jax.tasks.one_network import OneNetwork
from lit_jax.training import evaluation
from lit_jax.training.state import STUDENT, Learners
from lit_jax.training.task import Evaluation, Selection


@dataclasses.dataclass(frozen=True)
class Attributes(OneNetwork):
  """The task of telling attributes; see `training.task.Task`.

  Attributes:
    attributes: their names; labels are [n, c] of 0 and 1.
  """

  attributes: tuple[str, ...]

  output_loss = 'l2'
  loss_name = 'binary cross-entropy'
  columns = (
    Column('accuracy', 'Acc. %', 'percent', label='accuracy'),
    Column(
      'exact', 'Exact %', 'percent', narrow='exact', below=True,
      note='Exact: all attributes of an image are right.',
    ),
  )  # fmt: skip
  selects = Selection('accuracy')

  @classmethod
  def of(cls, dataset: Dataset) -> 'Attributes':
    return cls(dataset.class_names)

  def network_options(self, dataset: Dataset) -> dict[str, Any]:
    shape = dataset.splits['train'].inputs.shape[1:]
    return {'classes': len(self.attributes), 'input_shape': list(shape)}

  def check(self, dataset: Dataset, net: BlockNet) -> None:
    count = len(self.attributes)
    output = blocks.cut_shapes(net)['head']
    if output != (count,):
      raise UserError(
        f"a network's output has the shape {output}, and {dataset.name} has "
        f'{count} attributes; make the two agree'
      )
    for name, split in dataset.splits.items():
      labels = np.asarray(split.labels[:])
      if labels.shape[1:] != (count,) or not np.isin(labels, (0, 1)).all():
        raise UserError(
          f'{dataset.name}, split {name}: labels are {labels.shape}; give '
          f'{count} of 0 and 1 for each image'
        )

  def hard_term(self, labels):
    return lambda logits: (_cross_entropy(logits, labels).mean(), {})

  def evaluator(
    self, student: BlockNet, preprocess: Preprocess, split: Split
  ) -> Callable[[Learners], Evaluation]:
    sums_of = evaluation.summed(evaluation_program(student, preprocess), split)

    def evaluate(learners: Learners) -> Evaluation:
      sums = sums_of(learners[STUDENT])
      means = {
        name: float(sums[name] / sums['examples'])
        for name in ('loss', 'accuracy', 'exact')
      }
      line = (
        f'loss {means["loss"]:.4f} accuracy {100 * means["accuracy"]:.2f} % '
        f'exact {100 * means["exact"]:.2f} %'
      )
      return Evaluation(means, line, {})

    return evaluate


def _cross_entropy(logits, labels):
  """Binary, summed over the attributes: [n, c] → [n] float32."""
  labels = labels.astype(jnp.float32)
  return optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)


def evaluation_program(
  net: BlockNet, preprocess: Preprocess
) -> evaluation.Program:
  """The pure program (variables, inputs, labels, valid) → sums.

  `valid` is float32 [n], 0 for padding. Returns float32 sums over the valid
  examples: 'loss', 'accuracy' (the part of its attributes that is right),
  'exact' (all of them are), and 'examples', their number.
  """

  def program(variables, inputs, labels, valid):
    logits, _ = net.apply(variables, preprocess.normalize(inputs))
    right = (logits > 0) == (labels > 0)
    each = {
      'loss': _cross_entropy(logits, labels),
      'accuracy': right.mean(-1),
      'exact': right.all(-1),
      'examples': jnp.ones_like(valid),
    }
    return {name: (value * valid).sum() for name, value in each.items()}

  return program
