"""The folder of a run: who may use it, and what it was begun with.

workdir/
  config.json data.json     what the run was made with
  METHOD/PHASE/             Orbax checkpoints
  teacher/teacher/          the trained teacher alone (networks/saved.py)
  judge/judge/              what judges the others, where the task needs it
  METHOD/student/           a trained student alone
  BASELINE/row.json
  metrics.jsonl tensorboard/ pictures/
  wandb/ mlflow.db          of trackers that are asked for
  results.json report.html
  cache/                    compiled programs

No method can be named as one of these (TAKEN).
"""

import contextlib
import enum
import fcntl
import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import traverse_util

from lit_jax import records, report
from lit_jax.errors import UserError
from lit_jax.files import read_json, write_json
from lit_jax.runs.phases import JUDGE, TEACHER
from lit_jax.training import logs, startup, trackers


class Busy(UserError):
  """Another run is at work in the workdir."""


_CONFIG, _DATA, _RESULTS, _ROW = (
  'config.json', 'data.json', 'results.json', 'row.json'
)  # fmt: skip
_LOCK = '.lock'
# What a run calls its own, so that nothing else in its workdir can have the
# name.
TAKEN = (
  TEACHER, JUDGE, _CONFIG, _DATA, _RESULTS, _LOCK, records.METRICS,
  logs.PICTURES, logs.TENSORBOARD, startup.CACHE, report.PAGE,
  *trackers.KEPT,
)  # fmt: skip


def network(workdir: pathlib.Path, method: str, role: str) -> pathlib.Path:
  """The folder of a trained network; `role` is 'teacher' or 'student'."""
  return workdir / method / role


@contextlib.contextmanager
def claimed(
  workdir: pathlib.Path, config: Mapping[str, Any]
) -> Iterator[Callable[[], None]]:
  """Makes the workdir, of this configuration alone, and keeps others out.

  Yields:
    What raises UserError where the workdir is no longer this run's: somebody
    has removed it, and another run may have made one of the same name.

  Raises:
    Busy: another run is at work in it.
    UserError: it cannot be used, or was made with another configuration.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / _LOCK).open('w')
  except OSError as error:
    raise _unusable(workdir, error) from None
  with lock:
    found = _lock(lock)
    if found is _Lock.HELD:
      raise Busy(
        f'another run is at work in {workdir}; wait for it, or choose another '
        '--workdir'
      )
    if found is _Lock.NONE:
      print(
        f'the file system of {workdir} has no locks: start no second run in it '
        'while this one is at work',
        file=sys.stderr,
      )
    compare_config(workdir, config)
    if not (workdir / _CONFIG).exists():
      _write(workdir, _CONFIG, config)
    yield functools.partial(_check_claim, workdir, lock)


def _check_claim(workdir, lock):
  # An open file's number is not given to another.
  with contextlib.suppress(FileNotFoundError):
    there = (workdir / _LOCK).stat()
    if os.path.samestat(there, os.fstat(lock.fileno())):
      return
  raise UserError(
    f'workdir {workdir} was removed while this run was at work in it; run the '
    'same command again to begin anew'
  )


def is_busy(workdir: pathlib.Path) -> bool:
  """Whether another run is at work in it now."""
  try:
    with (workdir / _LOCK).open() as lock:
      return _lock(lock) is _Lock.HELD
  except FileNotFoundError:
    return False


class _Lock(enum.Enum):
  OURS, HELD, NONE = enum.auto(), enum.auto(), enum.auto()


def _lock(file) -> _Lock:
  """Locks the file for as long as it is open.

  Another may hold it, and some file systems, such as Lustre and NFS, may have
  no locks at all.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return _Lock.OURS
  except BlockingIOError:
    return _Lock.HELD
  except OSError:
    return _Lock.NONE


def _write(workdir, name, value):
  try:
    write_json(workdir / name, value)
  except OSError as error:
    raise _unusable(workdir, error) from None


def _unusable(workdir, error):
  return UserError(
    f'cannot use workdir {workdir}: {error.strerror}; choose another --workdir'
  )


def compare_config(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Raises UserError if the workdir was made with another configuration."""
  old = _read(workdir, _CONFIG)
  if old is None:
    steps = (path.name.isdecimal() for path in workdir.glob('*/*/*'))
    if (workdir / _RESULTS).exists() or any(steps):
      # What a run left whose workdir was removed meanwhile may be of any
      # configuration.
      raise UserError(
        f'{workdir} holds results or checkpoints without {_CONFIG}; remove '
        'what is in it, or choose another --workdir'
      )
    return
  # Through JSON, so that tuples and lists compare equal.
  new = json.loads(json.dumps(config))
  if old != new:
    raise UserError(
      f'workdir {workdir} was made with another configuration: '
      f'{_differences(old, new)}; choose another --workdir'
    )


def compare_data(workdir: pathlib.Path, facts: Mapping[str, Any]) -> None:
  """Raises UserError if the workdir was begun with other examples.

  Args:
    workdir: of the run.
    facts: what the examples are, and where one is given and used the
      'teacher'; JSON values. A workdir is bound to the first teacher.
  """
  old = _read(workdir, _DATA)
  new = dict(facts)
  if old is not None:
    _compare(workdir, new | old, old | new)
  if old != new | (old or {}):
    _write(workdir, _DATA, new | (old or {}))


def compare_given(workdir: pathlib.Path, facts: Mapping[str, str]) -> None:
  """Raises UserError if the workdir was begun with another given network.

  Args:
    workdir: of the run.
    facts: digests by the keys that `compare_data` has; what the workdir is not
      bound to yet is passed over.
  """
  old = _read(workdir, _DATA) or {}
  known = {key: value for key, value in facts.items() if key in old}
  _compare(workdir, old, old | known)


def _read(workdir, name) -> dict[str, Any] | None:
  """What the workdir is bound to, or None where it is not bound yet."""
  path = workdir / name
  try:
    content = read_json(path)
  except FileNotFoundError:
    return None
  except OSError as error:
    raise _unusable(workdir, error) from None
  except ValueError:
    content = None
  if not isinstance(content, dict):
    raise UserError(
      f'{path} is damaged, so what {workdir} was begun with is not known; '
      'choose another --workdir'
    )
  return content


def _compare(workdir, old, facts):
  if old != facts:
    raise UserError(
      f'workdir {workdir} was begun with other data: '
      f'{_differences(old, facts)}; choose another --workdir, or put back what '
      'was there'
    )


def _differences(old, new):
  old, new = (traverse_util.flatten_dict(tree, sep='.') for tree in (old, new))
  rows = [
    f'{key} was {old.get(key, "absent")}, is {new.get(key, "absent")}'
    for key in sorted(old.keys() | new.keys())
    if old.get(key, object()) != new.get(key, object())
  ]
  more = f' and {len(rows) - 4} more' if len(rows) > 4 else ''
  return '; '.join(rows[:4]) + more


def read_results(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The content of `results.json`; None where it is not there, or damaged."""
  try:
    results = read_json(workdir / _RESULTS)
    report.check(results)
  except (OSError, ValueError, UserError):
    return None
  # One of an earlier version may lack them.
  return results if 'columns' in results else None


def write_results(workdir: pathlib.Path, results: Mapping[str, Any]) -> None:
  """Writes `results.json`."""
  write_json(workdir / _RESULTS, results)


def read_baseline(workdir: pathlib.Path, name: str) -> dict[str, Any] | None:
  """The row of a baseline that was made before, or None."""
  try:
    return read_json(workdir / name / _ROW)
  except (OSError, ValueError):
    return None


def write_baseline(
  workdir: pathlib.Path, name: str, row: Mapping[str, Any]
) -> None:
  """Keeps the row of a baseline."""
  (workdir / name).mkdir(exist_ok=True)
  write_json(workdir / name / _ROW, row)
