"""Magnitude pruning: weights that are set to zero, and stay there.

Han et al. 2015, 'Learning both Weights and Connections for Efficient Neural
Networks': of a trained network the smallest weights are taken away, and those
that are left are trained again. What is pruned are kernels; biases, and the
scales and biases of norms, are left alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lit_jax.errors import choose, number
from lit_jax.networks.sparse import is_kernel

SCOPES = ('global', 'layer')


def check(sparsity: float, scope: str) -> None:
  """Raises UserError when a share or a scope does not exist."""
  number(
    'sparsity', sparsity, 'it must be at least 0 and less than 1',
    lambda share: 0 <= share < 1,
  )  # fmt: skip
  choose('prune_by', scope, SCOPES)


def prune(
  params: dict[str, Any],
  sparsity: float,
  scope: str = 'global',
  frozen: tuple[str, ...] = (),
) -> dict[str, Any]:
  """The parameters with the smallest weights of the kernels set to 0.

  Of n weights, round(sparsity x n) are zero afterwards, or as many as were
  before. Zeros go first, so that the same share again changes nothing; of equal
  weights those go first that stand first.

  Args:
    params: of one network, by its top-level parts; float arrays.
    sparsity: share of the weights, at least 0 and less than 1.
    scope: 'global' prunes the smallest of all kernels together, 'layer' the
      same share of each.
    frozen: top-level parts that stay as they are and do not count.

  Returns:
    The same structure; pruned kernels are NumPy arrays.

  Raises:
    UserError: another share or scope.
  """
  check(sparsity, scope)
  kernels = {
    path: np.asarray(jax.device_get(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if is_kernel(path, leaf) and path[0].key not in frozen
  }
  groups = (
    [list(kernels)] if scope == 'global' else [[path] for path in kernels]
  )
  pruned = {}
  for group in groups:
    pruned |= _pruned({path: kernels[path] for path in group}, sparsity)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: pruned.get(path, leaf), params
  )


def _pruned(kernels, sparsity):
  """The kernels with the smallest of all their weights set to 0."""
  flat = [kernel.reshape(-1) for kernel in kernels.values()]
  if not flat:
    return {}
  weights = np.concatenate(flat)
  order = np.argsort(np.abs(weights), kind='stable')
  weights[order[: round(sparsity * weights.size)]] = 0
  ends = np.cumsum([part.size for part in flat])[:-1]
  return {
    path: part.reshape(kernel.shape)
    for (path, kernel), part in zip(
      kernels.items(), np.split(weights, ends), strict=True
    )
  }


class Masked(NamedTuple):
  """The state of `keep_zeros`.

  Attributes:
    masks: in the parameters' structure; bool of the same shape for a kernel,
      True where a weight learns, and `optax.MaskedNode` for all else.
    inner: the state of the rule.
  """

  masks: Any
  inner: optax.OptState


def keep_zeros(
  rule: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """The rule, under which weights that are zero at its start stay zero.

  They get no gradient, so that the rule's own state learns nothing of them, and
  no update, whatever the rule does beside (momentum, weight decay). The masks
  are part of the state: of a checkpoint, and of each member by itself.

  Args:
    rule: any update of the parameters.
  """

  def init(params):
    masks = jax.tree_util.tree_map_with_path(_mask, params)
    return Masked(masks, rule.init(params))

  def update(updates, state, params=None):
    updates = _applied(state.masks, updates)
    updates, inner = rule.update(updates, state.inner, params)
    return _applied(state.masks, updates), Masked(state.masks, inner)

  return optax.GradientTransformation(init, update)


def _mask(path, leaf):
  return leaf != 0 if is_kernel(path, leaf) else optax.MaskedNode()


def _applied(masks, tree):
  """The tree with zeros where a mask has False."""

  def one(mask, leaf):
    if isinstance(mask, optax.MaskedNode):
      return leaf
    # No product, for a gradient that is not finite stays out.
    return jnp.where(mask, leaf, jnp.zeros_like(leaf))

  return jax.tree.map(
    one, masks, tree, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
  )
