"""A Flax module as it is, cut into a `BlockNet` at submodules of its own."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.core import freeze

from lit_jax import blocks
from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError, shown
from lit_jax.networks import chain as chains
from lit_jax.networks.chain import IN, Chain


class Part(nn.Module):
  """One part of a cut module, called as `part(h, train)`.

  Attributes:
    chain: the module, and where it is cut.
    index: which part it is, of `chain.parts`.
  """

  chain: Chain
  index: int

  @nn.compact
  def __call__(self, h, train=False):
    chain, index = self.chain, self.index
    if self.is_initializing():
      blocks.put(self, chains.drawn(chain, index, self.make_rng('params')))
    own = chains.flat(self.variables)
    owners = chains.owners(chain)
    others = {
      k: v for k, v in chains.template(chain).items() if owners[k] != index
    }
    given = own | {IN: h}
    statistics = [name for name in own if name[0] == 'batch_stats']
    traced = chains.trace(chain, index, train, given, others, statistics)
    output, new = traced(given)
    if train and not self.is_initializing():
      blocks.put(self, new)
    return output


def cut(
  module: nn.Module,
  at: Sequence[str],
  example: Any,
  train: str | None = 'train',
) -> BlockNet:
  """A `BlockNet` of a Flax module that was not written as one.

  The module must be a chain at each cut: what follows reads nothing of what
  comes before but the IR. It is called as `module(x, train=…)`.

  Args:
    module: any `flax.linen.Module` whose variables are 'params' and
      'batch_stats'.
    at: paths of at least two of its submodules, such as 'encoder/layers_3', in
      the order in which they run. What the first returns is the first IR and
      ends the stem, each other ends a block, and what follows the last is the
      head.
    example: one example that the module reads, without the batch axis: a pytree
      of `jax.ShapeDtypeStruct`.
    train: the argument that tells the module to train; 'not deterministic' for
      one that tells the contrary, None for a module without.

  Returns:
    The network. Below 'stem', 'blocks_0' …, 'head' its variables have the paths
    that they have in the module; `cut_variables` moves a trained module's there
    and `join_variables` moves them back. It traces the module at each call,
    which is for programs under `jax.jit`.

  Raises:
    UserError: no such submodule, or no chain; one line.
  """
  at = (at,) if isinstance(at, str) else tuple(at)
  if isinstance(example, Mapping):
    example = freeze(example)
  chain = Chain(_hashable(module), at, example, train)
  _check_arguments(chain)
  chains.owners(chain)
  stem, *middle, head = (Part(chain, i) for i in range(len(chain.parts)))
  return BlockNet(stem, tuple(middle), head, example)


def cut_variables(
  net: BlockNet, variables: Mapping[str, Any]
) -> dict[str, Any]:
  """A module's own variables, as the network that was cut of it has them.

  Args:
    net: returned by `cut`.
    variables: of the module: 'params', and 'batch_stats' where it has any.

  Returns:
    The same arrays as 'params' and 'batch_stats' of the network.

  Raises:
    UserError: variables of another module.
  """
  chain = _chain(net)
  flat = chains.flat(nn.meta.unbox(dict(variables)))
  _check_same(chain, flat)
  moved = {
    (name[0], chain.parts[part], *name[1:]): flat[name]
    for name, part in chains.owners(chain).items()
  }
  return {'batch_stats': {}} | traverse_util.unflatten_dict(moved)


def join_variables(
  net: BlockNet, variables: Mapping[str, Any]
) -> dict[str, Any]:
  """The inverse of `cut_variables`: variables for the module itself.

  Args:
    net: returned by `cut`.
    variables: of the network: 'params' and 'batch_stats'.

  Raises:
    UserError: variables of another network.
  """
  flat = {
    name[:1] + name[2:]: value
    for name, value in chains.flat(dict(variables)).items()
  }
  _check_same(_chain(net), flat)
  return traverse_util.unflatten_dict(flat)


def _chain(net) -> Chain:
  if not isinstance(net.stem, Part):
    raise UserError('the network was not made by cut, and has no other paths')
  return net.stem.chain


def _check_same(chain, flat):
  wanted = chains.template(chain)
  for name in sorted(wanted.keys() ^ flat.keys()):
    there = 'lacks' if name in wanted else 'has no'
    who = 'what was given' if name in wanted else 'the module'
    raise UserError(
      f'not the variables of the module that was cut: {who} {there} '
      f'{"/".join(name)}'
    )
  for name, leaf in wanted.items():
    if jnp.shape(flat[name]) != leaf.shape:
      raise UserError(
        f'not the variables of the module that was cut: {"/".join(name)} has '
        f'the shape {jnp.shape(flat[name])}, not {leaf.shape}'
      )


def _hashable(module) -> nn.Module:
  """The module with tuples in place of lists, as many are given."""
  if not isinstance(module, nn.Module) or module.scope is not None:
    raise UserError(
      f'a {type(module).__name__} cannot be cut; give an unbound '
      'flax.linen.Module'
    )
  lists: dict[str, Any] = {
    field.name: tuple(value)
    for field in dataclasses.fields(module)
    if isinstance(value := getattr(module, field.name, None), list)
  }
  return module.clone(**lists)


def _check_arguments(chain):
  module, at, train = chain.module, chain.at, chain.train
  if len(at) < 2 or len(set(at)) < len(at):
    raise UserError(
      f'at is {shown(at)}; name at least two submodules, each once: the first '
      'ends the stem, the last the last block'
    )
  blocks.check_hashable('the module or its example', chain)
  _, *known = inspect.signature(type(module).__call__).parameters.values()
  for name in chain.flags(True):
    if not any(p.name == name or p.kind is p.VAR_KEYWORD for p in known):
      raise UserError(
        f'train is {shown(train)}, and a {type(module).__name__} is called as '
        f'({", ".join(p.name for p in known)}); name the argument by which it '
        "is told that it trains, 'not NAME' for its contrary, or None"
      )
