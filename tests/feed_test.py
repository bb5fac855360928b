"""The order in which examples come, on images that hold their own index."""

import itertools

import numpy as np
import pytest

from lit_jax.data.dataset import Split
from lit_jax.data.feed import Feed

# 23 examples in batches of 4: 5 steps an epoch, and 3 examples left over.
COUNT, BATCH, STEPS = 23, 4, 5


@pytest.fixture
def make_feed():
  feeds = []
  indices = np.arange(COUNT)
  images = np.tile(indices.astype(np.uint8)[:, None, None, None], (1, 2, 2, 3))
  split = Split(images, (indices * 7 % 10).astype(np.int32))

  def make(steps_per_call=2, seed=0):
    seeds = seed if isinstance(seed, tuple) else (seed,)
    feeds.append(Feed(split, BATCH, steps_per_call, seeds))
    return feeds[-1]

  yield make
  for feed in feeds:
    feed.close()


def batches(feed, steps, step=0):
  """Examples by step, following each superbatch's count: [steps, BATCH]."""
  rows = []
  while len(rows) < steps:
    superbatch = feed.superbatch(step + len(rows))
    rows.extend(superbatch.inputs[0, : superbatch.count, :, 0, 0, 0])
  return np.array(rows[:steps])


def test_superbatches(make_feed):
  feed = make_feed()
  assert feed.steps_per_epoch == STEPS
  found = feed.superbatch(0)
  assert found.inputs.shape == (1, 2, BATCH, 2, 2, 3)
  assert found.inputs.dtype == np.uint8
  assert found.labels.shape == (1, 2, BATCH)
  assert found.labels.dtype == found.count.dtype == np.int32
  # All pixels of one example, and its label.
  index = found.inputs[..., 0, 0, 0]
  assert (found.inputs == index[..., None, None, None]).all()
  np.testing.assert_array_equal(found.labels, index.astype(int) * 7 % 10)


def test_each_example_at_most_once_an_epoch(make_feed):
  found = batches(make_feed(), 3 * STEPS).reshape(3, STEPS * BATCH)
  for epoch in found:
    # 20 of the 23: the last part batch is dropped.
    assert len(set(epoch)) == STEPS * BATCH
  # Another three are left out each time.
  left_out = [frozenset(range(COUNT)) - set(epoch) for epoch in found]
  assert len(set(left_out)) > 1


def test_order_depends_on_seed_and_epoch(make_feed):
  first = batches(make_feed(seed=1), 2 * STEPS)
  np.testing.assert_array_equal(batches(make_feed(seed=1), 2 * STEPS), first)
  other = batches(make_feed(seed=2), 2 * STEPS)
  assert (other[:STEPS] != first[:STEPS]).any()
  assert (first[STEPS:] != first[:STEPS]).any()
  # Seed 1's second epoch is not seed 2's first, as it is if both are added.
  assert (other[:STEPS] != first[STEPS:]).any()
  assert (np.diff(first.reshape(-1).astype(int)) != 1).any()


@pytest.mark.parametrize('steps_per_call', [1, 3, 5, 8])
def test_order_does_not_depend_on_steps_per_call(make_feed, steps_per_call):
  np.testing.assert_array_equal(
    batches(make_feed(steps_per_call), 12), batches(make_feed(2), 12)
  )


def test_any_step_goes_on_as_uninterrupted(make_feed):
  whole = batches(make_feed(), 2 * STEPS)
  for step in range(2 * STEPS):
    resumed = batches(make_feed(), 2 * STEPS - step, step)
    np.testing.assert_array_equal(resumed, whole[step:])


def test_a_feed_can_jump(make_feed):
  # What was prepared ahead is of another step than the one asked for.
  feed, whole = make_feed(), batches(make_feed(), 2 * STEPS)
  for step in (0, 7, 2, 2, 4):
    superbatch = feed.superbatch(step)
    found = superbatch.inputs[0, : superbatch.count, :, 0, 0, 0]
    np.testing.assert_array_equal(found, whole[step : step + len(found)])


@pytest.mark.parametrize(
  ('steps_per_call', 'counts'),
  [
    (2, [2, 2, 1, 2, 2, 1]),
    (5, [5, 5]),
    # More than an epoch has: a call never goes over its end.
    (8, [5, 5]),
    (10**6, [5, 5]),
  ],
)
def test_counts_at_the_end_of_an_epoch(make_feed, steps_per_call, counts):
  feed, step, found = make_feed(steps_per_call), 0, []
  for _ in counts:
    superbatch = feed.superbatch(step)
    # One shape always, for it is what the program is compiled for.
    slots = min(steps_per_call, STEPS)
    assert superbatch.inputs.shape[1] == slots
    assert superbatch.labels.shape[1] == slots
    found.append(int(superbatch.count))
    step += found[-1]
  assert found == counts
  assert list(itertools.accumulate(found))[-1] == 2 * STEPS


def test_close_ends_the_thread(make_feed):
  feed = make_feed()
  feed.superbatch(0)
  feed.close()
  with pytest.raises(RuntimeError):
    feed.superbatch(2)


def test_several_orders_are_those_of_each_seed(make_feed):
  both, singles = make_feed(seed=(5, 6)), [make_feed(seed=s) for s in (5, 6)]
  for step in (0, 2, 4):
    found = both.superbatch(step)
    for order, single in enumerate(singles):
      wanted = single.superbatch(step)
      np.testing.assert_array_equal(found.inputs[order], wanted.inputs[0])
      np.testing.assert_array_equal(found.labels[order], wanted.labels[0])
      assert found.count == wanted.count


def test_any_pytree_of_examples():
  index = np.arange(10)
  split = Split({'image': index.astype(np.uint8), 'label': index * 2.0}, None)
  feed = Feed(split, 4, 2, [0])
  found = feed.superbatch(0)
  feed.close()
  assert split.examples == 10
  assert found.labels is None
  np.testing.assert_array_equal(
    found.inputs['image'] * 2.0, found.inputs['label']
  )
  assert found.inputs['label'].shape == (1, 2, 4)
