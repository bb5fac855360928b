"""The paper's tables and figures, by name.

  python -m experiments.paper --artifact=table3 --scale=mini --workdir=DIR

trains what the artifact needs and is not trained yet in the workdir, and prints
each number beside the paper's, with the tests of what the paper claims. The
plan comes first; `--dry_run` stops there. Stopped at any point, the same
command goes on.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.table
from absl import app, flags
from rich.console import Console

from experiments import cli
from experiments.paper import artifacts, plan, scales, statistics
from lit_jax.errors import UserError
from lit_jax.files import write_json
from lit_jax.training.interrupt import Observer

_ARTIFACT = flags.DEFINE_string(
  'artifact', '', f'{", ".join(artifacts.ARTIFACTS)}, or all.'
)
_SCALE = flags.DEFINE_string('scale', 'mini', ', '.join(scales.SCALES) + '.')
_SEEDS = flags.DEFINE_integer(
  'seeds', 0, 'Runs of each number; 0 takes those of the scale.'
)
_DRY_RUN = flags.DEFINE_boolean('dry_run', False, 'Prints the plan alone.')


def make(argv: Sequence[str], observer: Observer) -> None:
  """Makes what the flags name, and prints it.

  Args:
    argv: what is left of the arguments.
    observer: asked whether to stop.

  Raises:
    UserError: bad input.
    Interrupted: asked to stop; what is trained is kept.
  """
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; see --help')
  if not _ARTIFACT.value:
    raise UserError(
      f'no artifact; give --artifact={"|".join(artifacts.ARTIFACTS)} or all'
    )
  chosen, scale = artifacts.find(_ARTIFACT.value), scales.find(_SCALE.value)
  if _SEEDS.value < 0:
    raise UserError(f'--seeds={_SEEDS.value}; give 1 or more')
  seeds = _SEEDS.value or scale.seeds
  root = pathlib.Path(cli.WORKDIR.value or f'runs/paper-{_SCALE.value}')
  root = root.expanduser().absolute()
  halves = [half for several in chosen.values() for half in several]
  needed = plan.runs(scale, halves, seeds)
  rows = {run: plan.row(root, run) for run in needed}
  known = {run: row for run, row in rows.items() if row is not None}
  todo = [run for run in needed if run not in known]
  _print_plan(scale, todo, known)
  for half in halves:
    if half.family not in scale.pairs:
      print(f'{half.title}: left out, {_SCALE.value} has no {half.family}')
  if _DRY_RUN.value:
    return
  _train(scale, todo, root, observer)
  for name, several in chosen.items():
    found = [
      _found(scale, half, seeds, root)
      for half in several
      if half.family in scale.pairs
    ]
    for numbers in found:
      Console().print(_table(numbers))
      print('\n'.join(map(_sentence, numbers['claims'])))
    write_json(root / f'{name}.json', found)


def _print_plan(scale, todo, known):
  print(f'{_SCALE.value}: {scale.title}')
  print(f'{len(todo) + len(known)} runs, {len(known)} of them finished')
  times = [plan.seconds(scale, run, known) for run in todo]
  epochs = sum(plan.epochs(scale, run) for run in todo)
  print(f'{epochs} epochs to train', end='')
  if todo and None not in times:
    print(f', about {sum(filter(None, times)) / 60:.0f} min by finished runs')
  elif todo:
    unknown = sum(time is None for time in times)
    print(f'; {unknown} runs are of kinds that were not timed yet')
  else:
    print()


def _train(scale, todo, root, observer):
  if not todo:
    return
  root.mkdir(parents=True, exist_ok=True)
  cli.start(plan.config(scale, todo[0], root), root)
  for i, run in enumerate(todo):
    observer.interrupt(f'before {run.name}')
    print(f'run {i + 1} of {len(todo)}: {run.name}')
    plan.execute(scale, run, root, observer)


def _found(scale, artifact, seeds, root) -> dict[str, Any]:
  """An artifact's numbers: its rows, and the claims that were tested."""
  scores, rows = {}, []
  for entry in plan.entries(scale, artifact):
    runs = [
      plan.finished(root, plan.run_of(scale, artifact.family, entry, seed))
      for seed in range(seeds)
    ]
    own = [run['accuracy'] for run in runs]
    scores[entry.label] = own
    rows.append(
      {
        'label': entry.label,
        'published': list(entry.published) if scale.published else [],
        'accuracy': own,
        **statistics.summary(own)._asdict(),
        'epochs': runs[0]['epochs'],
        'train_seconds': sum(run['train_seconds'] for run in runs) / seeds,
        'depth': runs[0]['depth'],
        'x': runs[0]['depth'] if artifact.axis == 'depth' else entry.x,
        'series': entry.series,
      }
    )
  claims = [
    {
      'better': claim.better,
      'than': claim.than,
      **statistics.compare(scores[claim.better], scores[claim.than])._asdict(),
      'detectable': statistics.detectable(
        statistics.summary(scores[claim.better]),
        statistics.summary(scores[claim.than]),
      ),
    }
    for claim in artifact.claims
    if {claim.better, claim.than} <= set(scores)
  ]
  return {
    'title': artifact.title, 'axis': artifact.axis, 'rows': rows,
    'claims': claims,
  }  # fmt: skip


def _table(numbers):
  drawn = rich.table.Table(title=numbers['title'], box=rich.box.SIMPLE)
  drawn.add_column('')
  for heading in ('paper %', 'ours %', 'std', 'n', 'epochs', 'min a run'):
    drawn.add_column(heading, justify='right')
  for row in numbers['rows']:
    drawn.add_row(
      row['label'],
      ' ± '.join(f'{100 * x:.2f}' for x in row['published']),
      f'{100 * row["mean"]:.2f}',
      '' if row['std'] is None else f'{100 * row["std"]:.2f}',
      str(row['n']),
      f'{row["epochs"]:g}',
      f'{row["train_seconds"] / 60:.1f}',
    )
  return drawn


def _sentence(claim):
  """What was found of a claim, in a line."""
  tested = 'not tested: too few runs'
  if claim['welch'] is not None:
    tested = f'Welch p = {claim["welch"]:.3g}, pooled {claim["pooled"]:.3g}'
  power = ''
  if claim['verdict'] == statistics.NOT_DECIDED and claim['detectable']:
    power = (
      f'; {100 * claim["detectable"]:.1f} points would be found in four of '
      'five such experiments'
    )
  return (
    f'{claim["better"]} above {claim["than"]}: {claim["verdict"]} '
    f'({100 * claim["difference"]:+.2f} points, {tested}{power})'
  )


if __name__ == '__main__':
  app.run(cli.command(make), flags_parser=cli.parse)
