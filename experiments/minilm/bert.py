"""BERT as a BlockNet, and its weights from a `.safetensors` file.

Devlin et al. 2019, as sentence encoders use it: the mean of the last layer's
tokens, of length 1 (Reimers & Gurevych 2019). Padding is 0 in every IR, by
which a layer knows it, so that a block reads its IR alone.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from lit_jax import blocks
from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError, reason
from lit_jax.files import read_json
from lit_jax.networks import foreign

PADDING = 0
_FIX = 'give the folder of a BERT in the layout of Hugging Face'


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Attributes: those of the `config.json` beside the weights."""

  vocab_size: int
  max_position_embeddings: int
  hidden_size: int
  intermediate_size: int
  num_attention_heads: int
  num_hidden_layers: int
  layer_norm_eps: float


class Embeddings(nn.Module):
  """Token ids int32 [n, length] → [n, length, width], 0 where PADDING is."""

  sizes: Sizes

  @nn.compact
  def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
    sizes, width = self.sizes, self.sizes.hidden_size
    h = nn.Embed(sizes.vocab_size, width, name='words')(ids)
    places = nn.Embed(sizes.max_position_embeddings, width, name='places')
    # Every text is the first of a pair of which there is no second.
    kind = self.param('kind', nn.initializers.normal(0.02), (width,))
    h = h + (places(jnp.arange(ids.shape[1])) + kind[None])[None]
    h = nn.LayerNorm(sizes.layer_norm_eps, name='norm')(h)
    return h * (ids != PADDING)[..., None]


class Layers(nn.Module):
  """Some of BERT's layers: [n, length, width] → the same."""

  sizes: Sizes
  count: int

  @nn.compact
  def __call__(self, h: jax.Array, train: bool) -> jax.Array:
    there = (h != 0).any(-1)
    for i in range(self.count):
      h = _Layer(self.sizes, name=f'layers_{i}')(h, there)
    return h * there[..., None]


class _Layer(nn.Module):
  sizes: Sizes

  @nn.compact
  def __call__(self, h, there):
    sizes = self.sizes
    attention = nn.MultiHeadDotProductAttention(
      sizes.num_attention_heads, name='attention'
    )(h, mask=there[:, None, None])
    h = self._norm('attention_norm')(h + attention)
    inner = nn.Dense(sizes.intermediate_size, name='inner')(h)
    outer = nn.Dense(sizes.hidden_size, name='outer')
    h = h + outer(nn.gelu(inner, approximate=False))
    return self._norm('norm')(h)

  def _norm(self, name):
    return nn.LayerNorm(self.sizes.layer_norm_eps, name=name)


class Mean(nn.Module):
  """[n, length, width] → the mean of what is no padding, of length 1."""

  @nn.compact
  def __call__(self, h: jax.Array, train: bool) -> jax.Array:
    total = h.sum(1)
    # The number of tokens has no part in a vector of length 1.
    return total / jnp.linalg.norm(total, axis=-1, keepdims=True)


def network(sizes: Sizes, layers: Sequence[int], length: int) -> BlockNet:
  """An encoder of texts.

  Args:
    sizes: of every layer.
    layers: how many each block has.
    length: tokens of a text.

  Returns:
    A network from ids int32 [n, length] to embeddings float32 [n, width].
  """
  return BlockNet(
    Embeddings(sizes),
    tuple(Layers(sizes, count) for count in layers),
    Mean(),
    jax.ShapeDtypeStruct((length,), jnp.int32),
  )


def read(
  folder: str | os.PathLike[str], layers: Sequence[int], length: int
) -> tuple[BlockNet, dict[str, Any]]:
  """A trained encoder of a folder of `config.json` and `model.safetensors`.

  Args:
    folder: in the layout of Hugging Face.
    layers: how many each block has; all together are the file's.
    length: tokens of a text.

  Returns:
    The network, and its variables.

  Raises:
    UserError: files that are missing, damaged, or of another network.
  """
  folder = pathlib.Path(folder)
  sizes = _sizes(folder / 'config.json')
  most = sizes.max_position_embeddings
  if sum(layers) != sizes.num_hidden_layers or not 1 <= length <= most:
    raise UserError(
      f'{folder}: has {sizes.num_hidden_layers} layers and reads 1 to {most} '
      f'tokens; {list(layers)} layers and {length} tokens were asked for'
    )
  net = network(sizes, layers, length)
  path = folder / 'model.safetensors'
  content = foreign.content(path, 'weights of BERT', _FIX)
  found = foreign.parsed(path, content, _FIX)
  arrays = foreign.state(path, found, ('bert.',), _FIX)
  return net, {'params': _params(path, net, arrays), 'batch_stats': {}}


def _sizes(path) -> Sizes:
  try:
    found = read_json(path)
    return Sizes(**{f.name: found[f.name] for f in dataclasses.fields(Sizes)})
  except OSError as error:
    raise UserError(
      f'{path} cannot be read ({reason(error)}); {_FIX}'
    ) from None
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f'{path}: {reason(error)}; {_FIX}') from None


# Ours, of a layer and before the first, and theirs.
_LAYER = {
  'attention/query': 'attention.self.query',
  'attention/key': 'attention.self.key',
  'attention/value': 'attention.self.value',
  'attention/out': 'attention.output.dense',
  'attention_norm': 'attention.output.LayerNorm',
  'inner': 'intermediate.dense',
  'outer': 'output.dense',
  'norm': 'output.LayerNorm',
}
_STEM = {
  'stem/words/embedding': 'embeddings.word_embeddings.weight',
  'stem/places/embedding': 'embeddings.position_embeddings.weight',
  'stem/kind': 'embeddings.token_type_embeddings.weight',
  'stem/norm/scale': 'embeddings.LayerNorm.weight',
  'stem/norm/bias': 'embeddings.LayerNorm.bias',
}
_LEAF = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}


def _params(path, net, arrays: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters, each in our shape."""
  shapes = jax.tree_util.tree_leaves_with_path(blocks.shapes(net)['params'])
  first = np.cumsum([0, *(block.count for block in net.blocks)])
  found = {}
  for keys, shape in shapes:
    name = '/'.join(key.key for key in keys)
    theirs = _theirs(name, first)
    if theirs not in arrays:
      raise UserError(f'{path}: has no {theirs}; {_FIX}')
    array = foreign.array(arrays[theirs])
    if name == 'stem/kind' and array is not None:
      array = array[0]
    if name.endswith('kernel') and array is not None:
      array = array.T
    if array is None or array.size != np.prod(shape.shape):
      raise UserError(
        f'{path}: {theirs} is {foreign.described(arrays[theirs])}, where '
        f'{list(shape.shape)} are needed; {_FIX}'
      )
    foreign.check_values(path, theirs, array, _FIX)
    found[tuple(name.split('/'))] = array.reshape(shape.shape)
  return unflatten_dict(found)


def _theirs(name, first) -> str:
  if name in _STEM:
    return _STEM[name]
  match = re.fullmatch(r'blocks_(\d+)/layers_(\d+)/(.+)/(\w+)', name)
  assert match, name
  layer = first[int(match[1])] + int(match[2])
  return f'encoder.layer.{layer}.{_LAYER[match[3]]}.{_LEAF[match[4]]}'


def every_second(variables: Mapping[str, Any]) -> dict[str, Any]:
  """A student's variables: of each block the last one of every two layers."""
  params = {
    part: _second(tree) if part.startswith('blocks_') else tree
    for part, tree in variables['params'].items()
  }
  return {'params': params, 'batch_stats': {}}


def _second(block):
  return {
    f'layers_{i}': block[f'layers_{2 * i + 1}'] for i in range(len(block) // 2)
  }
