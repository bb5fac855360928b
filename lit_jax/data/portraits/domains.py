"""Folders of images, one for each domain, such as expressions of faces."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.portraits import mapped, pictures
from lit_jax.data.preprocess import LabelledImages
from lit_jax.errors import UserError, choose, reason

NAME = 'domains'
IMAGE_SIZE = 128

_SPLITS = ('train', 'test')
_SEED = 0
_LAYOUT = 'train/DOMAIN/ and test/DOMAIN/, or DOMAIN/'

# Image files by domain.
_Folders = dict[str, list[pictures.File]]


def load(
  attributes: Sequence[str],
  image_size: int,
  path: str,
  on_bad: str,
  cache: str,
) -> Dataset:
  """Reads folders of images, each of which is a domain.

  They are `PATH/train/DOMAIN/` and `PATH/test/DOMAIN/`, or `PATH/DOMAIN/`, of
  each of which seed 0 picks a tenth (one image at least) for the test split.
  The greatest square in the middle of each image is resized by a bilinear
  filter, antialiased. Files that have no suffix of images are passed over.

  Args:
    attributes: the domains, in the order of the labels; () for all, sorted.
    image_size: height and width.
    path: the folder.
    on_bad: what an image does that cannot be used: 'stop', or 'skip'.
    cache: the folder for decoded images.

  Returns:
    The data set with its 'train' and 'test' splits: inputs `image` uint8 [N, s,
    s, 3], memory-mapped, and `label` uint8 [N, c], one-hot; labels are None.
    All domains are exclusive.

  Raises:
    UserError: the folder is not there, or has fewer than two domains, another
      domain than those asked for, or one without images; an image cannot be
      used (with on_bad='stop'), or none of a split can; the cache cannot be
      written or is damaged.
  """
  splits = _found(path)
  names = _chosen(path, splits, attributes)
  splits = {s: {n: splits[s][n] for n in names} for s in _SPLITS}
  facts = {'kind': NAME, 'names': list(names)} | {
    split: [[list(file) for file in folders[n]] for n in names]
    for split, folders in splits.items()
  }

  def listed():
    return _listing(path, names, splits, image_size)

  found = mapped.load(path, facts, image_size, on_bad, cache, listed)
  return Dataset(
    NAME,
    {
      split: Split({'image': images, 'label': labels}, None)
      for split, (images, labels) in found.splits.items()
    },
    len(names),
    LabelledImages(),
    names,
    found.content,
    exclusive=(tuple(range(len(names))),),
  )


def _found(path: str) -> dict[str, _Folders]:
  """The image files by split and domain; names are relative to the path."""
  there = [s for s in _SPLITS if os.path.isdir(os.path.join(path, s))]
  if len(there) == 1:
    lacks = next(s for s in _SPLITS if s not in there)
    raise UserError(
      f'{path}: has {there[0]}/ and lacks {lacks}/; put images in {_LAYOUT}'
    )
  if there:
    splits = {s: _folders(path, s) for s in _SPLITS}
    if splits['train'].keys() != splits['test'].keys():
      name = sorted(splits['train'].keys() ^ splits['test'].keys())[0]
      lacks = 'test' if name in splits['train'] else 'train'
      raise UserError(
        f'{path}: {lacks}/ lacks the domain {name!r}; put its images there'
      )
    return splits
  splits: dict[str, _Folders] = {s: {} for s in _SPLITS}
  for name, files in _folders(path, '').items():
    if len(files) == 1:
      raise UserError(
        f'{os.path.join(path, name)}: has one image, and each split needs one; '
        'add more'
      )
    # RandomState, for numpy promises that its stream never changes.
    order = np.random.RandomState(_SEED).permutation(len(files))
    size = max(1, len(files) // 10)
    splits['test'][name] = [files[i] for i in np.sort(order[:size])]
    splits['train'][name] = [files[i] for i in np.sort(order[size:])]
  return splits


def _folders(path: str, below: str) -> _Folders:
  root = os.path.join(path, below)
  result = {}
  try:
    for name in sorted(os.listdir(root)):
      folder = os.path.join(root, name)
      if name.startswith('.') or not os.path.isdir(folder):
        continue
      result[name] = [
        file._replace(name=os.path.join(below, name, file.name))
        for file in pictures.files(folder)
      ]
      if not result[name]:
        raise UserError(f'{folder}: holds no images; put some there')
  except OSError as e:
    place = e.filename or root
    raise UserError(
      f'{place}: cannot be read ({reason(e)}); put images in {path}/, as '
      f'{_LAYOUT}'
    ) from e
  return result


def _chosen(path, splits, attributes) -> tuple[str, ...]:
  known = tuple(splits['train'])
  names = tuple(choose('domain', a, known) for a in attributes) or known
  if len(names) < 2:
    found = f'only {names[0]!r}' if names else 'none'
    raise UserError(
      f'{path}: two domains are the least, and there is {found}; put images in '
      f'{_LAYOUT}, and name two `attributes` or none'
    )
  return names


def _listing(path, names, splits, size) -> mapped.Listing:
  labels = np.eye(len(names), dtype=np.uint8)
  reads = {
    split: [
      functools.partial(_read, os.path.join(path, file.name), size, label)
      for name, label in zip(names, labels, strict=True)
      for file in folders[name]
    ]
    for split, folders in splits.items()
  }
  return mapped.Listing(names, reads)


def _read(path: str, size: int, label: np.ndarray) -> Any:
  return pictures.read(path, size), label
