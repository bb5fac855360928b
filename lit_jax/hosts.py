"""Several processes that make one run, each with devices of its own.

All of them make the same calls in the same order. Process 0 alone reads and
writes the workdir, and what it finds there is the others', too (`once`).
"""

import atexit
import contextlib
import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from jax import lax
from orbax.checkpoint import multihost

from lit_jax.errors import UserError, first_line

# How many processes Slurm and Open MPI have started.
_STARTED = 'SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE'
_FOREVER = 24 * 60 * 60 * 1000  # milliseconds; who dies is noticed before
_ALIVE, _ENDED = 'lit_jax/alive', 'lit_jax/ended'
_BEAT = 5.0  # seconds between two signs of life of a process, at the most
# What gloo, NCCL and JAX's coordination service say.
_UNREACHED = re.compile('gloo|nccl|coordination|unavailable', re.IGNORECASE)
_ANSWER = 3  # seconds
_numbers = itertools.count()
_over = threading.Event()  # this process ends, and looks after none any more
_VALUE, _REFUSED, _FAILED = 'value', 'refused', 'failed'


class Elsewhere(UserError):
  """An error of process 0, which tells of it."""


def start(
  address: str | None, processes: int | None, index: int | None, patience: int
) -> int:
  """Makes this process one of several, before JAX first computes.

  Without arguments that is so where Slurm or MPI has started several. Slurm
  tells JAX all that it needs; Open MPI tells the number and the place, and
  where `mpi4py` is installed also the address.

  Args:
    address: 'HOST:PORT' of process 0.
    processes: how many there are.
    index: which of them this is, from 0.
    patience: seconds for which the others are waited for, at the start and at
      the end. JAX aborts a process that has not heard of another for twice as
      long; `watch` is to end it before, in better words.

  Returns:
    How many there are.

  Raises:
    UserError: arguments that do not fit. Where the others do not come, JAX
      aborts.
  """
  given: dict[str, Any] = {
    'coordinator_address': address,
    'num_processes': processes,
    'process_id': index,
  }
  given = {name: value for name, value in given.items() if value is not None}
  started = max(_number(name) or 1 for name in _STARTED)
  if not given and started == 1:
    return 1
  given = _of_mpi() | given
  # It would take SIGTERM for itself, and nobody would hear of it.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      **given,
      initialization_timeout=patience,
      # `watch` is to speak first, and JAX only where it cannot: its heartbeats
      # are half of this apart, and it aborts from then on.
      heartbeat_timeout_seconds=4 * patience,
      shutdown_timeout_seconds=patience,
    )
  except Exception as error:  # JAX and gRPC raise many kinds.
    raise UserError(
      f'the processes do not find each other ({first_line(error)}); give '
      '--coordinator_address=HOST:PORT of process 0, --num_processes and '
      '--process_id to each, and see that all are started within '
      f'{patience} s'
    ) from None
  return given.get('num_processes', started)


def _of_mpi():
  """What Open MPI tells without a library of its own."""
  names = {
    'num_processes': 'OMPI_COMM_WORLD_SIZE',
    'process_id': 'OMPI_COMM_WORLD_RANK',
  }
  found = {key: _number(name) for key, name in names.items()}
  return {key: value for key, value in found.items() if value is not None}


def _number(name: str) -> int | None:
  value = os.environ.get(name, '')
  return int(value) if value.isdecimal() else None


def watch(patience: int, leave: Callable[[str], Any]) -> None:
  """Looks after the other processes, until this one ends.

  Each tells the coordination service of process 0 that it lives, and the code
  that it ends with (`end`). A process that was killed, or was stopped, or whose
  host is gone, tells nothing. Where process 0 was killed the service is gone,
  too, and JAX aborts the others at once.

  Args:
    patience: seconds after which a process that is not heard of is gone.
    leave: called with a line that says who is gone, to end this process; from
      a thread, for the others may be waiting for that one.
  """
  interval = min(patience / 10, _BEAT)
  atexit.register(_over.set)
  heard: dict[int, float] = {}

  def listen():
    client, told = _client(), {}
    for beat in itertools.count():
      # Of one that cannot be asked no one is heard.
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(
          f'{_ALIVE}/{index()}', str(beat), allow_overwrite=True
        )
        found = _by_process(_ALIVE)
        for i, value in found.items():
          if told.get(i) != value:
            heard[i] = time.monotonic()
        told = found
      if _over.wait(interval):
        return
      for i, code in ended().items():
        leave(f'process {i} has ended with exit code {code}')

  def judge():
    heard.update(dict.fromkeys(range(count()), time.monotonic()))
    while True:
      asleep = time.monotonic()
      if _over.wait(interval):
        return
      now = time.monotonic()
      if now - asleep > interval + patience / 2:
        # It was this process that was stopped.
        heard.update(dict.fromkeys(heard, now))
      gone = [i for i, when in heard.items() if now - when > patience]
      if index() in gone:
        # Not even of itself: what all are heard by does not answer.
        gone = [0]
      if gone:
        names = ', '.join(map(str, gone))
        leave(f'process {names} is not heard of for {patience} s')

  for work in (listen, judge):
    threading.Thread(target=work, daemon=True).start()


def _by_process(key) -> dict[int, str]:
  """What each process has set below a key, if it has."""
  found = _client().key_value_dir_get(f'{key}/')
  return {int(name.rpartition('/')[2]): value for name, value in found}


def ended() -> dict[int, int]:
  """The codes of other processes that ended by `end`, if they can be asked."""
  codes = _soon(lambda: _by_process(_ENDED)) or {}
  return {i: int(code) for i, code in codes.items() if i != index()}


def _soon(ask: Callable[[], Any]) -> Any:
  """What the service answers; None where it fails, or says nothing for long."""
  found = []

  def work():
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      found.append(ask())

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  thread.join(_ANSWER)
  return found[0] if found else None


def end(code: int) -> NoReturn:
  """Ends one of several processes, without JAX, which would wait for all.

  The others end with the same code, as soon as they look for it.
  """
  try:
    _over.set()
    key = f'{_ENDED}/{index()}'
    _soon(lambda: _client().key_value_set(key, str(code), allow_overwrite=True))
    if is_first():
      # JAX aborts the others as soon as process 0 is gone.
      time.sleep(_BEAT + 1)
    sys.stdout.flush()
    sys.stderr.flush()
  finally:
    os._exit(code)


def of_peer(error: BaseException) -> bool:
  """Whether it says that another process cannot be reached."""
  return bool(_UNREACHED.search(str(error)))


def count() -> int:
  """How many processes make this run."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
  """Which of them this is, from 0."""
  return jax.process_index() if count() > 1 else 0


def is_first() -> bool:
  """Whether this is process 0."""
  return index() == 0


def share(rows: np.ndarray, axis: int) -> np.ndarray:
  """The part of an axis that is this process's: the same size for each."""
  return np.split(rows, count(), axis)[index()]


def once(work: Callable[[], Any]) -> Any:
  """The value of a function that process 0 alone calls.

  Args:
    work: its value is made of dictionaries, lists, strings, numbers, None and
      NumPy arrays.

  Raises:
    UserError: raised by `work`, in every process; in the others also for what
      else it raised.
  """
  if count() == 1:
    return work()
  raised: BaseException | None = None
  answer: dict[str, Any] = {}
  if is_first():
    try:
      answer = {_VALUE: work()}
    except BaseException as error:
      kind = _REFUSED if isinstance(error, UserError) else _FAILED
      raised, answer = error, {kind: first_line(error)}
  found: Any = _sent(answer)
  if raised is not None:
    raise raised
  if _VALUE in found:
    return found[_VALUE]
  if _REFUSED in found:
    raise Elsewhere(found[_REFUSED])
  raise Elsewhere(f'process 0 failed: {found[_FAILED]}')


def _sent(answer):
  """Process 0's, in all; each waits for the others.

  By way of JAX's coordination service: whoever waits for a device of another
  process, such as for the time that a latency takes to measure, may be told
  that it is stuck.
  """
  client, number = _client(), next(_numbers)
  key = f'lit_jax/once/{number}'
  if is_first():
    content = serialization.msgpack_serialize(answer)
    client.key_value_set_bytes(key, content)
  else:
    content = client.blocking_key_value_get_bytes(key, _FOREVER)
    answer = serialization.msgpack_restore(content)
  client.wait_at_barrier(f'{key}/read', _FOREVER)
  if is_first():
    client.key_value_delete(key)
  return answer


def leaves(work: Callable[[], Any], like: Any) -> Any:
  """The tree of a function that process 0 alone calls, or None of it.

  Args:
    work: gives a tree of arrays, or None.
    like: a tree of the same structure.
  """
  if count() == 1:
    return work()

  def on_host():
    tree = work()
    return tree if tree is None else jax.device_get(jax.tree.leaves(tree))

  found = once(on_host)
  structure = jax.tree.structure(like)
  return found if found is None else jax.tree.unflatten(structure, found)


def most(number: int) -> int:
  """The greatest of all processes' numbers; each waits for the others."""
  if count() == 1:
    return number
  client, key = _client(), f'lit_jax/most/{next(_numbers)}'
  client.key_value_set(f'{key}/{index()}', str(number))

  def greatest():
    keys = [f'{key}/{i}' for i in range(count())]
    found = [int(client.blocking_key_value_get(k, _FOREVER)) for k in keys]
    client.key_value_delete(key)
    return max(found)

  return once(greatest)


def meet(patience: int) -> None:
  """Has all devices speak to each other for the first time.

  Later some may wait longer for others than a first time can take.

  Args:
    patience: seconds for which the others are waited for.
  """
  _client().wait_at_barrier('lit_jax/meet', 1000 * patience)
  ones = np.ones(jax.local_device_count(), np.float32)
  jax.block_until_ready(jax.pmap(lambda x: lax.psum(x, 'all'), 'all')(ones))


def _client():
  return multihost.get_jax_distributed_client()


def orbax_options() -> dict[str, Any]:
  """What every reader and writer of Orbax is given, by name.

  None asks another process. Folders are made before anything is written:
  threads that await one which cannot be made would keep the process alive for
  20 minutes.
  """
  own: dict[str, Any] = {}
  if count() > 1:
    own = dict(
      primary_host=index(),
      active_processes={index()},
      barrier_sync_key_prefix=f'process{index()}',
    )
  return {
    'async_options': ocp.AsyncOptions(create_directories_asynchronously=False),
    'multiprocessing_options': ocp.options.MultiprocessingOptions(**own),
  }
