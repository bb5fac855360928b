"""What happens on the device to a batch before a network sees it."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lit_jax.data.texts.characters import PADDING, SYMBOLS, UNKNOWN
from lit_jax.errors import UserError

PAD = 4
_RANGE = (-1.0, 1.0)  # of the pixels of labelled images


class Preprocess(Protocol):
  """Of a batch of one kind of data, any pytree; hashable."""

  def augment(
    self,
    inputs: Any,
    key: jax.Array,
    first: jax.Array | int = 0,
    total: int | None = None,
    /,
  ) -> Any:
    """A training batch, changed at random.

    Args:
      inputs: [n, …], examples first … first + n - 1 of a batch.
      key: the batch's random key.
      first: index of the first example in the whole batch.
      total: the whole batch's size, n by default. Draws are made for the whole
        batch, so that an example's do not depend on the number of devices.

    Returns:
      The same shapes and dtypes.
    """
    ...

  def normalize(self, inputs: Any, /) -> Any:
    """[n, …] → a batch of the network's `example`.

    Raises:
      UserError: inputs of a kind that it does not take.
    """
    ...

  def facts(self) -> dict[str, Any]:
    """What a network that was trained so must be fed with, as JSON values."""
    ...

  def fed_by(self, facts: Mapping[str, Any], /) -> 'Preprocess':
    """The same, but for a network of these facts.

    Raises:
      UserError: facts of another kind of data.
    """
    ...


@dataclasses.dataclass(frozen=True)
class AsIs:
  """Inputs that networks take as they are, any pytree."""

  def augment(
    self,
    inputs: Any,
    key: jax.Array,
    first: jax.Array | int = 0,
    total: int | None = None,
  ) -> Any:
    """The same inputs."""
    del key, first, total
    return inputs

  def normalize(self, inputs: Any) -> Any:
    """The same inputs."""
    return inputs

  def facts(self) -> dict[str, Any]:
    return {'kind': 'as is'}

  def fed_by(self, facts: Mapping[str, Any]) -> 'AsIs':
    _check_kind(self, facts)
    return self


def _check_kind(preprocess: Preprocess, facts: Mapping[str, Any]) -> None:
  wanted, found = preprocess.facts()['kind'], facts.get('kind')
  if found != wanted:
    raise UserError(f'it reads {found}, and the data are {wanted}')


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

  def facts(self) -> dict[str, Any]:
    """The alphabet; the length stands in the network's own specification."""
    return {'kind': 'characters', 'symbols': SYMBOLS}

  def fed_by(self, facts: Mapping[str, Any]) -> 'TextPreprocess':
    _check_kind(self, facts)
    if facts.get('symbols') != SYMBOLS:
      raise UserError('it reads another alphabet; train it anew')
    return self


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
    channels = len(self.mean)
    if images.dtype != jnp.uint8 or images.shape[-1] != channels:
      raise UserError(f'images are uint8 of 0 to 255, of {channels} channels')
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
      images = _cut(images, corners, PAD, (height, width, channels), 'constant')
    if self.flip:
      mirrored = mine(jax.random.bernoulli(flip_key, shape=(total,)))
      images = jnp.where(
        mirrored[:, None, None, None], images[:, :, ::-1], images
      )
    return images

  def facts(self) -> dict[str, Any]:
    """The normalisation."""
    return {'kind': 'images', 'mean': list(self.mean), 'std': list(self.std)}

  def fed_by(self, facts: Mapping[str, Any]) -> 'ImagePreprocess':
    _check_kind(self, facts)
    mean, std = tuple(facts['mean']), tuple(facts['std'])
    return dataclasses.replace(self, mean=mean, std=std)


def _cut(images, corners, pad, shape, mode):
  """Of each padded image the part that begins at its corner."""
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode)

  def cut(image, corner):
    return lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)

  return jax.vmap(cut)(padded, corners)


@dataclasses.dataclass(frozen=True)
class LabelledImages:
  """Images, each with a label of what it shows or shall be made to show.

  Attributes:
    flip: whether training images are mirrored half of the time.
    shift: pixels by which training images are moved at most, across and down;
      their edges fill what is then uncovered.
  """

  flip: bool = True
  shift: int = 0

  def normalize(self, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Pixels to -1 to 1, which is x / 127.5 - 1, and labels to float32.

    Args:
      inputs: `image` uint8 [n, h, w, 3], and `label` uint8 or float32 [n, c].

    Returns:
      `image` float32 [n, h, w, 3], and `label` float32 [n, c].
    """
    self._check(inputs)
    return {
      'image': self._images.normalize(inputs['image']),
      'label': inputs['label'].astype(jnp.float32),
    }

  def augment(
    self,
    inputs: Mapping[str, jax.Array],
    key: jax.Array,
    first: jax.Array | int = 0,
    total: int | None = None,
  ) -> dict[str, jax.Array]:
    """Random mirror images and shifts; the same labels; see `Preprocess`."""
    image = self._images.augment(inputs['image'], key, first, total)
    if self.shift:
      count, *shape = image.shape
      corners = jax.random.randint(
        # Other draws than those of the mirror images.
        jax.random.fold_in(key, zlib.crc32(b'shift')),
        (total or count, 2), 0, 2 * self.shift + 1,
      )  # fmt: skip
      corners = lax.dynamic_slice_in_dim(corners, first, count)
      image = _cut(image, corners, self.shift, shape, 'edge')
    return {**inputs, 'image': image}

  def facts(self) -> dict[str, Any]:
    """The range of the pixels that a network reads."""
    return {'kind': 'labelled images', 'range': list(_RANGE)}

  def fed_by(self, facts: Mapping[str, Any]) -> 'LabelledImages':
    _check_kind(self, facts)
    if tuple(facts.get('range', ())) != _RANGE:
      raise UserError(
        f'it reads pixels of the range {facts.get("range")}, not '
        f'{list(_RANGE)}; train it anew'
      )
    return self

  @property
  def _images(self) -> ImagePreprocess:
    half = (0.5, 0.5, 0.5)
    return ImagePreprocess(half, half, crop=False, flip=self.flip)

  def _check(self, inputs: Any) -> None:
    if not (
      isinstance(inputs, Mapping)
      and set(inputs) == {'image', 'label'}
      and inputs['image'].ndim == 4
      and inputs['label'].ndim == 2
      and inputs['label'].dtype in (jnp.uint8, jnp.float32)
    ):
      raise UserError(
        "labelled images are {'image': uint8 [n, h, w, 3], 'label': uint8 or "
        'float32 [n, attributes]}'
      )


def usual(inputs: Any) -> Preprocess:
  """What suits data of which nothing else is known.

  Args:
    inputs: uint8 images [N, h, w, c], which are normalised by the mean and
      deviation of each channel and not augmented; everything else is taken as
      it is.
  """
  if not (
    isinstance(inputs, np.ndarray)
    and inputs.dtype == np.uint8
    and inputs.ndim == 4
  ):
    return AsIs()
  pixels = inputs.reshape(-1, inputs.shape[-1])
  mean, std = pixels.mean(0) / 255, pixels.std(0) / 255
  # A channel of one value has no deviation.
  std = np.where(std > 0, std, 1.0)
  # The last digits depend on the order of the sums.
  mean, std = (tuple(round(float(c), 6) for c in x) for x in (mean, std))
  return ImagePreprocess(mean, std, crop=False, flip=False)
