"""Moments of a run, told by what has appeared in its workdir."""

import glob
import itertools
import pathlib
import random
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# The stages of a run, in order; 'border' lies between two phases.
STAGES = ('start', 'training', 'saving', 'border', 'report')
# Before anything has appeared.
BEGIN = ''
# Folders that tell nothing of how far a run is.
_SILENT = ('cache', 'tensorboard', 'pictures')


class Moment(NamedTuple):
  """When a run is harmed.

  Attributes:
    stage: of STAGES.
    path: below the workdir; the moment comes after it has appeared.
    seconds: since then.
  """

  stage: str
  path: str
  seconds: float

  def __str__(self):
    after = self.path or 'its start'
    return f'{self.seconds:.3f} s after {after} ({self.stage})'


def seen(workdir: pathlib.Path) -> set[str]:
  """The paths that tell how far a run is, at most three parts deep.

  A folder that is still being written, and is renamed when it is whole, ends
  with '.part', whoever writes it.
  """
  names = itertools.chain.from_iterable(
    glob.iglob('/'.join('*' * depth), root_dir=workdir) for depth in (1, 2, 3)
  )
  return {
    re.sub(r'\.orbax-checkpoint-tmp[^/]*', '.part', name)
    for name in names
    if name.partition('/')[0] not in _SILENT
  }


def last_steps(names: Iterable[str]) -> dict[str, int]:
  """The newest checkpoint of each phase, by 'METHOD/PHASE'."""
  steps: dict[str, int] = {}
  for name in names:
    phase, _, step = name.rpartition('/')
    if name.count('/') == 2 and step.isdecimal():
      steps[phase] = max(int(step), steps.get(phase, 0))
  return steps


def stretches(events: Sequence[tuple[str, float]]) -> list[Moment]:
  """The last moment after each path of a run and before the next one.

  Args:
    events: the paths in the order in which they appeared, each with the seconds
      from the start until then; the last one is the run's end.
  """
  names = [name for name, _ in events]
  last = last_steps(names)
  networks = [
    name
    for name in names
    if re.fullmatch(r'[^/]+/[^/.]+', name) and name not in last
  ]
  stage, found = STAGES[0], []
  for (name, begin), (_, end) in itertools.pairwise(events):
    stage = _stage(name, last, networks) or stage
    found.append(Moment(stage, name, end - begin))
  return found


def _stage(name, last, networks):
  """The stage that begins with this path; None where none does."""
  phase, _, step = name.rpartition('/')
  if name.endswith('.part'):
    return 'saving'
  if name in last:
    return 'training'
  if phase in last and step.isdecimal():
    return 'border' if int(step) == last[phase] else 'training'
  if name in networks:
    return 'report' if name == networks[-1] else 'border'
  return None


def draw(
  run: Sequence[Moment], stages: Sequence[str], source: random.Random
) -> Moment:
  """A moment of one of the stages, all moments of that stage alike likely.

  Args:
    run: its stretches.
    stages: those that the run does not have are passed over.
    source: of what is drawn.
  """
  there = {stretch.stage for stretch in run}
  stage = source.choice([stage for stage in stages if stage in there])
  own = [stretch for stretch in run if stretch.stage == stage]
  # Those that were seen at once with the next still have a chance.
  weights = [max(stretch.seconds, 1e-3) for stretch in own]
  (chosen,) = source.choices(own, weights)
  return chosen._replace(seconds=source.uniform(0, chosen.seconds))
