"""Reads image data sets into memory, checked, as uint8 images and labels."""

import os

from lit_jax.data.dataset import Dataset, home
from lit_jax.data.images import cifar, fashion_mnist
from lit_jax.errors import UserError, choose

_SOURCES = {
  name: source for source in (cifar, fashion_mnist) for name in source.NAMES
}
NAMES = tuple(_SOURCES)


def load(name: str, data_dir: str = '') -> Dataset:
  """Reads a data set, fetching CIFAR where no copy of it is found.

  Where each comes from is said by its source: `cifar`, `fashion_mnist`.

  Args:
    name: one of NAMES.
    data_dir: where to look; '' for $LIT_JAX_DATA, else ~/.cache/lit_jax.

  Returns:
    The data set with its 'train' and 'test' splits: images uint8 [N, 32, 32,
    3] for CIFAR and [N, 28, 28, 1] for Fashion-MNIST, labels int32 [N].

  Raises:
    UserError: the name is unknown, or a file is missing, unreadable, damaged,
      of the wrong size or holds a label out of range.
  """
  source = _SOURCES[choose('data set', name, NAMES)]
  folder = home(data_dir)
  if os.path.exists(folder) and not os.path.isdir(folder):
    raise UserError(f'data_dir {folder}: is not a directory; name one')
  return source.load(name, folder)
