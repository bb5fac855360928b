"""Chooses τ, α and β on held-out training examples, in the paper's order.

  python -m experiments.tune --config=experiments/configs/demo.py --workdir=DIR

Koratana et al., section 3: first τ by KD with a small student
(`--small_depth`), then α by KD with that τ, then β by LIT with both. The values
of a sweep are the members of one population, whose run lies in DIR/temperature,
DIR/alpha or DIR/beta. A teacher that is not given is trained in DIR/teacher,
without the held-out examples. The test split is dropped before anything is
trained. Stopped at any point, the same command goes on. What was chosen is in
DIR/tuned.json, and DIR/tuned.flags trains with it:

  python -m experiments.cifar --config=experiments/configs/demo.py \
      --flagfile=DIR/tuned.flags --workdir=runs/tuned
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import rich.box
import rich.table
from absl import flags
from rich.console import Console

from experiments import cli, held_out, recipes
from lit_jax import models
from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError
from lit_jax.files import write_json, write_text
from lit_jax.objectives import Objective, check
from lit_jax.runs import checks, results, runner
from lit_jax.runs.phases import TEACHER
from lit_jax.training.interrupt import Observer

_TEMPERATURES = flags.DEFINE_string('temperatures', '1,2,4,6,10,20', 'Of τ.')
_ALPHAS = flags.DEFINE_string('alphas', '0,.25,.5,.75,.95,1', 'Of α.')
_BETAS = flags.DEFINE_string('betas', '0,.25,.5,.75,1', 'Of β.')
_SMALL_DEPTH = flags.DEFINE_integer(
  'small_depth', 0, "Of the student that τ is chosen by; 0 is the recipe's."
)


class Sweep(NamedTuple):
  """Attributes: a setting of Eq. 1 or 2, its folder too; who is trained."""

  setting: str
  method: str


# In this order: each takes what those before it chose.
SWEEPS = (
  Sweep('temperature', 'kd'), Sweep('alpha', 'kd'), Sweep('beta', 'lit')
)  # fmt: skip


class Wanted(NamedTuple):
  """What the flags ask for.

  Attributes:
    values: to try, by setting.
    small_depth: of the student of the first sweep; 0 takes the recipe's.
    held_out: training examples; 0 takes the recipe's, or a tenth of all.
  """

  values: Mapping[str, tuple[float, ...]]
  small_depth: int
  held_out: int


class Outcome(NamedTuple):
  """What the run of a sweep found.

  Attributes:
    scores: of each value, in order.
    key: what the score is, such as 'accuracy'.
    largest: whether more of it is better.
    share: whether it is a part of the examples, 0 to 1.
    examples: on how many it was measured.
  """

  scores: tuple[float, ...]
  key: str
  largest: bool
  share: bool
  examples: int


def make(argv: Sequence[str], observer: Observer) -> None:
  """Tunes as the flags say, and prints the path.

  Args:
    argv: what is left of the arguments.
    observer: asked whether to stop.

  Raises:
    UserError: bad input.
    Interrupted: asked to stop; what is trained is kept.
  """
  config, workdir, _ = cli.configured(argv)
  found = tune(config, workdir.absolute(), _wanted(), observer)
  Console().print(_table(found['path']))
  print('\n'.join(map(_sentence, found['path'])))
  print(f'train with it: --flagfile={workdir / "tuned.flags"}')


def _wanted() -> Wanted:
  lists = {
    'temperature': _TEMPERATURES, 'alpha': _ALPHAS, 'beta': _BETAS
  }  # fmt: skip
  values = {}
  for setting, flag in lists.items():
    where = f'--{flag.name}'
    values[setting] = recipes.numbers(where, flag.value)
    if not values[setting]:
      raise UserError(f'{where} is empty; give numbers to try, such as .5,.75')
    for value in values[setting]:
      try:
        check(Objective(0.5, 0.5, 1.0).replace(**{setting: value}))
      except UserError as error:
        raise UserError(f'{where}: {error}') from None
  if _SMALL_DEPTH.value < 0:
    raise UserError(f'--small_depth={_SMALL_DEPTH.value}; give 1 or more')
  return Wanted(values, _SMALL_DEPTH.value, held_out.wanted())


def tune(
  config: recipes.Config,
  workdir: pathlib.Path,
  wanted: Wanted,
  observer: Observer,
) -> dict[str, Any]:
  """Makes the three sweeps, as far as they are not made yet.

  Args:
    config: the recipe.
    workdir: whole, for the sweeps are bound to their teacher's folder.
    wanted: values and sizes.
    observer: asked whether to stop.

  Returns:
    The content of `tuned.json`.

  Raises:
    UserError: bad input, before anything is trained where possible.
    Interrupted: asked to stop; what is trained is kept.
  """
  _check(config, workdir, wanted)
  wanted = wanted._replace(held_out=held_out.count(config, wanted.held_out))
  cli.start(config, workdir)
  known = check_sweeps(config, wanted)
  teacher = held_out.teacher(
    config, workdir, wanted.held_out, known,
    lambda own, folder: execute(own, folder, observer),
  )  # fmt: skip
  chosen, path = {}, []
  for sweep in SWEEPS:
    values = tried(config, sweep, wanted.values[sweep.setting])
    if left := sorted({*wanted.values[sweep.setting]} - {*values}):
      print(
        f'{sweep.setting} {left[0]:g} is left out: running_statistics of both '
        'passes need IRs that are compared'
      )
    own = sweep_config(config, sweep, chosen, wanted, teacher)
    student = models.title(recipes.spec(own.student))
    print(f'{sweep.setting}: {len(values)} values by {sweep.method}, {student}')
    outcome = execute(own, workdir / sweep.setting, observer)
    step = _step(config, sweep, values, outcome) | {'student': student}
    chosen[sweep.setting] = step['chosen']
    path.append(step)
  found = {
    **chosen,
    'held_out': path[-1]['examples'],
    'path': path,
    'command': results.command(),
  }
  write_json(workdir / 'tuned.json', found)
  lines = [f'# Chosen on {found["held_out"]} held-out training examples.']
  lines += flag_lines(config, chosen)
  write_text(workdir / 'tuned.flags', '\n'.join(lines) + '\n')
  return found


def _check(config, workdir, wanted) -> None:
  """Raises UserError for what has no place in a recipe that is tuned."""
  for sweep in SWEEPS:
    own_value(config, sweep)
  if wanted.small_depth and 'depth' not in config.student:
    raise UserError(
      f'--small_depth={wanted.small_depth}: config.student has no depth; leave '
      'it out'
    )
  held_out.check(
    config, workdir, 'a sweep trains one student',
    'a sweep is a population of its own', 'a sweep compares',
  )  # fmt: skip


def check_sweeps(config: recipes.Config, wanted: Wanted) -> Dataset:
  """Finds what would stop a sweep, before the first begins.

  Args:
    config: the recipe.
    wanted: with the number of held-out examples.

  Returns:
    The data that the sweeps are given, without a test split.

  Raises:
    UserError: bad input.
  """
  teacher = config.teacher.get('checkpoint', '')
  jobs = [
    recipes.compression(sweep_config(config, sweep, {}, wanted, teacher))
    for sweep in SWEEPS
  ]
  for job in jobs:
    checks.check(job)
  return jobs[0].dataset


def execute(
  config: recipes.Config, folder: pathlib.Path, observer: Observer
) -> Outcome:
  """Trains what is not trained yet of a run.

  Args:
    config: of the run.
    folder: its workdir.
    observer: asked whether to stop.

  Returns:
    What it found, with a score for each student.

  Raises:
    UserError: bad input.
    Interrupted: asked to stop; saved, and the same call goes on.
  """
  job = recipes.compression(config)
  rows = runner.run(job, folder, observer)['rows']
  # Every program takes some of the memory maps that a process may have.
  jax.clear_caches()
  key, largest = job.task.selects
  return Outcome(
    tuple(row[key] for row in rows if row['method'] != TEACHER),
    key,
    largest,
    any(c.key == key and c.format == 'percent' for c in job.task.columns),
    job.dataset.splits[job.dataset.scored].examples,
  )


# Configurations.


def sweep_config(
  config: recipes.Config,
  sweep: Sweep,
  chosen: Mapping[str, float],
  wanted: Wanted,
  teacher: str,
) -> recipes.Config:
  """Of the run that tries a setting's values.

  Args:
    config: the recipe.
    sweep: what is tried.
    chosen: by the sweeps before, by setting.
    wanted: with the number of held-out examples.
    teacher: its folder, or 'embedded'; '' trains it.
  """
  own = held_out.recipe(config, wanted.held_out)
  own.method = sweep.method
  own.teacher.checkpoint = teacher
  for key, value in _keys(config, chosen).items():
    phase, setting = key.split('.')
    own[phase][setting] = value
  values = tried(config, sweep, wanted.values[sweep.setting])
  own.population[sweep.setting] = ','.join(map(str, values))
  if sweep == SWEEPS[0] and wanted.small_depth:
    own.student.depth = wanted.small_depth
    if 'units' in own.student:
      own.student.units = ()
  return own


def tried(
  config: recipes.Config, sweep: Sweep, values: Sequence[float]
) -> tuple[float, ...]:
  """The values that can be members of one population.

  Running statistics of 'both' passes follow the IRs' own, which a β of 1 has
  not.
  """
  both = any(
    phase.objective.running_statistics == 'both'
    for phase in _comparing(config, sweep.method)
  )
  alone = both and sweep.setting == 'beta' and len(values) > 1
  return tuple(v for v in values if not (alone and v == 1))


def _comparing(config, method):
  """The phases of a method that compare IRs."""
  phases = recipes.method(config, method).phases
  return [phase for phase in phases if phase.objective.computes('ir')]


def concerned(config: recipes.Config, setting: str) -> tuple[str, ...]:
  """The phases, of all methods, that a chosen value is for.

  α and τ are for those that have soft labels. β is for those of LIT that
  compare IRs, and for other methods' that weigh IRs against KD: a hint, which
  is compared alone, stays so.

  Args:
    config: the recipe.
    setting: 'temperature', 'alpha' or 'beta'.
  """
  swept = [phase.name for phase in _comparing(config, SWEEPS[-1].method)]
  found = {}
  for method in config.methods:
    for phase in recipes.method(config, method).phases:
      objective = phase.objective
      if phase.name in swept:
        # As under a β that is tried.
        objective = objective.replace(beta=0.5)
      weighs = objective.computes('hard') or objective.computes('soft')
      if setting == 'beta':
        found[phase.name] = objective.computes('ir') and weighs
      else:
        found[phase.name] = objective.computes('soft')
  return tuple(name for name, is_so in found.items() if is_so)


def _keys(config, chosen) -> dict[str, float]:
  """Keys of the configuration, such as 'kd.alpha', with their chosen values."""
  return {
    f'{phase}.{setting}': value
    for setting, value in chosen.items()
    for phase in concerned(config, setting)
  }


def flag_lines(
  config: recipes.Config, chosen: Mapping[str, float]
) -> list[str]:
  """The flags that set chosen values, one a line."""
  keys = _keys(config, chosen)
  return [f'--config.{key}={value}' for key, value in keys.items()]


# The choice.


def own_value(config: recipes.Config, sweep: Sweep) -> float:
  """The recipe's own value of what is tried.

  Raises:
    UserError: no phase of the method has it.
  """
  term = 'ir' if sweep.setting == 'beta' else 'soft'
  for phase in recipes.method(config, sweep.method).phases:
    if phase.objective.computes(term):
      return getattr(phase.objective, sweep.setting)
  raise UserError(
    f'{sweep.setting} changes nothing in {sweep.method}: set alpha below 1 in '
    'a phase of kd, and beta below 1 in one of lit'
  )


def best(
  values: Sequence[float], scores: Sequence[float], own: float, largest: bool
) -> float:
  """The value of the best score; of equal ones the recipe's, or the first.

  Args:
    values: that were tried.
    scores: of each.
    own: the recipe's value.
    largest: whether more of a score is better.
  """
  top = max(scores) if largest else min(scores)
  equal = [v for v, s in zip(values, scores, strict=True) if s == top]
  return own if own in equal else equal[0]


def sampling_error(share: float, examples: int) -> float:
  """The standard deviation of a share of so many drawn examples."""
  return math.sqrt(share * (1 - share) / examples)


def _step(config, sweep, values, outcome) -> dict[str, Any]:
  """What a sweep found, as `tuned.json` has it."""
  own = own_value(config, sweep)
  chosen = best(values, outcome.scores, own, outcome.largest)
  scores = dict(zip(values, outcome.scores, strict=True))
  error = within = None
  if outcome.share:
    error = sampling_error(scores[chosen], outcome.examples)
    if chosen != own and own in scores:
      within = abs(scores[chosen] - scores[own]) <= error
  return {
    'setting': sweep.setting,
    'method': sweep.method,
    'selects': outcome.key,
    'examples': outcome.examples,
    'tried': [{'value': v, outcome.key: s} for v, s in scores.items()],
    'recipe': own,
    'chosen': chosen,
    'sampling_error': error,
    'within_error': within,
  }


# What is printed.


def _table(path):
  share = path[-1]['sampling_error'] is not None
  name = path[-1]['selects'].replace('_', ' ')
  drawn = rich.table.Table(
    title=f'{name} on n = {path[-1]["examples"]} held-out training examples, '
    'with its sampling error',
    box=rich.box.SIMPLE,
  )
  drawn.add_column('')
  drawn.add_column('by')
  for heading in ('tried', 'validation %' if share else 'validation', '±'):
    drawn.add_column(heading, justify='right')
  drawn.add_column('')
  for step in path:
    first = step['setting'], f'{step["method"]}, {step["student"]}'
    for i, one in enumerate(step['tried']):
      drawn.add_row(
        *(('', '') if i else first),
        f'{one["value"]:g}',
        *_cells(one[step['selects']], step),
        _mark(one['value'], step),
        end_section=one is step['tried'][-1],
      )
  return drawn


def _cells(score, step):
  if step['sampling_error'] is None:
    return f'{score:.4g}', ''
  error = sampling_error(score, step['examples'])
  return f'{100 * score:.2f}', f'{100 * error:.2f}'


def _mark(value, step):
  words = {'chosen': step['chosen'], 'recipe': step['recipe']}
  return ', '.join(word for word, of in words.items() if of == value)


def _sentence(step):
  """What the choice is worth, in a line."""
  name, own = step['setting'], f"the recipe's own {step['recipe']:g}"
  scores = {one['value']: one[step['selects']] for one in step['tried']}
  if step['chosen'] == step['recipe']:
    return f'{name}: none is better than {own}'
  chosen = f'{name}: {step["chosen"]:g} is chosen'
  if step['recipe'] not in scores:
    return f'{chosen}; {own} was not tried'
  if step['within_error'] is None:
    return f'{chosen}, and not {own}'
  more = 100 * abs(scores[step['chosen']] - scores[step['recipe']])
  better = f'{chosen}, {more:.2f} points better than {own}'
  error = f'the sampling error of {100 * step["sampling_error"]:.2f}'
  if step['within_error']:
    return f'{better}: within {error}, so that they may be equally good'
  return f'{better}: more than {error}'


if __name__ == '__main__':
  cli.run(make)
