"""The runs that artifacts need: each once, teachers shared, in order."""

import functools
import hashlib
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from experiments import recipes
from experiments.configs import resnet
from experiments.paper import artifacts, cards, records, scales
from experiments.paper.artifacts import Artifact, Entry
from lit_jax import models
from lit_jax.networks import saved
from lit_jax.networks.summary import summary
from lit_jax.runs import runner, workdir
from lit_jax.runs.phases import STUDENT, TEACHER, Phase
from lit_jax.training.interrupt import Observer

_TEACHER, _START = 'teacher.checkpoint', 'student.checkpoint'
# What members of a population may differ in, of the methods that have it.
_SWEPT = {'kd': ('kd.alpha', 'alpha'), 'lit': ('lit.beta', 'beta')}
# Of a configuration, what does not say how one run is made.
_NO_RECIPE = 'methods', 'population', 'full_depth'


class Run(NamedTuple):
  """One training: of a student by a method with a seed, or of a teacher.

  Attributes:
    family: of the networks.
    method: of the configuration; '' is the teacher.
    settings: keys of the configuration and their values, sorted.
    given: keys that name a trained network's folder, and the run it is of.
  """

  family: str
  method: str
  settings: tuple[tuple[str, Any], ...]
  given: tuple[tuple[str, 'Run'], ...] = ()

  @property
  def name(self) -> str:
    """Of its record: the same run has the same name in every artifact."""
    return f'{self.family}-{self.method or TEACHER}-{_digest(self)}'


# What is trained in one workdir, and the runs that come of it.
Group = tuple[Run, ...]


def _digest(value):
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:10]


def run_of(
  scale: scales.Scale, artifact: Artifact, entry: Entry, seed: int
) -> Run:
  """The run of an entry, with a seed.

  What is the recipe's own value anyway is left out of the settings, so that the
  same run is one whatever it is called for.
  """
  pair = scale.pairs[artifact.family]
  usual = scales.recipe(pair, {})
  settings = {**scale.settings, 'seed': seed}
  if entry.method:
    settings['student.depth'] = _depth(pair, usual, entry)
    settings |= {
      key: value(usual) if callable(value) else value
      for key, value in entry.settings.items()
    }
  elif not pair.judged:
    # A teacher is one, whatever the seeds of its students.
    settings = dict(scale.settings)
  own = {
    key: value
    for key, value in settings.items()
    if scales.value(usual, key) != value
  }
  given = {}
  if entry.start:
    start = artifacts.entry(artifact, entry.start)
    given[_START] = run_of(scale, artifact, start, seed)
  if entry.teacher:
    teacher = artifacts.entry(artifact, entry.teacher)
    given[_TEACHER] = run_of(scale, artifact, teacher, seed)
  elif _is_taught(pair, usual, entry.method):
    given[_TEACHER] = _teacher(scale, artifact.family)
  return Run(
    artifact.family, entry.method, tuple(sorted(own.items())),
    tuple(given.items()),
  )  # fmt: skip


def _depth(pair, usual, entry):
  if entry.student == artifacts.AS_DEEP:
    return usual.teacher.depth
  return pair.depths[entry.student]


def _teacher(scale, family) -> Run:
  """The run that trains a family's teacher."""
  return Run(family, '', tuple(sorted(scale.settings.items())))


def _is_taught(pair, usual, method):
  """Whether it needs a teacher that is trained here."""
  if pair.teacher.get('checkpoint'):
    return False
  if pair.judged:
    # The judge's opinion of the teacher belongs to every seed.
    return True
  return method != '' and recipes.method(usual, method).needs_teacher


def halves(
  scale: scales.Scale, name: str, artifact: Iterable[Artifact]
) -> tuple[Artifact, ...]:
  """Those of the artifact of that name whose networks the scale has."""

  def has(pair):
    return pair is not None and (not pair.only or name in pair.only)

  return tuple(own for own in artifact if has(scale.pairs.get(own.family)))


def entries(scale: scales.Scale, artifact: Artifact) -> tuple[Entry, ...]:
  """Those of an artifact that the scale has a student for."""
  if artifact.family not in scale.pairs:
    return ()
  pair = scale.pairs[artifact.family]
  return tuple(e for e in artifact.entries if _exists(pair, artifact, e))


def _exists(pair, artifact, entry):
  others = [
    artifacts.entry(artifact, name)
    for name in (entry.teacher, entry.start)
    if name
  ]
  if not all(_exists(pair, artifact, other) for other in others):
    return False
  if entry.student == artifacts.AS_DEEP:
    return pair.born_again
  return not entry.method or entry.student < len(pair.depths)


def runs_of(
  scale: scales.Scale, artifact: Artifact, entry: Entry, seeds: int
) -> tuple[Run, ...]:
  """The runs of an entry: one a seed, but one alone of a teacher."""
  found = (run_of(scale, artifact, entry, seed) for seed in range(seeds))
  return tuple(dict.fromkeys(found))


def runs(
  scale: scales.Scale, halves: Iterable[Artifact], seeds: int
) -> tuple[Run, ...]:
  """All whose rows the artifacts show, each once."""
  return tuple(
    dict.fromkeys(
      run
      for half in halves
      for entry in entries(scale, half)
      for run in runs_of(scale, half, entry, seeds)
    )
  )


def recipe(scale: scales.Scale, run: Run) -> dict[str, Any]:
  """What a run is made with: keys that differ from those of the usual recipe.

  Of the phases those of its method alone, and no checkpoints, whose digests a
  record has.
  """
  pair = scale.pairs[run.family]
  fixed = tuple({**pair.settings, **dict(run.settings)}.items())
  return dict(_recipe(pair.config, fixed, run.method))


@functools.cache
def _recipe(make, settings, method):
  config = scales.set_keys(make(), dict(settings))
  usual, flat = (
    traverse_util.flatten_dict(recipes.as_json(own), sep='.')
    for own in (scales.USUAL(), config)
  )
  plain = recipes.as_json(resnet.phase())
  used = [*config.methods.get(method, '').split(','), 'train_teacher']

  def differs(key, value):
    # A phase of its own is compared with one of no settings, so that a new
    # setting changes no recipe that leaves it alone.
    _, _, name = key.partition('.')
    return value != usual.get(key, plain.get(name))

  def counts(key):
    sheet = key.partition('.')[0]
    is_phase = f'{sheet}.learning_rate' in flat
    return (
      sheet not in _NO_RECIPE
      and not key.endswith('.checkpoint')
      and (not is_phase or sheet in (used if method else used[-1:]))
    )

  return {
    key: value
    for key, value in flat.items()
    if differs(key, value) and counts(key)
  }


def record(
  scale: scales.Scale, root: records.Root, run: Run
) -> records.Record | None:
  """What a run found; None without, or where it was made by another recipe."""
  found = root.record(run.name)
  if found is None:
    return None
  # Through JSON, so that tuples and lists compare equal.
  now = json.loads(json.dumps(recipe(scale, run)))
  return found if found['recipe'] == now else None


def todo(
  scale: scales.Scale, wanted: Iterable[Run], root: records.Root
) -> tuple[Run, ...]:
  """What must be trained for the wanted rows, givers before what they give to.

  A finished run is among them where its network is gone, or was trained
  elsewhere, and another one needs it.
  """
  found: dict[Run, None] = {}

  def add(run: Run):
    for _, giver in run.given:
      known = record(scale, root, giver) is not None
      if not known or root.network(giver.name) is None:
        add(giver)
    found.setdefault(run)

  for run in wanted:
    if record(scale, root, run) is None:
      add(run)
  return tuple(found)


def groups(scale: scales.Scale, runs: Iterable[Run]) -> tuple[Group, ...]:
  """The runs, those together that cost less so, in order.

  Students that differ in α or in β alone see the same batches, for which the
  teacher then runs once. A judge is trained once for all that it judges.
  """
  found: dict[Any, list[Run]] = {}
  for run in runs:
    found.setdefault(_group_key(scale, run), []).append(run)
  return tuple(map(tuple, found.values()))


def _group_key(scale, run):
  pair = scale.pairs[run.family]
  given = pair.teacher.get('checkpoint')
  trains_teacher = not (run.method or run.given or given)
  if pair.judged and not trains_teacher:
    return run.family, run.settings, run.given
  swept, _ = _SWEPT.get(run.method, ('', ''))
  others = tuple(pair for pair in run.settings if pair[0] != swept)
  return run._replace(settings=others)


def config(
  scale: scales.Scale, group: Group, root: records.Root
) -> recipes.Config:
  """The configuration that trains a group.

  Raises:
    UserError: a network that it needs is not there.
  """
  first = group[0]
  pair = scale.pairs[first.family]
  swept, member = _SWEPT.get(first.method, ('', ''))
  methods = dict.fromkeys(run.method for run in group if run.method)
  # No artifact shows a stitch report.
  settings = {'method': ','.join(methods), 'stitch': False}
  settings |= dict(first.settings)
  if len(group) > 1 and len(methods) == 1 and swept:
    usual = scales.recipe(pair, {})
    settings.pop(swept, None)
    settings[f'population.{member}'] = ','.join(
      str(dict(run.settings).get(swept, scales.value(usual, swept)))
      for run in group
    )
  for key, giver in first.given:
    settings[key] = str(root.needed_network(giver.name))
    if key == _TEACHER and giver.method:
      # A student that teaches is made as its own student is, but for its depth.
      own = scales.recipe(pair, dict(giver.settings)).student.to_dict()
      settings |= {
        f'teacher.{name}': value
        for name, value in own.items()
        if name != 'checkpoint'
      }
  return scales.recipe(pair, settings)


def folder(group: Group) -> str:
  """Name of the workdir that a group is trained in."""
  if len(group) == 1:
    return group[0].name
  first = group[0]
  what = 'all' if len({run.method for run in group}) > 1 else first.method
  return f'{first.family}-{what}-{_digest(group)}'


def execute(
  scale: scales.Scale, group: Group, root: records.Root, observer: Observer
) -> None:
  """Trains what is not trained yet of a group, and records each run's row.

  Each student's network gets a card.

  Raises:
    Busy: another process is at it.
    UserError: bad input.
    Interrupted: asked to stop; saved, and the same call goes on.
  """
  name = folder(group)
  if workdir.is_busy(root.folder / name):
    # Found out before the data are read.
    raise workdir.Busy(f'another process is at {name}')
  settings = config(scale, group, root)
  job = recipes.compression(settings)
  row_names = _row_names(group, job)
  networks = {
    row: workdir.network(
      pathlib.Path(name), row, STUDENT if run.method else TEACHER
    )
    for run, row in zip(group, row_names, strict=True)
  }
  content = runner.run(job, root.folder / name, observer)
  trained = [row for row in networks if row != TEACHER or not job.gives_teacher]
  if not all(saved.exists(root.folder / networks[row]) for row in trained):
    # The rows were there, and a network was deleted.
    content = runner.train_and_report(job, root.folder / name, observer)
  rows = {row['method']: row for row in content['rows']}
  for student in job.students:
    for row in set(student.method.names) & set(networks):
      cards.write(
        root.folder / networks[row], job, student.method, rows[row], content
      )
  given = {
    key: saved.describe(root.needed_network(giver.name)).digest
    for key, giver in group[0].given
  }
  found = {
    run.name: {
      'run': run,
      'recipe': recipe(scale, run),
      'row': records.slim(rows[row]),
      'given': given,
      'dataset': content['dataset'],
      'device': content['device'],
      'versions': content['versions'],
      'network': str(networks[row]),
    }
    for run, row in zip(group, row_names, strict=True)
  }
  root.write(name, found)
  # Every program takes some of the memory maps that a process may have.
  jax.clear_caches()


def _row_names(group, job) -> Sequence[str]:
  """Of each run, in order; members of a population stand in that order."""
  members = [n for student in job.students for n in student.method.names]
  if len(members) == len(group):
    return members if group[0].method else [TEACHER]
  return [run.method or TEACHER for run in group]


def epochs(scale: scales.Scale, run: Run) -> float:
  """Of all its phases."""
  return sum(phase.epochs for phase in phases(scale, run))


def phases(scale: scales.Scale, run: Run) -> Sequence[Phase]:
  """Those of a run, in order; () of what is not trained."""
  config = scales.recipe(scale.pairs[run.family], dict(run.settings))
  if run.method:
    return recipes.method(config, run.method).phases
  if config.teacher.checkpoint or run.given:
    return ()
  return (recipes.phase(config, 'train_teacher'),)


def seconds(
  scale: scales.Scale, run: Run, known: Mapping[Run, Mapping[str, Any]]
) -> float | None:
  """How long a run will take, by finished ones.

  Args:
    scale: of the run.
    run: one that is not finished.
    known: the rows of finished runs of the same scale.

  Returns:
    By the median of finished runs of the same family, method and depth; else by
    the multiply-accumulates of those of the same family; None where there are
    none.
  """
  family = {
    other: row
    for other, row in known.items()
    if other.family == run.family and row['train_seconds']
  }
  alike = [
    row['train_seconds'] / epochs(scale, other)
    for other, row in family.items()
    if other.method == run.method and _depths(other) == _depths(run)
  ]
  if alike:
    return statistics.median(alike) * epochs(scale, run)
  rates = [
    row['train_seconds'] / work(scale, other) for other, row in family.items()
  ]
  return statistics.median(rates) * work(scale, run) if rates else None


def _depths(run):
  return dict(run.settings).get('student.depth')


def work(scale: scales.Scale, run: Run) -> float:
  """Multiply-accumulates of a run's training, roughly.

  A pass back costs twice one forward, and every run of the student's blocks on
  the teacher's IRs is another pass. Examples are counted as large as the
  family's function takes them to be by default. Discriminators are left out.
  """
  pair = scale.pairs[run.family]
  config = scales.recipe(pair, dict(run.settings))
  macs = {
    role: _macs(json.dumps(recipes.spec(config[role])))
    for role in (TEACHER, STUDENT)
  }
  teacher = dict(run.given).get(_TEACHER)
  if teacher is not None and teacher.method:
    own = scales.recipe(pair, dict(teacher.settings)).student
    macs[TEACHER] = _macs(json.dumps(recipes.spec(own)))
  total = 0.0
  for phase in phases(scale, run):
    objective = phase.objective
    own = macs[STUDENT if run.method else TEACHER]
    passes = own * 3
    if objective.computes('ir') and objective.teacher_input:
      passes += own * 3
    if objective.needs_teacher:
      passes += macs[TEACHER]
    total += phase.epochs * passes
  return total * pair.examples


@functools.cache
def _macs(spec: str) -> int:
  """Of one example's forward pass; the specification is JSON."""
  return summary(models.build(json.loads(spec))).macs
