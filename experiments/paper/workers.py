"""Several processes at one plan, each on a core of its own.

Two that train a student each are faster than one that trains a student on two
cores: devices of a CPU wait for each other at every batch norm.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from lit_jax.runs import results

# What tells a process that it is one, and which cores are its own.
VARIABLE = 'LIT_JAX_PAPER_WORKER'


def is_one() -> bool:
  """Whether this process helps another, which prints what was found."""
  return VARIABLE in os.environ


@contextlib.contextmanager
def started(count: int, tasks: int) -> Iterator[int]:
  """Starts this command anew on other cores, for as long as there is work.

  This process keeps the first core to itself. Those beside it end when nothing
  is left to do, or when this one is stopped. One that fails leaves its work to
  the others. Takes effect before JAX first computes.

  Args:
    count: of all processes; 0 is one a core where JAX finds no GPU, else one.
    tasks: there are no more processes than these.

  Yields:
    How many processes there are.
  """
  if is_one():
    os.sched_setaffinity(0, map(int, os.environ[VARIABLE].split(',')))
    yield 1
    return
  cores = _cores()
  count = min(count or (1 if _has_gpu() else len(cores)), tasks, len(cores))
  if count < 2:
    yield 1
    return
  shares = [cores[i::count] for i in range(count)]
  others = [_start(share) for share in shares[1:]]
  os.sched_setaffinity(0, shares[0])
  try:
    yield count
  except BaseException:
    # What they are at is saved.
    for other in others:
      other.terminate()
    raise
  finally:
    for other in others:
      other.wait()
    os.sched_setaffinity(0, cores)


def _start(cores):
  return subprocess.Popen(
    [sys.executable, *results.program()],
    env=os.environ | {VARIABLE: ','.join(map(str, cores))},
    # A Ctrl-C is for the first process, which tells the others once.
    start_new_session=True,
  )


def _cores() -> list[int]:
  try:
    return sorted(os.sched_getaffinity(0))
  except AttributeError:  # not on Linux
    return []


def _has_gpu() -> bool:
  """Without making JAX compute, which would fix how many devices it has."""
  wanted = os.environ.get('JAX_PLATFORMS', '')
  return 'cpu' not in wanted and os.path.exists('/proc/driver/nvidia')
