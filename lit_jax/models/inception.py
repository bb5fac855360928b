"""InceptionV3 as FID and the inception score know it; it is not trained here.

Szegedy et al. 2015 (arXiv 1512.00567), in the form of the network that was
published as `inception-2015-12-05`: 1008 classes, average pools that leave the
padding out of their means, and a maximum in place of the last of them. Parts
have the names that its weights have in PyTorch. Batch norm is always in
evaluation mode.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

SIZE = 299
"""Height and width of the images that the network reads."""
FEATURES, CLASSES = 2048, 1008
_EPSILON = 1e-3


class Outputs(NamedTuple):
  """What the network says of n images; float32.

  Attributes:
    pool: [n, 2048], the last map's mean over all pixels; FID's features.
    logits: [n, 1008].
    unbiased: [n, 1008], the logits without the bias; of their softmax the
      inception score is made.
  """

  pool: jax.Array
  logits: jax.Array
  unbiased: jax.Array


def prepare(images: jax.Array) -> jax.Array:
  """Images as the network reads them.

  Each pixel is interpolated between its four nearest, also where the images
  are made smaller: no antialiasing, so that FIDs are those of pytorch-fid.

  Args:
    images: [n, h, w, 3], uint8 or floating-point from 0 to 1.

  Returns:
    [n, 299, 299, 3] float32 from -1 to 1.
  """
  x = images.astype(jnp.float32)
  if images.dtype == jnp.uint8:
    x = x / 255
  shape = (len(x), SIZE, SIZE, x.shape[-1])
  return 2 * jax.image.resize(x, shape, 'bilinear', antialias=False) - 1


class Unit(nn.Module):
  """Convolution, batch norm of running statistics, ReLU.

  Attributes:
    features: channels that come out.
    size: (height, width) of the kernel.
    stride: in both directions.
    padding: 'SAME' or 'VALID'.
  """

  features: int
  size: tuple[int, int]
  stride: int = 1
  padding: str = 'SAME'

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(
      self.features,
      self.size,
      self.stride,
      self.padding,
      use_bias=False,
      precision=lax.Precision.HIGHEST,
      name='conv',
    )(x)
    norm = nn.BatchNorm(use_running_average=True, epsilon=_EPSILON, name='bn')
    return nn.relu(norm(x))


def _through(x, *units):
  """Through units (name, features, size) of the module that calls.

  A size is that of a square, or (height, width). Maps keep their size; a fourth
  entry is a stride, and then they lose their border.
  """
  for name, features, size, *stride in units:
    if isinstance(size, int):
      size = (size, size)
    padding = 'VALID' if stride else 'SAME'
    step = stride[0] if stride else 1
    x = Unit(features, size, step, padding, name=name)(x)
  return x


def _halve(x):
  return nn.max_pool(x, (3, 3), (2, 2))


def _average(x):
  """Over the neighbours that exist."""
  return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)


def _maximum(x):
  return nn.max_pool(x, (3, 3), padding='SAME')


def _join(*maps):
  return jnp.concatenate(maps, axis=-1)


class MixedA(nn.Module):
  """Branches of 1x1, 5x5 and two 3x3, and a pool of some features."""

  features: int

  @nn.compact
  def __call__(self, x):
    return _join(
      _through(x, ('branch1x1', 64, 1)),
      _through(x, ('branch5x5_1', 48, 1), ('branch5x5_2', 64, 5)),
      _through(
        x,
        ('branch3x3dbl_1', 64, 1),
        ('branch3x3dbl_2', 96, 3),
        ('branch3x3dbl_3', 96, 3),
      ),
      _through(_average(x), ('branch_pool', self.features, 1)),
    )


class MixedB(nn.Module):
  """Halves the maps, from 35 pixels to 17."""

  @nn.compact
  def __call__(self, x):
    return _join(
      _through(x, ('branch3x3', 384, 3, 2)),
      _through(
        x,
        ('branch3x3dbl_1', 64, 1),
        ('branch3x3dbl_2', 96, 3),
        ('branch3x3dbl_3', 96, 3, 2),
      ),
      _halve(x),
    )


class MixedC(nn.Module):
  """Branches of one and two 7x7, each made of rows and columns."""

  width: int

  @nn.compact
  def __call__(self, x):
    width, row, column = self.width, (1, 7), (7, 1)
    return _join(
      _through(x, ('branch1x1', 192, 1)),
      _through(
        x,
        ('branch7x7_1', width, 1),
        ('branch7x7_2', width, row),
        ('branch7x7_3', 192, column),
      ),
      _through(
        x,
        ('branch7x7dbl_1', width, 1),
        ('branch7x7dbl_2', width, column),
        ('branch7x7dbl_3', width, row),
        ('branch7x7dbl_4', width, column),
        ('branch7x7dbl_5', 192, row),
      ),
      _through(_average(x), ('branch_pool', 192, 1)),
    )


class MixedD(nn.Module):
  """Halves the maps, from 17 pixels to 8."""

  @nn.compact
  def __call__(self, x):
    return _join(
      _through(x, ('branch3x3_1', 192, 1), ('branch3x3_2', 320, 3, 2)),
      _through(
        x,
        ('branch7x7x3_1', 192, 1),
        ('branch7x7x3_2', 192, (1, 7)),
        ('branch7x7x3_3', 192, (7, 1)),
        ('branch7x7x3_4', 192, 3, 2),
      ),
      _halve(x),
    )


class MixedE(nn.Module):
  """Branches that end in a row and a column side by side.

  Attributes:
    maximum: whether the pool takes the maximum, and not the mean.
  """

  maximum: bool = False

  @nn.compact
  def __call__(self, x):
    three = _through(x, ('branch3x3_1', 384, 1))
    double = _through(x, ('branch3x3dbl_1', 448, 1), ('branch3x3dbl_2', 384, 3))
    pooled = _maximum(x) if self.maximum else _average(x)
    return _join(
      _through(x, ('branch1x1', 320, 1)),
      _through(three, ('branch3x3_2a', 384, (1, 3))),
      _through(three, ('branch3x3_2b', 384, (3, 1))),
      _through(double, ('branch3x3dbl_3a', 384, (1, 3))),
      _through(double, ('branch3x3dbl_3b', 384, (3, 1))),
      _through(pooled, ('branch_pool', 192, 1)),
    )


class InceptionV3(nn.Module):
  """The whole network; no BlockNet, for nothing is compressed here.

  Parameters 'PART/conv/kernel', 'PART/bn/scale', 'PART/bn/bias' and
  'fc/kernel', 'fc/bias'; `batch_stats` 'PART/bn/mean', 'PART/bn/var'. All are
  float32, and so is the computation, at the highest precision of the device.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> Outputs:
    """Reads images.

    Args:
      x: [n, 299, 299, 3] float32 from -1 to 1 (`prepare`).
    """
    x = _through(x, ('Conv2d_1a_3x3', 32, 3, 2), ('Conv2d_2a_3x3', 32, 3, 1))
    x = _halve(_through(x, ('Conv2d_2b_3x3', 64, 3)))
    x = _through(x, ('Conv2d_3b_1x1', 80, 1), ('Conv2d_4a_3x3', 192, 3, 1))
    x = _halve(x)
    for name, features in (('5b', 32), ('5c', 64), ('5d', 64)):
      x = MixedA(features, name=f'Mixed_{name}')(x)
    x = MixedB(name='Mixed_6a')(x)
    for name, width in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
      x = MixedC(width, name=f'Mixed_{name}')(x)
    x = MixedD(name='Mixed_7a')(x)
    x = MixedE(name='Mixed_7b')(x)
    x = MixedE(maximum=True, name='Mixed_7c')(x)
    pool = x.mean((1, 2))
    return Outputs(pool, *_Classifier(name='fc')(pool))


class _Classifier(nn.Module):
  """The dense layer: logits with the bias, and without it."""

  @nn.compact
  def __call__(self, x):
    shape = (x.shape[-1], CLASSES)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (CLASSES,))
    logits = jnp.matmul(x, kernel, precision=lax.Precision.HIGHEST)
    return logits + bias.reshape(1, -1), logits
