"""Where a task's runs lie, and what its trials begin and compare with."""

import contextlib
import json
import os
import pathlib
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from experiments.chaos import compare, harms
from experiments.chaos.compare import Kept, Key
from experiments.chaos.harms import Event, Moment
from experiments.chaos.processes import Child, Ended, started
from lit_jax.errors import UserError
from lit_jax.files import write_json

# The states of a workdir whose files are damaged; both are folders, too.
FINISHED, HALF = 'finished', 'half-way'
_REFUSE_SECONDS = 120.0  # for a run that cannot write any more
_TRIES = 3  # for a moment that may come after the run's end


class Skipped(Exception):
  """This machine, or this run, does not let the fault be made."""


class Task(NamedTuple):
  """Attributes: its name, and the command without a workdir."""

  name: str
  command: tuple[str, ...]


class Site:
  """The folder of a task.

  All its runs lie in `run`, where they find the compiled programs of those
  before: a workdir with its programs is known by its path, too.
  """

  def __init__(self, folder: pathlib.Path, task: Task, seed: int):
    self.folder, self.task = folder, task
    self.seed = f'{seed}/{task.name}'  # of all that is drawn
    self.run, self.logs = folder / 'run', folder / 'logs'
    self._commands = 0

  def prepare(self) -> None:
    """Makes two undisturbed runs and a stopped one, if they are not there.

    Raises:
      UserError: the undisturbed runs differ, or one of the three fails.
    """
    path, about = self.folder / 'made.json', list(self.task.command)
    made = json.loads(path.read_text()) if path.exists() else {}
    if made.get('command') != about:
      shutil.rmtree(self.folder, ignore_errors=True)
      self.folder.mkdir(parents=True)
      made = {'command': about, 'events': self._undisturbed()}
    self.events = [Event(*event) for event in made['events']]
    self.stretches = harms.stretches(self.events)
    self.reference = compare.state(self.folder / FINISHED)
    if not (self.folder / HALF).exists():
      # A checkpoint within a phase, which steps and networks follow.
      *_, last = (
        stretch for stretch in self.stretches
        if stretch.stage == 'training' and stretch.event.count('/') == 2
      )  # fmt: skip
      self._must(self.at(last._replace(seconds=0.0), Child.ask)[1], 143)
      self.run.rename(self.folder / HALF)
    write_json(path, made)

  def _undisturbed(self) -> list[Event]:
    """What is seen of the second run, which finds the programs of the first."""
    first, second = self.folder / 'first', self.folder / FINISHED
    self.fresh(cold=True)
    self._must(self.command(), 0)
    self.run.rename(first)
    self.fresh()
    with self.start() as child:
      events = child.events(self.run)
      self._must(child.wait(), 0)
    self.run.rename(second)
    if found := compare.differences(compare.state(first), second):
      raise UserError(
        f'two undisturbed runs of {self.task.name} differ '
        f'({"; ".join(found)}), so that nothing can be told of disturbed ones'
      )
    return events

  def _must(self, ended: Ended, code: int):
    if problems := compare.said(ended, {code}):
      raise UserError(
        f'{self.task.name} does not even run undisturbed '
        f'({", ".join(problems)}); its output is in {self.logs}'
      )

  def clear(self) -> None:
    """Before a trial, for the outputs are of one alone."""
    shutil.rmtree(self.logs, ignore_errors=True)
    self._commands = 0

  def fresh(
    self, base: str = '', cold: bool = False, user: int | None = None
  ) -> None:
    """Begins `run` anew: a copy, or empty but for programs if not `cold`."""
    self.run.mkdir(exist_ok=True)
    # The folder itself stays, for it may be a file system of its own.
    for path in self.run.iterdir():
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    if base:
      shutil.copytree(self.folder / base, self.run, dirs_exist_ok=True)
    elif not cold:
      shutil.copytree(self.folder / 'first' / 'cache', self.run / 'cache')
    if user is not None:
      for path in (self.run, *self.run.rglob('*')):
        os.chown(path, user, user)

  @contextlib.contextmanager
  def start(self, user: int | None = None) -> Iterator[Child]:
    """The command at work in `run`."""
    self.logs.mkdir(exist_ok=True)
    self._commands += 1
    command = [*self.task.command, f'--workdir={self.run}']
    output = self.logs / str(self._commands)
    with started(command, output, user) as child:
      yield child

  def command(self, user: int | None = None) -> Ended:
    """Runs the command to its end."""
    with self.start(user) as child:
      return child.wait()

  def at(
    self,
    moment: Moment,
    harm: Callable[[Child], Any],
    seconds: float = _REFUSE_SECONDS,
    cold: bool = False,
    user: int | None = None,
  ) -> tuple[Moment, Ended]:
    """Harms a run that begins anew; the moment, and how the run ended.

    Where the run ends before the moment, half as late a one is tried.

    Raises:
      Skipped: it always ends before.
    """
    for _ in range(_TRIES):
      self.fresh(cold=cold, user=user)
      with self.start(user) as child:
        if child.reaches(moment, self.run):
          harm(child)
          return moment, child.wait(seconds)
      moment = moment._replace(seconds=moment.seconds / 2)
    raise Skipped(f'the run always ended before the moment, last {moment}')

  def over(
    self,
    before: Kept,
    ended: Ended,
    more: Collection[Key] = (),
    spared: Collection[Key] = (),
  ) -> list[str]:
    """The problems with a run that should have gone on to its end.

    Args:
      before: what was saved when it began to go on.
      ended: how it ended.
      more, spared: as `compare.differences` has them.
    """
    problems = compare.said(ended, {0})
    if ended.code != 0:
      return [*problems, *ended.err.strip().splitlines()[-1:]]
    per_epoch = self.reference.per_epoch
    problems += compare.lost(before, self.run, ended.out, per_epoch)
    return problems + compare.differences(
      self.reference, self.run, more, spared
    )

  def moment(self, stages: Collection[str], source: random.Random) -> Moment:
    """Draws a stage, and a moment in it."""
    there = {stretch.stage for stretch in self.stretches}
    stage = source.choice([stage for stage in stages if stage in there])
    return harms.moment(self.stretches, stage, source)

  def damages(self) -> list[harms.Damage]:
    """All harms of files, in an order that the seed draws."""
    folders = {name: self.folder / name for name in (HALF, FINISHED)}
    return harms.damages(
      {name: _files(folder) for name, folder in folders.items()},
      {name: _newest(folder) for name, folder in folders.items()},
      random.Random(self.seed),
    )


def _files(folder) -> dict[str, int]:
  """The sizes of those that can be harmed, which hold something."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  sizes = {f.relative_to(folder).as_posix(): f.stat().st_size for f in files}
  return {path: size for path, size in sizes.items() if size}


def _newest(folder) -> str:
  """The checkpoint that was written last."""
  steps = harms.last_steps(harms.seen(folder))
  names = [f'{phase}/{step}' for phase, step in steps.items()]
  return max(names, key=lambda name: (folder / name).stat().st_mtime_ns)
