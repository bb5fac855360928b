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

from lit_jax import hosts, records
from lit_jax.data.feed import Feed
from lit_jax.errors import UserError
from lit_jax.training import devices, logs, population, steps
from lit_jax.training.checkpoint import Checkpoints
from lit_jax.training.interrupt import Observer
from lit_jax.training.packing import Packed, pack, unpacked
from lit_jax.training.state import Learners, TrainState, Variables
from lit_jax.training.task import Evaluation, Metrics, Plan, Selection

# Metrics are read back, and logged, about this often; reading waits for the
# device.
_LOG_STEPS = 100
# A checkpoint stands at the end of every epoch, and this often within one.
_SAVE_SECONDS = 600.0


class HeldOut(NamedTuple):
  """How a phase is judged after every epoch.

  Attributes:
    split: name of the split.
    evaluate: of a member's learners on it.
    selects: the number by which the phase ends with its best epoch's networks,
      and not with its last; None for the last.
  """

  split: str
  evaluate: Callable[[Learners], Evaluation]
  selects: Selection | None = None


class Constants(NamedTuple):
  """What every call of a phase's program is given.

  Attributes:
    teacher: the teacher's variables; None where it does not run.
    objectives: stacked, leaves [members].
    keys: of the phase, [orders of the data].
  """

  teacher: Variables | None
  objectives: Any
  keys: jax.Array


class PhaseRun(NamedTuple):
  """All that one phase needs.

  Attributes:
    method: the method's name.
    name: the phase's name.
    members: names of the students that are trained together.
    plan: task, networks, optimisers and preprocessing.
    constants: the other arguments of its program.
    feed: of the training split, with one order of data or one a member.
    epochs: length of the phase.
    schedule: the learning rate by step, for the log.
    held_out: how it is judged.
    trackers: names of experiment trackers (trackers.py).
  """

  method: str
  name: str
  members: tuple[str, ...]
  plan: Plan
  constants: Constants
  feed: Feed
  epochs: int
  schedule: optax.Schedule
  held_out: HeldOut
  trackers: tuple[str, ...] = ()

  @property
  def total_steps(self) -> int:
    return self.epochs * self.feed.steps_per_epoch


class PhaseResult(NamedTuple):
  """Attributes: a member's networks, and seconds spent training them."""

  learners: Learners
  train_seconds: float


def run(
  phase: PhaseRun,
  workdir: pathlib.Path,
  first: TrainState,
  observer: Observer,
  check_claim: Callable[[], None],
) -> tuple[PhaseResult, ...]:
  """Trains a phase to its end, resuming it where a checkpoint stands.

  Args:
    phase: what to run.
    workdir: its checkpoints go to `method/name/` below, its records to
      `metrics.jsonl` and `tensorboard/`.
    first: the state at the phase's start, leaves [members, …].
    observer: asked after every call whether to stop.
    check_claim: raises UserError where the workdir is no longer the run's.

  Returns:
    Each member's; the seconds are its even share.

  Raises:
    Interrupted: asked to stop; the state is saved.
    UserError: the loss is NaN or infinite; the last good checkpoint stays. Or
      as `check_claim`.
  """
  folder = workdir / phase.method / phase.name
  checkpoints = Checkpoints(folder, phase.held_out.selects, check_claim)
  first = devices.replicate(first)
  try:
    # Restored arrays are laid out as a program returns them: it compiles once.
    current = devices.replicate(checkpoints.restore(first) or first)
    step, seconds = int(current.step[0]), 0.0
    metrics = workdir / records.METRICS
    for name in phase.members:
      seconds += hosts.once(
        lambda name=name: logs.drop_after(metrics, name, phase.name, step)
      )
    if step < phase.total_steps:
      with _logs(phase, workdir, step) as written:
        stretch = _Stretch(phase, folder, checkpoints, written, observer)
        current, seconds = stretch.train(current, seconds)
    if phase.held_out.selects is not None:
      current = checkpoints.restore_best(current) or current
  finally:
    checkpoints.close()
  share = seconds / len(phase.members)
  return tuple(PhaseResult(own, share) for own in _members(phase, current))


def prepared(
  phase: PhaseRun, current: TrainState
) -> tuple[Any, Constants, TrainState | Packed]:
  """What a call of a phase's program takes beside the examples.

  Args:
    phase: what to run.
    current: a state of it, leaves [members, …].

  Returns:
    The program over all devices, and its constants and the state on these, as
    it takes them.
  """
  program = devices.map_train(
    population.train_program(
      phase.plan, len(phase.members), len(phase.constants.keys)
    )
  )
  constants = phase.constants
  if constants.teacher is not None:
    teacher = steps.ready_teacher(phase.plan, constants.teacher)
    constants = constants._replace(teacher=devices.replicate(teacher))
  return program, constants, devices.replicate(pack(current))


@contextlib.contextmanager
def _logs(phase, workdir, step):
  """The open log of each member."""
  if not hosts.is_first():
    yield [logs.NoLog() for _ in phase.members]
    return
  with contextlib.ExitStack() as stack:
    yield [
      stack.enter_context(
        contextlib.closing(
          logs.PhaseLog(workdir, name, phase.name, step, phase.trackers)
        )
      )
      for name in phase.members
    ]


def _members(phase, current) -> tuple[Learners, ...]:
  """Each member's learners, on all devices."""
  members = population.unstack(current.variables, len(phase.members))
  return tuple(map(devices.replicate, members))


class _Waiting(NamedTuple):
  """The metrics of a call that may still be running."""

  first_step: int
  count: int
  metrics: Metrics


class _Stretch:
  """The steps of a phase that this process makes."""

  def __init__(
    self,
    phase: PhaseRun,
    folder: pathlib.Path,
    checkpoints: Checkpoints,
    written: Sequence[logs.PhaseLog | logs.NoLog],
    observer: Observer,
  ):
    self._phase, self._folder = phase, folder
    self._checkpoints, self._logs = checkpoints, written
    self._observer = observer
    self._waiting: list[_Waiting] = []

  def train(self, current: TrainState, seconds: float):
    """Runs the steps that are left; the last state and the training seconds."""
    phase = self._phase
    program, constants, packed = prepared(phase, current)
    step = begin = int(current.step[0])
    saved = time.monotonic()
    self._agreement = devices.Agreement()
    self._clock = _Clock(seconds)
    with _ProgressBar(phase, step) as self._bar:
      while step < phase.total_steps:
        with self._clock.waiting():
          superbatch = phase.feed.superbatch(step)
        packed, metrics = program(
          packed,
          constants.teacher,
          devices.shard_superbatch(superbatch),
          constants.objectives,
          constants.keys,
        )
        count = int(superbatch.count)
        if step == begin:
          self._tell_first(count, metrics)
        self._waiting.append(_Waiting(step, count, metrics))
        step += count
        own = self._observer.stop
        if own is None and time.monotonic() - saved > _SAVE_SECONDS:
          own = devices.SAVE
        asked = self._agreement.reached(own)
        ends_epoch = step % phase.feed.steps_per_epoch == 0
        must_save = ends_epoch or asked is not None
        self._read(everything=must_save)
        if must_save:
          # Not kept: it is as large as the state that goes on.
          self._save(devices.replicate(unpacked(packed)), step, ends_epoch)
          saved = time.monotonic()
          self._clock.restart()
          if asked is not None and asked != devices.SAVE:
            self._observer.stop = asked
          self._stop(step)
    return devices.replicate(unpacked(packed)), self._clock.seconds

  def _tell_first(self, count, metrics):
    """The first call is the one that compiles."""
    jax.block_until_ready(metrics)
    if line := self._observer.first_call(count):
      self._bar.line(line)

  def _read(self, everything):
    """Logs the calls that are done.

    All but the newest, so that the device is never idle; all of them before a
    checkpoint, which must hold finite numbers only.
    """
    ready = self._waiting if everything else self._waiting[:-1]
    if everything or sum(call.count for call in ready) >= _LOG_STEPS:
      columns = _columns(ready)
      self._clock.read()
      self._report(ready, columns)
      self._waiting = self._waiting[len(ready) :]

  def _save(self, current, step, ends_epoch):
    numbers = self._evaluate(current, step) if ends_epoch else None
    # A copy, for the checkpoint is written while the program goes on with its
    # buffers, which on a CPU are what the host sees.
    saved = jax.tree.map(np.array, jax.device_get(current))
    self._check_parameters(saved, step)
    self._checkpoints.save(saved, numbers)

  def _stop(self, step):
    phase = self._phase
    if step < phase.total_steps:
      self._observer.interrupt(
        f'in {phase.method}/{phase.name} at step {step} of '
        f'{phase.total_steps} and saved it'
      )

  def _report(self, ready, columns):
    """Checks metrics, and writes each member's mean as one record."""
    self._check_finite(ready[0].first_step, columns)
    step = ready[-1].first_step + ready[-1].count
    shared = {
      'learning_rate': float(np.asarray(self._phase.schedule(step - 1))),
      'train_seconds': self._share(),
      'data_share': round(self._clock.data_share, 6),
    }
    epoch = step / self._phase.feed.steps_per_epoch
    for member, log in enumerate(self._logs):
      own = {name: column[:, member] for name, column in columns.items()}
      log.write('train', step, epoch, _means(own) | shared)
    self._bar(step, _means(columns))

  def _share(self):
    return round(self._clock.seconds / len(self._phase.members), 3)

  def _evaluate(self, current, step) -> dict[str, float]:
    """After an epoch: each member's record and line; the mean numbers."""
    phase, split = self._phase, self._phase.held_out.split
    epoch = step // phase.feed.steps_per_epoch
    found = []
    for member, own in enumerate(_members(phase, current)):
      name = f'{phase.members[member]}/{phase.name}'
      values = phase.held_out.evaluate(own)
      if not math.isfinite(values.numbers['loss']):
        raise UserError(
          f'the {split} loss is {values.numbers["loss"]} after epoch {epoch} '
          f'of {name}; the checkpoint before it is kept'
        )
      record = values.numbers | {'train_seconds': self._share()}
      self._logs[member].write(split, step, epoch, record)
      for title, sheet in values.sheets.items():
        self._logs[member].draw(split, title, step, epoch, sheet.images)
      left_out = ''
      if current.student.loss_scale is not None:
        left_out = f'  {int(current.skipped[member])} steps skipped'
      self._bar.line(
        f'{name} epoch {epoch}/{phase.epochs}  {split} {values.line}  '
        f'{self._clock.seconds:.0f} s  waiting for data '
        f'{100 * self._clock.data_share:.1f} %{left_out}'
      )
      found.append(values.numbers)
    return {key: sum(n[key] for n in found) / len(found) for key in found[0]}

  def _check_finite(self, first_step, columns):
    bad = ~np.isfinite(columns['loss'])
    if 'skipped' in columns:
      # fp16 skips such steps and lowers its scale; below 1 there is no way out.
      bad &= (columns['skipped'] == 0) | (columns['loss_scale'] < 1)
    if bad.any():
      i, member = np.argwhere(bad)[0]
      phase = self._phase
      raise UserError(
        f'the loss is {columns["loss"][i, member]} at step '
        f'{first_step + i + 1} of {phase.members[member]}/{phase.name}; '
        f'{self._way_out()}'
      )

  def _check_parameters(self, saved, step):
    """A step's loss tells of the parameters before it, not after."""
    phase = self._phase
    leaves = jax.tree.leaves([v['params'] for v in saved.variables.values()])
    for member, name in enumerate(phase.members):
      if not all(np.isfinite(leaf[member]).all() for leaf in leaves):
        raise UserError(
          f'parameters are NaN or infinite after step {step} of {name}/'
          f'{phase.name}; {self._way_out()}'
        )

  def _way_out(self):
    # One member that diverges ends its whole population.
    many = len(self._phase.members) > 1
    without = ' or leave that member out,' if many else ''
    return (
      f'the last good checkpoint in {self._folder} is kept. Lower the learning '
      f'rate, or train in fp32,{without} in a new workdir'
    )


def _columns(ready):
  """The metrics of these calls, each [steps, members]; waits for the device."""
  values: dict[str, list[np.ndarray]] = {}
  for call in ready:
    for name, array in jax.device_get(call.metrics).items():
      values.setdefault(name, []).append(array[: call.count])
  return {name: np.concatenate(parts) for name, parts in values.items()}


def _means(columns):
  """Of each metric over the steps that computed it; none where none did."""
  means = {}
  for name, column in columns.items():
    computed = column[~np.isnan(column)]
    if computed.size:
      means[name] = float(computed.mean())
  return means


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
    self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
