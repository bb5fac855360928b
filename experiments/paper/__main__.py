"""The paper's tables and figures, by name.

  python -m experiments.paper --artifact=table3 --scale=mini --workdir=DIR

trains what the artifact needs and is not trained yet in the workdir, and prints
each number beside the paper's, with the tests of what the paper claims. The
plan comes first; `--dry_run` stops there. Stopped at any point, the same
command goes on. On a CPU each core gets a process of its own, and they share
the plan; so do commands that are started several times, on other machines too
where they see the same folder.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

import rich.box
import rich.table
from absl import flags
from rich.console import Console

from experiments import cli
from experiments.paper import (
  artifacts,
  document,
  findings,
  plan,
  records,
  scales,
  students,
  workers,
)
from lit_jax.errors import UserError
from lit_jax.files import write_json
from lit_jax.runs import workdir
from lit_jax.training.interrupt import Observer

_ARTIFACT = flags.DEFINE_string(
  'artifact', '', f'{", ".join(artifacts.ARTIFACTS)}, or all.'
)
_SCALE = flags.DEFINE_string('scale', 'mini', ', '.join(scales.SCALES) + '.')
_SEEDS = flags.DEFINE_integer(
  'seeds', 0, 'Runs of each number; 0 takes those of the scale.'
)
_DRY_RUN = flags.DEFINE_boolean('dry_run', False, 'Prints the plan alone.')
_PUBLISH = flags.DEFINE_boolean(
  'publish', False,
  'Writes the finished rows into the project, and docs/paper.md anew.',
)  # fmt: skip
_PROCESSES = flags.DEFINE_integer(
  'processes', 0, 'That train side by side; 0 is one a core on a CPU, else one.'
)
# Of a scale that is for tests alone there is no page.
_UNPUBLISHED = 'smoke'
_WAIT = 5.0  # seconds
# Columns of a table that are no numbers.
_WORDS = 2


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
  if _PUBLISH.value and _SCALE.value == _UNPUBLISHED:
    raise UserError(
      f'--scale={_UNPUBLISHED} is for tests; publish another scale'
    )
  if _PROCESSES.value < 0:
    raise UserError(f'--processes={_PROCESSES.value}; give 1 or more')
  seeds = _SEEDS.value or scale.seeds
  folder = pathlib.Path(cli.WORKDIR.value or f'runs/paper-{_SCALE.value}')
  root = records.root(folder.expanduser().absolute(), _SCALE.value)
  chosen = {name: _of_scale(scale, name, own) for name, own in chosen.items()}
  halves = [half for several in chosen.values() for half in several]
  wanted = plan.runs(scale, halves, seeds)
  groups = plan.groups(scale, plan.todo(scale, wanted, root))
  if _DRY_RUN.value:
    _print_plan(scale, wanted, groups, root, 1)
    return
  root.folder.mkdir(parents=True, exist_ok=True)
  with workers.started(_PROCESSES.value, len(groups)) as count:
    if groups:
      # Before anything is computed, such as the plan's multiply-accumulates.
      cli.start(scales.recipe(scale.pairs[halves[0].family], {}), root.folder)
    if not workers.is_one():
      _print_plan(scale, wanted, groups, root, count)
    _train(scale, groups, root, observer)
  if workers.is_one():
    return
  if 'table6' in chosen:
    print(document.networks())
  sections = [
    _shown(scale, name, several, seeds, root)
    for name, several in chosen.items()
  ]
  if _SCALE.value != _UNPUBLISHED:
    page = root.folder / 'paper.md'
    for name in document.IMAGES:
      if name in chosen:
        document.draw_images(scale, name, root, root.folder / 'paper')
    document.write(page, sections, '')
    print(f'page: {page}')
  if _PUBLISH.value:
    _publish(scale, root)


def _of_scale(scale, name, halves):
  """The halves of an artifact whose families the scale has."""
  found = plan.halves(scale, name, halves)
  for half in halves:
    if half not in found:
      print(f'{half.title}: left out, {_SCALE.value} has no {half.family}')
  return found


def _print_plan(scale, wanted, groups, root, processes):
  runs = [run for group in groups for run in group]
  found = ((run, plan.record(scale, root, run)) for run in wanted)
  known = {run: record['row'] for run, record in found if record}
  print(f'{_SCALE.value}: {scale.title}')
  print(f'{len(wanted)} rows, {len(known)} of them finished')
  if not runs:
    return
  epochs = sum(plan.epochs(scale, run) for run in runs)
  print(
    f'{len(runs)} runs of {epochs:g} epochs in {len(groups)} workdirs', end=''
  )
  times = [plan.seconds(scale, run, known) for run in runs]
  told = sum(time for time in times if time is not None) / processes
  unknown = times.count(None)
  if told:
    print(f'; about {told / 60:.0f} min by finished runs', end='')
  print(f'; of {unknown} runs no like was timed yet' if unknown else '')


def _train(scale, groups, root, observer):
  """Trains all groups; those that another process is at are waited for.

  One that fails does not keep the others from being trained.

  Raises:
    UserError: what failed, when all else is done.
  """
  left, told, failed = list(groups), set(), {}
  givers = {g for group in groups for run in group for _, g in run.given}
  while left:
    waiting, busy = [], False
    for i, group in enumerate(left):
      if not _is_needed(scale, group, givers, root):
        continue
      if not _has_givers(group, root):
        waiting.append(group)
        continue
      name = plan.folder(group)
      observer.interrupt(f'before {name}')
      if name not in told:
        # Once, for it may be tried again and again while another is at it.
        to_go = len(left) - i + len(waiting)
        print(f'{name} ({to_go} workdirs to go)', flush=True)
        told.add(name)
      try:
        plan.execute(scale, group, root, observer)
      except workdir.Busy:
        waiting.append(group)
        busy = True
      except UserError as error:
        failed[name] = str(error)
        print(f'{name} failed: {error}', file=sys.stderr)
    if busy and len(waiting) == len(left):
      observer.interrupt('waiting for another process')
      time.sleep(_WAIT)
    elif len(waiting) == len(left):
      # Nobody will make what they are to be given.
      failed |= {plan.folder(group): 'what it begins with' for group in waiting}
      break
    left = waiting
  if failed:
    raise UserError(
      f'{len(failed)} of {len(groups)} workdirs failed: {", ".join(failed)}; '
      'all others are done, and the same command tries these again'
    )


def _is_needed(scale, group, givers, root):
  """Whether there is something to do that no other process has done."""
  return any(
    plan.record(scale, root, run) is None
    or (run in givers and not root.network(run.name))
    for run in group
  )


def _has_givers(group, root):
  return all(root.network(g.name) for run in group for _, g in run.given)


def _shown(scale, name, halves, seeds, root) -> document.Section:
  """Prints an artifact, and keeps it as JSON."""
  section = document.section(scale, name, halves, seeds, root)
  for numbers in section.found:
    Console().print(_table(numbers))
    for claim in numbers['claims']:
      print(findings.sentence(claim, numbers['measure']))
    print('\n'.join(findings.savings(numbers)))
  write_json(root.folder / f'{name}.json', section.found)
  return section


def _publish(scale, root):
  """Keeps the rows with the project, and writes the page of all scales."""
  every = [
    half
    for name, own in artifacts.ARTIFACTS.items()
    for half in plan.halves(scale, name, own)
  ]
  runs = plan.runs(scale, every, scale.seeds)
  found = ((run.name, plan.record(scale, root, run)) for run in runs)
  records.publish({name: own for name, own in found if own}, _SCALE.value)
  for name in document.IMAGES:
    document.draw_images(scale, name, root, document.DOCS / 'paper')
  students.publish(scale, root)
  document.write_page(document.DOCS / 'paper.md')
  print(f'page: {document.DOCS / "paper.md"}')


def _table(numbers):
  drawn = rich.table.Table(title=numbers['title'], box=rich.box.SIMPLE)
  for i, heading in enumerate(findings.headings(numbers['measure'])):
    drawn.add_column(heading, justify='left' if i < _WORDS else 'right')
  for row in numbers['rows']:
    drawn.add_row(*findings.cells(row, numbers['measure']))
  return drawn


if __name__ == '__main__':
  cli.run(make)
