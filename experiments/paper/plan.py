"""The runs that artifacts need: each once, teachers shared, in order."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from experiments import recipes
from experiments.paper import scales
from experiments.paper.artifacts import Artifact, Entry
from lit_jax.errors import UserError
from lit_jax.runs import runner
from lit_jax.runs.phases import TEACHER
from lit_jax.training.interrupt import Observer

# Of a run that trains a teacher for others.
_TEACHER_ALONE = ''


class Run(NamedTuple):
  """One training: of a student by a method with a seed, or of a teacher.

  Attributes:
    family: of the networks.
    method: of the configuration; '' trains the teacher alone.
    settings: keys of the configuration and their values, sorted.
  """

  family: str
  method: str
  settings: tuple[tuple[str, Any], ...]

  @property
  def name(self) -> str:
    """Of its folder: the same run has the same name in every artifact."""
    text = json.dumps(self, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f'{self.family}-{self.method or TEACHER}-{digest}'


def run_of(scale: scales.Scale, family: str, entry: Entry, seed: int) -> Run:
  """The run of an entry, with a seed.

  What is the recipe's own value anyway is left out of the settings, so that the
  same run is one whatever it is called for.
  """
  pair = scale.pairs[family]
  settings = {
    **scale.settings,
    'student.depth': pair.depths[entry.student],
    'seed': seed,
    **entry.settings,
  }
  usual = scales.recipe(pair, {})
  own = {
    key: value
    for key, value in settings.items()
    if scales.value(usual, key) != value
  }
  return Run(family, entry.method, tuple(sorted(own.items())))


def teacher_of(scale: scales.Scale, run: Run) -> Run | None:
  """The run that trains its teacher; None where a teacher is given."""
  if not run.method or scale.pairs[run.family].teacher.get('checkpoint'):
    return None
  return Run(run.family, _TEACHER_ALONE, tuple(sorted(scale.settings.items())))


def entries(scale: scales.Scale, artifact: Artifact) -> tuple[Entry, ...]:
  """Those of an artifact that the scale has a student for."""
  if artifact.family not in scale.pairs:
    return ()
  depths = scale.pairs[artifact.family].depths
  return tuple(e for e in artifact.entries if e.student < len(depths))


def runs(
  scale: scales.Scale, artifacts: Iterable[Artifact], seeds: int
) -> tuple[Run, ...]:
  """All that artifacts need, each once, a teacher before its students."""
  found: dict[Run, None] = {}
  for artifact in artifacts:
    for entry in entries(scale, artifact):
      for seed in range(seeds):
        run = run_of(scale, artifact.family, entry, seed)
        teacher = teacher_of(scale, run)
        if teacher is not None:
          found.setdefault(teacher)
        found.setdefault(run)
  return tuple(found)


def config(scale: scales.Scale, run: Run, root: pathlib.Path) -> recipes.Config:
  """Its configuration; the teacher's folder is under the root."""
  settings = {'method': run.method, **dict(run.settings)}
  teacher = teacher_of(scale, run)
  if teacher is not None:
    settings['teacher.checkpoint'] = str(root / teacher.name)
  return scales.recipe(scale.pairs[run.family], settings)


def epochs(scale: scales.Scale, run: Run) -> int:
  """Of all its phases."""
  settings = config(scale, run, pathlib.Path())
  if not run.method:
    return recipes.phase(settings, 'train_teacher').epochs
  return recipes.method(settings, run.method).epochs


def row(root: pathlib.Path, run: Run) -> Mapping[str, Any] | None:
  """What a run found; None where it is not over.

  Raises:
    UserError: its results are damaged.
  """
  path = root / run.name / 'results.json'
  try:
    content = json.loads(path.read_text())
    found = {row['method']: row for row in content['rows']}
    return found[run.method or TEACHER]
  except FileNotFoundError:
    return None
  except (OSError, ValueError, TypeError, KeyError):
    raise UserError(
      f'{path} is damaged; delete that folder, and the same command makes it '
      'again'
    ) from None


def finished(root: pathlib.Path, run: Run) -> Mapping[str, Any]:
  """What a run found that is known to be over.

  Raises:
    UserError: its results were taken away.
  """
  found = row(root, run)
  if found is None:
    raise UserError(
      f'the results of {root / run.name} are gone; the same command makes them '
      'again'
    )
  return found


def execute(
  scale: scales.Scale, run: Run, root: pathlib.Path, observer: Observer
) -> None:
  """Trains what is not trained yet of a run.

  Raises:
    UserError: bad input.
    Interrupted: asked to stop; saved, and the same call goes on.
  """
  job = recipes.compression(config(scale, run, root))
  runner.run(job, root / run.name, observer)
  # Every program takes some of the memory maps that a process may have.
  jax.clear_caches()


def seconds(
  scale: scales.Scale, run: Run, known: Mapping[Run, Mapping[str, Any]]
) -> float | None:
  """How long a run will take, by the epochs of finished ones of its kind.

  Args:
    scale: of the run.
    run: one that is not finished.
    known: what finished runs found, by `row`.

  Returns:
    Of runs of the same family, method and depth the quickest epoch counts;
    None where none is finished.
  """
  rates = [
    found['train_seconds'] / found['epochs']
    for other, found in known.items()
    if other[:2] == run[:2] and _depth(other) == _depth(run) and found['epochs']
  ]
  return min(rates) * epochs(scale, run) if rates else None


def _depth(run):
  return dict(run.settings).get('student.depth')
