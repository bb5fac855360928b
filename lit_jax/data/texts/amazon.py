"""Amazon reviews with all five scores, or with two classes of them."""

import os
from typing import NamedTuple

from lit_jax.data.texts import find
from lit_jax.data.texts.find import Columns, Source
from lit_jax.errors import UserError


class _Amazon(NamedTuple):
  """One of the two sets of Amazon reviews."""

  folder: str  # of its CSV files
  classes: tuple[str, ...]


_AMAZON = {
  'amazon_full': _Amazon('amazon_review_full_csv', ('1', '2', '3', '4', '5')),
  'amazon_polarity': _Amazon('amazon_review_polarity_csv', ('1', '2')),
}

NAMES = tuple(_AMAZON)


def files(name: str, folder: str, columns: Columns) -> Source:
  """Finds the reviews' CSV files, else Parquet or prepared ones.

  Args:
    name: one of NAMES.
    folder: that of data, or the unpacked folder of the CSV files itself.
    columns: which hold text and label in files that name their columns.

  Raises:
    UserError: no file is there, or some of them are missing.
  """
  csv_folder, classes = _AMAZON[name]
  columns = columns._replace(classes=classes, ordinal=True)
  header = ('class', 'title', 'text')
  csv_columns = Columns(header[1:], header[0], header, classes, False, True)
  places = [os.path.join(folder, csv_folder)]
  # No other name will do, for the other set's files have the same shape.
  if os.path.basename(os.path.abspath(folder)) == csv_folder:
    places.append(folder)
  for place in places:
    source = find.csv(place, csv_columns)
    if source:
      return source
  source = find.other(os.path.join(folder, name), columns)
  if source is None:
    raise UserError(
      f'{name}: {folder} holds no {csv_folder}/train.csv; put the unpacked '
      f'{csv_folder} there, or Parquet files (train*.parquet, test*.parquet) '
      f'in {os.path.join(folder, name)}, or set data_dir'
    )
  return source
