"""Classification: LIT and its baselines on class logits.

One learner, the student, learns by `lit_loss`; accuracy on held-out examples
judges it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lit_jax import blocks, losses
from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError
from lit_jax.report import Column
from lit_jax.scores.accuracy import accuracies
from lit_jax.tasks.one_network import OneNetwork
from lit_jax.training import evaluation
from lit_jax.training.state import STUDENT, Learners
from lit_jax.training.task import Evaluation, Selection

# Of many classes a confusion matrix is a page of zeros.
_CONFUSION_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Classify(OneNetwork):
  """The task of telling classes apart; see `training.task.Task`.

  Attributes:
    classes: how many; labels are int32 [n] of 0 to classes - 1.
  """

  classes: int

  columns = (
    Column(
      'accuracy', 'Acc. %', 'percent', narrow='Acc.\n%', label='accuracy'
    ),
    Column(
      'balanced_accuracy', 'Balanced %', 'percent',
      unless_equal='accuracy', narrow='balanced', below=True,
    ),
    Column(
      'accuracy', 'vs teacher', 'percent',
      against='difference', narrow='vs\nteacher',
      note='The difference to the teacher is in percentage points.',
    ),
  )  # fmt: skip
  selects = Selection('accuracy')
  output_loss = 'kd'

  @classmethod
  def of(cls, dataset: Dataset) -> 'Classify':
    return cls(dataset.classes)

  def network_options(self, dataset: Dataset) -> dict[str, Any]:
    shape = dataset.splits['train'].inputs.shape[1:]
    return {'classes': self.classes, 'input_shape': list(shape)}

  def check(self, dataset: Dataset, net: BlockNet) -> None:
    output = blocks.cut_shapes(net)['head']
    if output != (self.classes,):
      raise UserError(
        f"a network's output has the shape {output}, and {dataset.name} has "
        f'{self.classes} classes; make the two agree'
      )
    for name, (_, labels) in dataset.splits.items():
      kind = getattr(labels, 'dtype', type(labels))
      if not np.issubdtype(kind, np.integer) or labels.ndim != 1:
        raise UserError(
          f'{dataset.name}, split {name}: labels are {kind} '
          f'{np.shape(labels)}; give one integer for each input'
        )
      if labels.min() < 0 or labels.max() >= self.classes:
        raise UserError(
          f'{dataset.name}, split {name}: labels from {labels.min()} to '
          f'{labels.max()}; they must lie in 0 to {self.classes - 1}'
        )

  def evaluator(
    self, student: BlockNet, preprocess: Preprocess, split: Split
  ) -> Callable[[Learners], Evaluation]:
    sums_of = evaluation.summed(evaluation_program(student, preprocess), split)

    def evaluate(learners: Learners) -> Evaluation:
      sums = sums_of(learners[STUDENT])
      loss = float(sums['loss'] / sums['examples'])
      return of_confusion(loss, sums['confusion'].astype(np.int64))

    return evaluate


def of_confusion(loss: float, confusion: np.ndarray) -> Evaluation:
  """An evaluation from the mean loss and a confusion matrix [label, class]."""
  numbers = {'loss': loss} | accuracies(confusion)
  line = f'loss {loss:.4f} accuracy {100 * numbers["accuracy"]:.2f} %'
  few = len(confusion) <= _CONFUSION_CLASSES
  return Evaluation(
    numbers, line, {'confusion': confusion.tolist() if few else None}
  )


def evaluation_program(
  net: BlockNet, preprocess: Preprocess
) -> evaluation.Program:
  """The pure program (variables, inputs, labels, valid) → sums.

  `valid` is float32 [n], 0 for padding. Returns float32 sums over the valid
  examples: 'loss', the cross-entropy; 'confusion' [classes, classes], how many
  of each label (row) were taken for each class (column); and 'examples', their
  number.
  """

  def program(variables, inputs, labels, valid):
    logits, _ = net.apply(variables, preprocess.normalize(inputs))
    classes = logits.shape[-1]
    found = jax.nn.one_hot(logits.argmax(-1), classes) * valid[:, None]
    return {
      'loss': (losses.cross_entropy(logits, labels) * valid).sum(),
      'confusion': jax.nn.one_hot(labels, classes).T @ found,
      'examples': valid.sum(),
    }

  return program
