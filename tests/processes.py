"""A small run of every task, which one of several processes makes.

  python tests/processes.py FOLDER TASK ADDRESS COUNT INDEX SECONDS FAULT

SECONDS is how long a silent process is waited for. FAULT is 'INDEX:PHASE:NAME',
or '': the process of that index sends itself the signal of that name at the
first call of that phase, counted from 1.

As a file of its own, for other processes import it; of tests/hosts_test.py.
"""

import csv
import os
import pathlib
import signal
import sys

from experiments import cli, recipes
from experiments.configs import resnet, stargan, vdcnn
from lit_jax import hosts
from lit_jax.runs import runner
from lit_jax.training.interrupt import Observer

_PHASES = {
  'train_teacher.epochs': 1,
  'lit.epochs': 2,
  'finetune.epochs': 2,
}
# So that rounding, which each step enlarges, stays small.
_RATES = {f'{name.partition(".")[0]}.learning_rate': 0.001 for name in _PHASES}
_TEXTS = {
  'widths': (4, 4, 6, 8), 'k': 2, 'hidden': 8, 'units': (1, 1, 1, 1)
}  # fmt: skip
SETTINGS = {
  'images': {
    'dataset': 'fashion_mnist_mini',
    'train_examples': 160,
    'validation': 40,
    'score_on': 'validation',
    'teacher.depth': 8,
    'student.depth': 8,
    'methods.lit': 'lit',
    **_PHASES,
    **_RATES,
    'lit.epochs': 4,
  },
  'texts': {
    'dataset': 'own',
    'data.length': 24,
    'batch_size': 8,
    **_PHASES,
    **_RATES,
    **{f'teacher.{key}': value for key, value in _TEXTS.items()},
    **{f'student.{key}': value for key, value in _TEXTS.items()},
  },
  'translations': {
    'data.attributes': 'Woman',
    'teacher.width': 2,
    'teacher.depth': 8,
    'student.width': 2,
    'student.depth': 8,
    'judge.depth': 8,
    'discriminator_width': 2,
    'n_critic': 2,
    'train_judge.epochs': 1,
    **_PHASES,
  },
}
_CONFIGS = {'images': resnet, 'texts': vdcnn, 'translations': stargan}


class Faulty(Observer):
  """Sends its own process a signal at the first call of a phase."""

  def __init__(self, phase: int, number: int):
    """Of that phase, counted from 1."""
    self._left, self._number = phase, number

  def first_call(self, steps: int) -> None:
    """Counts."""
    self._left -= 1
    if self._left:
      return
    if self._number == signal.SIGTERM:
      self.stop = self._number
    else:
      os.kill(os.getpid(), self._number)


def run(task: str, folder: pathlib.Path, observer: Observer) -> None:
  """Makes a task's run in its own folder."""
  config = _CONFIGS[task].get_config()
  config.update_from_flattened_dict(
    {'method': 'lit', 'steps_per_call': 2, 'stitch': False} | SETTINGS[task]
  )
  if task == 'texts':
    config.update_from_flattened_dict(
      {
        'data.path': str(folder / 'texts'),
        'data.cache': str(folder / 'cache'),
        'data.text': 'review',
        'data.label': 'stars',
      }
    )
  recipes.check(config)
  runner.run(recipes.compression(config), folder / task, observer)


def write_texts(folder: pathlib.Path) -> None:
  """Reviews of two classes."""
  folder.mkdir()
  for name, count in (('train', 44), ('test', 9)):
    with (folder / f'{name}.csv').open('w', newline='') as file:
      writer = csv.writer(file)
      writer.writerow(['stars', 'review'])
      for i in range(count):
        word, star = (('fine', 'up'), ('bad', 'down'))[i % 2]
        writer.writerow([star, f'{word} {chr(97 + i % 7) * (i % 19)}'])


def main(
  folder: str,
  task: str,
  address: str,
  count: str,
  index: str,
  seconds: str,
  fault: str,
) -> None:
  """Makes the run as the process that the arguments say."""

  def body(argv, observer):
    patience = int(seconds)
    hosts.start(address, int(count), int(index), patience)
    hosts.watch(patience, cli.leave)
    hosts.meet(patience)
    victim, _, rest = fault.partition(':')
    if victim == index:
      phase, _, name = rest.partition(':')
      observer = Faulty(int(phase), signal.Signals[name])
    run(task, pathlib.Path(folder), observer)

  cli.run(body)


if __name__ == '__main__':
  main(*sys.argv[1:])
