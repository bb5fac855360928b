"""Variables, inputs and data sets, drawn; and times that were not taken."""

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax import blocks
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.training import state


def trained(variables):
  """The variables with norms as after training: no factor is 1, no sum 0."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name, normal = path[-1].key, rng.normal(size=leaf.shape)
    if name in ('scale', 'var'):
      return jnp.asarray(0.5 + abs(normal), leaf.dtype)
    if name in ('bias', 'mean'):
      return jnp.asarray(0.3 * normal, leaf.dtype)
    return leaf

  return jax.tree_util.tree_map_with_path(draw, variables)


def inputs(net, count=3):
  """So many examples that the network reads."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: jnp.asarray(
      rng.normal(size=leaf.shape)
      if leaf.dtype == jnp.float32
      else rng.integers(0, 60, leaf.shape),
      leaf.dtype,
    ),
    blocks.example(net, count),
  )


def noise(train, test):
  """Images of noise of ten classes, so many in each split."""
  splits = {'train': noise_split(train, 0), 'test': noise_split(test, 1)}
  preprocess = ImagePreprocess((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
  return Dataset('noise', splits, 10, preprocess)


def noise_split(count, seed):
  """So many images of 8x8x3 pixels with labels 0 to 9."""
  rng = np.random.default_rng(seed)
  return Split(
    rng.integers(0, 256, (count, 8, 8, 3), np.uint8),
    rng.integers(0, 10, count, np.int32),
  )


def untimed(found, precision):
  """Stands in for `rows.timed`: the same times for every network, at once."""
  del precision
  times = {'1': 0.25, '128': 32.0}
  quartiles = {batch: [time, time] for batch, time in times.items()}
  return [
    {**own.row, 'latency_ms': times, 'latency_quartiles_ms': quartiles}
    for own in found
  ]


def train_state(step):
  """A state after so many steps, of numbers that no codec makes shorter."""
  draw = np.random.default_rng(step).normal(size=(1, 40, 50))
  own = state.Learner(
    {'head': {'kernel': draw.astype(np.float32)}},
    {'head': {'mean': np.full((1, 3), step, np.float32)}},
    {'momentum': -draw.astype(np.float32)},
    None,
  )
  count = np.full((1,), step, np.int32)
  return state.TrainState(count, {'student': own}, np.zeros((1,), np.int32))
