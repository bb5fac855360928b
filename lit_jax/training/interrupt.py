"""Ctrl-C and SIGTERM: finish the call that runs, save, and say how to go on."""

import contextlib
import os
import signal
import types
from collections.abc import Iterator


class Interrupted(Exception):
  """A run was asked to stop and has saved its state.

  Attributes:
    number: the signal's number; a command line exits with 128 plus it.
  """

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.number = number


class StopRequest:
  """The signal that asked this run to stop, or None."""

  number: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Catches the first SIGINT or SIGTERM; a second one stops at once."""
  request = StopRequest()

  def ask(number: int, frame: types.FrameType | None) -> None:
    del frame
    if request.number is not None:
      raise KeyboardInterrupt
    request.number = number
    # Not print: the signal may have come within a write to the same stream.
    os.write(2, b'stopping soon; once more stops at once\n')

  numbers = (signal.SIGINT, signal.SIGTERM)
  previous = {number: signal.signal(number, ask) for number in numbers}
  try:
    yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
