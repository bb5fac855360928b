"""Portraits of Twemoji, which are part of lit_jax.

A person is drawn as man and woman, in yellow and in five skin tones. So every
translation has a true target: another image of the same person.
"""

import hashlib
import math
import os
from collections.abc import Sequence

import numpy as np

from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.images import checks
from lit_jax.data.preprocess import LabelledImages
from lit_jax.errors import UserError, choose

NAME = 'emoji_portraits'
TONES = ('Light', 'Medium light', 'Medium', 'Medium dark', 'Dark')
ATTRIBUTES = ('Woman', *TONES)
SIZES = (32, 64)

_PEOPLE, _TEST_PEOPLE, _STORED = 50, 10, 64
# Row 0 is the yellow man: the tones of the man, then those of the woman.
_LABELS = np.asarray(
  [[w, *(t == i for i in range(1, 6))] for w in (0, 1) for t in range(6)],
  np.uint8,
)
_SHAPES = {
  'images': (_PEOPLE, _STORED, _STORED, len(_LABELS), 3),
  'test': (_TEST_PEOPLE,),
}
_PATH = os.path.join(os.path.dirname(__file__), 'emoji_portraits.npz')
_FIX = (
  'install lit_jax again, or make the file with '
  "'python -m lit_jax.data.portraits.make_emoji_portraits'"
)


def load(attributes: Sequence[str] = (), image_size: int = 32) -> Dataset:
  """The embedded portraits: 40 people to train with, and 10 others to test.

  Args:
    attributes: of ATTRIBUTES, in the order of the labels; () for all. Where
      some are left out, so are the images that have one of these, and a
      person's images differ in the others alone.
    image_size: 64, or 32, for which each 2x2 pixels are averaged.

  Returns:
    The data set with its 'train' and 'test' splits, of disjoint people: inputs
    `image` uint8 [N, s, s, 3] and `label` uint8 [N, c]; labels int32 [N], the
    person's number. The tones are exclusive, and yellow is none of them.

  Raises:
    UserError: an unknown attribute or size, or the file is missing or damaged.
  """
  names = tuple(choose('attribute', a, ATTRIBUTES) for a in attributes)
  names = names or ATTRIBUTES
  if image_size not in SIZES:
    raise UserError(
      f'{NAME}: image_size {image_size}; choose {" or ".join(map(str, SIZES))}'
    )
  images, test = _read()
  if image_size < _STORED:
    images = _halved(images)
  columns = [ATTRIBUTES.index(name) for name in names]
  others = np.delete(_LABELS, columns, 1)
  variants = np.flatnonzero(~others.any(1))
  splits = {}
  for split, taken in (('train', False), ('test', True)):
    people = np.flatnonzero(np.isin(np.arange(_PEOPLE), test) == taken)
    shown = images[people][:, variants].reshape(-1, *images.shape[2:])
    labels = np.tile(_LABELS[variants][:, columns], (len(people), 1))
    identities = np.repeat(people.astype(np.int32), len(variants))
    splits[split] = Split({'image': shown, 'label': labels}, identities)
  tones = tuple(i for i, name in enumerate(names) if name in TONES)
  return Dataset(
    NAME,
    splits,
    len(names),
    LabelledImages(),
    names,
    hashlib.sha256(images.tobytes()).hexdigest()[:32],
    exclusive=(tones,) if len(tones) > 1 else (),
    identities=True,
  )


def _read() -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [people, variants, 64, 64, 3], and the test people."""
  most = sum(map(math.prod, _SHAPES.values()))
  found = checks.read_arrays(_PATH, _SHAPES, most, _FIX)
  for name, array in found.items():
    if array.shape != _SHAPES[name] or array.dtype != np.uint8:
      raise UserError(
        f'{_PATH}: {name} is {array.dtype} {array.shape}, not uint8 '
        f'{_SHAPES[name]}; {_FIX}'
      )
  images = np.ascontiguousarray(found['images'].transpose(0, 3, 1, 2, 4))
  return images, found['test']


def _halved(images: np.ndarray) -> np.ndarray:
  """[…, h, w, c] → [… h / 2, w / 2, c], means to the nearest, halves up."""
  *most, height, width, channels = images.shape
  blocks = images.reshape(*most, height // 2, 2, width // 2, 2, channels)
  # uint16, for four times 255 do not fit in the images' own type.
  return ((blocks.sum((-4, -2), dtype=np.uint16) + 2) // 4).astype(np.uint8)
