"""Augmentation and normalisation on the device."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

PAD = 4


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """What happens to a batch of uint8 images before a network sees it.

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

    Args:
      images: uint8 [n, h, w, c], examples first … first + n - 1 of a batch.
      key: the batch's random key.
      first: index of the first example in the whole batch.
      total: the whole batch's size, n by default. Draws are made for the whole
        batch, so that an example's do not depend on the number of devices.

    Returns:
      uint8 [n, h, w, c].
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
