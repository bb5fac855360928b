"""Variables and inputs of a whole network, drawn as after training."""

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax import blocks


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
