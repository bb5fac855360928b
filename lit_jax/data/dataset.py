"""Data sets as arrays: splits, what training needs to know, held-out parts."""

import dataclasses
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError


class Split(NamedTuple):
  """One part of a data set: pytrees of arrays [N, …], in memory or mapped.

  Attributes:
    inputs: uint8 images [N, H, W, C] of 0 to 255, uint8 texts [N, length] of
      character ids, or whatever else the networks read.
    labels: int32 [N] of 0 to classes - 1, whatever else the task learns from,
      or None.
  """

  inputs: Any
  labels: Any

  @property
  def examples(self) -> int:
    """N."""
    return len(jax.tree.leaves(self)[0])

  def take(self, rows: np.ndarray) -> 'Split':
    """The examples of these indices, of any shape: leaves [*rows.shape, …]."""
    return jax.tree.map(lambda array: array[rows], self)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set, with what training needs to know of it.

  Attributes:
    name: in messages and tables.
    splits: 'train' and 'test', and 'validation' after hold_out.
    classes: how many classes the labels tell apart; 0 where they are none.
    preprocess: what happens to a batch before a network sees it.
    class_names: of each label; () where they are their numbers.
    content: a hash of what the examples were made from; '' where it is not
      known.
  """

  name: str
  splits: dict[str, Split]
  classes: int
  preprocess: Preprocess
  class_names: tuple[str, ...] = ()
  content: str = ''


class Rows:
  """Some rows of an array, read from it when asked for.

  Of a memory-mapped array nothing is copied into memory before.
  """

  def __init__(self, array: np.ndarray, rows: np.ndarray):
    """`rows` are indices into `array`, whose order is kept."""
    self._array, self._rows = array, rows
    self.dtype = array.dtype
    self.shape = (len(rows), *array.shape[1:])

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, rows) -> np.ndarray:
    return self._array[self._rows[rows]]


def home(data_dir: str = '') -> str:
  """The folder of data: data_dir, else $LIT_JAX_DATA, else ~/.cache/lit_jax."""
  return os.path.expanduser(
    data_dir or os.environ.get('LIT_JAX_DATA') or '~/.cache/lit_jax'
  )


def hold_out(dataset: Dataset, size: int = 5000, seed: int = 0) -> Dataset:
  """Moves some train examples to a new 'validation' split.

  The same seed picks the same examples everywhere, and both parts keep the
  order that the examples had.

  Args:
    dataset: a data set without a 'validation' split.
    size: how many train examples to move.
    seed: which ones, 0 to 2**32 - 1.

  Returns:
    The data set with 'train' [N - size], 'validation' [size] and all its other
    splits unchanged; of what is memory-mapped both are views, else copies.

  Raises:
    UserError: size is below 1 or leaves no train example, or the seed is out
      of range.
    ValueError: there is a 'validation' split already.
  """
  if 'validation' in dataset.splits:
    raise ValueError(f'{dataset.name} has a validation split already')
  train = dataset.splits['train']
  count = train.examples
  if not 1 <= size < count:
    raise UserError(
      f'validation size {size} for {dataset.name}: the train split has '
      f'{count} examples; choose 1 to {count - 1}'
    )
  if not 0 <= seed < 2**32:
    raise UserError(
      f'validation seed {seed} for {dataset.name}: choose 0 to {2**32 - 1}'
    )
  # RandomState because numpy promises its stream never changes; a Generator's
  # may, and a new numpy would then leak validation examples into training.
  order = np.random.RandomState(seed).permutation(count)
  parts = {
    'train': _take(train, np.sort(order[size:])),
    'validation': _take(train, np.sort(order[:size])),
  }
  return dataclasses.replace(dataset, splits={**dataset.splits, **parts})


def _take(split: Split, rows: np.ndarray) -> Split:
  def part(array):
    return Rows(array, rows) if isinstance(array, np.memmap) else array[rows]

  return jax.tree.map(part, split)
