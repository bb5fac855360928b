r"""Chooses how many units each block of a student has, within a budget.

  python -m experiments.allocate --config=experiments/configs/demo.py \
      --workdir=DIR --depths=1,2,3 --budget_parameters=150000

With β 0 and the teacher's IRs as inputs every block learns by itself, so that
one short LIT run of n units in each block trains every block with n units at
once. Its stitch report (lit_jax/training/stitch.py) says what the teacher loses
by each. What a choice of units loses is predicted by the sum over its blocks,
which takes for granted that their losses add up. Of all choices within the
budget the one of the least predicted loss is taken, and of equal ones the
cheaper. Parameters and multiply-accumulates (--budget_macs) are counted, the
milliseconds of a forward pass (--budget_latency_ms, at --latency_batch)
measured here.

The choice is made on held-out training examples: a tenth, config.validation, or
--held_out. The runs lie in DIR/units-1, DIR/units-2 …, and a teacher that is
not given in DIR/teacher; stopped at any point, the same command goes on. The
choice is in DIR/allocated.json.

--compare then trains the chosen network, and the deepest within the same budget
that has as many units in every block, as the recipe trains `lit`, by
--compare_seeds, scores them as the recipe says, and prints a table.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import rich.box
import rich.table
from absl import flags
from rich.console import Console

from experiments import cli, held_out, recipes
from experiments.spread import spread
from lit_jax import blocks
from lit_jax.errors import UserError, names
from lit_jax.files import write_json
from lit_jax.networks import latency
from lit_jax.networks.summary import summary
from lit_jax.runs import checks, jobs, results, runner
from lit_jax.runs.phases import TEACHER
from lit_jax.training.interrupt import Observer

_DEPTHS = flags.DEFINE_string('depths', '1,2,3', 'Units of a block, to try.')
_BUDGETS = {
  'parameters': flags.DEFINE_integer('budget_parameters', None, 'The most.'),
  'macs': flags.DEFINE_integer(
    'budget_macs', None, 'The most multiply-accumulates of an example.'
  ),
  'latency_ms': flags.DEFINE_float(
    'budget_latency_ms', None, 'The most milliseconds of a forward pass.'
  ),
}
_BATCH = flags.DEFINE_integer(
  'latency_batch', 128, 'Examples of that pass.', lower_bound=1
)
_EPOCHS = flags.DEFINE_integer(
  'table_epochs', 0, "Of the LIT runs; 0 is the recipe's.", lower_bound=0
)
_COMPARE = flags.DEFINE_bool(
  'compare', False, 'Also trains the chosen network beside a uniform one.'
)
_SEEDS = flags.DEFINE_string('compare_seeds', '0,1,2', 'Of --compare.')

_METHOD = 'lit'
_ENDS = 'stem,head'
# Sums in another order are equal up to their rounding.
_DIGITS = 9
_FILE = 'allocated.json'

# Of each block.
Units = tuple[int, ...]
# By units, what the teacher loses by each block that has as many.
Lost = Mapping[int, Sequence[float]]


class Budget(NamedTuple):
  """Attributes: 'parameters', 'macs' or 'latency_ms'; the most of it."""

  kind: str
  most: float


class Wanted(NamedTuple):
  """What the flags ask for.

  Attributes:
    depths: units of a block, from few to many.
    budget: what may not be exceeded.
    batch: examples of a forward pass that is timed.
    epochs: of the LIT runs; 0 takes the recipe's.
    held_out: training examples; 0 takes the recipe's, or a tenth of all.
  """

  depths: Units
  budget: Budget
  batch: int
  epochs: int
  held_out: int


# The choice.


def predicted(lost: Lost, units: Units) -> float:
  """What a choice of units loses: the sum of what its blocks do."""
  return sum(lost[count][block] for block, count in enumerate(units))


def choose(
  lost: Lost, fits: Callable[[Units], bool], price: Callable[[Units], float]
) -> Units:
  """The choice of least predicted loss that fits; of equal ones the cheapest.

  Args:
    lost: of every block with each number of units.
    fits: whether a choice is within the budget; asked from the best one on
      until one is, for it may have to be measured.
    price: what is compared between choices of equal loss.

  Raises:
    ValueError: none fits.
  """
  count = len(next(iter(lost.values())))
  choices = itertools.product(sorted(lost), repeat=count)

  def rank(units):
    return round(predicted(lost, units), _DIGITS), price(units)

  found = next(filter(fits, sorted(choices, key=rank)), None)
  if found is None:
    raise ValueError('no choice of units fits')
  return found


def uniform(
  depths: Units, count: int, fits: Callable[[Units], bool]
) -> Units | None:
  """The most units, as many in each of `count` blocks, that fit."""
  choices = ((depth,) * count for depth in sorted(depths, reverse=True))
  return next(filter(fits, choices), None)


def costs(job: jobs.Job, batch: int) -> Callable[[str, Units], float]:
  """A function that tells what a job's student costs with other units.

  Args:
    job: of one student.
    batch: examples of a forward pass that is timed.

  Returns:
    A function of 'parameters', 'macs' or 'latency_ms' (a median), and of the
    units. It finds each number once.
  """

  count = _blocks(job)

  def build(units):
    return job.build(_without_depth(job) | {'units': units})

  @functools.cache
  def parts(depth):
    return summary(build((depth,) * count)).parts

  @functools.cache
  def cost(kind, units):
    if kind == 'latency_ms':
      net = build(units)
      variables = blocks.init(net, jax.random.key(0))
      return latency.latency_ms(net, variables, batch)
    # A block costs the same whatever the others are, for its input is.
    ends = (parts(units[0])[part] for part in ('stem', 'head'))
    own = (parts(depth)[f'blocks_{i}'] for i, depth in enumerate(units))
    return sum(getattr(part, kind) for part in (*ends, *own))

  return cost


def _without_depth(job) -> dict[str, Any]:
  (student,) = job.students
  return {k: v for k, v in student.network.items() if k != 'depth'}


# The runs.


def make(argv: Sequence[str], observer: Observer) -> None:
  """Allocates as the flags say, and prints what was found.

  Args:
    argv: what is left of the arguments.
    observer: asked whether to stop.

  Raises:
    UserError: bad input, or a budget that cannot be met.
    Interrupted: asked to stop; what is trained is kept.
  """
  config, workdir, _ = cli.configured(argv)
  workdir = workdir.absolute()
  wanted = _wanted()
  seeds = _integers(_SEEDS, least=0)
  found = allocate(config, workdir, wanted, observer)
  Console().print(_table(found))
  print('\n'.join(_sentences(found)))
  if _COMPARE.value:
    print(compare(config, workdir, found, seeds, observer))


def _wanted() -> Wanted:
  given = {
    kind: flag.value
    for kind, flag in _BUDGETS.items()
    if flag.value is not None
  }
  if len(given) != 1:
    flags_ = ', '.join(f'--{flag.name}' for flag in _BUDGETS.values())
    raise UserError(f'{len(given)} budgets; give one of {flags_}')
  ((kind, most),) = given.items()
  if not most > 0:
    raise UserError(f'--budget_{kind}={most:g}; give more than 0')
  return Wanted(
    tuple(sorted(_integers(_DEPTHS, least=1))),
    Budget(kind, most),
    _BATCH.value,
    _EPOCHS.value,
    held_out.wanted(),
  )


def _integers(flag, least) -> tuple[int, ...]:
  """Of a comma list, each once."""
  words = names(flag.value, f'--{flag.name}')
  if not words or not all(w.isdecimal() and int(w) >= least for w in words):
    raise UserError(
      f'--{flag.name} is {flag.value!r}; write integers from {least} on, such '
      f'as {flag.default}'
    )
  return tuple(dict.fromkeys(map(int, words)))


def allocate(
  config: recipes.Config,
  workdir: pathlib.Path,
  wanted: Wanted,
  observer: Observer,
) -> dict[str, Any]:
  """Trains the blocks, as far as they are not trained yet, and chooses.

  Args:
    config: the recipe.
    workdir: whole, for the runs are bound to their teacher's folder.
    wanted: depths and budget.
    observer: asked whether to stop.

  Returns:
    The content of `allocated.json`.

  Raises:
    UserError: bad input, or a budget that cannot be met, before anything is
      trained where possible.
    Interrupted: asked to stop; what is trained is kept.
  """
  _check(config, workdir)
  wanted = wanted._replace(held_out=held_out.count(config, wanted.held_out))
  cli.start(config, workdir)
  job = _check_runs(config, wanted)
  cost, count = costs(job, wanted.batch), _blocks(job)
  _check_budget(cost, count, wanted)
  teacher = held_out.teacher(
    config, workdir, wanted.held_out, job.dataset,
    lambda own, folder: execute(own, folder, observer),
  )  # fmt: skip
  runs = {}
  for depth in wanted.depths:
    print(f'units: {depth} in each block')
    own = table_config(config, depth, wanted, teacher, count)
    runs[depth] = execute(own, workdir / f'units-{depth}', observer)
  found = _found(wanted, cost, count, runs) | {'teacher': teacher}
  write_json(workdir / _FILE, found)
  return found


def _found(wanted, cost, count, runs) -> dict[str, Any]:
  """What was chosen, as `allocated.json` has it."""
  stitches = {depth: _stitch(run) for depth, run in runs.items()}
  first = runs[wanted.depths[0]]
  lost = {
    depth: [block['lost'] for block in own.values()]
    for depth, own in stitches.items()
  }
  kind, most = wanted.budget

  def fits(units):
    return cost(kind, units) <= most

  def price(units):
    # Not what has to be measured.
    return cost('macs' if kind == 'macs' else 'parameters', units)

  chosen = choose(lost, fits, price)
  same = uniform(wanted.depths, count, fits)
  kinds = dict.fromkeys(('parameters', 'macs', kind))
  return {
    'budget': wanted.budget._asdict(),
    'held_out': wanted.held_out,
    'selects': first['selects'],
    'percent': _is_percent(first),
    'stitch': {str(depth): own for depth, own in stitches.items()},
    'choices': {
      role: {
        'units': list(units),
        'predicted': predicted(lost, units),
        **{kind: cost(kind, units) for kind in kinds},
      }
      for role, units in (('chosen', chosen), ('uniform', same))
      if units is not None
    },
    'command': results.command(),
  }


def compare(
  config: recipes.Config,
  workdir: pathlib.Path,
  found: Mapping[str, Any],
  seeds: Sequence[int],
  observer: Observer,
) -> str:
  """The chosen network beside the uniform one, as a table in Markdown.

  Args:
    config: the recipe.
    workdir: where the choice was made.
    found: by `allocate`.
    seeds: by each of which both are trained.
    observer: asked whether to stop.

  Raises:
    UserError: bad input.
    Interrupted: asked to stop; what is trained is kept.
  """
  lines = [
    '| | units | params | MACs | score | n |',
    '| --- | --- | ---: | ---: | ---: | ---: |',
  ]
  # Both may be one network.
  networks = {
    tuple(choice['units']): (role, choice)
    for role, choice in reversed(found['choices'].items())
  }
  for units, (role, choice) in reversed(networks.items()):
    own = config.copy_and_resolve_references()
    own.student.units, own.method = units, _METHOD
    own.teacher.checkpoint = found['teacher']
    own.population.seed = ','.join(map(str, seeds))
    folder = workdir / f'compare-{"-".join(map(str, units))}'
    run = execute(own, folder, observer)
    lines.append(_line(role, choice, run))
  return '\n'.join(lines)


def execute(
  config: recipes.Config, folder: pathlib.Path, observer: Observer
) -> dict[str, Any]:
  """Trains what is not trained yet of a run; returns its results.

  Args:
    config: of the run.
    folder: its workdir.
    observer: asked whether to stop.

  Raises:
    UserError: bad input.
    Interrupted: asked to stop; saved, and the same call goes on.
  """
  found = runner.run(recipes.compression(config), folder, observer)
  # Every program takes some of the memory maps that a process may have.
  jax.clear_caches()
  return found


def table_config(
  config: recipes.Config,
  depth: int,
  wanted: Wanted,
  teacher: str,
  count: int,
) -> recipes.Config:
  """Of the run that trains every block with as many units, by itself.

  Args:
    config: the recipe.
    depth: units of a block.
    wanted: with the number of held-out examples.
    teacher: its folder, or 'embedded'; '' trains it.
    count: blocks.
  """
  own = held_out.recipe(config, wanted.held_out)
  own.stitch = True
  own.student.units = (depth,) * count
  own.teacher.checkpoint = teacher
  own.method = _METHOD
  # LIT without what follows it.
  phase = _phase(own)
  own.methods[_METHOD] = phase
  own[phase].update(
    dict(beta=0.0, blocks='all', teacher_input=True, copy=_ENDS, frozen=_ENDS)
  )
  if wanted.epochs:
    # Milestones keep their place.
    own.epochs_scale = wanted.epochs / own[phase].epochs
  return own


def _phase(config) -> str:
  """The first phase of LIT."""
  found = recipes.method(config, _METHOD).phases
  if not found or found[0].epochs < 1:
    raise UserError(f'the method {_METHOD!r} has no phase that trains')
  return found[0].name


def _stitch(found) -> dict[str, Any]:
  (row,) = (row for row in found['rows'] if row['method'] == _METHOD)
  if 'stitch' not in row:
    raise UserError(
      'a run has no stitch report, for which there may have been no memory; '
      'remove its folder, and run the same command again'
    )
  return row['stitch']


# What is refused.


def _check(config, workdir) -> None:
  """Raises UserError for what has no place in a recipe that is allocated."""
  if 'units' not in config.student:
    raise UserError(
      f'the family {config.student.family!r} has no units to allocate; take '
      'resnet, resnext or vdcnn'
    )
  if config.student.get('checkpoint'):
    raise UserError(
      'student.checkpoint is of one number of units, and several are tried; '
      'leave it empty'
    )
  alone = 'an allocation trains one student'
  held_out.check(config, workdir, alone, alone, 'runs compare')


def _check_runs(config, wanted) -> jobs.Job:
  """Finds what would stop a run, before the first begins.

  Returns:
    The recipe's own student, and the data without a test split.
  """
  own = held_out.recipe(config, wanted.held_out)
  own.method = _METHOD
  job = recipes.compression(own)
  teacher = config.teacher.get('checkpoint', '')
  for depth in wanted.depths:
    own = table_config(config, depth, wanted, teacher, _blocks(job))
    checks.check(recipes.compression(own))
  return job


def _blocks(job) -> int:
  """How many a network of the job has."""
  return len(job.build(job.students[0].network).blocks)


def _check_budget(cost, count, wanted) -> None:
  """Raises UserError where not even the fewest units are within the budget."""
  kind, most = wanted.budget
  units = (wanted.depths[0],) * count
  least = cost(kind, units)
  if least > most:
    raise UserError(
      f'--budget_{kind}={_amount(most)} cannot be met: the least is '
      f'{_amount(least)}, of '
      f'{_joined(units)} units; give as much, or fewer units in --depths'
    )


# What is printed.


def _amount(number) -> str:
  return f'{number:,}' if isinstance(number, int) else f'{number:.4g}'


def _joined(units) -> str:
  return '/'.join(map(str, units))


def _number(value, percent) -> str:
  return f'{100 * value:.2f}' if percent else f'{value:.4g}'


def _table(found) -> rich.table.Table:
  """What each block loses with each number of units; the chosen are marked."""
  unit = ' in points' if found['percent'] else ''
  out = rich.table.Table(
    title=f'{found["selects"].replace("_", " ")} lost{unit}, on n = '
    f'{found["held_out"]} held-out training examples; * is chosen',
    box=rich.box.SIMPLE,
  )
  out.add_column('')
  for depth in found['stitch']:
    out.add_column(f'{depth} units', justify='right')
  chosen = found['choices']['chosen']['units']
  for i, block in enumerate(next(iter(found['stitch'].values()))):
    cells = [
      _number(own[block]['lost'], found['percent'])
      + ('*' if int(depth) == chosen[i] else ' ')
      for depth, own in found['stitch'].items()
    ]
    out.add_row(block, *cells)
  return out


def _sentences(found) -> list[str]:
  kind, most = found['budget'].values()
  words = {
    'chosen': 'chosen', 'uniform': 'the most units, as many in each block'
  }  # fmt: skip
  return [f'budget: {_amount(most)} {kind}'] + [
    f'{words[role]}: {_joined(own["units"])} units, {own["parameters"]:,} '
    f'parameters, {own["macs"]:,} MACs'
    + (f', {own[kind]:.3g} ms' if kind == 'latency_ms' else '')
    + f'; predicted to lose {_number(own["predicted"], found["percent"])}'
    for role, own in found['choices'].items()
  ]


def _line(role, choice, run) -> str:
  """Of a network in the table of `compare`."""
  rows = [row for row in run['rows'] if row['method'] != TEACHER]
  percent = _is_percent(run)
  values = [row[run['selects']] * (100 if percent else 1) for row in rows]
  cells = (
    role, _joined(choice['units']), f'{choice["parameters"]:,}',
    f'{choice["macs"]:,}', spread(values, 1 if percent else 4), len(values),
  )  # fmt: skip
  return f'| {" | ".join(map(str, cells))} |'


def _is_percent(run) -> bool:
  """Whether what is selected is a share."""
  return any(
    column['key'] == run['selects'] and column['format'] == 'percent'
    for column in run['columns']
  )


if __name__ == '__main__':
  cli.run(make)
