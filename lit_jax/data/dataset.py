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
      character ids, or whatever else the networks read. Images to translate
      are {'image': uint8 [N, s, s, 3], 'label': uint8 [N, classes]}, with 1
      for each attribute that the image has.
    labels: int32 [N] of 0 to classes - 1, whatever else the task learns from,
      or None. Beside images to translate it is int32 [N], who is seen, or None
      where that is not known.
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
    splits: 'train' and 'test', and 'validation' after hold_out; without 'test'
      after without_test.
    classes: how many classes the labels tell apart, or how many attributes
      images to translate have; 0 where they are none.
    preprocess: what happens to a batch before a network sees it.
    class_names: of each label, or attribute; () where they are their numbers.
    content: a hash of what the examples were made from; '' where it is not
      known.
    exclusive: groups of attributes, by their numbers, of which at most one
      holds at a time, such as colours of hair; each other one changes on its
      own.
    identities: the labels say who is seen. Two examples of one identity then
      differ in their attributes alone: each is what a translation of the other
      should give.
  """

  name: str
  splits: dict[str, Split]
  classes: int
  preprocess: Preprocess
  class_names: tuple[str, ...] = ()
  content: str = ''
  exclusive: tuple[tuple[int, ...], ...] = ()
  identities: bool = False

  @property
  def scored(self) -> str:
    """The split on which rows are scored: 'test', or else 'validation'."""
    return 'test' if 'test' in self.splits else 'validation'


class Rows:
  """Some rows of an array, read from it when asked for.

  Of a memory-mapped array nothing is copied into memory before.
  """

  def __init__(self, array: 'np.ndarray | Rows', rows: np.ndarray):
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
  order that the examples had. Where the data set has identities, these are
  moved with all their examples, one by one until there are enough: nobody is
  seen in both parts.

  Args:
    dataset: a data set without a 'validation' split.
    size: how many train examples to move, or with identities, at least.
    seed: which ones, 0 to 2**32 - 1.

  Returns:
    The data set with 'train' [N - size], 'validation' [size] (or more, with
    identities) and all its other splits unchanged; of what is memory-mapped
    both are views, else copies.

  Raises:
    UserError: size is below 1 or leaves no train example or identity, or the
      seed is out of range.
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
  random = np.random.RandomState(seed)
  if dataset.identities:
    held = _of_whole_identities(dataset, size, random)
  else:
    held = _drawn(random, count, size)
  kept = np.setdiff1d(np.arange(count), held, assume_unique=True)
  parts = {'train': _take(train, kept), 'validation': _take(train, held)}
  return dataclasses.replace(dataset, splits={**dataset.splits, **parts})


def without_test(dataset: Dataset) -> Dataset:
  """Drops the test split, so that nothing can be chosen by it.

  Args:
    dataset: any.

  Raises:
    UserError: no 'validation' split is there to be scored in its place.
  """
  if 'validation' not in dataset.splits:
    raise UserError(
      f'{dataset.name} has no validation split to score on; hold training '
      'examples out, such as validation=5000'
    )
  splits = {name: s for name, s in dataset.splits.items() if name != 'test'}
  return dataclasses.replace(dataset, splits=splits)


def shorten(dataset: Dataset, size: int) -> Dataset:
  """Keeps some train examples alone, for a training that must be short.

  They are the same ones everywhere, in the order that they had.

  Args:
    dataset: any.
    size: how many; 0 keeps them all.

  Raises:
    UserError: there are fewer.
  """
  if not size:
    return dataset
  train = dataset.splits['train']
  if not 1 <= size <= train.examples:
    raise UserError(
      f'train_examples is {size}: {dataset.name} has {train.examples} to train '
      'on; 0 takes them all'
    )
  rows = _drawn(np.random.RandomState(0), train.examples, size)
  return dataclasses.replace(
    dataset, splits={**dataset.splits, 'train': _take(train, rows)}
  )


def repeat(dataset: Dataset, times: int) -> Dataset:
  """Lets an epoch show every train example so many times.

  Of a small data set an epoch is so short that what ends it, an evaluation and
  a checkpoint, takes longer.

  Args:
    dataset: any.
    times: 1 or more; 1 changes nothing.
  """
  if times == 1:
    return dataset
  train = dataset.splits['train']
  rows = np.tile(np.arange(train.examples), times)
  return dataclasses.replace(
    dataset, splits={**dataset.splits, 'train': _take(train, rows)}
  )


def _drawn(random, count, size) -> np.ndarray:
  """So many of `count` rows, rising."""
  return np.sort(random.permutation(count)[:size])


def _of_whole_identities(dataset, size, random) -> np.ndarray:
  """Rows of all examples of some identities, `size` or a few more, rising."""
  identities = dataset.splits['train'].labels
  found, sizes = np.unique(identities, return_counts=True)
  order = random.permutation(len(found))
  reached = np.cumsum(sizes[order])
  if len(found) < 2 or size > reached[-2]:
    most = f'choose 1 to {reached[-2]}' if len(found) > 1 else 'hold out none'
    raise UserError(
      f'validation size {size} for {dataset.name}: whole identities are held '
      f'out, and the train split has {len(found)}; {most}'
    )
  people = found[order[: np.searchsorted(reached, size) + 1]]
  return np.flatnonzero(np.isin(identities, people))


def _take(split: Split, rows: np.ndarray) -> Split:
  def part(array):
    lazy = isinstance(array, np.memmap | Rows)
    return Rows(array, rows) if lazy else array[rows]

  return jax.tree.map(part, split)
