"""What every command line shares: flags, one-line errors, exit codes.

Exit codes: 0 done; 2 bad input; 128 + the signal's number when stopped; 75
where another process of the run is gone.
"""

import functools
import os
import pathlib
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments import recipes
from lit_jax import files, hosts, report
from lit_jax.errors import UserError, first_line
from lit_jax.runs import jobs, runner
from lit_jax.training import startup
from lit_jax.training.interrupt import Interrupted, Observer, stop_on_signals

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='A file of experiments/configs; keys by --config.KEY=.'
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of checkpoints and results.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator_address',
  None,
  'HOST:PORT of process 0, where several processes make one run.',
)
_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many there are.', lower_bound=1
)
_PROCESS = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0.', lower_bound=0
)
_PATIENCE = flags.DEFINE_integer(
  'peer_seconds', 100,
  'After so many seconds a process that is not heard of is gone.',
  lower_bound=1,
)  # fmt: skip
_BAD_INPUT = 2
_GONE = 75  # EX_TEMPFAIL of sysexits.h: what is asked for may work later
_LEAVING = threading.Lock()
_STOPPED = 128  # and the signal's number
_PRECISION = 'jax_default_matmul_precision'


def main(build: Callable[[ConfigDict], jobs.Job]) -> None:
  """Runs a command line: compresses as the flags say, and prints the table.

  Args:
    build: the run that a configuration describes.
  """
  run(functools.partial(_compress, build))


def run(body: Callable[[Sequence[str], Observer], None]) -> None:
  """Runs a command line, and tells of errors as this file says.

  Args:
    body: does the work; it is given what is left of the arguments, and what
      asks for a stop.
  """
  app.run(functools.partial(_exit_code, body), flags_parser=parse)


def parse(argv: Sequence[str]) -> list[str]:
  """Parses flags, for `app.run`; a wrong one is told of in a line."""
  # Unless the flags say so: ml_collections warns of what is an error here.
  startup.quiet()
  try:
    return flags.FLAGS(argv)
  except Exception as error:  # A configuration file can raise anything.
    sys.exit(_fail(_wrong_flag(error)))


def _wrong_flag(error) -> str:
  """One line of what parsing flags, or a configuration file, has raised."""
  text = ' '.join(str(error.args[0] if error.args else error).split())
  if found := _raised_in_file(error):
    place, own = found
    return f'{place}: {type(own).__name__}: {first_line(own)}; mend the file'
  if isinstance(error, AttributeError) and "'get_config'" in text:
    return (
      'the configuration file has no function get_config; write one, as in '
      'experiments/configs/resnet.py'
    )
  if isinstance(error, KeyError | AttributeError):
    return _unknown_key(text)
  return f'{text}; see --help'


def _raised_in_file(error):
  """Where in a configuration file what was raised first, or None."""
  found = None
  while error is not None:
    for frame, line in traceback.walk_tb(error.__traceback__):
      if frame.f_globals.get('__name__') == f'{_CONFIG.name}_config':
        found = f'{frame.f_code.co_filename}:{line}', error
    error = error.__context__
  return found


def _unknown_key(text: str) -> str:
  """One line from what ml_collections says, in quotes within quotes."""
  names = re.findall(r'[\w.]+', text.replace('\\n', ' '))
  nearest = re.search(r'Did you mean "(\w+)"', text)
  hint = f"; perhaps '{nearest[1]}'" if nearest else ''
  return f"unknown config key '{names[0]}'{hint}" if names else text


def _exit_code(body, argv) -> int:
  try:
    observer = startup.FirstSteps()
    with stop_on_signals(observer):
      body(argv, observer)
    return 0
  except Interrupted as stopped:
    # Which all processes do together.
    print(stopped, file=sys.stderr)
    return _STOPPED + stopped.number
  except KeyboardInterrupt:
    print('stopped at once; the last checkpoint stands', file=sys.stderr)
    code = _STOPPED + signal.SIGINT
  except hosts.Elsewhere:
    code = _BAD_INPUT
  except Exception as error:
    reason = _reason(error)
    if reason is not None:
      code = _fail(reason)
    elif hosts.count() == 1:
      raise
    elif hosts.of_peer(error):
      leave(first_line(error))
    else:
      traceback.print_exc()
      code = 1
  if hosts.count() > 1:
    hosts.end(code)
  return code


def _reason(error) -> str | None:
  """The line that tells of an error and what to do; None where none does."""
  if isinstance(error, UserError):
    return str(error)
  if 'RESOURCE_EXHAUSTED: Out of memory' in str(error):
    return (
      'out of device memory; lower --config.steps_per_call and run the same '
      'command again, or --config.batch_size in a new workdir'
    )
  if isinstance(error, MemoryError):
    return (
      f'out of memory ({first_line(error)}); lower --config.repeats, '
      '--config.batch_size or the size of the networks, in a new workdir'
    )
  refused = files.refusal(error, WORKDIR.value)
  return refused and (
    f'the file system refuses {refused}; make room, put back what is gone, or '
    'choose another folder, and run the same command again to go on'
  )


def leave(reason: str) -> NoReturn:
  """Ends this process where another one is gone, with its code if it told one.

  Args:
    reason: what is known of it.
  """
  _LEAVING.acquire()  # Who notices first speaks, and no one else.
  code, others = _GONE, hosts.ended()
  if others:
    index, code = min(others.items())
    reason = f'process {index} has ended with exit code {code}'
  _fail(
    f'another process of this run is gone, or cannot be reached ({reason}); '
    'start all of them again to go on'
  )
  hosts.end(code)


def _compress(build, argv: Sequence[str], observer: Observer) -> None:
  config, workdir, names = configured(argv)
  processes = hosts.start(
    _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _PATIENCE.value
  )
  if processes > 1:
    # Whether all is done is for the first to say, and to know which is the
    # first starts JAX's devices.
    start(config, workdir, processes)
    hosts.watch(_PATIENCE.value, leave)
    hosts.meet(_PATIENCE.value)
    if not hosts.is_first():
      sys.stdout = open(os.devnull, 'w')
  checkpoint = config.teacher.get('checkpoint', '')
  results = runner.finished(
    workdir,
    recipes.as_json(config),
    names,
    checkpoint,
    recipes.starts(config),
  )
  if results is None:
    if processes == 1:
      start(config, workdir)
    results = runner.train_and_report(build(config), workdir, observer)
  report.show(results, workdir / report.PAGE)


def configured(
  argv: Sequence[str],
) -> tuple[recipes.Config, pathlib.Path, tuple[str, ...]]:
  """What the flags name: configuration, workdir, and the rows asked for.

  Args:
    argv: what is left of the arguments.

  Raises:
    UserError: one of them is missing or cannot be read, or an argument is left.
  """
  if len(argv) > 1:
    raise UserError(
      f'unexpected argument {argv[1]!r}; keys are set by --config.KEY=VALUE'
    )
  if not flags.FLAGS['config'].present:
    raise UserError(
      'no configuration; give --config=FILE, such as '
      'experiments/configs/resnet.py for images or vdcnn.py for texts'
    )
  if not WORKDIR.value:
    raise UserError('no workdir; give --workdir=DIR, a folder for the results')
  try:
    config = _CONFIG.value
    # A file that is missing is found at the first look into it.
    hasattr(config, 'lock')
    recipes.check(config)
    names = recipes.row_names(config)
  except OSError as error:
    raise UserError(' '.join(str(error).split())) from None
  return config, pathlib.Path(WORKDIR.value).expanduser(), names


def start(
  config: recipes.Config, workdir: pathlib.Path, processes: int = 1
) -> None:
  """Settings of the process, before JAX first computes.

  Args:
    config: of what will be trained first.
    workdir: keeps the compiled programs.
    processes: that share a batch.
  """
  own = config.batch_size // processes
  startup.use_cores(own, config.examples_per_device, config.devices)
  used, there = startup.use_gpus(own, config.examples_per_gpu, config.devices)
  if config.deterministic:
    startup.use_deterministic()
  graphs = startup.use_graphs()
  if jax.default_backend() == 'gpu':
    if used < there:
      print(
        f'{used} of {there} GPUs: with all, each had {own / there:g} examples '
        f'of a batch; --config.devices={there} takes them'
      )
    _tell_of_gpu(config, graphs)
  startup.keep_programs(workdir)


def _tell_of_gpu(config: recipes.Config, graphs: bool) -> None:
  """What holds on a GPU and not on a CPU."""
  if graphs:
    print(
      f'CUDA graphs: XLA_FLAGS={startup.GRAPHS} is set; a flag '
      'of your own is left as it is'
    )
  if config.precision == 'fp32' and not jax.config.values[_PRECISION]:
    print(
      'fp32: products are of TF32, 10 bits of mantissa, summed in float32; '
      'JAX_DEFAULT_MATMUL_PRECISION=highest computes all of float32, slower'
    )
  if not config.deterministic:
    print(
      'not bit for bit: the same run may differ by rounding; '
      '--config.deterministic=True repeats every bit, slower'
    )


def _fail(message: str) -> int:
  print(f'error: {message}', file=sys.stderr)
  return _BAD_INPUT
