"""`lit-jax compress`: a network made shallower on data of one's own."""

import argparse
import contextlib
import inspect
import pathlib
from collections.abc import Iterator
from typing import Any

from lit_jax import files, report
from lit_jax.command import arrays, devices, network
from lit_jax.data import sources
from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError, choose, first_line
from lit_jax.runs.compress import OBJECTIVE, compress
from lit_jax.training import startup
from lit_jax.training.interrupt import Interrupted, stop_on_signals

_DESCRIPTION = """\
Compresses a classifier by LIT, and fine-tunes it: lit_jax.compress.

A TEACHER that is saved brings its weights and its normalisation; a family is
trained first. A STUDENT that is saved is what the student begins as. Classes
and sizes that a student's name does not say are the teacher's, and those of a
teacher are the data's.

An .npz file holds the arrays `inputs` [N, …], of which uint8 images [N, h, w,
c] are normalised, and `labels` [N], integers from 0; of the training file
`class_names`, too, if it likes. The folder takes checkpoints, the trained
networks, the table and report.html. Ctrl-C or SIGTERM saves; the same command
goes on where it was stopped, and only prints the table when all is done.
"""
_USUAL = inspect.signature(compress).parameters
_TAKEN = (
  ('epochs', int, 'N', 'of the teacher, and of the student in all'),
  ('batch_size', int, 'N', 'examples a step'),
  ('learning_rate', float, 'X', 'the highest'),
  ('seed', int, 'N', 'of initial values and data order'),
)
_WEIGHTS = (
  ('alpha', 'weight of the HARD labels'),
  ('beta', 'weight of distillation against representations'),
  ('temperature', 'of the soft labels'),
)


def define(commands: Any) -> None:
  """Adds the command to those of the parser."""
  parser = commands.add_parser(
    'compress', help='train a shallower network', description=_DESCRIPTION
  )
  network.add_pair(parser)
  add = parser.add_argument
  add('--workdir', required=True, metavar='DIR', help='the folder of the run')
  add('--train', metavar='FILE.npz', help='examples to learn from')
  add('--test', metavar='FILE.npz', help='examples to be judged by')
  add('--data', metavar='NAME', help=f'instead: {", ".join(_NAMES)}')
  add('--data_dir', default='', metavar='DIR', help='where its files are')
  for name, kind, letter, words in _TAKEN:
    default = _USUAL[name].default
    add(
      f'--{name}', type=kind, default=default, metavar=letter,
      help=f'{words} (default: {default})',
    )  # fmt: skip
  for name, words in _WEIGHTS:
    default = getattr(OBJECTIVE, name)
    add(
      f'--{name}', type=float, default=default, metavar='X',
      help=f'{words} (default: {default})',
    )  # fmt: skip
  parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
  """Trains what is not trained yet, and prints the table.

  Raises:
    UserError: bad input, before anything is trained where possible.
    Interrupted: asked to stop; saved.
  """
  startup.quiet()
  # Before all else, for a saved network is read by JAX.
  devices.use(options.batch_size)
  workdir = pathlib.Path(options.workdir).expanduser()
  observer = startup.FirstSteps()
  with stop_on_signals(observer), _told(workdir):
    results = _compressed(options, workdir, observer)
  report.show(results, workdir / report.PAGE)


def _compressed(options, workdir, observer) -> dict[str, Any]:
  dataset = _dataset(options)
  teacher = network.find(options.teacher, arrays.facts(dataset))
  student = network.find(options.student, teacher.shared)
  weights = {name: getattr(options, name) for name, _ in _WEIGHTS}
  startup.keep_programs(workdir)
  return compress(
    teacher.given,
    student.given,
    dataset.splits['train'],
    dataset.splits['test'],
    workdir,
    objective=OBJECTIVE.replace(**weights),
    preprocess=dataset.preprocess,
    precision=options.precision,
    class_names=dataset.class_names,
    data_name=dataset.name,
    observer=observer,
    **{name: getattr(options, name) for name, *_ in _TAKEN},
  )


@contextlib.contextmanager
def _told(workdir: pathlib.Path) -> Iterator[None]:
  """Tells of a full disk, and of want of memory, as of bad input."""
  try:
    yield
  except (UserError, Interrupted):
    raise
  except Exception as error:
    fault = _fault(error, workdir)
    if fault is None:
      raise
    raise UserError(fault) from error


def _fault(error, workdir) -> str | None:
  no_memory = 'RESOURCE_EXHAUSTED: Out of memory' in str(error)
  if no_memory or isinstance(error, MemoryError):
    return (
      f'out of memory ({first_line(error)}); lower --batch_size or the size of '
      'the networks, in a new --workdir'
    )
  refused = files.refusal(error, workdir)
  return refused and (
    f'the file system refuses {refused}; make room, or put back what is gone, '
    'and run the same command again to go on'
  )


# Those of classes to tell apart, which are read without further options.
_NAMES = tuple(
  name
  for name in sources.NAMES
  if sources.origin(name).kind in ('images', 'texts') and name != 'own'
)


def _dataset(options) -> Dataset:
  files = options.train, options.test
  if options.data is not None and files == (None, None):
    name = choose('data set', options.data, _NAMES)
    return sources.load(name, options.data_dir)
  if options.data is not None or None in files:
    raise UserError(
      'no data, or twice; give --train=FILE.npz and --test=FILE.npz, or '
      f'--data=NAME ({", ".join(_NAMES)})'
    )
  if options.data_dir:
    raise UserError('--data_dir is for --data=NAME; leave it out')
  return arrays.read(*map(pathlib.Path, files))
