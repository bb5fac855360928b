"""A process that holds one object and calls its methods when asked.

The benchmark starts it with the number of a pipe's file descriptor. It
imports nothing but the standard library, so that what is in its memory is its
object's doing alone.
"""

import importlib
import pathlib
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any


def peak_rss_mb() -> float:
  """The most memory that this process has had so far, in megabytes.

  Linux counts what a parent had before the start into `ru_maxrss`, but not
  into VmHWM.
  """
  try:
    for line in pathlib.Path('/proc/self/status').read_text().splitlines():
      if line.startswith('VmHWM:'):
        return int(line.split()[1]) * 1024 / 1e6
  except OSError:
    pass
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def serve(connection: Connection) -> None:
  """Answers (method, arguments) until the other end is closed.

  'start' takes 'module:name' of a factory, and its arguments. An answer is
  (True, value), or (False, (the error's kind, its text, traceback)).
  """
  held: Any = None
  while True:
    try:
      method, args = connection.recv()
    except EOFError:
      return
    try:
      if method == 'start':
        module, name = args[0].split(':')
        held = getattr(importlib.import_module(module), name)(*args[1:])
        answer = None
      else:
        answer = getattr(held, method)(*args)
      connection.send((True, answer))
    except Exception as error:
      text = traceback.format_exc()
      connection.send((False, (type(error).__name__, str(error), text)))


if __name__ == '__main__':
  # Ctrl-C is the parent's business; it closes the pipe.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  serve(Connection(int(sys.argv[1])))
