"""A run's start: CPU devices, CUDA's settings, kept programs, time taken."""

import collections
import functools
import glob
import importlib.util
import os
import pathlib
import sys
import time
import warnings

import jax
from absl import logging

from lit_jax.errors import UserError
from lit_jax.training.interrupt import Observer

CACHE = 'cache'
_EVENTS = '/jax/compilation_cache/'
# Both exist since jax 0.4; a hit is one of the requests.
_REQUESTS, _HITS = 'compile_requests_use_cache', 'cache_hits'
_IMPORTED = time.monotonic()
_XLA_DEVICES = '--xla_force_host_platform_device_count'
_XLA_TIMEOUT = '--xla_cpu_collective_call'
_PATIENCE = 24 * 60 * 60  # seconds
# What XLA for GPUs puts into CUDA graphs beside its own choice.
GRAPHS = '--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE'
# Reductions and scatters in a fixed order, and kernels chosen without timing.
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'
_CUDA_PLUGINS = 'jax_cuda12_plugin', 'jax_cuda13_plugin'


def use_cores(batch_size: int, least: int, wanted: int = 0) -> None:
  """Makes each CPU core a device of its own, as far as the batch goes round.

  Two cores that work on half a batch each are faster than two that share each
  operation of the whole. The user's own number, given to JAX, is left as it
  is, and so is a GPU. Takes effect before JAX first computes.

  Args:
    batch_size: examples of a batch.
    least: examples that a device gets at the least. With too few, its work is
      too little for what it costs to wait for the other devices.
    wanted: so many devices instead; 0 for none.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if jax.config.values['jax_num_cpu_devices'] > 0 or _XLA_DEVICES in flags:
    return
  count = wanted or even_devices(batch_size, least, cores())
  jax.config.update('jax_num_cpu_devices', count)
  if count > 1:
    # By default XLA ends the process where one device waits a minute for
    # another, as it may on a machine that has other work.
    _add_flags(
      f'{_XLA_TIMEOUT}_terminate_timeout_seconds={_PATIENCE} '
      f'{_XLA_TIMEOUT}_warn_stuck_timeout_seconds={_PATIENCE}',
      unless=_XLA_TIMEOUT,
    )


def use_gpus(batch_size: int, least: int, wanted: int = 0) -> tuple[int, int]:
  """Takes as many of this machine's GPUs as the batch goes round.

  The user's own choice, given to JAX, is left as it is. Takes effect before JAX
  first computes.

  Args:
    batch_size: examples of this process's part of a batch.
    least: examples that a GPU gets at the least. With too few, waiting for the
      others costs more than they save (docs/scaling.md).
    wanted: so many GPUs instead; 0 for none.

  Returns:
    How many are taken, and how many there are.

  Raises:
    UserError: fewer are there than are wanted.
  """
  there = _gpus() if _has_cuda() else 0
  if not there or jax.config.values['jax_cuda_visible_devices'] != 'all':
    return there, there
  if wanted > there:
    raise UserError(f'devices={wanted}, and there are {there} GPUs; lower it')
  count = wanted or even_devices(batch_size, least, there)
  if count < there:
    # By their places among those that CUDA is allowed to see.
    names = ','.join(map(str, range(count)))
    jax.config.update('jax_cuda_visible_devices', names)
  return count, there


def _gpus() -> int:
  """How many CUDA may see, asked without starting it."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is None:
    return len(glob.glob('/dev/nvidia[0-9]*'))
  return len([name for name in visible.split(',') if name.strip()])


def _has_cuda():
  return any(importlib.util.find_spec(name) for name in _CUDA_PLUGINS)


def use_graphs() -> bool:
  """Has XLA put convolutions and loops into CUDA graphs too, where it has CUDA.

  A call of many steps then is one launch (docs/performance.md has the counts).
  The user's own choice, in XLA_FLAGS, is left as it is. Takes effect before JAX
  first compiles.

  Returns:
    Whether it was set here.
  """
  return _has_cuda() and _add_flags(GRAPHS, unless=GRAPHS.partition('=')[0])


def use_deterministic() -> None:
  """Has XLA for GPUs compute the same bits in every run on the same device.

  It then takes no atomic additions, and does not time kernels to choose among
  them, which costs speed. What runs on a CPU is the same in every run anyway.
  The user's own choice, in XLA_FLAGS, is left as it is. Takes effect before JAX
  first compiles.
  """
  _add_flags(DETERMINISTIC, unless=DETERMINISTIC.partition('=')[0])


def _add_flags(flags: str, unless: str) -> bool:
  """Adds to XLA's flags, unless the user's own have that name; whether so."""
  there = os.environ.get('XLA_FLAGS', '')
  if unless in there:
    return False
  os.environ['XLA_FLAGS'] = f'{there} {flags}'.strip()
  return True


def cores() -> int:
  """How many CPU cores this process may use."""
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:  # not on Linux
    return os.cpu_count() or 1


def even_devices(batch_size: int, least: int, there: int) -> int:
  """The most devices that share the batch evenly, `least` examples or more."""
  most = max(1, min(there, batch_size // max(1, least)))
  return max(n for n in range(1, most + 1) if batch_size % n == 0)


def keep_programs(workdir: pathlib.Path) -> None:
  """Keeps what this process compiles in the workdir, for the next start.

  Or in the user's own cache, where one is given to JAX; and by the user's own
  thresholds, where the environment has them. An entry is of one
  program, jaxlib, set of XLA flags and kind of device, a CPU's instructions
  included. What cannot be read is compiled again, and what cannot be written
  is not kept.
  """
  if not jax.config.values['jax_compilation_cache_dir']:
    # Whole, since JAX counts the folder among what an entry is known by.
    folder = (workdir / CACHE).absolute()
    jax.config.update('jax_compilation_cache_dir', str(folder))
  # Everything: even the smallest program compiles slower than it is read.
  for name, least in (
    ('jax_persistent_cache_min_compile_time_secs', 0.0),
    ('jax_persistent_cache_min_entry_size_bytes', -1),
  ):
    if name.upper() not in os.environ:
      jax.config.update(name, least)
  warnings.filterwarnings(
    'ignore', 'Error (reading|writing) persistent compilation cache'
  )


def quiet() -> None:
  """Leaves it to the run to tell what went wrong.

  Orbax tells of every file that it writes, and of errors with tracebacks that
  it raises as well.
  """
  logging.set_verbosity(logging.FATAL)
  sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)


def _unraisable(tell, found):
  """Passes over what TensorStore's threads raise after a write has failed.

  Orbax raises that failure, and no longer waits for its other writes.
  """
  if str(found.exc_value) != 'Event loop is closed':
    tell(found)


class FirstSteps(Observer):
  """Says, once, how long the first steps took from the process's start.

  Made before anything compiles, for it counts the programs as well.
  """

  def __init__(self):
    self._said = False
    self._events = collections.Counter()
    jax.monitoring.register_event_listener(self._count)

  def first_call(self, steps: int) -> str | None:
    """A line after the first call, of so many steps; None after any later."""
    if self._said:
      return None
    self._said = True
    requests, hits = self._events[_REQUESTS], self._events[_HITS]
    cache = f'{hits} hits, {requests - hits} misses' if requests else 'off'
    return (
      f'first {steps} steps done {process_seconds():.1f} s after the start '
      f'(compilation cache: {cache})'
    )

  def _count(self, event: str, **details) -> None:
    del details
    self._events[event.removeprefix(_EVENTS)] += 1


def process_seconds() -> float:
  """Seconds since this process was started.

  Without Linux's /proc, since this module was imported, which is up to a few
  seconds less.
  """
  try:
    # The fields after the command's name, which can hold anything.
    fields = pathlib.Path('/proc/self/stat').read_text().rpartition(')')[2]
    started = int(fields.split()[19]) / os.sysconf('SC_CLK_TCK')
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
  except (OSError, AttributeError, IndexError, ValueError):
    return time.monotonic() - _IMPORTED
