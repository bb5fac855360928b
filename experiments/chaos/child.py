"""The command that is harmed: a child, or several that make one run together.

Each has a process group of its own.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from experiments.chaos.moments import BEGIN, Moment, seen
from experiments.process import free_address

_ROOT = pathlib.Path(__file__).parents[2]
_RIGHTS = 'setpriv', '--bounding-set=-dac_override,-dac_read_search'
# One device, so that two runs are alike bit for bit.
_ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
# Often enough for the folders that Orbax renames when they are whole.
_LOOK_SECONDS = 0.005
# What no run takes, even on a machine that has other work.
_PATIENCE_SECONDS = 1200.0
# After which processes take one of them to be gone.
PEER_SECONDS = 40


class Ended(NamedTuple):
  """How a command ended: its exit code, None where it did not; its output.

  Of several processes it is that of the first, and the others' beside it.
  """

  code: int | None
  out: str
  err: str
  others: tuple['Ended', ...] = ()


def bound() -> tuple[str, ...]:
  """What makes root as bound by the rights to write as anybody else.

  Nothing for other users, and where there is no such program.
  """
  needed = not os.geteuid() and shutil.which(_RIGHTS[0])
  return _RIGHTS if needed else ()


_WRITTEN = 'out', 'err'


def _path(output, kind) -> pathlib.Path:
  return output.with_name(f'{output.name}.{kind}')


def _together(count) -> list[list[str]]:
  """The flags of each process, by which they find each other."""
  if count == 1:
    return [[]]
  address = free_address()
  return [
    [
      f'--coordinator_address={address}', f'--num_processes={count}',
      f'--process_id={i}', f'--peer_seconds={PEER_SECONDS}',
    ]
    for i in range(count)
  ]  # fmt: skip


def _started(command, output, prefix) -> subprocess.Popen:
  path = [str(_ROOT), os.environ.get('PYTHONPATH', '')]
  variables = os.environ | _ENVIRONMENT
  variables['PYTHONPATH'] = os.pathsep.join(filter(None, path))
  # Each workdir keeps its own programs, as it does for everybody.
  variables.pop('JAX_COMPILATION_CACHE_DIR', None)
  paths = [_path(output, kind) for kind in _WRITTEN]
  with paths[0].open('wb') as out, paths[1].open('wb') as err:
    return subprocess.Popen(
      [*prefix, *bound(), sys.executable, *command], cwd=_ROOT, env=variables,
      stdout=out, stderr=err, start_new_session=True,
    )  # fmt: skip


class Child:
  """A command at work, which does not outlive a `with` block."""

  def __init__(
    self,
    command: Sequence[str],
    output: pathlib.Path,
    processes: int = 1,
    prefix: Sequence[str] = (),
  ):
    """Starts it.

    Args:
      command: arguments of this Python.
      output: what it writes goes to this path with '.out' and '.err'; what the
        second process writes with '.1.out', and so on.
      processes: that make the run together.
      prefix: a program with its arguments that each is run by.
    """
    self._outputs = [
      output if not i else output.with_suffix(f'.{i}') for i in range(processes)
    ]
    together = _together(processes)
    self._processes = [
      _started([*command, *flags], own, prefix)
      for flags, own in zip(together, self._outputs, strict=True)
    ]
    self._begin = time.monotonic()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.send(signal.SIGKILL)
    self.wait()

  @property
  def runs(self) -> bool:
    """Whether all of its processes do."""
    return all(process.poll() is None for process in self._processes)

  @property
  def seconds(self) -> float:
    """Since its start."""
    return time.monotonic() - self._begin

  def send(self, number: int, index: int | None = None) -> None:
    """Sends a signal to the group of one process, or to all groups."""
    for process in self._those(index):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)

  def ask(self, index: int | None = None) -> None:
    """Asks one process, or all, to stop, as `kill PID` does."""
    for process in self._those(index):
      process.terminate()

  def _those(self, index):
    return self._processes if index is None else [self._processes[index]]

  def wait(
    self, seconds: float = _PATIENCE_SECONDS, without: int | None = None
  ) -> Ended:
    """Waits for the end of all; kills them after so many seconds.

    Args:
      seconds: that they have.
      without: index of one that is not waited for.
    """
    deadline = time.monotonic() + seconds
    for i, process in enumerate(self._processes):
      if i != without:
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(max(0.0, deadline - time.monotonic()))
    codes = [process.poll() for process in self._processes]
    self.send(signal.SIGKILL)
    found = []
    for process, code, output in zip(
      self._processes, codes, self._outputs, strict=True
    ):
      process.wait()
      out, err = (
        _path(output, n).read_text(errors='replace') for n in _WRITTEN
      )
      found.append(Ended(code, out, err))
    return found[0]._replace(others=tuple(found[1:]))

  def reaches(self, moment: Moment, workdir: pathlib.Path) -> bool:
    """Waits for a moment; False where the end came first."""
    begin = 0.0
    if moment.path != BEGIN:
      while moment.path not in seen(workdir):
        if not self.runs:
          return False
        time.sleep(_LOOK_SECONDS)
      begin = self.seconds
    while (left := begin + moment.seconds - self.seconds) > 0 and self.runs:
      time.sleep(min(left, _LOOK_SECONDS))
    return self.runs

  def events(self, workdir: pathlib.Path) -> list[tuple[str, float]]:
    """Each path that appears, and seconds until then; last comes the end."""
    found = {BEGIN: 0.0}
    while True:
      running, now = self.runs, self.seconds
      for name in sorted(seen(workdir) - found.keys()):
        found[name] = now
      if not running:
        return [*found.items(), ('end', now)]
      time.sleep(_LOOK_SECONDS)
