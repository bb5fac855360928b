"""The one Python loop: runs a phase from where its checkpoint stands."""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich import progress

from lit_jax.data.feed import Feed, Feeds
from lit_jax.errors import UserError
from lit_jax.objectives import Objective
from lit_jax.training import devices, logs, population, state, steps
from lit_jax.training.checkpoint import Checkpoints
from lit_jax.training.evaluation import Evaluation
from lit_jax.training.interrupt import Interrupted, StopRequest
from lit_jax.training.precision import Policy

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
    members: names of the students that are trained together; a lone one has
      the method's.
    plan: networks, optimiser, objective and preprocessing.
    objectives: of each member.
    policy: of the precision.
    teacher: the teacher's variables; None where it does not run.
    feed: of the training split; `Feeds` where members differ in their data.
    epochs: length of the phase.
    schedule: the learning rate by step, for the log.
    key: the phase's random key; one of each member where they differ.
    held_out: name of the split that is evaluated after each epoch.
    evaluate: of variables on that split.
    select_best: whether the phase ends with its best epoch's network, by
      accuracy on that split, and not with its last.
    first_call: told of the first call, the one that compiles.
  """

  method: str
  name: str
  members: tuple[str, ...]
  plan: steps.Plan
  objectives: tuple[Objective, ...]
  policy: Policy
  teacher: Variables | None
  feed: Feed | Feeds
  epochs: int
  schedule: optax.Schedule
  key: jax.Array
  held_out: str
  evaluate: Callable[[Variables], Evaluation]
  select_best: bool
  first_call: FirstCall | None = None

  @property
  def total_steps(self) -> int:
    return self.epochs * self.feed.steps_per_epoch


class PhaseResult(NamedTuple):
  """Attributes: a network's variables, and seconds spent training it."""

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
  variables: Sequence[Variables],
  stop: StopRequest,
) -> tuple[PhaseResult, ...]:
  """Trains a phase to its end, resuming it where a checkpoint stands.

  Args:
    phase: what to run.
    workdir: its checkpoints go to `method/name/` below, its records to
      `metrics.jsonl` and `tensorboard/`.
    variables: each member's network at the phase's start.
    stop: asked after every call.

  Returns:
    Each member's; the seconds are its even share.

  Raises:
    Interrupted: asked to stop; the state is saved.
    UserError: the loss is NaN or infinite; the last good checkpoint stays.
  """
  folder = workdir / phase.method / phase.name
  checkpoints = Checkpoints(folder, keep_best=phase.select_best)
  first = devices.replicate(
    population.stack(
      [
        state.begin_phase(own, phase.plan.optimizer, phase.policy)
        for own in variables
      ]
    )
  )
  current = checkpoints.restore(first) or first
  current = devices.replicate(current)
  step = int(current.step.max())
  seconds = 0.0
  for name in phase.members:
    seconds += logs.drop_after(workdir / logs.METRICS, name, phase.name, step)
  try:
    if step < phase.total_steps:
      with contextlib.ExitStack() as stack:
        records = [
          stack.enter_context(
            contextlib.closing(logs.PhaseLog(workdir, name, phase.name, step))
          )
          for name in phase.members
        ]
        current, seconds = _train(
          phase, folder, current, checkpoints, records, seconds, stop
        )
    if phase.select_best:
      current = checkpoints.restore_best(current) or current
  finally:
    checkpoints.close()
  share = seconds / len(phase.members)
  return tuple(PhaseResult(v, share) for v in _networks(phase, current))


def _networks(phase, current):
  return population.unstack(current.variables, len(phase.members))


def _train(phase, folder, current, checkpoints, records, seconds, stop):
  """Runs the steps that are left; the last state and the training seconds."""
  program = devices.map_train(
    population.train_program(
      phase.plan, len(phase.members), isinstance(phase.feed, Feed)
    )
  )
  objectives = population.stack(phase.objectives)
  teacher = None if phase.teacher is None else devices.replicate(phase.teacher)
  waiting: list[_Waiting] = []
  step = begin = int(current.step.max())
  saved = time.monotonic()
  clock = _Clock(seconds)
  with _ProgressBar(phase, step) as bar:
    while step < phase.total_steps:
      with clock.waiting():
        superbatch = phase.feed.superbatch(step)
      current, metrics = program(
        current,
        teacher,
        devices.shard_superbatch(superbatch),
        objectives,
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
        clock.read()
        _report(phase, folder, ready, columns, clock, records, bar)
        waiting = waiting[len(ready) :]
      if must_save:
        accuracy = None
        if ends_epoch:
          accuracy = _evaluate(phase, current, step, clock, records, bar)
        _check_parameters(phase, folder, current, step)
        checkpoints.save(current, accuracy if phase.select_best else None)
        saved = time.monotonic()
        clock.restart()
        if stop.number is not None and step < phase.total_steps:
          raise Interrupted(
            f'stopped in {phase.method}/{phase.name} at step {step} of '
            f'{phase.total_steps} and saved it; run the same command again '
            'to go on',
            stop.number,
          )
  return current, clock.seconds


class _Clock:
  """Time spent training, and the share of it spent waiting for the feed.

  While the device still has work, waiting costs nothing, so the share is the
  most that the feed can have cost.
  """

  def __init__(self, seconds: float):
    """Goes on from `seconds`, of which nothing is known but their number."""
    self.seconds = self._begin = seconds
    self._waited = 0.0
    self.restart()

  def restart(self) -> None:
    """Leaves out what has passed since the last reading."""
    self._started = time.monotonic()

  def read(self) -> None:
    """Counts what has passed since the last reading."""
    now = time.monotonic()
    self.seconds += now - self._started
    self._started = now

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    start = time.monotonic()
    yield
    self._waited += time.monotonic() - start

  @property
  def data_share(self) -> float:
    """0 to 1, since this process began the phase."""
    return self._waited / max(self.seconds - self._begin, 1e-9)


def _read(ready):
  """The metrics of these calls, each [steps, members]; waits for the device."""
  values: dict[str, list[np.ndarray]] = {}
  for call in ready:
    for name, array in jax.device_get(call.metrics).items():
      used = array[: call.count].reshape((call.count, -1))
      values.setdefault(name, []).append(used)
  return {name: np.concatenate(parts) for name, parts in values.items()}


def _report(phase, folder, ready, columns, clock, records, bar):
  """Checks metrics, and writes each member's mean as one record."""
  _check_finite(phase, folder, ready[0].first_step, columns)
  step = ready[-1].first_step + ready[-1].count
  shared = {
    'learning_rate': float(phase.schedule(step - 1)),
    'train_seconds': _share(phase, clock.seconds),
    'data_share': round(clock.data_share, 6),
  }
  for member, log in enumerate(records):
    means = {
      n: float(column[:, member].mean()) for n, column in columns.items()
    }
    epoch = step / phase.feed.steps_per_epoch
    log.write('train', step, epoch, means | shared)
  bar(step, {name: float(column.mean()) for name, column in columns.items()})


def _share(phase, seconds):
  return round(seconds / len(phase.members), 3)


def _check_finite(phase, folder, first_step, columns):
  bad = ~np.isfinite(columns['loss'])
  if 'skipped' in columns:
    # fp16 skips such steps and lowers its scale; below 1 there is no way out.
    bad &= (columns['skipped'] == 0) | (columns['loss_scale'] < 1)
  if bad.any():
    i, member = np.argwhere(bad)[0]
    raise UserError(
      f'the loss is {columns["loss"][i, member]} at step {first_step + i + 1} '
      f'of {phase.members[member]}/{phase.name}; the last good checkpoint in '
      f'{folder} is kept. Lower the learning rate, or train in fp32,'
      f'{_without(phase)} in a new workdir'
    )


def _without(phase):
  """One member that diverges ends its whole population."""
  return ' or leave that member out,' if len(phase.members) > 1 else ''


def _check_parameters(phase, folder, current, step):
  """A step's loss tells of the parameters before it, not after."""
  for name, own in zip(phase.members, _networks(phase, current), strict=True):
    if not math.isfinite(optax.tree.norm(own['params'])):
      raise UserError(
        f'parameters are NaN or infinite after step {step} of {name}/'
        f'{phase.name}; the last good checkpoint in {folder} is kept. Lower '
        f'the learning rate, or train in fp32,{_without(phase)} in a new '
        'workdir'
      )


def _evaluate(phase, current, step, clock, records, bar):
  """After an epoch: each member's record and line; the mean accuracy."""
  skipped = current.skipped.reshape(-1)
  accuracies = []
  for member, own in enumerate(_networks(phase, current)):
    name = f'{phase.members[member]}/{phase.name}'
    values = phase.evaluate(own)
    epoch = step // phase.feed.steps_per_epoch
    if not math.isfinite(values.loss):
      raise UserError(
        f'the {phase.held_out} loss is {values.loss} after epoch {epoch} of '
        f'{name}; the checkpoint before it is kept'
      )
    record = values.numbers | {'train_seconds': _share(phase, clock.seconds)}
    records[member].write(phase.held_out, step, epoch, record)
    left_out = ''
    if current.loss_scale is not None:
      left_out = f'  {int(skipped[member])} steps skipped'
    bar.line(
      f'{name} epoch {epoch}/{phase.epochs}  {phase.held_out} loss '
      f'{values.loss:.4f} accuracy {100 * values.accuracy:.2f} %  '
      f'{clock.seconds:.0f} s  waiting for data {100 * clock.data_share:.1f} %'
      f'{left_out}'
    )
    accuracies.append(values.accuracy)
  return sum(accuracies) / len(accuracies)


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
    self._bar.console.print(text, highlight=False, soft_wrap=True)
