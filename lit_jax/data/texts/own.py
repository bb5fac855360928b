"""Texts of one's own, in CSV or Parquet files or prepared."""

from lit_jax.data.texts import find
from lit_jax.data.texts.find import Columns, Source
from lit_jax.errors import UserError

NAME = 'own'


def files(folder: str, columns: Columns) -> Source:
  """Finds the folder's CSV files, else Parquet or prepared ones.

  Args:
    folder: that with the files of both splits.
    columns: which hold text and label.

  Raises:
    UserError: no file is there, some of them are missing, or columns are named
      for files that name them themselves.
  """
  source = find.csv(folder, columns) or find.other(folder, columns)
  if source is None:
    raise UserError(
      f'{folder}: holds no train.csv, train*.parquet or directory that '
      'TensorFlow Datasets prepared; put your files there, or set `path`'
    )
  if source.kind != 'csv' and columns.header:
    kind = 'Parquet' if source.kind == 'parquet' else 'prepared'
    raise UserError(
      f'{source.place}: holds {kind} files, which name their columns '
      'themselves; leave `columns` empty'
    )
  return source
