"""Finds images to translate, and reads them with their attributes."""

import dataclasses
import os

from lit_jax.data.dataset import Dataset, home
from lit_jax.data.portraits import emoji
from lit_jax.errors import UserError, choose, names

_CELEBA, _DOMAINS = 'celeba', 'domains'
NAMES = (emoji.NAME, _CELEBA, _DOMAINS)

_SIZES = range(16, 1025, 4)


@dataclasses.dataclass(frozen=True)
class PortraitOptions:
  """What of the images is read, and how.

  Attributes:
    attributes: those that the labels have, in their order, as 'Male,Young';
      for 'domains' the folders' names; '' for the source's default.
    image_size: height and width; 0 for the source's default, 32 for
      'emoji_portraits' and else 128.
    path: for 'domains', the folder of the domains; for 'celeba', the folder
      with its images and its list, '' for `celeba` below data_dir.
    cache: the folder for decoded images; '' for `portraits` in $LIT_JAX_DATA,
      else in ~/.cache/lit_jax.
    on_bad: what an image does that cannot be used: 'stop', or 'skip', with
      which they are counted on stderr.
  """

  attributes: str = ''
  image_size: int = 0
  path: str = ''
  cache: str = ''
  on_bad: str = 'stop'


def load(
  name: str, data_dir: str = '', options: PortraitOptions | None = None
) -> Dataset:
  """Reads images to translate.

  `emoji_portraits` are part of lit_jax; where the others come from, and which
  images are the test split, is said by their sources: `celeba`, `domains`.
  Their images are decoded once into the cache, and mapped from there.

  Args:
    name: one of NAMES.
    data_dir: where to look; '' for $LIT_JAX_DATA, else ~/.cache/lit_jax.
    options: PortraitOptions() by default.

  Returns:
    The data set with its 'train' and 'test' splits: inputs `image` uint8 [N, s,
    s, 3] and `label` uint8 [N, c] of 0 and 1; labels int32 [N], who is seen, or
    None; class_names, which are the attributes; exclusive; and content.

  Raises:
    UserError: the name, an option or an attribute is unknown; nothing is
      there; a list or a folder is malformed; an image cannot be used (with
      on_bad='stop'), or none of a split can; the cache cannot be written or is
      damaged.
  """
  options = options or PortraitOptions()
  _check_options(name, options)
  attributes = names(options.attributes, 'attributes')
  if name == emoji.NAME:
    return emoji.load(attributes, options.image_size or emoji.SIZES[0])
  # Here, for Pillow takes a while to load, and the names must not.
  from lit_jax.data.portraits import celeba, domains

  path, cache = os.path.expanduser(options.path), _cache(options)
  if name == _DOMAINS:
    size = options.image_size or domains.IMAGE_SIZE
    return domains.load(attributes, size, path, options.on_bad, cache)
  size, root = options.image_size or celeba.IMAGE_SIZE, home(data_dir)
  return celeba.load(attributes, size, root, path, options.on_bad, cache)


def _check_options(name: str, options: PortraitOptions) -> None:
  choose('data set', name, NAMES)
  if options.on_bad not in ('stop', 'skip'):
    raise UserError(f"on_bad {options.on_bad!r}: choose 'stop' or 'skip'")
  if name == emoji.NAME and options.path:
    raise UserError(
      f'{name}: `path` is for folders of images, and these are part of '
      f'lit_jax; leave it empty, or choose {_CELEBA!r} or {_DOMAINS!r}'
    )
  if name == _DOMAINS and not options.path:
    raise UserError(f'{name}: set `path` to the folder with your domains')
  size = options.image_size
  if size and size not in _SIZES:
    raise UserError(
      f'{name}: image_size {size}; choose a multiple of 4 from {_SIZES[0]} to '
      f'{_SIZES[-1]}'
    )


def _cache(options: PortraitOptions) -> str:
  folder = options.cache or os.path.join(home(), 'portraits')
  return os.path.abspath(os.path.expanduser(folder))
