"""What a run writes while it trains: metrics, events, pictures.

Events are TensorBoard's, and those of the trackers that are asked for.
"""

import io
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_jax import records
from lit_jax.errors import UserError, reason
from lit_jax.files import write_bytes
from lit_jax.training import trackers
from lit_jax.training.task import Sheet
from lit_jax.training.tensorboard import Events

PICTURES, TENSORBOARD = 'pictures', 'tensorboard'


def drop_after(path: pathlib.Path, method: str, phase: str, step: int) -> float:
  """Removes a phase's records after `step`, which will be written again.

  A last line that an interrupted run cut off goes, too, and what is no record
  goes aloud.

  Returns:
    The training seconds that the phase's remaining records tell of.

  Raises:
    UserError: the file is there and cannot be read.
  """
  try:
    found = records.read(path)
  except OSError as error:
    raise UserError(
      f'cannot read {path} ({reason(error)}); move it away, and the run goes '
      'on without its records'
    ) from None
  if found.damaged:
    print(
      f'{path}: {found.damaged} lines are no records, and are left out',
      file=sys.stderr,
    )
  kept, seconds = [], 0.0
  for record in found.records:
    if (record['method'], record['phase']) == (method, phase):
      if record['step'] > step:
        continue
      seconds = max(seconds, record.get('train_seconds', 0.0))
    kept.append(record)
  if path.exists():
    records.write(path, kept)
  return seconds


def tiled(images: np.ndarray) -> np.ndarray:
  """[rows, columns, h, w, 3] → [rows · h, columns · w, 3]."""
  rows, columns, height, width, channels = images.shape
  across = images.swapaxes(1, 2)
  return across.reshape(rows * height, columns * width, channels)


def write_sheet(
  workdir: pathlib.Path, method: str, title: str, sheet: Sheet
) -> dict[str, Any]:
  """Keeps a network's last sheet, without loss and without margins.

  Returns:
    What a report needs: the file's path below the workdir, the columns'
    headings, and the number of rows.
  """
  folder = workdir / PICTURES / method
  folder.mkdir(parents=True, exist_ok=True)
  found = {'columns': list(sheet.columns), 'rows': len(sheet.images)}
  for key, images, name in (
    ('file', sheet.images, title),
    ('truth', sheet.truth, f'{title}-true'),
  ):
    if images is not None:
      path = folder / f'{name}.png'
      write_bytes(path, _png(images))
      found[key] = path.relative_to(workdir).as_posix()
  return found


def _png(images):
  # Here, for Pillow takes a while to load, and few runs draw.
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(tiled(images)).save(file, 'PNG')
  return file.getvalue()


class NoLog:
  """Of a process that writes none."""

  def write(self, *record: Any) -> None:
    """Does nothing."""

  def draw(self, *sheet: Any) -> None:
    """Does nothing."""


class PhaseLog:
  """Writes the records of one phase."""

  def __init__(
    self,
    workdir: pathlib.Path,
    method: str,
    phase: str,
    step: int,
    tracked_by: Sequence[str] = (),
  ):
    """Opens both files after `step`; `drop_after` comes first.

    Args:
      workdir: of the run.
      method: whose phase it is.
      phase: its name.
      step: that the phase stands at.
      tracked_by: names of experiment trackers.
    """
    self._names = {'method': method, 'phase': phase}
    self._pictures = workdir / PICTURES / method / phase
    # Line by line on disk: a killed run leaves whole lines.
    self._file = (workdir / records.METRICS).open('a', buffering=1)
    self._events = Events(workdir / TENSORBOARD / method / phase, step + 1)
    self._trackers = trackers.begin(tracked_by, workdir, method, phase)

  def write(
    self, split: str, step: int, epoch: float, values: dict[str, float]
  ) -> None:
    """One record: the split, the step within the phase, and named values."""
    record: dict[str, Any] = self._names | {
      'split': split,
      'step': step,
      'epoch': round(epoch, 6),
    }
    self._file.write(records.line(record | values))
    named = {f'{split}/{name}': value for name, value in values.items()}
    for scalars in (self._events, *self._trackers):
      scalars.scalars(named, step)

  def draw(
    self, split: str, name: str, step: int, epoch: int, images: np.ndarray
  ) -> None:
    """Images as one picture, uint8 [rows, columns, h, w, 3]."""
    self._events.image(f'{split}/{name}', tiled(images), step)
    self._pictures.mkdir(parents=True, exist_ok=True)
    write_bytes(self._pictures / f'{name}-{epoch:04d}.png', _png(images))

  def close(self) -> None:
    try:
      # What a full disk did not take is tried again here.
      self._file.close()
    finally:
      for other in (self._events, *self._trackers):
        other.close()
