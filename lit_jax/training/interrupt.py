"""Ctrl-C and SIGTERM: finish the call that runs, save, and say how to go on.

An `Observer` is what a run and its caller share.
"""

import contextlib
import os
import signal
import types
from collections.abc import Iterator

from lit_jax import hosts


class Interrupted(Exception):
  """A run was asked to stop and has saved its state.

  Attributes:
    number: the signal's number; a command line exits with 128 plus it.
  """

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.number = number


class Observer:
  """Watches a run: is told of its first steps, and asked whether to stop.

  Attributes:
    stop: the signal that asked the run to stop, or None.
  """

  stop: int | None = None

  def first_call(self, steps: int) -> str | None:
    """Told of the first call of a phase, of so many steps, once it is done.

    Returns:
      A line to print, or None.
    """
    del steps

  def interrupt(self, place: str) -> None:
    """Raises Interrupted, in words, where the run was asked to stop.

    Of several processes, all must call it, and one that was asked is enough.
    """
    number = hosts.most(self.stop or 0)
    if number:
      raise Interrupted(
        f'stopped {place}; run the same command again to go on', number
      )


@contextlib.contextmanager
def stop_on_signals(observer: Observer) -> Iterator[None]:
  """Catches the first SIGINT or SIGTERM; a second one stops at once."""

  def ask(number: int, frame: types.FrameType | None) -> None:
    del frame
    if observer.stop is not None:
      raise KeyboardInterrupt
    observer.stop = number
    # Not print: the signal may have come within a write to the same stream.
    os.write(2, b'stopping soon; once more stops at once\n')

  numbers = (signal.SIGINT, signal.SIGTERM)
  previous = {number: signal.signal(number, ask) for number in numbers}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
