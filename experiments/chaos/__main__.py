"""Shows that a training run survives faults.

  python -m experiments.chaos --task=images --kind=kill,damage --workdir=DIR

For each fault the ordinary command is started, as a process of its own; then
the harm is done, and the same command is run again until it is over. What it
left is compared with an undisturbed run: the arrays of every saved network
are the same bit for bit, nothing that was saved is gone or trained again, the
records of metrics.jsonl are the same, each once, and exit code and message say
what happened, without a traceback. FAULTS (trials.py) says what each kind is,
and KINDS (harms.py) what is expected of each damaged file.

The runs are the demos, shortened (TASKS), on one CPU device, since two runs
must be alike bit for bit; that is looked at first. Trials are drawn by --seed,
and a trial is made again by its --kind, --task and --trial. When a process is
hit also depends on the machine. DIR keeps the undisturbed runs, for the next
call, and what failed; remove it where the code has changed. Without it, all
lies in a temporary folder that is kept if anything failed.

Exit codes: 0 all survived; 1 not all; 2 bad input, or runs that are not alike.
"""

import collections
import pathlib
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from absl import app, flags

from experiments import cli
from experiments.chaos import trials
from experiments.chaos.sites import Site, Task
from experiments.chaos.trials import FAULTS, Outcome
from lit_jax.errors import UserError, choose, names
from lit_jax.runs import results
from lit_jax.training import startup
from lit_jax.training.interrupt import Observer

_TASK = flags.DEFINE_string(
  'task', 'all', 'images, texts, translations, a comma list of these, or all.'
)
_KIND = flags.DEFINE_string(
  'kind', 'all', f'{", ".join(FAULTS)}, a comma list of these, or all.'
)
_COUNT = flags.DEFINE_integer('count', FAULTS['kill'].count, 'Kills of a task.')
_DAMAGES = flags.DEFINE_integer(
  'damages', 0, 'Damaged files of a task, drawn; 0 is each kind by each harm.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of all that is drawn.')
_TRIAL = flags.DEFINE_integer('trial', -1, 'Makes this trial alone; -1: all.')

_ALL = 'all'
_FAILED = 1
# Few examples, and few of them held out to be evaluated on in place of the
# test split; two calls an epoch, so that runs stop within one.
_SHORT = {
  'train_examples': 128,
  'validation': 64,
  'score_on': 'validation',
  'steps_per_call': 4,
  'epochs_scale': 0.1,
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
      train_examples=0, validation=16, steps_per_call=2, epochs_scale=0.4,
      **{'data.attributes': 'Woman'},
    ),
  )
}  # fmt: skip


def _wanted(what: str, text: str, known: Mapping[str, object]) -> list[str]:
  if text == _ALL:
    return list(known)
  return [choose(what, name, known) for name in names(text, what)]


def main(argv: Sequence[str], observer: Observer) -> None:
  """Makes the trials that the flags ask for, and prints what came of them."""
  if len(argv) > 1:
    raise UserError(f'unexpected argument {argv[1]!r}; see --help')
  tasks = _wanted('task', _TASK.value, TASKS)
  kinds = _wanted('kind', _KIND.value, FAULTS)
  given = cli.WORKDIR.value
  folder = pathlib.Path(given or tempfile.mkdtemp(prefix='chaos-'))
  # Another user must reach it, whose rights are revoked.
  folder.mkdir(parents=True, exist_ok=True)
  if not given:
    folder.chmod(0o755)
  found = {}
  for name in tasks:
    site = Site(folder.absolute() / name, TASKS[name], _SEED.value)
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
  for number in _numbers(site, kind):
    observer.interrupt(f'before {kind} {number} of {site.task.name}')
    begin = time.monotonic()
    outcome = trials.trial(site, kind, number)
    found.append(outcome)
    print(
      f'{_name(kind, site.task.name, number)} '
      f'({time.monotonic() - begin:.0f} s): {_words(outcome)}',
      flush=True,
    )
    if outcome.skipped:
      break
  return found


def _numbers(site: Site, kind: str) -> Sequence[int]:
  if _TRIAL.value >= 0:
    return [_TRIAL.value]
  if kind == 'kill':
    return range(_COUNT.value)
  if kind == 'damage':
    count = len(site.damages())
    return range(min(_DAMAGES.value or count, count))
  return range(FAULTS[kind].count)


def _name(kind, task, number):
  return f'{kind} {task} --seed={_SEED.value} --trial={number}'


def _words(outcome: Outcome) -> str:
  if outcome.skipped:
    return f'SKIPPED: {outcome.skipped}'
  if outcome.problems:
    return f'FAILED: {outcome.what}: {"; ".join(outcome.problems)}'
  return f'survived: {outcome.what}'


def table(found: Mapping[tuple[str, str], Sequence[Outcome]]) -> str:
  """A Markdown table of survived trials, by kind and task."""
  rows = [
    '| Kind | Task | Survived | That is |', '| --- | --- | ---: | --- |'
  ]  # fmt: skip
  sums = collections.Counter()
  for (kind, task), outcomes in found.items():
    made = [outcome for outcome in outcomes if not outcome.skipped]
    good = sum(not outcome.problems for outcome in made)
    sums += collections.Counter(good=good, made=len(made))
    share = f'{good}/{len(made)}' if made else 'skipped'
    rows.append(f'| {kind} | {task} | {share} | {FAULTS[kind].means} |')
  rows.append(f'| all | | {sums["good"]}/{sums["made"]} | |')
  return '\n'.join(rows)


def _report(found) -> None:
  versions = ', '.join(f'{k} {v}' for k, v in results.versions().items())
  print(f'\n{table(found)}\n')
  print(
    f'`{results.command()}`, one CPU device of {startup.cores()} cores, '
    f'{platform.machine()}, Python {platform.python_version()}, {versions}'
  )


if __name__ == '__main__':
  app.run(cli.command(main), flags_parser=cli.parse)
