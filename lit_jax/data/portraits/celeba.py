"""CelebA: photographs of faces, with 40 attributes each."""

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lit_jax.data import prepared
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.images import checks
from lit_jax.data.portraits import mapped, pictures
from lit_jax.data.portraits.pictures import Unusable
from lit_jax.data.preprocess import LabelledImages
from lit_jax.errors import UserError, choose, reason

NAME = 'celeba'
ATTRIBUTES = ('Black_Hair', 'Blond_Hair', 'Brown_Hair', 'Male', 'Young')
IMAGE_SIZE = 128
CROP = 178  # the width of every image, which is 218 high

_HAIR = ('Black_Hair', 'Blond_Hair', 'Brown_Hair', 'Gray_Hair')
_FOLDER, _LIST, _PREPARED = (
  'img_align_celeba',
  'list_attr_celeba.txt',
  'celeb_a',
)
_SEED, _TEST = 0, 1999
# Of fewer images than this, a tenth are the test split.
_MANY = 10000
_FIX = 'mend it, or take it from the data set anew'


def load(
  attributes: Sequence[str],
  image_size: int,
  data_dir: str,
  path: str,
  on_bad: str,
  cache: str,
) -> Dataset:
  """Reads CelebA, or images that are laid out likewise.

  They come from the first of these: the folder `img_align_celeba` and the file
  `list_attr_celeba.txt` beside it, in `path`, or in data_dir's folder
  `celeba`; a directory `celeb_a` that TensorFlow Datasets prepared, in `path`,
  or in data_dir.

  All images are shuffled once by seed 0 (those of a prepared directory in the
  order of its splits' names): the first 1,999 are the test split, or a tenth
  where they are fewer than 10,000 in all. Which ones these are does not depend
  on images that are skipped. The middle 178x178 of each is resized by a
  bilinear filter, antialiased.

  Args:
    attributes: of the list's, in the order of the labels; () for ATTRIBUTES.
    image_size: height and width.
    data_dir: where to look without a path.
    path: where to look, '' for below data_dir.
    on_bad: what an image does that cannot be used: 'stop', or 'skip'.
    cache: the folder for decoded images.

  Returns:
    The data set with its 'train' and 'test' splits: inputs `image` uint8 [N, s,
    s, 3], memory-mapped, and `label` uint8 [N, c]; labels are None. Colours of
    hair are exclusive, though a photograph may be said to have two.

  Raises:
    UserError: nothing is there; the list is malformed or lacks an attribute;
      an image cannot be used (with on_bad='stop'), or none of a split can; the
      cache cannot be written or is damaged.
  """
  source = _find(data_dir, path)
  wanted = tuple(attributes) or ATTRIBUTES

  def listed():
    listing = source.listing(image_size)
    # Before hours of work, or at least minutes.
    _columns(listing.names, wanted)
    return listing

  found = mapped.load(
    source.place, source.facts(), image_size, on_bad, cache, listed
  )
  columns = _columns(found.names, wanted)
  splits = {
    split: Split({'image': images, 'label': labels[:, columns]}, None)
    for split, (images, labels) in found.splits.items()
  }
  hair = tuple(i for i, name in enumerate(wanted) if name in _HAIR)
  return Dataset(
    NAME,
    splits,
    len(wanted),
    LabelledImages(),
    wanted,
    found.content,
    exclusive=(hair,) if len(hair) > 1 else (),
  )


def _columns(names, wanted) -> list[int]:
  return [names.index(choose('attribute', name, names)) for name in wanted]


def _find(data_dir: str, path: str) -> '_Files | _Prepared':
  place = path or os.path.join(data_dir, NAME)
  images, rows = os.path.join(place, _FOLDER), os.path.join(place, _LIST)
  there = [os.path.isdir(images), os.path.isfile(rows)]
  if all(there):
    return _Files(place, images, rows)
  if any(there):
    lacks = f'the file {_LIST}' if there[0] else f'the folder {_FOLDER}'
    raise UserError(f'{place}: lacks {lacks}; put it there')
  root = path or data_dir
  if infos := prepared.infos(_PREPARED, root):
    return _Prepared(root, prepared.newest(_PREPARED, infos))
  raise UserError(
    f'{NAME}: {place} holds no {_FOLDER} and {_LIST}; put them there (or a '
    f'directory {_PREPARED} that TensorFlow Datasets prepared in {root}), or '
    'set `path` to their folder'
  )


def _shuffled(reads: Sequence[mapped.Read | None], place: str) -> Any:
  """The readers by split, each in their order; None stands for no image."""
  count = len(reads)
  if count < 2:
    raise UserError(f'{place}: lists {count} images; two are the least')
  # RandomState, for numpy promises that its stream never changes.
  order = np.random.RandomState(_SEED).permutation(count)
  size = _TEST if count >= _MANY else max(1, count // 10)
  parts = {'train': np.sort(order[size:]), 'test': np.sort(order[:size])}
  return {
    split: [read for i in rows if (read := reads[i]) is not None]
    for split, rows in parts.items()
  }


# The folder and the list.


class _Files(NamedTuple):
  """The folder of images and the list beside it."""

  place: str
  images: str
  rows: str

  def facts(self) -> dict[str, Any]:
    digest = hashlib.sha256()
    for file in self._there():
      facts = f'{file.name}/{file.size}/{file.changed}\n'
      # A name may be no UTF-8.
      digest.update(facts.encode(errors='surrogateescape'))
    rows = hashlib.sha256(checks.read(self.rows, _FIX)).hexdigest()
    return {'kind': 'celeba', 'images': digest.hexdigest(), 'rows': rows}

  def listing(self, size: int) -> mapped.Listing:
    names, rows = _parsed(self.rows)
    there = {file.name for file in self._there()}
    faults, reads = [], []
    for name, label in rows.items():
      path = os.path.join(self.images, name)
      if name in there:
        reads.append(functools.partial(_read, path, size, label))
      else:
        reads.append(None)
        faults.append(
          Unusable('missing', f'{path}: is missing; {_LIST} has a row of it')
        )
    for name in sorted(there - set(rows)):
      path = os.path.join(self.images, name)
      faults.append(
        Unusable('without a row', f'{path}: {self.rows} has no row of it')
      )
    return mapped.Listing(names, _shuffled(reads, self.rows), faults)

  def _there(self):
    try:
      return pictures.files(self.images)
    except OSError as e:
      raise UserError(
        f'{self.images}: cannot be read ({reason(e)}); mend its permissions'
      ) from e


def _read(path: str, size: int, label: np.ndarray) -> Any:
  return pictures.read(path, size, CROP), label


def _parsed(path: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
  """The names of the attributes, and uint8 [attributes] by image, in order."""
  try:
    text = checks.read(path, _FIX).decode()
  except UnicodeDecodeError as e:
    raise UserError(f'{path}: is no UTF-8 text; {_FIX}') from e
  lines = text.splitlines()
  names = tuple(lines[1].split()) if len(lines) > 1 else ()
  if not names or len(set(names)) < len(names):
    raise UserError(
      f'{path}: line 2 must name the attributes, each once; {_FIX}'
    )
  rows: dict[str, np.ndarray] = {}
  for number, line in enumerate(lines[2:], 3):
    if not line.strip():
      continue
    name, *values = line.split()
    where = f'{path}: line {number}'
    if len(values) != len(names):
      raise UserError(
        f'{where} has {len(values)} values for {len(names)} attributes; {_FIX}'
      )
    if name in rows or os.path.basename(name) != name:
      fault = 'comes twice' if name in rows else 'is no name of a file alone'
      raise UserError(f'{where}: {name} {fault}; {_FIX}')
    rows[name] = _label(values, where)
  count = lines[0].strip()
  if count != str(len(rows)):
    raise UserError(
      f'{path}: line 1 is {count[:20]!r}, the number of images, and '
      f'{len(rows)} rows follow; {_FIX}'
    )
  return names, rows


def _label(values: list[str], where: str) -> np.ndarray:
  for value in values:
    if value not in ('1', '-1'):
      raise UserError(f'{where} has the value {value!r}, not 1 or -1; {_FIX}')
  return np.asarray([value == '1' for value in values], np.uint8)


# A directory that TensorFlow Datasets prepared.


class _Prepared(NamedTuple):
  """A prepared version, below the folder that holds the data set's."""

  root: str
  place: str

  def facts(self) -> dict[str, Any]:
    try:
      with os.scandir(self.place) as entries:
        facts = [(entry.name, entry.stat()) for entry in entries]
    except OSError as e:
      raise UserError(
        f'{self.place}: cannot be read ({reason(e)}); {prepared.FIX}'
      ) from e
    files = [[name, s.st_size, s.st_mtime_ns] for name, s in facts]
    return {'kind': _PREPARED, 'files': sorted(files)}

  def listing(self, size: int) -> mapped.Listing:
    sources = prepared.opened(_PREPARED, self.root, self.place)
    with prepared.reading(self.place):
      places = [(s, i) for s in sorted(sources) for i in range(len(sources[s]))]
      names = ()
      if places:
        split, i = places[0]
        names = tuple(sorted(sources[split][i]['attributes']))
    reads = [
      functools.partial(
        _example, sources[split], i, names, f'{self.place}: {split} {i}', size
      )
      for split, i in places
    ]
    return mapped.Listing(names, _shuffled(reads, self.place))


def _example(
  source: Any, i: int, names: tuple[str, ...], where: str, size: int
) -> Any:
  try:
    example = source[i]
    image = Image.fromarray(example['image'])
    label = [bool(example['attributes'][name]) for name in names]
  # The package and the readers below it raise errors of every kind.
  except Exception as e:
    raise Unusable('broken', f'{where}: cannot be read ({reason(e)})') from e
  return pictures.square(image, size, CROP, where), np.asarray(label, np.uint8)
