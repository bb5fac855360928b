"""VDCNN: very deep convolutional networks over characters, in four blocks.

Conneau et al. 2017, 'Very Deep Convolutional Networks for Text
Classification'. A text is a row of character ids (data/texts/characters.py);
activations are [n, 1, length, channels], images of height 1, since a GPU has
faster kernels for these. A block is all the units of one width; the length is
halved before each widening.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lit_jax.blocks import BlockNet
from lit_jax.data.texts.characters import VOCABULARY
from lit_jax.errors import UserError, choose, shown
from lit_jax.layers import BatchNorm
from lit_jax.layers.text import TextConv, embed, k_max, max_pool
from lit_jax.models.block import Block

DOWNSAMPLES = ('max_pool', 'conv', 'k_max')
# Units of each block, each of two convolutions; the first layer is the ninth.
UNITS = {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2), 49: (8, 8, 5, 3)}
WIDTHS = (64, 128, 256, 512)


class Stem(nn.Module):
  """Each character's vector, then a convolution over three characters.

  Padding has the zero vector, which does not learn.
  """

  features: int
  embedding: int
  dtype: Any
  conv: Any

  @nn.compact
  def __call__(self, ids, train=False):
    del train
    table = self.param(
      'table',
      nn.initializers.normal(1.0),
      (VOCABULARY - 1, self.embedding),
      jnp.float32,
    )
    h = embed(table.astype(self.dtype), ids)[:, None]
    return self.conv(self.features, name='conv')(h)


class Unit(nn.Module):
  """Two convolutions over three places, each with batch norm and ReLU.

  Attributes:
    features: channels of its output.
    stride: 2 where the length is halved first.
    downsample: how: 'max_pool' (window 3), 'conv' (a stride of the first
      convolution), or 'k_max' (the larger half of the values, in order).
    shortcut: whether the input is added before the last ReLU; where the shape
      changes, through a 1x1 convolution and batch norm.
    conv: makes a convolution.
    norm: makes a batch norm.
  """

  features: int
  stride: int
  downsample: str
  shortcut: bool
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x, train=False):
    stride = self.stride
    if stride > 1 and self.downsample != 'conv':
      half = (x.shape[2] + 1) // 2
      x = max_pool(x) if self.downsample == 'max_pool' else k_max(x, half)
      stride = 1
    h = self.conv(self.features, strides=(1, stride), name='conv1')(x)
    h = self.norm(name='norm1')(h, train, relu=True)
    h = self.conv(self.features, name='conv2')(h)
    shortcut = self._shortcut(x, stride, train) if self.shortcut else None
    return self.norm(name='norm2')(h, train, shortcut, relu=True)

  def _shortcut(self, x, stride, train):
    if stride == 1 and x.shape[-1] == self.features:
      return x
    x = self.conv(
      self.features,
      kernel_size=(1, 1),
      strides=(1, stride),
      name='shortcut_conv',
    )(x)
    return self.norm(name='shortcut_norm')(x, train)


class Head(nn.Module):
  """The k largest values of each channel, in order, and three dense layers.

  Float32 logits.
  """

  classes: int
  k: int
  hidden: int
  dtype: Any

  @nn.compact
  def __call__(self, x, train=False):
    del train
    x = k_max(x, self.k)
    x = x.reshape(x.shape[0], -1)
    for i in (1, 2):
      x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=f'dense{i}')(x))
    logits = nn.Dense(self.classes, dtype=self.dtype, name='dense3')(x)
    return logits.astype(jnp.float32)


def vdcnn(
  depth: int = 29,
  classes: int = 2,
  input_shape: tuple[int] = (1014,),
  units: Sequence[int] = (),
  widths: Sequence[int] = WIDTHS,
  downsample: str = 'max_pool',
  shortcut: bool = False,
  k: int = 8,
  hidden: int = 2048,
  embedding: int = 16,
  dtype: Any = jnp.float32,
) -> BlockNet:
  """VDCNN of 9, 17, 29 or 49 convolutions; three dense layers come on top.

  Args:
    depth: 9, 17, 29 or 49.
    classes: number of logits.
    input_shape: (characters of a text,).
    units: of each of the four blocks, instead of a depth.
    widths: channels of each block.
    downsample: 'max_pool', 'conv' or 'k_max', before blocks 2 to 4.
    shortcut: whether units have one.
    k: values of each channel that reach the dense layers.
    hidden: width of the first two dense layers.
    embedding: length of a character's vector.
    dtype: of the computation; parameters are float32.

  Raises:
    UserError: an option that does not exist, or a text that is too short.
  """
  counts = _units(depth, units)
  _check(widths, downsample, k, hidden, embedding, input_shape)
  conv = functools.partial(TextConv, dtype=dtype)
  unit = functools.partial(
    Unit,
    downsample=downsample,
    shortcut=shortcut,
    conv=conv,
    norm=functools.partial(BatchNorm, dtype=dtype),
  )
  blocks = tuple(
    # One batch at a time: two move more bytes than these few layers are worth.
    Block(count, stride, functools.partial(unit, features=width))
    for count, stride, width in zip(counts, (1, 2, 2, 2), widths, strict=True)
  )
  return BlockNet(
    Stem(widths[0], embedding, dtype, conv),
    blocks,
    Head(classes, k, hidden, dtype),
    jax.ShapeDtypeStruct(tuple(input_shape), jnp.uint8),
  )


def _units(depth, units):
  """Units of each of the four blocks."""
  if units:
    if len(units) != 4 or min(units) < 1:
      raise UserError(
        f'VDCNN units {shown(tuple(units))}; give four, each positive'
      )
    return tuple(units)
  if depth not in UNITS:
    raise UserError(
      f'VDCNN depth {depth} does not exist; take one of '
      f'{", ".join(map(str, UNITS))}, or give the units of each block'
    )
  return UNITS[depth]


def _check(widths, downsample, k, hidden, embedding, input_shape):
  if len(widths) != 4 or min(widths) < 1:
    raise UserError(
      f'VDCNN widths {shown(tuple(widths))}; give four, each positive'
    )
  choose('downsample', downsample, DOWNSAMPLES)
  if min(k, hidden, embedding) < 1:
    raise UserError(
      f'k {k}, hidden {hidden} and embedding {embedding} must be positive'
    )
  if len(input_shape) != 1:
    raise UserError(
      f'VDCNN reads texts, and an example has the shape {tuple(input_shape)}; '
      'take another family, or a data set of texts'
    )
  last = functools.reduce(lambda n, _: (n + 1) // 2, range(3), input_shape[0])
  if last < k:
    raise UserError(
      f'texts of {input_shape[0]} characters are {last} places long in the '
      f'last block, and the head takes the {k} largest; take a greater length'
    )
