"""StarGAN: a generator of one block, and the critic that trains it.

Choi et al. 2018. The generator translates an image to the attributes of a
label. Its block, n residual units at a quarter of the resolution, is what gets
shallower; down-sampling is the stem and up-sampling the head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError
from lit_jax.layers import Conv, InstanceNorm, UpsampleConv
from lit_jax.models.block import Block

# PyTorch's default for a convolution: uniform within 1 / sqrt(fan in).
_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
_Conv = functools.partial(Conv, kernel_init=_uniform, products=True)
# Layers of the stem and the head.
_OUTER = 6
_SLOPE = 0.01
MIN_SIZE = 16


class Stem(nn.Module):
  """The label on every pixel; a 7x7 convolution and two that halve the size."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x, train=False):
    del train
    image, label = x['image'], x['label']
    size = (*image.shape[:3], label.shape[-1])
    label = jnp.broadcast_to(label[:, None, None], size)
    h = jnp.concatenate([image, label], -1).astype(self.dtype)
    conv = functools.partial(_Conv, dtype=self.dtype)
    for i, (factor, kernel, stride) in enumerate(
      ((1, 7, 1), (2, 4, 2), (4, 4, 2)), start=1
    ):
      features, strides = factor * self.width, (stride, stride)
      h = conv(features, (kernel, kernel), strides, name=f'conv{i}')(h)
      h = nn.relu(InstanceNorm(name=f'norm{i}')(h))
    return h


class Unit(nn.Module):
  """x + body(x), the body two 3x3 convolutions; no ReLU after the sum."""

  features: int
  dtype: Any
  stride: int = 1

  @nn.compact
  def __call__(self, x, train=False):
    del train
    conv = functools.partial(_Conv, self.features, dtype=self.dtype)
    h = nn.relu(InstanceNorm(name='norm1')(conv(name='conv1')(x)))
    return x + InstanceNorm(name='norm2')(conv(name='conv2')(h))


class Head(nn.Module):
  """Two convolutions that double the size, a 7x7 one, and tanh in float32."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x, train=False):
    del train
    h = x
    for i, factor in enumerate((2, 1), start=1):
      h = UpsampleConv(factor * self.width, name=f'conv{i}')(h)
      h = nn.relu(InstanceNorm(name=f'norm{i}')(h))
    h = _Conv(3, (7, 7), dtype=self.dtype, name='conv3')(h)
    return jnp.tanh(h.astype(jnp.float32))


def stargan(
  depth: int = 18,
  width: int = 64,
  attributes: int = 5,
  image_size: int = 128,
  dtype: Any = jnp.float32,
) -> BlockNet:
  """A generator, from an image and the label that it shall have to an image.

  It reads {'image': [n, s, s, 3] of -1 to 1, 'label': [n, attributes] of 0 and
  1}, float32, and returns float32 [n, s, s, 3] of -1 to 1. Its norms are of
  every instance, so that it is the same in training and evaluation.

  Args:
    depth: layers: 2n + 6 for n residual units (18 and 10 in the LIT paper).
    width: channels at full resolution, of which the block has four times as
      many.
    attributes: length of the label.
    image_size: s, divisible by 4.
    dtype: of the computation; parameters are float32.

  Raises:
    UserError: a depth that is not of that form, or a size that cannot be
      halved twice.
  """
  if depth < _OUTER + 2 or depth % 2:
    raise UserError(
      f'stargan depth {depth} is not of the form 2n+{_OUTER}; take one of 8, '
      '10, 12, … 18'
    )
  if width < 1 or attributes < 1:
    raise UserError(
      f'stargan width {width} and attributes {attributes}; at least 1 each'
    )
  check_size(image_size)
  unit = functools.partial(Unit, features=4 * width, dtype=dtype)
  float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  return BlockNet(
    stem=Stem(width, dtype),
    blocks=(Block((depth - _OUTER) // 2, 1, unit),),
    head=Head(width, dtype),
    example={
      'image': float32((image_size, image_size, 3)),
      'label': float32((attributes,)),
    },
  )


def check_size(image_size: int) -> None:
  """Raises UserError for images that the two networks cannot take."""
  if image_size < MIN_SIZE or image_size % 4:
    raise UserError(
      f'images of {image_size} pixels a side; it must be divisible by 4, and '
      f'at least {MIN_SIZE}'
    )


class Discriminator(nn.Module):
  """A critic of patches, which also tells the attributes (PatchGAN).

  Convolutions halve the image until two or three pixels a side are left; there
  is no norm. Computes in the dtype of its images.

  Attributes:
    attributes: how many it tells.
    width: channels of the first convolution; each later one has twice as many.
  """

  attributes: int
  width: int = 64

  @nn.compact
  def __call__(self, images):
    """Judges images.

    Args:
      images: [n, s, s, 3] of -1 to 1; float32 or narrower.

    Returns:
      The realness of each patch [n, s', s'], and the attributes' logits [n,
      attributes]; float32.
    """
    h = images
    features, i = self.width, 0
    while h.shape[1] > 3:
      i += 1
      fan_in = 16 * h.shape[-1]
      h = _Conv(features, (4, 4), (2, 2), dtype=h.dtype, name=f'conv{i}')(h)
      bias = self.param(f'bias{i}', _within(fan_in), (features,), jnp.float32)
      h = nn.leaky_relu(h + bias.astype(h.dtype)[None, None, None], _SLOPE)
      features *= 2
    patches = _Conv(1, dtype=h.dtype, name='realness')(h)
    # Over all that is left of the image, a convolution is a product.
    logits = nn.Dense(
      self.attributes,
      use_bias=False,
      dtype=h.dtype,
      kernel_init=_uniform,
      name='attributes',
    )(h.reshape(h.shape[0], -1))
    return patches[..., 0].astype(jnp.float32), logits.astype(jnp.float32)


def _within(fan_in):
  """PyTorch's default for a bias: uniform within 1 / sqrt(fan in)."""
  bound = fan_in**-0.5

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
