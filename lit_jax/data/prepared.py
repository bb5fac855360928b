"""Directories that TensorFlow Datasets prepared, read without TensorFlow."""

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from lit_jax.data.images import checks
from lit_jax.errors import UserError, reason

FIX = "delete it, or prepare it again with file_format='array_record'"


def infos(name: str, folder: str) -> list[str]:
  """One description file for each prepared version, the newest last.

  Args:
    name: of the data set, as the package calls it.
    folder: where the package prepared it.
  """
  found = glob.glob(
    os.path.join(glob.escape(folder), name, '*', 'dataset_info.json')
  )
  # Other names are of preparations that were cut off.
  found = [p for p in found if re.fullmatch(r'\d+(\.\d+)+', _version(p))]
  return sorted(found, key=lambda p: [int(n) for n in _version(p).split('.')])


def newest(name: str, found: Sequence[str]) -> str:
  """The prepared folder to read: the newest that needs no TensorFlow.

  Args:
    name: of the data set.
    found: what `infos` returned, not empty.

  Raises:
    UserError: all of them need TensorFlow, or a description is damaged.
  """
  readable = [p for p in found if 'array_record' in _formats(p)]
  if not readable:
    prepared = os.path.dirname(found[-1])
    formats = ', '.join(sorted(_formats(found[-1])))
    raise UserError(
      f'{prepared}: its format is {formats}, which needs TensorFlow to read; '
      f"prepare {name} again with file_format='array_record', or move it away"
    )
  return os.path.dirname(readable[-1])


def opened(name: str, folder: str, place: str) -> Any:
  """The sources of examples by split.

  Args:
    name: of the data set.
    folder: where the package prepared it.
    place: the version to read, as `newest` returns it.

  Raises:
    UserError: the package is not installed, or the directory cannot be read.
  """
  try:
    # Here, since only this one kind of copy needs the package.
    import tensorflow_datasets as tfds
  except ImportError as e:
    raise UserError(
      f'{place}: reading it needs the package tensorflow-datasets '
      f'({reason(e)}); install that, or move the folder away'
    ) from e
  with reading(place):
    return tfds.data_source(
      f'{name}:{os.path.basename(place)}', data_dir=folder, download=False
    )


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
  """Within it every error is a UserError that names the prepared folder."""
  try:
    yield
  except UserError:
    raise
  # The package and the readers below it raise errors of every kind.
  except Exception as e:
    raise UserError(f'{place}: cannot be read ({reason(e)}); {FIX}') from e


def _version(info: str) -> str:
  return os.path.basename(os.path.dirname(info))


def _formats(info: str) -> set[str]:
  fix = 'delete the folder, or prepare it again'
  try:
    fields = json.loads(checks.read(info, fix))
    # Old versions of the package name no format and write tfrecord.
    first = fields.get('fileFormat', 'tfrecord')
    return {first, *fields.get('alternativeFileFormats', ())}
  except (ValueError, AttributeError, TypeError) as e:
    raise UserError(f'{info}: is damaged ({reason(e)}); {fix}') from e
