"""Classification: LIT and its baselines on class logits.

One learner, the student, learns by `lit_loss`; accuracy on held-out examples
judges it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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
from lit_jax.training.task import Answers, Evaluation, Selection

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
  loss_name = 'cross-entropy'

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
    answers = evaluation.outputs(answers_program(student, preprocess))

    def evaluate(learners: Learners) -> Evaluation:
      parts = list(answers(split, learners[STUDENT]))
      loss, classes, probabilities = (
        np.concatenate([part[name] for part in parts])
        for name in ('loss', 'class', 'probability')
      )
      confusion = np.zeros((self.classes, self.classes), np.int64)
      np.add.at(confusion, (np.asarray(split.labels[:]), classes), 1)
      made = of_confusion(float(loss.mean(dtype=np.float64)), confusion)
      return made._replace(answers=Answers(classes, probabilities))

    return evaluate


def of_confusion(loss: float, confusion: np.ndarray) -> Evaluation:
  """An evaluation from the mean loss and a confusion matrix [label, class]."""
  numbers = {'loss': loss} | accuracies(confusion)
  line = f'loss {loss:.4f} accuracy {100 * numbers["accuracy"]:.2f} %'
  few = len(confusion) <= _CONFUSION_CLASSES
  return Evaluation(
    numbers, line, {'confusion': confusion.tolist() if few else None}
  )


def answers_program(
  net: BlockNet, preprocess: Preprocess
) -> Callable[..., dict[str, jax.Array]]:
  """The pure program (variables, inputs, labels) → numbers of each example.

  Returns, each [n]: 'loss', the cross-entropy, float32; 'class', int32, the
  class that it is taken for; and 'probability', float32, what the softmax gives
  that class.
  """

  def program(variables, inputs, labels):
    logits, _ = net.apply(variables, preprocess.normalize(inputs))
    return {
      'loss': losses.cross_entropy(logits, labels),
      'class': logits.argmax(-1).astype(jnp.int32),
      'probability': jax.nn.softmax(logits.astype(jnp.float32)).max(-1),
    }

  return program
