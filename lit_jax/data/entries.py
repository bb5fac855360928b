"""Folders of a cache: each an entry that is there whole or not at all."""

import contextlib
import fcntl
import glob
import json
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator
from typing import Any

from lit_jax.errors import UserError, reason
from lit_jax.files import sync_folder

# Every entry has this file, which is written last.
META = 'meta.json'
# Younger unfinished entries may not be locked yet.
_SWEEP_AGE = 60  # seconds


class Room:
  """Where an entry is written.

  Attributes:
    folder: is empty at first.
    bytes: that were to be written so far; whoever writes counts them.
  """

  def __init__(self, folder: str):
    self.folder = folder
    self.bytes = 0


@contextlib.contextmanager
def writing(entry: str, what: str) -> Iterator[Room]:
  """A new entry, in place when the block ends, and gone if it raises.

  Of several processes that write the same entry, the first one's stays. All
  files of an entry must be on the disk (`files.sync`) when the block ends.

  Args:
    entry: the folder to be, below that of the cache, which is made.
    what: is written, in the plural, for the message.

  Raises:
    UserError: it cannot be written, for instance for lack of space.
  """
  root = os.path.dirname(entry)
  folder, lock = '', None
  room = Room('')
  try:
    os.makedirs(root, exist_ok=True)
    _sweep(root)
    folder = f'{entry}.{secrets.token_hex(8)}.part'
    os.mkdir(folder)
    lock = _lock(folder)
    room = Room(folder)
    yield room
    _rename(folder, entry)
  except OSError as e:
    # Readers of source files raise UserErrors, so this came from writing.
    need = f'they need {room.bytes} bytes or more: ' if room.bytes else ''
    raise UserError(
      f'{root}: {what} cannot be written there ({e.strerror or e}); {need}'
      'make room, or set `cache` to another folder'
    ) from e
  finally:
    if folder:
      shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
      os.close(lock)


@contextlib.contextmanager
def reading(entry: str, what: str) -> Iterator[dict[str, Any]]:
  """What META of an entry says; errors within are UserErrors that name it.

  Args:
    entry: its folder.
    what: it holds, in the plural, for the message.

  Raises:
    UserError: the entry is damaged, or the block finds that it cannot be used.
  """
  try:
    with open(os.path.join(entry, META)) as f:
      meta = json.load(f)
    yield meta
  except UserError:
    raise
  # JSON's and NumPy's readers raise errors of every kind.
  except Exception as e:
    fault = f'lacks {e}' if isinstance(e, KeyError) else reason(e)
    raise UserError(
      f'{entry}: these {what} cannot be used ({fault}); delete that folder and '
      'start again'
    ) from e


def _rename(folder: str, entry: str) -> None:
  try:
    # All within is on the disk already.
    os.rename(folder, entry)
    sync_folder(pathlib.Path(entry).parent)
  except OSError:
    # Another process may have been first, with the same bytes.
    if not os.path.exists(os.path.join(entry, META)):
      raise


def _lock(folder: str) -> int | None:
  """Locks a folder as long as this process lives; None where that fails."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:  # in use, or of a file system without locks
    os.close(descriptor)
    return None
  return descriptor


def _sweep(root: str) -> None:
  """Removes what killed processes left."""
  for folder in glob.glob(os.path.join(glob.escape(root), '*.part')):
    with contextlib.suppress(OSError):
      if time.time() - os.path.getmtime(folder) < _SWEEP_AGE:
        continue
      lock = _lock(folder)
      if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
