"""Checkpoints of a phase's TrainState, with Orbax.

Kept are the two newest, so that one damaged checkpoint costs one epoch and not
the run, and, where a selection is given, the one that is best by it.
"""

import pathlib
import shutil
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from lit_jax.errors import UserError, first_line
from lit_jax.training.state import TrainState
from lit_jax.training.task import Selection

_KEPT = 2


class Checkpoints:
  """The checkpoints of one phase in a folder, by step."""

  def __init__(self, folder: pathlib.Path, selects: Selection | None = None):
    """Opens, and makes, the folder.

    Args:
      folder: of this phase alone.
      selects: keep the checkpoint that is best by this number, too.
    """
    self._selects = selects
    policies: list[checkpoint_managers.PreservationPolicy] = [
      checkpoint_managers.LatestN(_KEPT)
    ]
    if selects is not None:
      policies.append(
        checkpoint_managers.BestN(
          get_metric_fn=self._merit,
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._folder = folder
    self._manager = ocp.CheckpointManager(
      folder.resolve(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=None if selects is None else self._merit,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
      ),
    )

  def _merit(self, numbers: Any) -> float:
    """What the best checkpoint has most of."""
    assert self._selects is not None
    value = numbers[self._selects.key]
    return value if self._selects.largest else -value

  def save(self, state: TrainState, numbers: dict[str, float] | None) -> None:
    """Writes the state under its step; nothing if it is there already.

    Args:
      state: with its axis of members.
      numbers: of the evaluation, where there was one.
    """
    step = int(state.step[0])
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
      metrics=None if self._selects is None else numbers,
      force=True,
    )

  def restore(self, template: TrainState) -> TrainState | None:
    """The newest readable state, or None where there is no checkpoint.

    Newer ones that cannot be read are named on stderr and put aside as
    `STEP.damaged`.

    Args:
      template: a state of the same structure, shapes and dtypes.

    Raises:
      UserError: there are checkpoints and none can be read; all stay.
    """
    damaged = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state = self._read(step, template)
      except Exception as error:  # Orbax raises many kinds for damaged files.
        damaged[step] = first_line(error)
        continue
      for newer, reason in damaged.items():
        _warn(f'checkpoint {newer} in {self._folder} cannot be read ({reason})')
        self._put_aside(newer)
      if damaged:
        _warn(f'going on from checkpoint {step}')
        self._manager.reload()
      return state
    if damaged:
      raise UserError(
        f'no checkpoint in {self._folder} can be read '
        f'({damaged.popitem()[1]}); remove that folder to begin the phase again'
      )
    return None

  def restore_best(self, template: TrainState) -> TrainState | None:
    """The best state, or None where there is none or it is not readable."""
    step = self._manager.best_step()
    if step is None:
      return None
    try:
      return self._read(step, template)
    except Exception as error:
      _warn(
        f'best checkpoint {step} in {self._folder} cannot be read '
        f'({first_line(error)}); taking the last epoch'
      )
      return None

  def close(self) -> None:
    self._manager.close()

  def _put_aside(self, step):
    damaged = self._folder / f'{step}.damaged'
    shutil.rmtree(damaged, ignore_errors=True)
    (self._folder / str(step)).rename(damaged)

  def _read(self, step: int, template: TrainState) -> Any:
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))  # pyright: ignore[reportCallIssue]


def _warn(text):
  print(text, file=sys.stderr)
