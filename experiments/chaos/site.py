"""Where a task's runs lie, and what its trials begin and compare with."""

import json
import pathlib
import random
import shutil
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from experiments.chaos import compare, damages, moments
from experiments.chaos.child import Child, Ended
from experiments.chaos.compare import Kept, Key
from experiments.chaos.moments import Moment
from lit_jax.errors import UserError
from lit_jax.files import write_json

# What a run can begin with, each a folder beside it: compiled programs alone,
# a run that was stopped, and one that is over. Files of the last two are
# damaged.
PROGRAMS, HALF, FINISHED = 'programs', 'half-way', 'finished'
_REFUSE_SECONDS = 120.0  # for a run that cannot write any more
_TRIES = 3  # for a moment that may come after the run's end


class Skipped(Exception):
  """This machine, or this run, does not let the fault be made."""


class Task(NamedTuple):
  """Its name, the command without a workdir, and how many processes it has."""

  name: str
  command: tuple[str, ...]
  processes: int = 1


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
    if made.get('command') == about:
      self._compare_with(made['events'])
    else:
      shutil.rmtree(self.folder, ignore_errors=True)
      self.undisturbed(None)
      first = self.reference
      # Only now its moments are those of trials, which find the programs, too.
      made = {'command': about, 'events': self.undisturbed(PROGRAMS)}
      finished = self.folder / FINISHED
      if found := compare.differences(first, compare.NOTHING, finished):
        raise UserError(
          f'two undisturbed runs of {self.task.name} differ '
          f'({"; ".join(found)}), so that nothing can be told of disturbed ones'
        )
    write_json(path, made)
    if not (self.folder / HALF).exists():
      self._stop_half_way()

  def _stop_half_way(self) -> None:
    """Leaves a run that was asked to stop, as late as it still can."""
    # A checkpoint within a phase, which steps and networks follow.
    moments = [
      stretch._replace(seconds=0.0)
      for stretch in self.stretches
      if stretch.stage == 'training' and stretch.path.count('/') == 2
    ]
    # Several processes agree first, for which a late one leaves no time.
    for moment in reversed(moments):
      _, ended = self.at(moment, Child.ask)
      if ended.code != 0:
        break
    self._must(ended, 143)
    self.run.rename(self.folder / HALF)

  def undisturbed(self, base: str | None) -> list[tuple[str, float]]:
    """Makes the run that trials are compared with; its events."""
    self.fresh(base)
    with self.start() as child:
      events = child.events(self.run)
      self._must(child.wait(), 0)
    finished, programs = self.folder / FINISHED, self.folder / PROGRAMS
    for old in (finished, programs):
      shutil.rmtree(old, ignore_errors=True)
    self.run.rename(finished)
    shutil.copytree(finished / 'cache', programs / 'cache')
    self._compare_with(events)
    return events

  def _compare_with(self, events):
    self.stretches = moments.stretches(events)
    self.reference = compare.state(self.folder / FINISHED)

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

  def fresh(self, base: str | None) -> None:
    """Begins `run` anew, as a copy of what lies in `base`, or empty."""
    self.run.mkdir(parents=True, exist_ok=True)
    # The folder itself stays, for it may be a file system of its own.
    for path in self.run.iterdir():
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    if base is not None:
      shutil.copytree(self.folder / base, self.run, dirs_exist_ok=True)

  def start(self, prefix: Sequence[str] = ()) -> Child:
    """The task's command, at work in `run`, run by another program or not."""
    self.logs.mkdir(exist_ok=True)
    self._commands += 1
    command = [*self.task.command, f'--workdir={self.run}']
    output = self.logs / str(self._commands)
    return Child(command, output, self.task.processes, prefix)

  def command(self, prefix: Sequence[str] = ()) -> Ended:
    """Runs the task's command to its end, as `start` has it."""
    with self.start(prefix) as child:
      return child.wait()

  def at(
    self,
    moment: Moment,
    harm: Callable[[Child], Any],
    seconds: float = _REFUSE_SECONDS,
    base: str | None = PROGRAMS,
  ) -> tuple[Moment, Ended]:
    """Harms a run that begins anew; the moment, and how the run ended.

    Where the run ends before the moment, half as late a one is tried.

    Args:
      moment: to harm it at.
      harm: does so.
      seconds: within which the run then has to end.
      base: what it begins with.

    Raises:
      Skipped: it always ends before.
    """
    for _ in range(_TRIES):
      self.fresh(base)
      with self.start() as child:
        if child.reaches(moment, self.run):
          harm(child)
          return moment, child.wait(seconds)
      moment = moment._replace(seconds=moment.seconds / 2)
    raise Skipped(f'the run always ended before the moment, last {moment}')

  def over(
    self, before: Kept, ended: Ended, spared: Collection[Key] = ()
  ) -> list[str]:
    """The problems with a run that should have gone on to its end.

    Args:
      before: what was saved when it began to go on.
      ended: how it ended.
      spared: records that were harmed.
    """
    problems = compare.said(ended, {0})
    if ended.code != 0:
      return [*problems, *ended.err.strip().splitlines()[-1:]]
    per_epoch = self.reference.per_epoch
    return [
      *problems,
      *compare.lost(before, self.run, ended.out, per_epoch),
      *compare.differences(self.reference, before, self.run, spared),
    ]

  def moment(self, stages: Sequence[str], source: random.Random) -> Moment:
    """Draws a stage, and a moment in it."""
    return moments.draw(self.stretches, stages, source)

  def damages(self) -> list[damages.Damage]:
    """All harms of files, in an order that the seed draws."""
    folders = {name: self.folder / name for name in (HALF, FINISHED)}
    return damages.drawn(
      {name: _sizes(folder) for name, folder in folders.items()},
      {name: _newest(folder) for name, folder in folders.items()},
      random.Random(self.seed),
    )


def _sizes(folder) -> dict[str, int]:
  files = [path for path in folder.rglob('*') if path.is_file()]
  return {f.relative_to(folder).as_posix(): f.stat().st_size for f in files}


def _newest(folder) -> str:
  """The checkpoint that was written last."""
  steps = moments.last_steps(moments.seen(folder))
  names = [f'{phase}/{step}' for phase, step in steps.items()]
  return max(names, key=lambda name: (folder / name).stat().st_mtime_ns)
