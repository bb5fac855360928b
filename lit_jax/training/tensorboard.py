"""TensorBoard's events of a phase, written as they come.

tensorboardX's usual writer hands them to a thread, which dies of a full disk
with a traceback, and then the run waits for it for ever.
"""

import contextlib
import pathlib
import sys
import time
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from lit_jax.errors import reason

# Made by protoc, so that types know nothing of what is in it.
_EVENTS: Any = event_pb2


class Events:
  """An open file of events; one that cannot be written is said, and left."""

  def __init__(self, folder: pathlib.Path, purge_step: int):
    """Opens a new file in the folder.

    Args:
      folder: made if missing.
      purge_step: from which on earlier files of the folder do not count.
    """
    self._folder, self._writer = folder, None
    start = _EVENTS.SessionLog(status=_EVENTS.SessionLog.START)
    try:
      folder.mkdir(parents=True, exist_ok=True)
      self._writer = EventsWriter(str(folder / 'events'))
    except OSError as error:
      self._give_up(error)
    self._write(_EVENTS.Event(step=purge_step, file_version='brain.Event:2'))
    self._write(_EVENTS.Event(step=purge_step, session_log=start))

  def scalars(self, values: dict[str, float], step: int) -> None:
    """Numbers by name."""
    for name, value in values.items():
      self._write(_EVENTS.Event(step=step, summary=summary.scalar(name, value)))

  def image(self, name: str, pixels: np.ndarray, step: int) -> None:
    """A picture, uint8 [h, w, 3]."""
    shown = summary.image(name, pixels, dataformats='HWC')
    self._write(_EVENTS.Event(step=step, summary=shown))

  def close(self) -> None:
    """Closes the file; nothing can be written any more."""
    writer, self._writer = self._writer, None
    if writer is not None:
      try:
        writer.close()
      except OSError as error:
        self._say(error)

  def _write(self, event):
    if self._writer is None:
      return
    # By the wall clock, as other programs' events.
    event.wall_time = time.time()
    try:
      self._writer.write_event(event)
      # A killed run leaves what was written.
      self._writer.flush()
    except OSError as error:
      self._give_up(error)

  def _give_up(self, error):
    writer, self._writer = self._writer, None
    self._say(error)
    if writer is not None:
      with contextlib.suppress(OSError):
        writer.close()

  def _say(self, error):
    print(
      f'TensorBoard events are left out: {self._folder}: {reason(error)}',
      file=sys.stderr,
    )
