"""What finished runs found: one JSON file a workdir, and those that come along.

`finished/SCALE.json` holds the records of runs that were made for
docs/paper.md; what is in it is not trained again.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from lit_jax.errors import UserError
from lit_jax.files import write_json
from lit_jax.networks import saved

FINISHED = pathlib.Path(__file__).parent / 'finished'
_ROWS = 'rows'
# Of a row; what else there is serves pictures, or names a folder.
_KEPT = (int, float, str)
_KEPT_OBJECTS = ('latency_ms', 'ir_error')

# What is known of a run:
# {'run': what it is, 'recipe': what it was made with, 'row': …, 'given': the
#  digests of the networks that it was given, 'dataset', 'device', 'versions',
#  'network': the folder of what it trained}
Record = Mapping[str, Any]


class Root:
  """The runs of a scale, here and with the project.

  Attributes:
    folder: of what is trained here.
    scale: its name.
  """

  def __init__(
    self, folder: pathlib.Path, scale: str, finished: Mapping[str, Record]
  ):
    """`finished` are records from elsewhere, by the run's name."""
    self.folder, self.scale, self._elsewhere = folder, scale, finished
    self._read: dict[pathlib.Path, Mapping[str, Record]] = {}

  def record(self, name: str) -> Record | None:
    """Of the run of that name; one that was made here goes first.

    Raises:
      UserError: a file is damaged.
    """
    return self._own(name) or self._elsewhere.get(name)

  def network(self, name: str) -> pathlib.Path | None:
    """The folder of the network that a run trained here; None without one."""
    record = self._own(name)
    if record is None:
      return None
    found = self.folder / record['network']
    return found if saved.exists(found) else None

  def needed_network(self, name: str) -> pathlib.Path:
    """The same, of one that must be there.

    Raises:
      UserError: it is not.
    """
    found = self.network(name)
    if found is None:
      raise UserError(
        f'the network of {name} is gone from {self.folder}; the same command '
        'trains it again'
      )
    return found

  def write(self, workdir: str, found: Mapping[str, Record]) -> None:
    """Keeps the records of all runs of a workdir, at once.

    Args:
      workdir: its name.
      found: the records by the runs' names.
    """
    path = self.folder / _ROWS / f'{workdir}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    self._read.pop(path, None)

  def _own(self, name):
    # Other processes may have written more since.
    for path in sorted((self.folder / _ROWS).glob('*.json')):
      if path not in self._read:
        self._read[path] = _content(path)
    found = [own[name] for own in self._read.values() if name in own]
    return found[-1] if found else None


def root(folder: pathlib.Path, scale: str) -> Root:
  """The runs of a scale, in this folder and with the project.

  Raises:
    UserError: the project's file is damaged.
  """
  path = FINISHED / f'{scale}.json'
  return Root(folder, scale, _content(path) if path.exists() else {})


def publish(found: Mapping[str, Record], scale: str) -> None:
  """Writes records to where they come with the project, in place of all."""
  FINISHED.mkdir(exist_ok=True)
  write_json(FINISHED / f'{scale}.json', dict(sorted(found.items())))


def slim(row: Mapping[str, Any]) -> dict[str, Any]:
  """A row without what serves pictures alone."""
  return {
    key: value
    for key, value in row.items()
    if (isinstance(value, _KEPT) and key != 'start') or key in _KEPT_OBJECTS
  }


def _content(path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text())
    for record in content.values():
      _ = record['row']['train_seconds'], record['network'], record['recipe']
    return content
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    raise UserError(
      f'{path} is damaged; delete it, and the same command makes it again'
    ) from None
