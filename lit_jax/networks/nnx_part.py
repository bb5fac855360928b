"""Modules of `flax.nnx` as parts of a `BlockNet`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import nnx, traverse_util
from flax.core import FrozenDict, unfreeze

from lit_jax import blocks
from lit_jax.errors import UserError
from lit_jax.layers import shared_axis

# Spectral norm keeps what depends on the weights alone; Flax 0.12.0 lacks it.
_SHARED = nnx.BatchNorm, getattr(nnx, 'SpectralNorm', nnx.BatchNorm)


class NnxPart(nn.Module):
  """A stem, block or head that is made by an NNX class, or by a function.

  Attributes:
    make: returns the `nnx.Module`.
    args: its arguments.
    kwargs: its named arguments, but `rngs`.
  """

  make: Callable[..., nnx.Module]
  args: tuple[Any, ...] = ()
  kwargs: Mapping[str, Any] = FrozenDict()

  @nn.compact
  def __call__(self, h, train=False):
    if self.is_initializing():
      drawn = _variables(self._made(self.make_rng('params')))
      blocks.put(self, {name: own[...] for name, own in drawn.items()})
    module = self._made()
    variables = _variables(module)
    kept: Any = self.variables
    values: Any = traverse_util.flatten_dict(unfreeze(kept))
    for name, own in variables.items():
      own[...] = values[name]
    for norm in _within(module, nnx.BatchNorm).values():
      norm.axis_name = norm.axis_name or shared_axis()
    module.train() if train else module.eval()
    counts = _draws(module)
    output: Any = module(h)  # pyright: ignore[reportCallIssue]
    if any(a is not b for a, b in zip(counts, _draws(module), strict=True)):
      raise UserError(
        f'{self.name}: {type(module).__name__} draws random numbers, as '
        'dropout does in training, and the parts of a BlockNet get none; set '
        'its rate to 0'
      )
    if train and not self.is_initializing():
      blocks.put(
        self,
        {
          name: own[...]
          for name, own in variables.items()
          if name[0] == 'batch_stats'
        },
      )
    return output

  @nn.nowrap
  def unshared_statistics(self) -> dict[str, str]:
    """Classes, by path, of which devices would not share the statistics."""
    module = self._made()
    kinds = _within(module, nnx.Module)
    owners = {path[1:-1] for path in _variables(module) if path[0] != 'params'}
    return {
      '/'.join(owner): type(kinds[owner]).__name__
      for owner in sorted(owners)
      if not isinstance(kinds[owner], _SHARED)
    }

  @nn.nowrap
  def _made(self, key=None) -> nnx.Module:
    """The module, whose constants are those of the seed 0 without a key."""
    kwargs, make = dict(self.kwargs), self.make
    # NNX's metaclass hides what a class takes.
    called = make.__init__ if inspect.isclass(make) else make
    if 'rngs' in inspect.signature(called).parameters:
      kwargs['rngs'] = nnx.Rngs(jax.random.key(0) if key is None else key)
    return make(*self.args, **kwargs)


def nnx_part(
  make: Callable[..., nnx.Module], *args: Any, **kwargs: Any
) -> NnxPart:
  """A part of a `BlockNet` that is an NNX module.

  It trains after the module's `train()`, else its `eval()` was called. Its
  variables have the paths that they have in the NNX module: each `nnx.Param`
  under 'params', each `nnx.BatchStat` under 'batch_stats'. Devices share the
  statistics of `nnx.BatchNorm`.

  Args:
    make: a class of `nnx.Module`, or a function that returns one; called with
      `rngs` where it has that argument. The module reads one array, or the
      network's input.
    *args: its other arguments, which can be hashed.
    **kwargs: the same.

  Returns:
    A module for `BlockNet`, called as `part(h, train)`. When it runs, it raises
    UserError if it keeps variables of another kind or draws random numbers.

  Raises:
    UserError: arguments that cannot be hashed.
  """
  part = NnxPart(make, args, FrozenDict(kwargs))
  blocks.check_hashable(
    f'an argument of {getattr(make, "__name__", make)}',
    (make, part.args, part.kwargs),
  )
  return part


def nnx_variables(*modules: nnx.Module) -> dict[str, Any]:
  """Variables of a `BlockNet` whose parts are those modules, trained.

  Args:
    *modules: stem, blocks and head, in that order.

  Returns:
    Their arrays as 'params' and 'batch_stats' of the network.

  Raises:
    UserError: variables of another kind.
  """
  parts = 'stem', *(f'blocks_{i}' for i in range(len(modules) - 2)), 'head'
  flat = {
    (collection, part, *path): own[...]
    for part, module in zip(parts, modules, strict=True)
    for (collection, *path), own in _variables(module).items()
  }
  return {'batch_stats': {}} | traverse_util.unflatten_dict(flat)


def _within(module, kind) -> dict[tuple[str, ...], Any]:
  """Everything of a kind in a module, by its path."""
  return {
    tuple(map(str, path)): node
    for path, node in nnx.iter_graph(module)
    if isinstance(node, kind)
  }


def _variables(module) -> dict[tuple[str, ...], nnx.Variable]:
  """The variables by collection and path."""
  result = {}
  for path, own in _within(module, nnx.Variable).items():
    if isinstance(own, nnx.Param):
      result['params', *path] = own
    elif isinstance(own, nnx.BatchStat):
      result['batch_stats', *path] = own
    elif not isinstance(own, nnx.RngState):
      raise UserError(
        f'{"/".join(path)} of {type(module).__name__} is a '
        f'{type(own).__name__}, and a BlockNet keeps nnx.Param and '
        'nnx.BatchStat alone; make it one of these, or a plain array if it '
        'never changes'
      )
  return result


def _draws(module) -> list[Any]:
  """How often each source of random numbers was asked."""
  return jax.tree.leaves(nnx.state(module, nnx.RngCount))
