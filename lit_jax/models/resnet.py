"""ResNet and ResNeXt for small images, as BlockNets of three blocks.

He et al. 2016 (section 4.2) and Xie et al. 2017 (section 5.3). A block is all
the layers of one width: n units at full resolution, n at half, n at a quarter.
The first unit of a block changes width and resolution.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError, choose, shown
from lit_jax.layers import BatchNorm, Conv
from lit_jax.models.block import Block

SHORTCUTS = ('pad', 'conv')
UNITS = ('bottleneck', 'basic')


class Stem(nn.Module):
  """3x3 convolution, batch norm, ReLU."""

  features: int
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x, train=False):
    x = self.conv(self.features, name='conv')(x)
    return self.norm(name='norm')(x, train, relu=True)


class Unit(nn.Module):
  """A residual unit: ReLU(shortcut(x) + body(x)).

  Attributes:
    layers: (features, kernel size, groups) of each convolution of the body.
    stride: of the first 3x3 convolution and of the shortcut.
    shortcut: 'pad' (every stride-th pixel, zero channels on both sides;
      no parameters) or 'conv' (1x1 convolution and batch norm), where the
      shape changes.
    conv: makes a convolution.
    norm: makes a batch norm.
  """

  layers: tuple[tuple[int, int, int], ...]
  stride: int
  shortcut: str
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x, train=False):
    h = x
    stride = self.stride
    for i, (features, size, groups) in enumerate(self.layers, start=1):
      step = stride if size > 1 else 1
      h = self.conv(
        features, (size, size), (step, step), groups, name=f'conv{i}'
      )(h)
      ends = i == len(self.layers)
      shortcut = self._shortcut(x, features, train) if ends else None
      h = self.norm(name=f'norm{i}')(h, train, shortcut, relu=True)
      if size > 1:
        stride = 1
    return h

  def _shortcut(self, x, features, train):
    if self.stride == 1 and x.shape[-1] == features:
      return x
    if self.shortcut == 'pad':
      missing = features - x.shape[-1]
      pads = (missing // 2, missing - missing // 2)
      x = x[:, :: self.stride, :: self.stride]
      return jnp.pad(x, ((0, 0), (0, 0), (0, 0), pads))
    strides = (self.stride, self.stride)
    x = self.conv(features, (1, 1), strides, name='shortcut_conv')(x)
    return self.norm(name='shortcut_norm')(x, train)


class Head(nn.Module):
  """Mean over all pixels, then a dense layer; float32 logits."""

  classes: int
  dtype: Any

  @nn.compact
  def __call__(self, x, train=False):
    del train
    x = x.astype(jnp.float32).mean((1, 2)).astype(self.dtype)
    logits = nn.Dense(self.classes, dtype=self.dtype, name='dense')(x)
    return logits.astype(jnp.float32)


def _units(family, depth, units):
  """Units of each of the three blocks."""
  if units:
    if len(units) != 3 or min(units) < 1:
      raise UserError(
        f'{family} units {shown(tuple(units))}; give three, each positive'
      )
    return tuple(units)
  if depth < 8 or (depth - 2) % 6:
    raise UserError(
      f'{family} depth {depth} is not of the form 6n+2; take one of '
      '8, 14, 20, 32, 44, 56, 110 …'
    )
  return ((depth - 2) // 6,) * 3


def _check(input_shape, shortcut):
  if len(input_shape) != 3:
    raise UserError(
      f'ResNets read images, and an example has the shape '
      f'{tuple(input_shape)}; take another family, or a data set of images'
    )
  height, width, _ = input_shape
  if height % 4 or width % 4:
    raise UserError(
      f'image size {height}x{width} is not divisible by 4; pad or crop the '
      'images'
    )
  choose('shortcut', shortcut, SHORTCUTS)


def _assemble(
  stem_width, unit_layers, counts, head, shortcut, conv, norm, shape
):
  blocks = tuple(
    Block(
      count,
      stride,
      functools.partial(
        Unit, layers=layers, shortcut=shortcut, conv=conv, norm=norm
      ),
      takes_two_batches=True,
    )
    for layers, count, stride in zip(
      unit_layers, counts, (1, 2, 2), strict=True
    )
  )
  example = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  return BlockNet(Stem(stem_width, conv, norm), blocks, head, example)


def resnet(
  depth: int = 20,
  classes: int = 10,
  input_shape: tuple[int, int, int] = (32, 32, 3),
  units: Sequence[int] = (),
  shortcut: str = 'pad',
  inner: Sequence[int] = (),
  dtype: Any = jnp.float32,
) -> BlockNet:
  """ResNet of 6n+2 layers, widths 16, 32, 64.

  Args:
    depth: 8, 14, 20, 32, 44, 56, 110 …
    classes: number of logits.
    input_shape: (height, width, channels); sizes divisible by 4.
    units: of each block, instead of a depth: a student with (18, 3, 3) is
      compressed in its last two blocks alone.
    shortcut: 'pad' (He et al.'s option A) or 'conv' (option B).
    inner: filters of the first convolution of each unit, by block, such as
      (8, 16, 32); () is as wide as published. A unit's output is as wide in any
      case, so that the IRs stay what they are.
    dtype: of the computation; parameters are float32.

  Raises:
    UserError: a depth, size, shortcut or inner width that does not exist.
  """
  counts = _units('ResNet', depth, units)
  _check(input_shape, shortcut)
  if inner and (len(inner) != 3 or min(inner) < 1):
    raise UserError(
      f'ResNet inner {shown(tuple(inner))}; give three widths, each positive'
    )
  widths = (16, 32, 64)
  return _assemble(
    16,
    [
      ((own, 3, 1), (w, 3, 1))
      for own, w in zip(inner or widths, widths, strict=True)
    ],
    counts,
    Head(classes, dtype),
    shortcut,
    functools.partial(Conv, dtype=dtype),
    functools.partial(BatchNorm, dtype=dtype),
    input_shape,
  )


def resnext(
  depth: int = 20,
  classes: int = 10,
  input_shape: tuple[int, int, int] = (32, 32, 3),
  units: Sequence[int] = (),
  cardinality: int = 32,
  base_width: int = 4,
  unit: str = 'bottleneck',
  shortcut: str = 'conv',
  dtype: Any = jnp.float32,
) -> BlockNet:
  """ResNeXt with n = (depth - 2) / 6 units a block, as the LIT paper names it.

  With bottleneck units (1x1, grouped 3x3, 1x1; outer widths 256, 512, 1024)
  the true depth is 9n+2. Basic units (3x3, grouped 3x3; outer widths 64, 128,
  256) have the depth of the name. The inner width is cardinality x
  base_width, doubled at each block; the outer width does not depend on it, so
  students of another cardinality fit the same teacher.

  Args:
    depth: 20, 32, 44, 56 or 110 in the paper; any 6n+2.
    classes: number of logits.
    input_shape: (height, width, channels); sizes divisible by 4.
    units: of each block, instead of a depth.
    cardinality: number of groups.
    base_width: channels of a group in the first block.
    unit: 'bottleneck' or 'basic'.
    shortcut: 'conv' or 'pad', where the shape changes.
    dtype: of the computation; parameters are float32.

  Raises:
    UserError: an option that does not exist.
  """
  counts = _units('ResNeXt', depth, units)
  _check(input_shape, shortcut)
  choose('unit', unit, UNITS)
  if cardinality < 1 or base_width < 1:
    raise UserError(
      f'cardinality {cardinality} and base width {base_width} must be positive'
    )
  layers = []
  for factor in (1, 2, 4):
    inner, outer = cardinality * base_width * factor, 64 * factor
    if unit == 'bottleneck':
      layers.append(((inner, 1, 1), (inner, 3, cardinality), (4 * outer, 1, 1)))
    elif outer % cardinality:
      raise UserError(
        f'basic units of width {outer} cannot be cut into {cardinality} '
        'groups; choose a cardinality that divides 64'
      )
    else:
      layers.append(((inner, 3, 1), (outer, 3, cardinality)))
  return _assemble(
    64,
    layers,
    counts,
    Head(classes, dtype),
    shortcut,
    functools.partial(Conv, dtype=dtype),
    functools.partial(BatchNorm, dtype=dtype),
    input_shape,
  )
