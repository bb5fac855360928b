"""A whole run: teacher, students by every method, and the report.

    workdir/
      config.json data.json     what the run was made with
      METHOD/PHASE/             Orbax checkpoints
      METHOD/student/           the trained network alone (saved.py)
      BASELINE/row.json
      metrics.jsonl tensorboard/
      results.json report.html

The same run again goes on where it stands, or, when finished, only reports.
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import pathlib
import shlex
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lit_jax import models
from lit_jax.training import evaluation, devices
from lit_jax.networks import saved
from lit_jax.runs import phases
from lit_jax.report import report
from lit_jax.blocks import BlockNet, check_pair
from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError, reason
from lit_jax.training.interrupt import Interrupted, StopRequest
from lit_jax.networks.latency import latency_ms
from lit_jax.training.loop import FirstCall
from lit_jax.networks.summary import summary
from lit_jax.runs.phases import Context, Method, Training
from lit_jax.training.precision import policy

TEACHER, STUDENT = 'teacher', 'student'
_CONFIG, _DATA, _RESULTS = 'config.json', 'data.json', 'results.json'
_ROW = 'row.json'  # of a baseline, in its folder
_LATENCY_BATCHES = (1, 128)
_CONFUSION_CLASSES = 20
_REPORTED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')

Spec = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Student:
  """A network to train, how, and who teaches it.

  Attributes:
    network: its specification (`models.build`).
    method: how it is trained; its name is that of the row and the folder.
    teacher: 'teacher' is the run's own; else the name of a student before it.
  """

  network: Spec
  method: Method
  teacher: str = TEACHER


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A system from outside.

  Attributes:
    name: of its row and its folder.
    row: makes the row from the data set, but for its name; `report` has the
      fields. Called when all else is done, and once.
  """

  name: str
  row: Callable[[Dataset], Row]


@dataclasses.dataclass(frozen=True)
class Run:
  """What to do; see `run`.

  Attributes:
    dataset: with a 'validation' split where one is held out.
    teacher: specification of the teacher (`models.build`).
    teacher_checkpoint: 'embedded', or the folder of a saved network or of a
      workdir whose teacher is used; '' trains the teacher.
    teacher_method: how the teacher is trained.
    students: in the order in which they are trained.
    training: shared settings.
    config: everything that defines the run, as JSON values; a workdir takes
      one configuration.
    baselines: systems from outside, each a row beside.
  """

  dataset: Dataset
  teacher: Spec
  teacher_checkpoint: str
  teacher_method: Method
  students: tuple[Student, ...]
  training: Training
  config: Mapping[str, Any]
  baselines: tuple[Baseline, ...] = ()


def run(job: Run, workdir: pathlib.Path, stop: StopRequest) -> dict[str, Any]:
  """The results of a run: of `finished`, or else of `train`.

  Args:
    job: what to do.
    workdir: made if missing.
    stop: asked between calls whether to stop.

  Returns:
    The content of `results.json`.

  Raises:
    UserError: bad input, before anything is trained where possible.
    Interrupted: asked to stop; saved.
  """
  done = finished(workdir, job.config, _names(job))
  return train(job, workdir, stop) if done is None else done


def train(
  job: Run,
  workdir: pathlib.Path,
  stop: StopRequest,
  first_call: FirstCall | None = None,
) -> dict[str, Any]:
  """Trains what is not trained yet; returns and writes the results.

  Args:
    job: what to do.
    workdir: made if missing.
    stop: asked between calls whether to stop.
    first_call: see `loop.FirstCall`.

  Returns:
    The content of `results.json`.

  Raises:
    UserError: bad input, before anything is trained where possible.
    Interrupted: asked to stop; saved.
  """
  workdir = workdir.expanduser()
  teacher = _check(job)
  with _claimed(workdir, job.config):
    _compare_data(workdir, job.dataset)
    context = Context(workdir, job.dataset, job.training, stop, first_call)
    given = None
    if needs_teacher(job):
      given = _Teacher(teacher, _teacher_variables(job, context, teacher))
    rows = []
    for student in job.students:
      folders = [workdir / name / STUDENT for name in student.method.names]
      if not all(map(saved.exists, folders)):
        taught = given
        if student.teacher != TEACHER:
          taught = _taught_before(job, workdir / student.teacher / STUDENT)
        _train_student(job, context, student, taught)
      rows += [saved.describe(folder)[1]['row'] for folder in folders]
    if given is not None:
      # Last, for a given teacher's takes seconds that training need not await.
      rows.insert(0, _teacher_row(job, context, *given))
    for baseline in job.baselines:
      # What there is, for a baseline is another's program and may fail.
      _write_json(workdir / _RESULTS, _results(job, rows))
      rows.append(_baseline_row(job, workdir, baseline, stop))
    results = _results(job, rows)
    _write_json(workdir / _RESULTS, results)
    report.write_html(workdir)
  return results


def _results(job, rows):
  return {
    'dataset': job.dataset.name,
    'classes': list(job.dataset.class_names),
    'seed': job.training.seed,
    'rows': rows,
    'device': _device(),
    'versions': {n: importlib.metadata.version(n) for n in _REPORTED},
    'command': shlex.join(['python', *_command()]),
  }


def _baseline_row(job, workdir, baseline, stop):
  """The row of a baseline: made before, or made now and kept."""
  path = workdir / baseline.name / _ROW
  with contextlib.suppress(OSError, ValueError):
    return json.loads(path.read_text())
  if stop.number is not None:
    raise Interrupted(
      f'stopped before {baseline.name}; run the same command again to go on',
      stop.number,
    )
  try:
    row = {'method': baseline.name, **baseline.row(job.dataset)}
  except Exception as error:
    raise UserError(
      f'baseline {baseline.name} failed ({reason(error)}); the other rows '
      'stand, and the same command without it prints them'
    ) from error
  path.parent.mkdir(exist_ok=True)
  _write_json(path, row)
  return row


def _names(job: Run) -> tuple[str, ...]:
  """The names of all rows but the teacher's."""
  students = [name for s in job.students for name in s.method.names]
  return (*students, *(baseline.name for baseline in job.baselines))


def finished(
  workdir: pathlib.Path, config: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, Any] | None:
  """The results of a run that is over, or None; needs no data.

  Args:
    workdir: of the run.
    config: what the run is made with.
    names: of the rows that are wanted beside the teacher's, in order.

  Raises:
    UserError: the workdir was made with another configuration.
  """
  workdir = workdir.expanduser()
  _compare_config(workdir, config)
  try:
    results = json.loads((workdir / _RESULTS).read_text())
    found = [row['method'] for row in results['rows']]
  except (OSError, ValueError, KeyError, TypeError):
    # Not there, or damaged: it is made again from the trained networks.
    return None
  if tuple(name for name in found if name != TEACHER) != names:
    return None
  report.write_html(workdir)
  return results


def needs_teacher(job: Run) -> bool:
  """Whether any student uses the teacher, or the teacher is all there is."""
  return not job.students or any(
    s.method.needs_teacher and s.teacher == TEACHER for s in job.students
  )


def _check(job: Run) -> BlockNet:
  """Everything that can be found wrong before training; the teacher."""
  teacher = _build(job, job.teacher)
  _check_dataset(job.dataset, tuple(teacher.input_shape))
  phases.check_training(job.training, job.dataset)
  _check_names(job)
  known = {TEACHER: teacher}
  for student in job.students:
    net, method = _build(job, student.network), student.method
    phases.check_method(method, net)
    if student.teacher not in known:
      raise UserError(
        f'{method.name} has the teacher {student.teacher!r}, which is no '
        f'single student before it; choose one of {", ".join(known)}'
      )
    if needs_teacher(job) or student.teacher != TEACHER:
      check_pair(known[student.teacher], net)
      phases.check_copies(method, known[student.teacher], net)
    if not method.population:
      known[method.name] = net
  if needs_teacher(job):
    if job.teacher_checkpoint:
      # Found wrong now, not after the teacherless methods have run.
      _given_teacher(job)
    else:
      phases.check_method(job.teacher_method, teacher)
      if job.teacher_method.needs_teacher:
        raise UserError(
          'the teacher learns from labels alone: alpha and beta of its phases '
          'must be 1, and nothing can be copied'
        )
  return teacher


def _build(job, spec):
  return models.build(spec, policy(job.training.precision).dtype, devices.AXIS)


def _check_names(job):
  methods = [student.method for student in job.students]
  names = _names(job)
  if len(set(names)) < len(names):
    raise UserError(f'method {",".join(names)} names one method twice')
  if job.training.select == 'best' and any(m.population for m in methods):
    raise UserError(
      "select=best keeps one network's best epoch, and a population has many; "
      'take select=last, or train its members one by one'
    )
  folders = [m.name for m in methods if m.population and m.names != (m.name,)]
  if clash := set(folders) & set(names):
    raise UserError(
      f'{clash.pop()!r} is the folder of a population and a student of its '
      'own; choose another name for one'
    )
  if TEACHER in (*names, *folders):
    raise UserError(f'{TEACHER!r} is no name for a method; choose another')


def _check_dataset(dataset: Dataset, shape: tuple[int, ...]) -> None:
  """Catches a data set of the user's own that the networks cannot take."""
  for name, (inputs, labels) in dataset.splits.items():
    where = f'{dataset.name}, split {name}'
    if inputs.dtype != np.uint8 or inputs.shape[1:] != shape:
      raise UserError(
        f'{where}: inputs are {inputs.dtype} {inputs.shape}; the networks take '
        f'uint8 [n, {", ".join(map(str, shape))}]'
      )
    if labels.shape != inputs.shape[:1] or not len(labels):
      raise UserError(
        f'{where}: {len(inputs)} inputs and labels of shape {labels.shape}; '
        'give one label for each of at least one input'
      )
    if labels.min() < 0 or labels.max() >= dataset.classes:
      raise UserError(
        f'{where}: labels from {labels.min()} to {labels.max()}; they must lie '
        f'in 0 to {dataset.classes - 1}'
      )


@contextlib.contextmanager
def _claimed(workdir, config):
  """Makes the workdir, of this configuration alone, and keeps others out."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / '.lock').open('w')
  except OSError as error:
    raise _unusable(workdir, error) from None
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise UserError(
        f'another run is at work in {workdir}; wait for it, or choose another '
        '--workdir'
      ) from None
    _compare_config(workdir, config)
    try:
      if not (workdir / _CONFIG).exists():
        _write_json(workdir / _CONFIG, config)
    except OSError as error:
      raise _unusable(workdir, error) from None
    yield


def _compare_data(workdir, dataset):
  """Raises UserError if the workdir was begun with other examples."""
  facts = {
    'dataset': dataset.name,
    'classes': list(dataset.class_names),
    'content': dataset.content,
    'splits': {
      name: {
        'examples': len(split.labels),
        'labels_crc32': zlib.crc32(split.labels.tobytes()),
      }
      for name, split in dataset.splits.items()
    },
  }
  path = workdir / _DATA
  try:
    old = json.loads(path.read_text())
  except (OSError, ValueError):
    try:
      _write_json(path, facts)
    except OSError as error:
      raise _unusable(workdir, error) from None
    return
  if old != facts:
    raise UserError(
      f'workdir {workdir} was begun with other examples: '
      f'{_differences(old, facts)}; choose another --workdir, or put the data '
      'back'
    )


def _unusable(workdir, error):
  return UserError(
    f'cannot use workdir {workdir}: {error.strerror}; choose another --workdir'
  )


def _compare_config(workdir, config):
  """Raises UserError if the workdir was made with another configuration."""
  path = workdir / _CONFIG
  try:
    old = json.loads(path.read_text())
  except FileNotFoundError:
    if (workdir / _RESULTS).exists():
      raise UserError(
        f'{workdir} holds results without {_CONFIG}; choose another --workdir'
      ) from None
    return
  except OSError as error:
    raise _unusable(workdir, error) from None
  except ValueError:
    raise UserError(
      f'{path} is damaged, so what {workdir} was made with is not known; '
      'choose another --workdir'
    ) from None
  # Through JSON, so that tuples and lists compare equal.
  new = json.loads(json.dumps(config))
  if old != new:
    raise UserError(
      f'workdir {workdir} was made with another configuration: '
      f'{_differences(old, new)}; choose another --workdir'
    )


def _differences(old, new):
  old, new = _flat(old), _flat(new)
  rows = [
    f'{key} was {old.get(key, "absent")}, is {new.get(key, "absent")}'
    for key in sorted(old.keys() | new.keys())
    if old.get(key, object()) != new.get(key, object())
  ]
  more = f' and {len(rows) - 4} more' if len(rows) > 4 else ''
  return '; '.join(rows[:4]) + more


def _flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix[:-1]: tree}
  result = {}
  for key, value in tree.items():
    result |= _flat(value, f'{prefix}{key}.')
  return result


def _given_teacher(job):
  """Specification, variables and facts of the teacher that the user named."""
  name = job.teacher_checkpoint
  if name == saved.EMBEDDED:
    folder = saved.embedded(job.dataset.name)
    if not saved.exists(folder):
      raise UserError(
        f'no teacher is embedded for {job.dataset.name}; train one '
        '(teacher.checkpoint empty) or name the folder of one'
      )
  else:
    folder = pathlib.Path(name).expanduser()
    inside = folder / TEACHER / STUDENT
    if saved.exists(inside):
      folder = inside
  return saved.load(folder, job.teacher)


class _Teacher(NamedTuple):
  """Who teaches: a network, and its variables on all devices."""

  net: BlockNet
  variables: Any


def _taught_before(job, folder):
  """A student of this run that now teaches."""
  spec, variables, _ = saved.load(folder)
  return _Teacher(_build(job, spec), devices.replicate(variables))


def _teacher_variables(job, context, net):
  """The teacher's variables: given, trained before, or trained now."""
  if job.teacher_checkpoint:
    return devices.replicate(_given_teacher(job)[1])
  folder = context.workdir / TEACHER / STUDENT
  if not saved.exists(folder):
    method = job.teacher_method
    (result,) = phases.run_method(context, method, net, None, None)
    found = _tester(job, net)(result.variables)
    _save(job, context, TEACHER, method.epochs, job.teacher, found, result)
  return devices.replicate(saved.load(folder, job.teacher)[1])


def _teacher_row(job, context, net, variables):
  """The row of the teacher, which a given one does not bring along."""
  if not job.teacher_checkpoint:
    return saved.describe(context.workdir / TEACHER / STUDENT)[1]['row']
  found = _tester(job, net)(variables)
  return _row(job, TEACHER, job.teacher, variables, found, 0, 0.0)


def _train_student(job, context, student, teacher):
  """Trains a student, or its population; saves each with its row."""
  net, method = _build(job, student.network), student.method
  results = phases.run_method(context, method, net, *(teacher or (None, None)))
  members = method.members(job.training)
  evaluate = _tester(job, net)
  for name, member, result in zip(method.names, members, results, strict=True):
    extra = {
      'seed': member.seed,
      'data_seed': member.data_seed,
      'objectives': [
        {'phase': phase.name} | dataclasses.asdict(objective)
        for phase, objective in zip(
          method.phases, member.objectives, strict=True
        )
      ],
    }
    if method.needs_teacher:
      extra['teacher'] = student.teacher
    if teacher is not None:
      extra['ir_error'] = evaluation.ir_errors(
        teacher.net,
        teacher.variables,
        net,
        result.variables,
        job.dataset.preprocess,
        job.dataset.splits['test'],
      )
    found = evaluate(result.variables)
    _save(
      job, context, name, method.epochs, student.network, found, result, extra
    )


def _tester(job, net):
  """Of variables, on the test split."""
  return evaluation.evaluator(
    net, job.dataset.preprocess, job.dataset.splits['test']
  )


def _save(job, context, name, epochs, spec, found, result, extra=None):
  row = _row(
    job, name, spec, result.variables, found, epochs, result.train_seconds
  )
  facts = {'dataset': job.dataset.name, 'row': row | (extra or {})}
  folder = context.workdir / name / STUDENT
  saved.save(folder, spec, result.variables, facts)


def _row(job, method, spec, variables, found, epochs, seconds):
  """A row of results.json."""
  facts = summary(models.build(spec))
  # Without the axis name: latency is measured on one device.
  net = models.build(spec, policy(job.training.precision).dtype)
  one_device = jax.tree.map(jnp.asarray, jax.device_get(variables))
  return {
    'method': method,
    'model': models.title(spec),
    'depth': facts.depth,
    'parameters': facts.parameters,
    'macs': facts.macs,
    'accuracy': found.accuracy,
    'balanced_accuracy': found.balanced_accuracy,
    # Of many classes it is a page of zeros.
    'confusion': found.confusion.tolist()
    if len(found.confusion) <= _CONFUSION_CLASSES
    else None,
    'epochs': epochs,
    'train_seconds': round(seconds, 3),
    'latency_ms': {
      str(batch): latency_ms(net, one_device, batch)
      for batch in _LATENCY_BATCHES
    },
  }


def _device():
  devices = jax.local_devices()
  return (
    f'{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} CPU cores'
  )


def _command():
  # `python -m package.module` leaves the module's path in argv[0].
  spec = getattr(sys.modules.get('__main__'), '__spec__', None)
  program = ['-m', spec.name] if spec and spec.name else sys.argv[:1]
  return [*program, *sys.argv[1:]]


def _write_json(path, value):
  part = path.with_suffix('.part')
  part.write_text(json.dumps(value, indent=2) + '\n')
  part.replace(path)
