"""What happens on the device to a batch before a network sees it."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

from lit_jax.data.texts.characters import PADDING, UNKNOWN

PAD = 4


class Preprocess(Protocol):
  """Of a batch of one kind of data; hashable."""

  def augment(
    self,
    inputs: jax.Array,
    key: jax.Array,
    first: jax.Array | int = 0,
    total: int | None = None,
    /,
  ) -> jax.Array:
    """A training batch, changed at random.

    Args:
      inputs: uint8 [n, …], examples first … first + n - 1 of a batch.
      key: the batch's random key.
      first: index of the first example in the whole batch.
      total: the whole batch's size, n by default. Draws are made for the whole
        batch, so that an example's do not depend on the number of devices.

    Returns:
      uint8 [n, …].
    """
    ...

  def normalize(self, inputs: jax.Array, /) -> jax.Array:
    """uint8 [n, …] → what the network takes, of its `input_dtype`."""
    ...


@dataclasses.dataclass(frozen=True)
class TextPreprocess:
  """Character ids, which networks take as they are.

  Attributes:
    noise: the part of the characters that training does not get to see: each
      counts as unknown with this probability, drawn anew for every batch.
  """

  noise: float = 0.0

  def normalize(self, inputs: jax.Array) -> jax.Array:
    """The same ids."""
    return inputs

  def augment(
    self,
    inputs: jax.Array,
    key: jax.Array,
    first: jax.Array | int = 0,
    total: int | None = None,
  ) -> jax.Array:
    """Takes and returns uint8 [n, length]; see `Preprocess`."""
    if not self.noise:
      return inputs
    count, length = inputs.shape
    draws = jax.random.bernoulli(key, self.noise, (total or count, length))
    unseen = lax.dynamic_slice_in_dim(draws, first, count) & (inputs != PADDING)
    return jnp.where(unseen, jnp.uint8(UNKNOWN), inputs)


@dataclasses.dataclass(frozen=True)
class ImagePreprocess:
  """Random crops and mirror images; zero mean and unit deviation.

  Attributes:
    mean: per channel, in units of 0-1 pixels.
    std: per channel, in units of 0-1 pixels.
    crop: whether training images are shifted by up to 4 pixels.
    flip: whether training images are mirrored half of the time.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  crop: bool = True
  flip: bool = True

  def normalize(self, images: jax.Array) -> jax.Array:
    """uint8 [n, h, w, c] → float32, zero mean and unit deviation."""
    mean = jnp.asarray(self.mean, jnp.float32) * 255
    std = jnp.asarray(self.std, jnp.float32) * 255
    axes = tuple(range(images.ndim - 1))
    centred = images.astype(jnp.float32) - jnp.expand_dims(mean, axes)
    return centred / jnp.expand_dims(std, axes)

  def augment(
    self,
    images: jax.Array,
    key: jax.Array,
    first: jax.Array | int = 0,
    total: int | None = None,
  ) -> jax.Array:
    """Random crops of the zero-padded images, and random mirror images.

    Takes and returns uint8 [n, h, w, c]; see `Preprocess`.
    """
    count, height, width, channels = images.shape
    crop_key, flip_key = jax.random.split(key)
    total = total or count

    def mine(draws):
      return lax.dynamic_slice_in_dim(draws, first, count)

    if self.crop:
      corners = mine(jax.random.randint(crop_key, (total, 2), 0, 2 * PAD + 1))
      pads = ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0))

      def cut(image, corner):
        start = (corner[0], corner[1], 0)
        return lax.dynamic_slice(image, start, (height, width, channels))

      images = jax.vmap(cut)(jnp.pad(images, pads), corners)
    if self.flip:
      mirrored = mine(jax.random.bernoulli(flip_key, shape=(total,)))
      images = jnp.where(
        mirrored[:, None, None, None], images[:, :, ::-1], images
      )
    return images
