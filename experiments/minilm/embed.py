"""Embedding texts: a task without labels, judged by retrieval.

Each text of the test split is one half of a longer one. The first halves ask
for their second halves, by the cosine of the embeddings, among all of these.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp

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

# That of the loss in the logs, as MiniLM was trained (a scale of 20).
_TEMPERATURE = 0.05


@dataclasses.dataclass(frozen=True)
class Embed(OneNetwork):
  """The task of embedding texts; see `training.task.Task`.

  Labels are int32 [n], the number of the text that one is a half of; training
  does not read them.
  """

  columns = (
    Column('first', 'First %', 'percent', label='found first'),
    Column(
      'reciprocal_rank', 'MRR', 'number', below=True,
      note='First: of the test texts whose first half finds its second half '
      'before all others; MRR: the mean of one over its rank.',
    ),
  )  # fmt: skip
  selects = Selection('first')
  output_loss = 'l2'
  loss_name = 'contrastive loss'

  def network_options(self, dataset: Dataset) -> dict[str, Any]:
    return {}

  def check(self, dataset: Dataset, net: BlockNet) -> None:
    output = blocks.cut_shapes(net)['head']
    if len(output) != 1:
      raise UserError(f'an embedding is a vector, and not of shape {output}')
    for name, (_, labels) in dataset.splits.items():
      if (np.unique(labels, return_counts=True)[1] != 2).any():
        raise UserError(
          f'{dataset.name}, split {name}: give two halves of each text'
        )

  def evaluator(
    self, student: BlockNet, preprocess: Preprocess, split: Split
  ) -> Callable[[Learners], Evaluation]:
    # Of each text the first half, and then the second.
    order = np.argsort(split.labels, kind='stable')

    def program(variables, inputs, labels):
      del labels
      return blocks.infer(student, variables, preprocess.normalize(inputs))[0]

    embeddings = evaluation.outputs(program)

    def evaluate(learners: Learners) -> Evaluation:
      found = np.concatenate(list(embeddings(split, learners[STUDENT])))[order]
      return of_similarities(found[::2] @ found[1::2].T)

    return evaluate


def of_similarities(cosines: np.ndarray) -> Evaluation:
  """An evaluation of a matrix of cosines [n, n], whose diagonal is right."""
  right = np.diagonal(cosines)
  # Of equal ones the right one counts as the last.
  ranks = (cosines >= right[:, None]).sum(1)
  totals = np.asarray(logsumexp(cosines / _TEMPERATURE, 1))
  numbers = {
    'loss': float((totals - right / _TEMPERATURE).mean()),
    'first': float((ranks == 1).mean()),
    'reciprocal_rank': float((1 / ranks).mean()),
  }
  line = (
    f'loss {numbers["loss"]:.4f} found first {100 * numbers["first"]:.2f} %'
  )
  return Evaluation(numbers, line, {})
