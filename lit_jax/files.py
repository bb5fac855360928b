"""Files that are there whole or not at all."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from typing import IO, Any

# What a file system says that cannot put a folder's entries on the disk.
_NO_SUCH_SYNC = (errno.EINVAL, errno.ENOTSUP)
# What it says of a write to an open file.
_DISK = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE
# The same in TensorStore's words.
_PHRASES = (
  'no space left', 'read-only file system', 'quota exceeded',
  'permission denied', 'no such file or directory',
)  # fmt: skip


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a file in UTF-8, whole or not at all.

  Whoever reads the path, also after a crash or a power cut at any moment,
  finds the file as it was before or the whole new one. On return the new one
  is on the disk. The folder must exist; several processes may write at once,
  and the last one stands.

  Args:
    path: is made or replaced.
    text: the content.

  Raises:
    OSError: the file cannot be written. Unless it is the folder's entry alone
      that could not be put on the disk, the path is as it was before.
    UnicodeEncodeError: the text has lone surrogates; nothing is touched.
  """
  write_bytes(path, text.encode('utf-8'))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file, with `write_text`'s guarantee.

  Args:
    path: is made or replaced.
    content: what it shall hold.

  Raises:
    OSError: as `write_text`.
  """
  path = pathlib.Path(path)
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    with part.open('wb') as file:
      file.write(content)
      sync(file)
    os.replace(part, path)
  except BaseException:
    # The first error is the one to tell of.
    with contextlib.suppress(OSError):
      part.unlink()
    raise
  sync_folder(path.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes a value as indented JSON, with `write_text`'s guarantee.

  Args:
    path: is made or replaced.
    value: JSON values.

  Raises:
    OSError: as `write_text`.
    TypeError: the value is no JSON; nothing is touched.
  """
  write_text(path, json.dumps(value, indent=2) + '\n')


def put_aside(path: pathlib.Path) -> pathlib.Path:
  """Renames what is damaged to NAME.damaged, in place of what was so before.

  Raises:
    OSError: it cannot be renamed.
  """
  aside = path.with_name(f'{path.name}.damaged')
  shutil.rmtree(aside, ignore_errors=True)
  aside.unlink(missing_ok=True)
  return path.rename(aside)


def read_json(path: pathlib.Path) -> Any:
  """The value that a file of JSON holds.

  Raises:
    OSError: it cannot be read.
    ValueError: it is no JSON, or nothing that any program here has written.
  """
  return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
  """The value of a JSON text; bytes are in UTF-8.

  Raises:
    ValueError: as `read_json`.
  """
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError('it is nested too deeply') from None


def sync(file: IO[Any]) -> None:
  """Puts what was written to an open file on the disk.

  A full disk may be noticed only here.
  """
  file.flush()
  os.fsync(file.fileno())


def sync_folder(folder: pathlib.Path) -> None:
  """Puts the folder's entries on the disk, where the file system can."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in _NO_SUCH_SYNC:
      raise
  finally:
    os.close(descriptor)


def refusal(
  error: BaseException, folder: str | os.PathLike[str] | None
) -> str | None:
  """What the file system refused, or None where the error is another one.

  Orbax wraps the system's errors in kinds of its own, with their text.

  Args:
    error: that was raised while files were written.
    folder: in which they are, for errors that do not say.
  """
  seen: BaseException | None = error
  while seen is not None:
    if isinstance(seen, OSError) and (seen.filename or seen.errno in _DISK):
      return f'{seen.filename or folder}: {seen.strerror}'
    text = str(seen).lower()
    for phrase in _PHRASES:
      if phrase in text:
        return f'{folder}: {phrase}'
    seen = seen.__cause__ or seen.__context__
  return None
