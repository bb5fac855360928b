"""A process that holds an object of a benchmark, seen from outside.

And where several processes of this machine can meet.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import Pipe
from typing import Any

from absl import flags

from lit_jax.errors import UserError


def free_address() -> str:
  """HOST:PORT of this machine that nobody uses yet."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return f'localhost:{free.getsockname()[1]}'


class Process:
  """A contestant in a process of its own (experiments/worker.py)."""

  def __init__(
    self,
    name: str,
    factory: str,
    *args: Any,
    environment: Mapping[str, str] | None = None,
  ):
    """Starts a process that holds factory(*args); 'module:name' names it.

    A plain process, and not one of `multiprocessing`: those import this
    module again, and with it all of JAX into PyTorch's memory.
    """
    self.name = name
    self._connection, theirs = Pipe()
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    quiet = flags.FLAGS.verbosity < 1
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'experiments.worker', str(theirs.fileno())],
      pass_fds=[theirs.fileno()],
      env=_environment() | {'PYTHONPATH': path} | dict(environment or {}),
      stdout=subprocess.DEVNULL if quiet else None,
      stderr=subprocess.DEVNULL if quiet else None,
    )
    theirs.close()
    try:
      self.call('start', factory, *args)
    except BaseException:
      self.close()
      raise

  def call(self, method: str, *args: Any) -> Any:
    """The method's answer; UserError where it has none."""
    try:
      self._connection.send((method, args))
      good, answer = self._connection.recv()
    except (EOFError, OSError):
      code = self._process.wait()
      raise UserError(
        f'{self.name} ended with exit code {code}; --verbosity=1 shows what it '
        'said, and a smaller --batches needs less memory'
      ) from None
    if good:
      return answer
    kind, text, trace = answer
    if flags.FLAGS.verbosity > 0:
      print(trace, file=sys.stderr)
    line = ' '.join(text.split())
    if kind == 'UserError':
      raise UserError(line)
    if 'out of memory' in line.lower():
      raise UserError(f'{self.name} is out of memory; lower --batches')
    raise UserError(
      f'{self.name} failed: {kind}: {line[:300]} (--verbosity=1 shows where)'
    )

  def run(self, seconds: float) -> dict[str, float]:
    return self.call('run', seconds)

  def close(self) -> None:
    self._connection.close()
    self._process.kill()
    self._process.wait()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.close()


def _environment():
  """Memory that is taken as needed, and one GPU unless told otherwise."""
  return {
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'CUDA_VISIBLE_DEVICES': '0',
    **os.environ,
  }
