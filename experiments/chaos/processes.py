"""The command that is harmed: a child in a process group of its own."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments.chaos.harms import BEGIN, Event, Moment, seen

ROOT = pathlib.Path(__file__).parents[2]
# One device, so that two runs are alike bit for bit.
_ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
# Often enough for the folders that Orbax renames when they are whole.
_LOOK = 0.005
# What no run takes, even on a machine that has other work.
_PATIENCE = 1200.0


class Ended(NamedTuple):
  """Attributes: exit code, None where it was too late; output; seconds."""

  code: int | None
  out: str
  err: str
  seconds: float


class Child:
  """A command at work."""

  def __init__(
    self, command: Sequence[str], output: pathlib.Path, user: int | None
  ):
    """Starts it.

    Args:
      command: arguments of this Python.
      output: what it writes goes to this path with '.out' and '.err'.
      user: number of another user, whom it is run as.
    """
    self._paths = [output.with_suffix(f'.{n}') for n in ('out', 'err')]
    path = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    variables = {
      **os.environ, **_ENVIRONMENT,
      'PYTHONPATH': os.pathsep.join(filter(None, path)),
    }  # fmt: skip
    # Each workdir keeps its own programs, as it does for everybody.
    variables.pop('JAX_COMPILATION_CACHE_DIR', None)
    if user is not None:
      home = output.parents[1] / 'home'
      home.mkdir(exist_ok=True)
      os.chown(home, user, user)
      variables['HOME'] = str(home)
    with self._paths[0].open('wb') as out, self._paths[1].open('wb') as err:
      self._process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=variables, stdout=out,
        stderr=err, start_new_session=True, user=user, group=user,
        extra_groups=None if user is None else [],
      )  # fmt: skip
    self.begin = time.monotonic()

  @property
  def runs(self) -> bool:
    return self._process.poll() is None

  def send(self, number: int) -> None:
    """Sends a signal to the whole group."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, number)

  def ask(self) -> None:
    """Asks the process alone to stop, as `kill PID` does."""
    self._process.terminate()

  def wait(self, seconds: float = _PATIENCE) -> Ended:
    """Waits for the end; kills it after so many seconds."""
    try:
      code = self._process.wait(seconds)
    except subprocess.TimeoutExpired:
      code = None
      self.send(signal.SIGKILL)
      self._process.wait()
    out, err = (path.read_text(errors='replace') for path in self._paths)
    return Ended(code, out, err, time.monotonic() - self.begin)

  def reaches(self, moment: Moment, workdir: pathlib.Path) -> bool:
    """Waits for a moment; False where the end came first."""
    while moment.event != BEGIN and moment.event not in seen(workdir):
      if not self.runs:
        return False
      time.sleep(_LOOK)
    since = self.begin if moment.event == BEGIN else time.monotonic()
    while (left := since + moment.seconds - time.monotonic()) > 0:
      if not self.runs:
        return False
      time.sleep(min(left, _LOOK))
    return self.runs

  def events(self, workdir: pathlib.Path) -> list[Event]:
    """What appears until the end, which is an event, too."""
    found = {BEGIN: 0.0}
    while True:
      running, now = self.runs, time.monotonic() - self.begin
      for name in sorted(seen(workdir) - found.keys()):
        found[name] = now
      if not running:
        return [*(Event(*one) for one in found.items()), Event('end', now)]
      time.sleep(_LOOK)


@contextlib.contextmanager
def started(
  command: Sequence[str], output: pathlib.Path, user: int | None = None
) -> Iterator[Child]:
  """A child, as `Child` has it, that does not outlive the block."""
  child = Child(command, output, user)
  try:
    yield child
  finally:
    child.send(signal.SIGKILL)
    child.wait()
