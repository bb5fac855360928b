"""Checkpoints of a phase's TrainState, with Orbax.

Kept are the two newest, so that one damaged checkpoint costs one epoch and not
the run, and, where a selection is given, the one that is best by it. They are
written beside the training that goes on. Each has the checksum of every array,
since Orbax and what it stores with notice a missing byte but not a changed one,
and that of the numbers by which the best is chosen.
"""

import contextlib
import json
import pathlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from lit_jax import hosts
from lit_jax.errors import UserError, first_line
from lit_jax.files import put_aside, read_json
from lit_jax.training.state import TrainState
from lit_jax.training.task import Selection

_KEPT = 2
_STATE, _CHECKSUMS = 'state', 'checksums'
_NUMBERS = 'numbers'  # in the checksums, of the evaluation's
# Where Orbax has what it writes as JSON, below a step's folder.
_SUMS_FILE, _NUMBERS_FILE = f'{_CHECKSUMS}/metadata', 'metrics/metrics'


class Checkpoints:
  """The checkpoints of one phase in a folder, by step.

  Of several processes the first alone writes and reads them, and every one gets
  what it reads.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    selects: Selection | None = None,
    check_claim: Callable[[], None] = lambda: None,
  ):
    """Opens, and makes, the folder.

    Args:
      folder: of this phase alone.
      selects: keep the checkpoint that is best by this number, too. Newest
        ones whose numbers cannot be read are put aside, as by `restore`.
      check_claim: raises UserError where what the folder lies in is no longer
        the run's, so that it is not made again.

    Raises:
      UserError: as `check_claim`; or the numbers of an older one cannot be
        read, so that the best is not known.
    """
    self._folder, self._selects = folder, selects
    self._check_claim = check_claim
    self._manager: ocp.CheckpointManager | None = None
    hosts.once(self._open)

  def _open(self):
    self._check_claim()
    if self._selects is not None:
      _check_numbers(self._folder, self._selects.key)
    policies: list[checkpoint_managers.PreservationPolicy] = [
      checkpoint_managers.LatestN(_KEPT)
    ]
    if self._selects is not None:
      policies.append(
        checkpoint_managers.BestN(
          get_metric_fn=self._merit,
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    # Orbax makes no folder for one of several processes.
    self._folder.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      self._folder.resolve(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=None if self._selects is None else self._merit,
        create=False,
        cleanup_tmp_directories=True,
        **hosts.orbax_options(),
      ),
    )

  def _merit(self, numbers: Any) -> float:
    """What the best checkpoint has most of."""
    assert self._selects is not None
    value = numbers[self._selects.key]
    return value if self._selects.largest else -value

  def save(self, state: TrainState, numbers: dict[str, float] | None) -> None:
    """Begins to write the state under its step, unless it is there already.

    Waits for what is being written from before.

    Args:
      state: with its axis of members; arrays on the host that nobody changes.
      numbers: of the evaluation, where there was one.

    Raises:
      OSError, ValueError: the state before this one could not be written, or
        this one cannot.
      UserError: as `check_claim`.
    """
    hosts.once(lambda: self._save(state, numbers))

  def _save(self, state, numbers):
    step, manager = int(state.step[0]), self._manager
    assert manager is not None
    if step in manager.all_steps():
      return
    sums = checksums(state)
    if self._selects is not None and numbers is not None:
      sums[_NUMBERS] = _sum(numbers)
    self._check_claim()
    with self._writing():
      manager.save(
        step,
        args=ocp.args.Composite(
          **{
            _STATE: ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
            _CHECKSUMS: ocp.args.JsonSave(sums),  # pyright: ignore[reportCallIssue]
          }
        ),
        metrics=None if self._selects is None else numbers,
        force=True,
      )

  @contextlib.contextmanager
  def _writing(self):
    try:
      yield
    except (OSError, ValueError):
      # What is gone cannot be written to, which says more.
      self._check_claim()
      raise

  def restore(self, template: TrainState) -> TrainState | None:
    """The newest readable state, or None where there is no checkpoint.

    Newer ones that cannot be read are named on stderr and put aside as
    `STEP.damaged`.

    Args:
      template: a state of the same structure, shapes and dtypes.

    Raises:
      UserError: there are checkpoints and none can be read; all stay.
    """
    return hosts.leaves(lambda: self._newest(template), template)

  def _newest(self, template):
    manager, damaged = self._manager, {}
    assert manager is not None
    for step in sorted(manager.all_steps(), reverse=True):
      try:
        state = self._read(step, template)
      except Exception as error:  # Orbax raises many kinds for damaged files.
        damaged[step] = first_line(error)
        continue
      for newer, reason in damaged.items():
        _warn(f'checkpoint {newer} in {self._folder} cannot be read ({reason})')
        put_aside(self._folder / str(newer))
      if damaged:
        _warn(f'going on from checkpoint {step}')
        manager.reload()
      return state
    if damaged:
      raise UserError(
        f'no checkpoint in {self._folder} can be read '
        f'({damaged.popitem()[1]}); remove that folder to begin the phase again'
      )
    return None

  def restore_best(self, template: TrainState) -> TrainState | None:
    """The best state, or None where there is none.

    Raises:
      UserError: it cannot be read.
    """
    return hosts.leaves(lambda: self._best(template), template)

  def _best(self, template):
    assert self._manager is not None
    self._manager.wait_until_finished()
    step = self._manager.best_step()
    if step is None:
      return None
    try:
      return self._read(step, template)
    except Exception as error:
      raise UserError(
        f'the best checkpoint, {step} in {self._folder}, cannot be read '
        f'({first_line(error)}); remove that folder to begin the phase again'
      ) from None

  def close(self) -> None:
    """Waits for what is being written.

    Raises:
      OSError, ValueError: it could not be.
      UserError: as `check_claim`.
    """
    if self._manager is not None:
      with self._writing():
        self._manager.close()

  def _read(self, step: int, template: TrainState) -> Any:
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    assert self._manager is not None
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        **{
          _STATE: ocp.args.StandardRestore(shapes),  # pyright: ignore[reportCallIssue]
          _CHECKSUMS: ocp.args.JsonRestore(),  # pyright: ignore[reportCallIssue]
        }
      ),
    )
    state = found[_STATE]
    sums = {k: v for k, v in found[_CHECKSUMS].items() if k != _NUMBERS}
    if changed := _changed(checksums(state), sums):
      raise ValueError(f'{changed} is not as it was saved')
    return state


def checksums(tree: Any) -> dict[str, int]:
  """CRC-32 of the bytes of each array, by its path in the tree."""
  return {
    jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).data)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
  }


def _check_numbers(folder: pathlib.Path, key: str) -> None:
  """See `Checkpoints`; for Orbax fails where it cannot read one of them."""
  names = [path.name for path in folder.glob('*') if path.name.isdecimal()]
  faults = {step: _fault(folder / str(step), key) for step in map(int, names)}
  good = [step for step, fault in faults.items() if fault is None]
  for step, fault in sorted(faults.items()):
    if fault is None:
      continue
    if step < max(good, default=step + 1):
      raise UserError(
        f'the numbers of checkpoint {step} in {folder} cannot be read '
        f'({fault}), so the best is not known; remove that folder to begin the '
        'phase again'
      )
    _warn(f'checkpoint {step} in {folder} cannot be read ({fault})')
    put_aside(folder / str(step))


def _fault(folder: pathlib.Path, key: str) -> str | None:
  """What is wrong with a checkpoint's numbers; there may be none."""
  try:
    # Earlier versions have no such checksum.
    wanted = read_json(folder / _SUMS_FILE).get(_NUMBERS)
  except (OSError, ValueError, AttributeError):
    wanted = None  # Its arrays cannot be trusted, which `restore` sees.
  try:
    path = folder / _NUMBERS_FILE
    if wanted is None and not path.exists():
      return None
    numbers = read_json(path)
    float(numbers[key])
    if wanted not in (None, _sum(numbers)):
      raise ValueError('its numbers are not as they were saved')
    return None
  # Whatever the values that are no numbers raise.
  except Exception as error:
    return first_line(error)


def _sum(numbers) -> int:
  return zlib.crc32(json.dumps(numbers, sort_keys=True).encode())


def _changed(found, saved) -> str | None:
  """The first array of which a checksum tells that it is another."""
  names = sorted(found.keys() | saved.keys())
  return next((n for n in names if found.get(n) != saved.get(n)), None)


def _warn(text):
  print(text, file=sys.stderr)
