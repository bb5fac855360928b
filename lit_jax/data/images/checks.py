"""Checks that every source of images shares."""

import io
import os
from collections.abc import Iterable

import numpy as np

from lit_jax.errors import UserError, reason

_HEADERS = 10_000  # bytes of an .npz file beside its arrays'


def read(path: str, fix: str) -> bytes:
  """A file's bytes; UserError, which ends with `fix`, where it has none."""
  check_is_file(path, fix)
  try:
    with open(path, 'rb') as f:
      return f.read()
  except OSError as e:
    raise UserError(f'{path}: cannot be read ({reason(e)}); {fix}') from e


def check_is_file(path: str, fix: str) -> None:
  """UserError, which ends with `fix`, where something else is there."""
  if os.path.exists(path) and not os.path.isfile(path):
    # A pipe would be waited for, and a device read without an end.
    raise UserError(f'{path}: is a directory or a pipe; {fix}')


def read_arrays(
  path: str, names: Iterable[str], most: int, fix: str
) -> dict[str, np.ndarray]:
  """These arrays of an `.npz`.

  Args:
    path: of the file.
    names: of the arrays.
    most: bytes that all of them have, unpacked; a small file can hold more.
    fix: what to do about a damaged one, with which the message ends.

  Raises:
    UserError: the file is damaged, or holds more.
  """
  raw = io.BytesIO(read(path, fix))
  try:
    with np.load(raw) as arrays:
      found = sum(member.file_size for member in arrays.zip.infolist())
      if found > most + _HEADERS:
        raise ValueError(f'it holds {found} bytes, not {most}')
      return {name: arrays[name] for name in names}
  # NumPy and the readers below it raise errors of every kind.
  except Exception as e:
    raise UserError(f'{path}: is damaged ({reason(e)}); {fix}') from e


def check_size(found: int, size: int, where: str, fix: str) -> None:
  """Raises UserError unless `where` has that many bytes."""
  if found != size:
    fault = 'is cut short' if found < size else 'is too long'
    raise UserError(f'{where}: {fault}, {found} bytes, not {size}; {fix}')


def check_count(found: int, count: int, where: str, fix: str) -> None:
  """Raises UserError unless `where` holds that many examples."""
  if found != count:
    raise UserError(f'{where}: holds {found} examples, not {count}; {fix}')


def check_labels(
  labels: np.ndarray, classes: int, where: str, fix: str
) -> np.ndarray:
  """The labels as int32 [N], once all are known to be in range.

  Args:
    labels: integers [N].
    classes: how many there are.
    where: the place they were read from, for the message.
    fix: what to do about it, with which the message ends.

  Raises:
    UserError: one is not 0 to classes - 1.
  """
  bad = np.flatnonzero((labels < 0) | (labels >= classes))
  if len(bad):
    raise UserError(
      f'{where}: label {bad[0]} is {labels[bad[0]]}, not 0 to {classes - 1}; '
      f'{fix}'
    )
  return labels.astype(np.int32)
