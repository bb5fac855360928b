"""What finished runs found: one JSON file each, and those that come with this.

`finished/SCALE.json` holds the rows of runs that were made for docs/paper.md;
a row that is in it is not trained again.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from lit_jax.errors import UserError
from lit_jax.files import write_json
from lit_jax.networks import saved

_FINISHED = pathlib.Path(__file__).parent / 'finished'
_ROWS = 'rows'
# Of a row; what else there is serves pictures.
_KEPT = (int, float, str)
_KEPT_OBJECTS = ('latency_ms', 'ir_error')


class Root(NamedTuple):
  """Where a scale's runs are.

  Attributes:
    folder: of what is trained here.
    scale: its name.
    finished: records that come with the project, by the run's name.
  """

  folder: pathlib.Path
  scale: str
  finished: Mapping[str, Mapping[str, Any]]

  def record(self, name: str) -> Mapping[str, Any] | None:
    """Of the run of that name: its row, and what made it; None without one.

    Raises:
      UserError: it is damaged.
    """
    path = self._path(name)
    try:
      content = json.loads(path.read_text())
      _ = content['row']['train_seconds']
      return content
    except FileNotFoundError:
      return self.finished.get(name)
    except (OSError, ValueError, TypeError, KeyError):
      raise UserError(
        f'{path} is damaged; delete it, and the same command makes it again'
      ) from None

  def network(self, name: str) -> pathlib.Path | None:
    """The folder of the network that a run trained here; None without one."""
    try:
      content = json.loads(self._path(name).read_text())
      found = self.folder / content['network']
    except (OSError, ValueError, TypeError, KeyError):
      return None
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

  def write(
    self,
    name: str,
    run: Any,
    row: Mapping[str, Any],
    results: Mapping[str, Any],
    network: str,
  ) -> None:
    """Keeps a run's row.

    Args:
      name: of the run.
      run: JSON values that say what it is.
      row: of the results.
      results: the content of `results.json`.
      network: its folder, below this one.
    """
    path = self._path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
      'run': run,
      'row': _slim(row),
      'dataset': results['dataset'],
      'device': results['device'],
      'versions': results['versions'],
      'network': network,
    }
    write_json(path, content)

  def _path(self, name):
    return self.folder / _ROWS / f'{name}.json'


def root(folder: pathlib.Path, scale: str) -> Root:
  """The runs of a scale, here and with the project."""
  return Root(folder, scale, _read(_FINISHED / f'{scale}.json'))


def publish(root: Root, names: list[str]) -> pathlib.Path:
  """Writes the records of these runs to where they come with the project."""
  found = {name: root.record(name) for name in names}
  known = {name: record for name, record in found.items() if record}
  path = _FINISHED / f'{root.scale}.json'
  path.parent.mkdir(exist_ok=True)
  # Records of runs that no artifact needs any more are left out.
  write_json(path, dict(sorted(known.items())))
  return path


def _read(path):
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return {}


def _slim(row):
  return {
    key: value
    for key, value in row.items()
    if isinstance(value, _KEPT) or key in _KEPT_OBJECTS
  }
