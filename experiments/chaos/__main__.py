"""Shows that a training run survives faults.

  python -m experiments.chaos --task=images --kind=kill,damage --workdir=DIR

For each fault the ordinary command is started, as a process of its own; then
the harm is done, and the same command is run again until it is over:

  kill     kill -9 at a drawn moment of a drawn stage
  damage   a file of every kind emptied, cut in half, or with one bit flipped
  full     a disk that is full
  denied   write permission revoked
  sigterm  SIGTERM, with 30 seconds to end
  two      a second run in the same workdir
  removed  rm -r of the workdir during the run
  peer     one of two processes killed, stopped, asked to stop, or late

What is left must be as an undisturbed run leaves it: the arrays of every saved
network are the same bit for bit, nothing that was saved is gone or trained
again, the records of metrics.jsonl are the same, each once, and exit code and
message say what happened, without a traceback. A damaged file may instead be
refused, in one line, where no other file says the same (damages.KINDS).

The runs are the demos, shortened (TASKS), on one CPU device, since two runs
must be alike bit for bit; that is looked at first. `processes` are two that
make the images' run together, on a device each. Trials are drawn by --seed;
--first=7 --count=1 makes the one numbered 7 again. When a process is hit also
depends on the machine. DIR keeps the undisturbed runs, for the next call, and
what failed; remove it where the code has changed. Without it, all lies in a
temporary folder that is kept if anything failed.

Exit codes: 0 all survived; 1 not all; 2 bad input, or runs that are not alike.
"""

import pathlib
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence

from absl import flags

from experiments import cli
from experiments.chaos.faults import FAULTS, Outcome, trial
from experiments.chaos.site import Site, Task
from lit_jax.errors import UserError, choose, names
from lit_jax.runs import results
from lit_jax.training import startup
from lit_jax.training.interrupt import Observer

_TASK = flags.DEFINE_string(
  'task',
  'all',
  'images, texts, translations, processes, a comma list of these, or all.',
)
_KIND = flags.DEFINE_string(
  'kind', 'all', f'{", ".join(FAULTS)}, a comma list of these, or all.'
)
_COUNT = flags.DEFINE_integer(
  'count', 0, 'Trials of a kind and task; 0: as many as belong to the kind.'
)
_FIRST = flags.DEFINE_integer('first', 0, 'Number of the first of them.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of all that is drawn.')

_FAILED = 1
# Few examples, and few of them held out to be evaluated on in place of the
# test split; two calls an epoch, so that runs stop within one.
_SHORT = {
  'train_examples': 128,
  'validation': 64,
  'score_on': 'validation',
  'steps_per_call': 4,
  'epochs_scale': 0.1,
  'stitch': False,
}


def _task(name, module, config, **settings) -> Task:
  keys = [f'--config.{k}={v}' for k, v in (_SHORT | settings).items()]
  config = f'--config=experiments/configs/{config}.py'
  return Task(name, ('-m', f'experiments.{module}', config, *keys))


TASKS = {
  task.name: task
  for task in (
    _task('images', 'cifar', 'demo', method='kd,lit'),
    _task(
      'texts', 'amazon', 'demo_text', method='kd,lit', batch_size=16,
      **{'data.length': 64, 'teacher.depth': 9},
    ),
    _task(
      'translations', 'celeba', 'demo_gan', method='l2,lit', repeats=1,
      train_examples=64, validation=16, steps_per_call=2, epochs_scale=0.5,
    ),
    # The images' run, by two processes of one device.
    _task('processes', 'cifar', 'demo', method='kd,lit')._replace(processes=2),
  )
}  # fmt: skip


def _wanted(what: str, text: str, known: Mapping[str, object]) -> list[str]:
  if text == 'all':
    return list(known)
  return [choose(what, name, known) for name in names(text, what)]


def main(argv: Sequence[str], observer: Observer) -> None:
  """Makes the trials that the flags ask for, and prints what came of them."""
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; see --help')
  tasks = _wanted('task', _TASK.value, TASKS)
  kinds = _wanted('kind', _KIND.value, FAULTS)
  given = cli.WORKDIR.value
  folder = pathlib.Path(given or tempfile.mkdtemp(prefix='chaos-')).absolute()
  folder.mkdir(parents=True, exist_ok=True)
  found = {}
  for name in tasks:
    site = Site(folder / name, TASKS[name], _SEED.value)
    print(f'{name}: the undisturbed runs', flush=True)
    site.prepare()
    for kind in kinds:
      found[kind, name] = _trials(site, kind, observer)
  _report(found)
  failed = any(o.problems for outcomes in found.values() for o in outcomes)
  if not given and not failed:
    shutil.rmtree(folder)
  if failed:
    sys.exit(_FAILED)


def _trials(site: Site, kind: str, observer: Observer) -> list[Outcome]:
  found = []
  end = _FIRST.value + (_COUNT.value or FAULTS[kind][1])
  if kind == 'damage':
    end = min(end, len(site.damages()))
  for number in range(_FIRST.value, end):
    name = f'{kind} {number} of {site.task.name}'
    observer.interrupt(f'before {name}')
    begin = time.monotonic()
    what, problems, skipped = outcome = trial(site, kind, number)
    found.append(outcome)
    seconds = time.monotonic() - begin
    words = f'FAILED: {"; ".join(problems)}' if problems else 'survived'
    words = f'SKIPPED: {skipped}' if skipped else f'{what}: {words}'
    print(f'{name} ({seconds:.0f} s): {words}', flush=True)
    if skipped:
      break
  return found


def table(found: Mapping[tuple[str, str], Sequence[Outcome]]) -> str:
  """A Markdown table of survived trials, by kind and task."""
  rows = ['| Kind | Task | Survived |', '| --- | --- | ---: |']
  for (kind, task), outcomes in found.items():
    rows.append(f'| {kind} | {task} | {_share(outcomes)} |')
  every = [outcome for outcomes in found.values() for outcome in outcomes]
  return '\n'.join([*rows, f'| all | | {_share(every)} |'])


def _share(outcomes: Iterable[Outcome]) -> str:
  made = [outcome for outcome in outcomes if not outcome.skipped]
  survived = sum(not outcome.problems for outcome in made)
  return f'{survived}/{len(made)}' if made else 'skipped'


def _report(found) -> None:
  versions = ', '.join(f'{k} {v}' for k, v in results.versions().items())
  print(f'\n{table(found)}\n')
  print(
    f'`{results.command()}`, one CPU device of {startup.cores()} cores, '
    f'{platform.machine()}, Python {platform.python_version()}, {versions}'
  )


if __name__ == '__main__':
  cli.run(main)
