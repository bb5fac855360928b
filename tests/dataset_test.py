"""Held-out examples, of arrays in memory and on disk."""

import numpy as np
import pytest

from lit_jax.data.dataset import Dataset, Rows, Split, hold_out
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError

PREPROCESS = ImagePreprocess((0.0,), (1.0,))
FIRST_HELD = [2, 3, 6, 7, 8, 13]


def numbered(count=100):
  """A data set whose images and labels tell which example each is."""
  labels = np.arange(count, dtype=np.int32)
  images = np.broadcast_to(
    labels.astype(np.uint8)[:, None, None, None], (count, 2, 2, 1)
  )
  split = Split(images, labels)
  splits = {'train': split, 'test': split}
  return Dataset('numbered', splits, 10, PREPROCESS)


def test_hold_out():
  before = numbered()
  after = hold_out(before, 30)
  train, held = after.splits['train'], after.splits['validation']
  assert (len(train.labels), len(held.labels)) == (70, 30)
  together = np.concatenate([train.labels, held.labels])
  np.testing.assert_array_equal(np.sort(together), before.splits['train'][1])
  for images, labels in (train, held):
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
  assert after.splits['test'] is before.splits['test']
  assert set(before.splits) == {'train', 'test'}  # left as it was
  assert (after.name, after.preprocess) == (before.name, before.preprocess)


def test_hold_out_is_fixed_by_its_seed():
  one, two, other = (
    hold_out(numbered(), 30, seed).splits['validation'].labels
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, two)
  assert set(one) != set(other)
  # As it was when first written: runs made since then rest on it.
  assert one[:6].tolist() == FIRST_HELD


def test_hold_out_default_size():
  labels = np.zeros(5001, np.int32)
  split = Split(np.zeros((5001, 1, 1, 1), np.uint8), labels)
  dataset = Dataset('x', {'train': split}, 10, PREPROCESS)
  splits = hold_out(dataset).splits
  assert [len(splits[s].labels) for s in ('train', 'validation')] == [1, 5000]


@pytest.mark.parametrize('size', [100, 5000, 0, -1])
def test_hold_out_bad_size(size):
  with pytest.raises(UserError, match=f'size {size} .*100 examples.*1 to 99'):
    hold_out(numbered(), size)


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_hold_out_bad_seed(seed):
  with pytest.raises(UserError, match=f'seed {seed} '):
    hold_out(numbered(), 30, seed)


def test_hold_out_twice():
  once = hold_out(numbered(), 30)
  with pytest.raises(ValueError, match='validation split already'):
    hold_out(once, 30)


def test_hold_out_of_a_memory_map_reads_rows_when_asked(tmp_path):
  path = tmp_path / 'rows'
  values = np.arange(120, dtype=np.uint8).reshape(40, 3)
  values.tofile(path)
  mapped = np.memmap(path, np.uint8, 'r', shape=values.shape)
  labels = np.arange(40, dtype=np.int32)
  splits = {'train': Split(mapped, labels)}
  held = hold_out(Dataset('x', splits, 40, PREPROCESS), 10).splits
  for inputs, own in (held['train'], held['validation']):
    assert isinstance(inputs, Rows)
    assert (inputs.dtype, inputs.shape) == (np.uint8, (len(own), 3))
    assert len(inputs) == len(own)
    np.testing.assert_array_equal(inputs[np.arange(len(own))], values[own])
    np.testing.assert_array_equal(inputs[[3, 1]], values[own[[3, 1]]])


def test_hold_out_of_rows_reads_them_when_asked(tmp_path):
  path = tmp_path / 'rows'
  np.arange(40, dtype=np.uint8).tofile(path)
  rows = Rows(
    np.memmap(path, np.uint8, 'r', shape=(40, 1)), np.arange(39, 9, -1)
  )
  inputs = {'image': rows, 'label': np.arange(30)}
  before = Dataset('x', {'train': Split(inputs, None)}, 1, PREPROCESS)
  for part in hold_out(before, 10).splits.values():
    assert part.labels is None and isinstance(part.inputs['image'], Rows)
    taken = part.take(np.arange(part.examples)).inputs
    np.testing.assert_array_equal(taken['image'][:, 0], 39 - taken['label'])


# People, of whom one has 1 example, one 2, and so on.


def peopled(count=8):
  people = np.repeat(np.arange(count), np.arange(1, count + 1))
  # Not one after another.
  people = np.random.RandomState(1).permutation(people).astype(np.int32)
  split = Split({'image': np.arange(len(people))}, people)
  splits = {'train': split, 'test': split}
  return Dataset('people', splits, 1, PREPROCESS, identities=True)


@pytest.mark.parametrize('size', range(1, 30))
def test_whole_people_are_held_out(size):
  before = peopled()
  after = hold_out(before, size).splits
  train, held = after['train'], after['validation']
  assert not set(train.labels) & set(held.labels)
  assert train.examples + held.examples == 36
  sizes = [np.sum(held.labels == person) for person in set(held.labels)]
  # The last person that was taken is what was still missing.
  assert held.examples >= size > held.examples - max(sizes)
  for part in (train, held):
    rows = part.inputs['image']
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(
      part.labels, before.splits['train'].labels[rows]
    )
  again = hold_out(before, size).splits['validation']
  np.testing.assert_array_equal(held.labels, again.labels)


def test_people_are_held_out_by_the_seed():
  found = {
    tuple(np.unique(hold_out(peopled(), 9, seed).splits['validation'].labels))
    for seed in range(9)
  }
  assert len(found) > 3


def test_too_many_people_to_hold_out():
  most = 36 - 1 - np.random.RandomState(0).permutation(8)[-1]
  assert hold_out(peopled(), most).splits['train'].examples == 36 - most
  with pytest.raises(UserError, match=f'has 8; choose 1 to {most}'):
    hold_out(peopled(), most + 1)
  one = Split(np.arange(3), np.zeros(3, np.int32))
  alone = Dataset('x', {'train': one}, 1, PREPROCESS, identities=True)
  with pytest.raises(UserError, match='has 1; hold out none'):
    hold_out(alone, 1)
