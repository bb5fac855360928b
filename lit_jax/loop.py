"""The one Python loop: runs a phase from where its checkpoint stands."""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich import progress

from lit_jax import logs, parallel, state, steps
from lit_jax.checkpoint import Checkpoints
from lit_jax.data.feed import Feed
from lit_jax.errors import UserError
from lit_jax.interrupt import Interrupted, StopRequest
from lit_jax.precision import Policy

# Metrics are read back, and logged, about this often; reading waits for the
# device.
_LOG_STEPS = 100
# A checkpoint stands at the end of every epoch, and this often within one.
_SAVE_SECONDS = 600.0

Variables = dict[str, Any]
# Given the number of steps of a phase's first call, once they are done; returns
# a line to print, or None.
FirstCall = Callable[[int], str | None]


class PhaseRun(NamedTuple):
  """All that one phase needs.

  Attributes:
    method: the method's name.
    name: the phase's name.
    plan: networks, optimiser, objective and preprocessing.
    policy: of the precision.
    teacher: the teacher's variables; None where it does not run.
    feed: of the training split.
    epochs: length of the phase.
    schedule: the learning rate by step, for the log.
    key: the phase's random key.
    held_out: name of the split that is evaluated after each epoch.
    evaluate: of variables on that split.
    select_best: whether the phase ends with its best epoch's network, by
      accuracy on that split, and not with its last.
    first_call: told of the first call, the one that compiles.
  """

  method: str
  name: str
  plan: steps.Plan
  policy: Policy
  teacher: Variables | None
  feed: Feed
  epochs: int
  schedule: optax.Schedule
  key: jax.Array
  held_out: str
  evaluate: Callable[[Variables], dict[str, float]]
  select_best: bool
  first_call: FirstCall | None = None

  @property
  def total_steps(self) -> int:
    return self.epochs * self.feed.steps_per_epoch


class PhaseResult(NamedTuple):
  """Attributes: the network's variables, and seconds spent training it."""

  variables: Variables
  train_seconds: float


class _Waiting(NamedTuple):
  """The metrics of a call that may still be running."""

  first_step: int
  count: int
  metrics: steps.Metrics


def run(
  phase: PhaseRun,
  workdir: pathlib.Path,
  variables: Variables,
  stop: StopRequest,
) -> PhaseResult:
  """Trains a phase to its end, resuming it where a checkpoint stands.

  Args:
    phase: what to run.
    workdir: its checkpoints go to `method/name/` below, its records to
      `metrics.jsonl` and `tensorboard/`.
    variables: the network at the phase's start.
    stop: asked after every call.

  Raises:
    Interrupted: asked to stop; the state is saved.
    UserError: the loss is NaN or infinite; the last good checkpoint stays.
  """
  folder = workdir / phase.method / phase.name
  checkpoints = Checkpoints(folder, keep_best=phase.select_best)
  first = parallel.replicate(
    state.begin_phase(variables, phase.plan.optimizer, phase.policy)
  )
  current = checkpoints.restore(first) or first
  current = parallel.replicate(current)
  seconds = logs.drop_after(
    workdir / logs.METRICS, phase.method, phase.name, int(current.step)
  )
  step = int(current.step)
  try:
    if step < phase.total_steps:
      log = logs.PhaseLog(workdir, phase.method, phase.name, step)
      with contextlib.closing(log):
        current, seconds = _train(
          phase, folder, current, checkpoints, log, seconds, stop
        )
    if phase.select_best:
      current = checkpoints.restore_best(current) or current
  finally:
    checkpoints.close()
  return PhaseResult(current.variables, seconds)


def _train(phase, folder, current, checkpoints, log, seconds, stop):
  """Runs the steps that are left; the last state and the training seconds."""
  program = parallel.map_train(steps.train_program(phase.plan))
  teacher = None if phase.teacher is None else parallel.replicate(phase.teacher)
  waiting: list[_Waiting] = []
  step = begin = int(current.step)
  started = saved = time.monotonic()
  with _ProgressBar(phase, step) as bar:
    while step < phase.total_steps:
      superbatch = phase.feed.superbatch(step)
      current, metrics = program(
        current,
        teacher,
        parallel.shard_superbatch(superbatch),
        phase.plan.objective,
        phase.key,
      )
      count = int(superbatch.count)
      if step == begin and phase.first_call is not None:
        jax.block_until_ready(metrics)
        if line := phase.first_call(count):
          bar.line(line)
      waiting.append(_Waiting(step, count, metrics))
      step += count
      ends_epoch = step % phase.feed.steps_per_epoch == 0
      must_save = (
        ends_epoch
        or stop.number is not None
        or time.monotonic() - saved > _SAVE_SECONDS
      )
      # All but the newest call, so that the device is never idle; all of
      # them before a checkpoint, which must hold finite numbers only.
      ready = waiting if must_save else waiting[:-1]
      if must_save or sum(call.count for call in ready) >= _LOG_STEPS:
        columns = _read(ready)
        seconds += time.monotonic() - started
        started = time.monotonic()
        _report(phase, folder, ready, columns, seconds, log, bar)
        waiting = waiting[len(ready) :]
      if must_save:
        accuracy = None
        if ends_epoch:
          accuracy = _evaluate(phase, current, step, seconds, log, bar)
        _check_parameters(phase, folder, current, step)
        checkpoints.save(current, accuracy if phase.select_best else None)
        started = saved = time.monotonic()
        if stop.number is not None and step < phase.total_steps:
          raise Interrupted(
            f'stopped in {phase.method}/{phase.name} at step {step} of '
            f'{phase.total_steps} and saved it; run the same command again '
            'to go on',
            stop.number,
          )
  return current, seconds


def _read(ready):
  """The metrics of these calls, one after another; waits for the device."""
  values: dict[str, list[np.ndarray]] = {}
  for call in ready:
    for name, array in jax.device_get(call.metrics).items():
      values.setdefault(name, []).append(array[: call.count])
  return {name: np.concatenate(parts) for name, parts in values.items()}


def _report(phase, folder, ready, columns, seconds, log, bar):
  """Checks metrics, and writes their mean as one record."""
  _check_finite(phase, folder, ready[0].first_step, columns)
  step = ready[-1].first_step + ready[-1].count
  means = {name: float(column.mean()) for name, column in columns.items()}
  means['learning_rate'] = float(phase.schedule(step - 1))
  record = means | {'train_seconds': round(seconds, 3)}
  log.write('train', step, step / phase.feed.steps_per_epoch, record)
  bar(step, means)


def _check_finite(phase, folder, first_step, columns):
  bad = ~np.isfinite(columns['loss'])
  if 'skipped' in columns:
    # fp16 skips such steps and lowers its scale; below 1 there is no way out.
    bad &= (columns['skipped'] == 0) | (columns['loss_scale'] < 1)
  if bad.any():
    i = int(np.argmax(bad))
    raise UserError(
      f'the loss is {columns["loss"][i]} at step {first_step + i + 1} of '
      f'{phase.method}/{phase.name}; the last good checkpoint in {folder} is '
      'kept. Lower the learning rate, or train in fp32, in a new workdir'
    )


def _check_parameters(phase, folder, current, step):
  """A step's loss tells of the parameters before it, not after."""
  if not math.isfinite(optax.tree.norm(current.params)):
    raise UserError(
      f'parameters are NaN or infinite after step {step} of {phase.method}/'
      f'{phase.name}; the last good checkpoint in {folder} is kept. Lower the '
      'learning rate, or train in fp32, in a new workdir'
    )


def _evaluate(phase, current, step, seconds, log, bar):
  """After an epoch: one record and one line; returns the accuracy."""
  values = phase.evaluate(current.variables)
  epoch = step // phase.feed.steps_per_epoch
  if not all(map(math.isfinite, values.values())):
    raise UserError(
      f'the {phase.held_out} loss is {values["loss"]} after epoch {epoch} of '
      f'{phase.method}/{phase.name}; the checkpoint before it is kept'
    )
  log.write(
    phase.held_out, step, epoch, values | {'train_seconds': round(seconds, 3)}
  )
  skipped = ''
  if current.loss_scale is not None:
    skipped = f'  {int(current.skipped)} steps skipped'
  bar.line(
    f'{phase.method}/{phase.name} epoch {epoch}/{phase.epochs}  '
    f'{phase.held_out} loss {values["loss"]:.4f} accuracy '
    f'{100 * values["accuracy"]:.2f} %  {seconds:.0f} s{skipped}'
  )
  return values['accuracy']


class _ProgressBar:
  """Steps, time left, steps/s and losses in a terminal; lines elsewhere."""

  def __init__(self, phase: PhaseRun, step: int):
    self._bar = progress.Progress(
      progress.TextColumn('{task.description}'),
      progress.BarColumn(bar_width=None),
      progress.MofNCompleteColumn(),
      progress.TimeRemainingColumn(),
      progress.TextColumn('{task.fields[note]}'),
      transient=True,
      # Steps come in bursts of a call; average over many of them.
      speed_estimate_period=120,
    )
    self._task = self._bar.add_task(
      f'{phase.method}/{phase.name}',
      total=phase.total_steps,
      completed=step,
      note='compiling',
    )

  def __enter__(self):
    self._bar.__enter__()
    return self

  def __exit__(self, *error):
    return self._bar.__exit__(*error)

  def __call__(self, step, means):
    speed = self._bar.tasks[0].speed
    rate = f'{speed:.1f} steps/s  ' if speed else ''
    parts = '  '.join(
      f'{name} {value:.3f}'
      # The total first, then its parts by block.
      for name, value in sorted(means.items(), reverse=True)
      if name == 'loss' or name.startswith('ir/')
    )
    self._bar.update(self._task, completed=step, note=rate + parts)

  def line(self, text):
    self._bar.console.print(text, highlight=False)
