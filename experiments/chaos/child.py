"""The command that is harmed: a child in a process group of its own."""

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

_ROOT = pathlib.Path(__file__).parents[2]
_RIGHTS = 'setpriv', '--bounding-set=-dac_override,-dac_read_search'
# One device, so that two runs are alike bit for bit.
_ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
# Often enough for the folders that Orbax renames when they are whole.
_LOOK_SECONDS = 0.005
# What no run takes, even on a machine that has other work.
_PATIENCE_SECONDS = 1200.0


class Ended(NamedTuple):
  """How a command ended: its exit code, None where it did not; its output."""

  code: int | None
  out: str
  err: str


def bound() -> tuple[str, ...]:
  """What makes root as bound by the rights to write as anybody else.

  Nothing for other users, and where there is no such program.
  """
  needed = not os.geteuid() and shutil.which(_RIGHTS[0])
  return _RIGHTS if needed else ()


class Child:
  """A command at work, which does not outlive a `with` block."""

  def __init__(self, command: Sequence[str], output: pathlib.Path):
    """Starts it.

    Args:
      command: arguments of this Python.
      output: what it writes goes to this path with '.out' and '.err'.
    """
    self._paths = [output.with_suffix(f'.{n}') for n in ('out', 'err')]
    path = [str(_ROOT), os.environ.get('PYTHONPATH', '')]
    variables = os.environ | _ENVIRONMENT
    variables['PYTHONPATH'] = os.pathsep.join(filter(None, path))
    # Each workdir keeps its own programs, as it does for everybody.
    variables.pop('JAX_COMPILATION_CACHE_DIR', None)
    with self._paths[0].open('wb') as out, self._paths[1].open('wb') as err:
      self._process = subprocess.Popen(
        [*bound(), sys.executable, *command], cwd=_ROOT, env=variables,
        stdout=out, stderr=err, start_new_session=True,
      )  # fmt: skip
    self._begin = time.monotonic()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.send(signal.SIGKILL)
    self.wait()

  @property
  def runs(self) -> bool:
    return self._process.poll() is None

  @property
  def seconds(self) -> float:
    """Since its start."""
    return time.monotonic() - self._begin

  def send(self, number: int) -> None:
    """Sends a signal to the whole group."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, number)

  def ask(self) -> None:
    """Asks the process alone to stop, as `kill PID` does."""
    self._process.terminate()

  def wait(self, seconds: float = _PATIENCE_SECONDS) -> Ended:
    """Waits for the end; kills it after so many seconds."""
    try:
      code = self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      code = None
      self.send(signal.SIGKILL)
      self._process.wait()
    out, err = (path.read_text(errors='replace') for path in self._paths)
    return Ended(code, out, err)

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
