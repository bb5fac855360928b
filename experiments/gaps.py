"""How much of the time a GPU runs kernels while it trains.

  python -m experiments.gaps --case=resnet --batch=32
  python -m experiments.gaps --facts

traces the train program for a second, and prints the part of the time in
which no kernel ran, beside the number of kernels a step. With --facts it prints
what the machine is.
"""

import glob
import gzip
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
from absl import app, flags

from experiments import ours
from lit_jax.errors import UserError, choose
from lit_jax.runs.results import versions

_CASE = flags.DEFINE_string('case', 'resnet', 'A pair of networks.')
_BATCH = flags.DEFINE_integer('batch', 32, 'Examples a step.')
_SECONDS = flags.DEFINE_float('traced_seconds', 1.0, 'How long is traced.')
_FACTS = flags.DEFINE_bool('facts', False, 'Prints device and versions alone.')

_STEPS = 64
# Graphs are taken apart while tracing, unless XLA is told to keep them.
_KEEP_GRAPHS = '--xla_enable_command_buffers_during_profiling=true'


class Busy(NamedTuple):
  """What a trace shows of a device.

  Attributes:
    seconds: in which at least one kernel ran.
    span: seconds from the first kernel's start to the last one's end.
    kernels: how many ran.
  """

  seconds: float
  span: float
  kernels: int


def busy(events: Iterable[Mapping[str, Any]]) -> Busy:
  """Of a trace's events, as the profiler writes them (times in µs).

  Raises:
    UserError: no GPU is in the trace.
  """
  events = list(events)
  names: dict[str, dict[Any, str]] = {'process_name': {}, 'thread_name': {}}
  for event in events:
    if event.get('ph') == 'M' and event['name'] in names:
      key = event['pid'], event.get('tid')
      if event['name'] == 'process_name':
        key = event['pid']
      names[event['name']][key] = event['args']['name']
  processes, threads = names.values()
  spans = sorted(
    (event['ts'], event['ts'] + event['dur'])
    for event in events
    if event.get('ph') == 'X'
    and 'GPU' in processes.get(event['pid'], '')
    and threads.get((event['pid'], event['tid']), '').startswith('Stream')
  )
  if not spans:
    raise UserError('the trace shows no kernel of a GPU')
  total, end = 0.0, spans[0][0]
  for start, stop in spans:
    total += max(0.0, stop - max(start, end))
    end = max(end, stop)
  return Busy(total / 1e6, (end - spans[0][0]) / 1e6, len(spans))


def _trace(training, seconds):
  """A trace's events, and the steps that were taken meanwhile."""
  begin = training.steps
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      training.run(seconds)
    (path,) = glob.glob(f'{folder}/**/*.trace.json.gz', recursive=True)
    with gzip.open(path, 'rt') as file:
      return json.load(file)['traceEvents'], training.steps - begin


def _gpu():
  """The one GPU; UserError where there is none, or several."""
  devices = jax.devices()
  if devices[0].platform != 'gpu':
    raise UserError('JAX sees no GPU; this measures nothing else')
  if len(devices) > 1:
    raise UserError(
      f'{len(devices)} GPUs are in sight; choose one, CUDA_VISIBLE_DEVICES=0'
    )
  return devices[0]


def _facts():
  device = _gpu()
  found = versions()
  if importlib.util.find_spec('torch') is not None:
    found['torch'] = metadata.version('torch')
  print(device.device_kind)
  print(f'Python {platform.python_version()}, {platform.platform()}')
  print(', '.join(f'{name} {version}' for name, version in found.items()))


def _measure():
  case = choose('case', _CASE.value, ours.CASES)
  if _BATCH.value < 1 or _SECONDS.value <= 0:
    raise UserError('--batch is at least 1, and --traced_seconds more than 0')
  # Before JAX first computes.
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_KEEP_GRAPHS}'
  _gpu()
  training = ours.Training(ours.job(case, _BATCH.value, 'bf16', _STEPS))
  training.warm_up()
  events, count = _trace(training, _SECONDS.value)
  found = busy(events)
  print(
    f'{case}, batch {_BATCH.value}, bf16: {found.kernels / count:.1f} kernels '
    f'and {1e6 * found.span / count:.1f} µs a step; no kernel ran in '
    f'{100 * (1 - found.seconds / found.span):.1f} % of the time'
  )


def main(argv: Sequence[str]) -> int:
  """The exit code: 0 done, 2 bad input."""
  try:
    if len(argv) > 1:
      raise UserError(f'unexpected argument {argv[1]!r}; see --help')
    if _FACTS.value:
      _facts()
    else:
      _measure()
    return 0
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2


if __name__ == '__main__':
  app.run(main)
