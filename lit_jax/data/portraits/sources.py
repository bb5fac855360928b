"""Finds images to translate, and reads them with their attributes."""

import dataclasses

from lit_jax.data.dataset import Dataset
from lit_jax.data.portraits import emoji
from lit_jax.errors import UserError, choose, names

NAMES = (emoji.NAME,)


@dataclasses.dataclass(frozen=True)
class PortraitOptions:
  """What of the images is read, and how.

  Attributes:
    attributes: those that the labels have, in their order, as 'Male,Young';
      '' for the source's default.
    image_size: height and width; 0 for the source's default.
    path: the folder with the images, where the source has one.
    cache: the folder for decoded images; '' for `portraits` in
      $LIT_JAX_DATA, else in ~/.cache/lit_jax.
    on_bad: what an image does that cannot be used: 'stop', or 'skip'.
  """

  attributes: str = ''
  image_size: int = 0
  path: str = ''
  cache: str = ''
  on_bad: str = 'stop'


def load(
  name: str, data_dir: str = '', options: PortraitOptions | None = None
) -> Dataset:
  """Reads images to translate."""
  del data_dir
  options = options or PortraitOptions()
  choose('data set', name, NAMES)
  if options.on_bad not in ('stop', 'skip'):
    raise UserError(f"on_bad {options.on_bad!r}: choose 'stop' or 'skip'")
  attributes = names(options.attributes, 'attributes')
  return emoji.load(attributes, options.image_size or emoji.SIZES[0])
