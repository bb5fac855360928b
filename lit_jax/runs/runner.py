"""A whole run: teacher, students by every method, and the report.

The same run again goes on where it stands, or, when finished, only reports.
workdir.py says what it leaves.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import shlex
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from lit_jax import blocks, models, report
from lit_jax.blocks import BlockNet, check_pair
from lit_jax.data.dataset import Dataset
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError, reason
from lit_jax.layers import unshared_statistics
from lit_jax.networks import saved
from lit_jax.report import Column
from lit_jax.runs import phases, rows, teachers, train, workdir
from lit_jax.runs.phases import STUDENT, TEACHER, Method, Training
from lit_jax.runs.train import Context, Teacher
from lit_jax.training import evaluation, loop, state
from lit_jax.training.interrupt import Observer
from lit_jax.training.precision import policy
from lit_jax.training.task import Task

_REPORTED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')

# As `models.build` takes a network.
Network = models.Spec | BlockNet
JsonRow = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Student:
  """A network to train, how, and who teaches it.

  Attributes:
    network: as `models.build` takes it.
    method: how it is trained; its name is that of the row and the folder.
    teacher: 'teacher' is the run's own; else the name of a student before it.
  """

  network: Network
  method: Method
  teacher: str = TEACHER


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A system from outside.

  Attributes:
    name: of its row and its folder.
    row: makes the row, in JSON's types, from the data set, but for its name.
      Called when all else is done, and once.
  """

  name: str
  row: Callable[[Dataset], JsonRow]


@dataclasses.dataclass(frozen=True)
class Reference:
  """Numbers from elsewhere, to stand beside the run's own.

  Attributes:
    column: where they stand; its key is the one they have in a row.
    values: by the row's name.
    note: whose they are.
  """

  column: Column
  values: Mapping[str, float]
  note: str


@dataclasses.dataclass(frozen=True)
class Run:
  """What to do; see `run`.

  Attributes:
    dataset: with a 'validation' split where one is held out.
    task: what the networks are trained for.
    teacher: the teacher's network, as `models.build` takes it.
    teacher_checkpoint: 'embedded', or the folder of a saved network or of a
      workdir whose teacher is used; '' trains the teacher.
    teacher_method: how the teacher is trained.
    students: in the order in which they are trained.
    training: shared settings.
    config: everything that defines the run, as JSON values; a workdir takes
      one configuration.
    baselines: systems from outside, each a row beside.
    reference: numbers from elsewhere.
    teacher_variables: of a trained teacher, instead of a checkpoint.
  """

  dataset: Dataset
  task: Task
  teacher: Network
  teacher_checkpoint: str
  teacher_method: Method
  students: tuple[Student, ...]
  training: Training
  config: Mapping[str, Any]
  baselines: tuple[Baseline, ...] = ()
  reference: Reference | None = None
  teacher_variables: Mapping[str, Any] | None = None

  @property
  def gives_teacher(self) -> bool:
    """Whether the teacher comes trained."""
    return bool(self.teacher_checkpoint) or self.teacher_variables is not None

  @property
  def needs_teacher(self) -> bool:
    """Whether any student uses the teacher, or the teacher is all there is."""
    return not self.students or any(
      s.method.needs_teacher and s.teacher == TEACHER for s in self.students
    )

  @property
  def names(self) -> tuple[str, ...]:
    """The names of all rows but the teacher's."""
    students = [name for s in self.students for name in s.method.names]
    return (*students, *(baseline.name for baseline in self.baselines))


def run(
  job: Run, folder: pathlib.Path, observer: Observer | None = None
) -> dict[str, Any]:
  """The results of a run: of `finished`, or else of `train_and_report`.

  Args:
    job: what to do.
    folder: the workdir, made if missing.
    observer: asked between calls whether to stop.

  Returns:
    The content of `results.json`.

  Raises:
    UserError: bad input, before anything is trained where possible.
    Interrupted: asked to stop; saved.
  """
  done = finished(folder, job.config, job.names, job.teacher_checkpoint)
  if done is not None:
    return done
  return train_and_report(job, folder, observer or Observer())


def finished(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  names: tuple[str, ...],
  teacher_checkpoint: str = '',
) -> dict[str, Any] | None:
  """The results of a run that is over, or None; needs no data.

  Args:
    folder: of the run.
    config: what the run is made with.
    names: of the rows that are wanted beside the teacher's, in order.
    teacher_checkpoint: of the run.

  Raises:
    UserError: the workdir was made with another configuration, or with another
      teacher than lies there now.
  """
  folder = folder.expanduser()
  workdir.compare_config(folder, config)
  results = workdir.read_results(folder)
  if results is None:
    # Not there, or damaged: it is made again from the trained networks.
    return None
  found = [row['method'] for row in results['rows']]
  if tuple(name for name in found if name != TEACHER) != names:
    return None
  if teacher_checkpoint:
    given = teachers.given_folder(teacher_checkpoint, results['dataset'])
    if saved.exists(given):
      workdir.compare_teacher(folder, saved.describe(given).digest)
  report.write_html(folder)
  return results


def train_and_report(
  job: Run, folder: pathlib.Path, observer: Observer
) -> dict[str, Any]:
  """Trains what is not trained yet; returns and writes the results.

  Args:
    job: what to do.
    folder: the workdir, made if missing.
    observer: told of the first steps, and asked whether to stop.

  Returns:
    The content of `results.json`.

  Raises:
    UserError: bad input, before anything is trained where possible.
    Interrupted: asked to stop; saved.
  """
  folder = folder.expanduser()
  given = _check(job)
  with workdir.claimed(folder, job.config):
    workdir.compare_data(folder, _data_facts(job, given))
    context = Context(folder, job.task, job.dataset, job.training, observer)
    teacher = given
    if job.needs_teacher and teacher is None:
      teacher = _trained_teacher(job, context)
    found = []
    for student in job.students:
      found += _student_rows(job, context, student, teacher)
    if teacher is not None:
      # Last, for a given teacher's takes seconds that training need not await.
      found.insert(0, _teacher_row(job, context, teacher))
    for baseline in job.baselines:
      # What there is, for a baseline is another's program and may fail.
      workdir.write_results(folder, _results(job, found))
      found.append(_baseline_row(job, context, baseline))
    results = _results(job, found)
    workdir.write_results(folder, results)
    report.write_html(folder)
  return results


# What can be found wrong before training.


def _check(job: Run) -> Teacher | None:
  """Everything that can; the teacher that the user gave."""
  teacher = _build(job, job.teacher)
  _check_network(job, teacher)
  job.task.check(job.dataset)
  phases.check_training(job.training, job.dataset)
  _check_names(job)
  known = {TEACHER: teacher}
  for student in job.students:
    net, method = _build(job, student.network), student.method
    phases.check_method(method, net)
    _check_statistics(net)
    if student.teacher not in known:
      raise UserError(
        f'{method.name} has the teacher {student.teacher!r}, which is no '
        f'single student before it; choose one of {", ".join(known)}'
      )
    if job.needs_teacher or student.teacher != TEACHER:
      check_pair(known[student.teacher], net)
      phases.check_copies(method, known[student.teacher], net)
    if not method.population:
      known[method.name] = net
  if not job.needs_teacher:
    return None
  if job.gives_teacher:
    # Found wrong now, not after the teacherless methods have run.
    return _given_teacher(job)
  _check_statistics(teacher)
  phases.check_method(job.teacher_method, teacher)
  if job.teacher_method.needs_teacher:
    raise UserError(
      'the teacher learns from labels alone: alpha and beta of its phases '
      'must be 1, and nothing can be copied'
    )
  return None


def _build(job, network):
  return models.build(network, policy(job.training.precision).dtype)


def _given_teacher(job):
  if job.teacher_variables is not None:
    return teachers.in_memory(
      job.teacher_variables, job.dataset, _build(job, job.teacher)
    )
  folder = teachers.given_folder(job.teacher_checkpoint, job.dataset.name)
  return teachers.read(folder, job.dataset, job.training.precision, job.teacher)


def _check_names(job):
  methods = [student.method for student in job.students]
  names = job.names
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


def _check_network(job: Run, net: BlockNet) -> None:
  """Catches a data set of the user's own that the networks cannot read."""
  for name, split in job.dataset.splits.items():
    where = f'{job.dataset.name}, split {name}'
    inputs = jax.tree.map(_abstract, split.inputs)
    counts = {len(leaf) for leaf in jax.tree.leaves(split)}
    if len(counts) > 1 or 0 in counts:
      shapes = [leaf.shape for leaf in jax.tree.leaves(split.labels)]
      raise UserError(
        f'{where}: {split.examples} inputs and labels of shape '
        f'{", ".join(map(str, shapes))}; give one label for each of at least '
        'one input'
      )
    _check_inputs(where, inputs, job.dataset.preprocess, net)


def _abstract(array):
  return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _check_inputs(where, inputs, preprocess: Preprocess, net) -> None:
  described = f'{where}: inputs are {_words(inputs)}'
  try:
    read = jax.eval_shape(preprocess.normalize, inputs)
  except UserError as error:
    raise UserError(f'{described}; {error}') from None
  except Exception as error:  # Of another rank, for instance.
    raise UserError(
      f'{described}; they cannot be preprocessed ({reason(error)})'
    ) from None
  count = len(jax.tree.leaves(inputs)[0])
  wanted = blocks.example(net, count)
  if jax.tree.map(_key_of, read) != jax.tree.map(_key_of, wanted):
    raise UserError(
      f'{described}; the networks read {blocks.describe(net.example)} an '
      f'example, and get {_words(read)}'
    )


def _key_of(leaf):
  return f'{leaf.dtype} {tuple(leaf.shape)}'


def _words(tree):
  texts = jax.tree.map(_key_of, tree)
  return texts if isinstance(texts, str) else str(texts)


def _check_statistics(net: BlockNet) -> None:
  """Batch statistics that many devices would not share must not go unseen."""
  if jax.local_device_count() == 1:
    return
  kinds = unshared_statistics(lambda: blocks.shapes(net))
  for path, kind in kinds.items():
    raise UserError(
      f'{path} is a {kind}, whose batch statistics the '
      f'{jax.local_device_count()} devices would not share; take '
      'flax.linen.BatchNorm or lit_jax.layers.BatchNorm, or train on one '
      'device (JAX_NUM_CPU_DEVICES=1, CUDA_VISIBLE_DEVICES=0)'
    )


def _data_facts(job: Run, given: Teacher | None) -> dict[str, Any]:
  """What a workdir is bound to beside its configuration."""
  dataset = job.dataset
  facts = {
    'dataset': dataset.name,
    'classes': list(dataset.class_names),
    'content': dataset.content,
    'input': dataset.preprocess.facts(),
    'splits': {
      name: {
        'examples': split.examples,
        'labels_crc32': _crc32(split.labels),
      }
      for name, split in dataset.splits.items()
    },
  }
  if given is not None:
    facts['teacher'] = given.digest
  return facts


def _crc32(tree):
  result = 0
  for leaf in jax.tree.leaves(tree):
    result = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), result)
  return result


# Teacher, students, baselines.


def _trained_teacher(job: Run, context: Context) -> Teacher:
  """The teacher that was trained before, or is trained now."""
  folder = workdir.network(context.workdir, TEACHER, TEACHER)
  if not saved.exists(folder):
    method, preprocess = job.teacher_method, job.dataset.preprocess
    net = _build(job, job.teacher)
    (result,) = train.run_method(context, method, net, preprocess, None)
    found = _tester(job, net, preprocess)(result.learners)
    row = rows.measured(
      TEACHER,
      job.teacher,
      result.learners[state.STUDENT],
      job.training.precision,
      found,
      epochs=method.epochs,
      seconds=result.train_seconds,
    )
    _save(job, folder, job.teacher, preprocess, row, result)
  return teachers.read(folder, job.dataset, job.training.precision, job.teacher)


def _teacher_row(job, context, teacher) -> JsonRow:
  """The row of the teacher, which a given one does not bring along."""
  if not job.gives_teacher:
    folder = workdir.network(context.workdir, TEACHER, TEACHER)
    return saved.describe(folder).row
  learners = {state.STUDENT: teacher.variables}
  found = _tester(job, teacher.net, teacher.preprocess)(learners)
  return rows.measured(
    TEACHER, job.teacher, teacher.variables, job.training.precision, found
  ).to_json()


def _student_rows(job, context, student, teacher) -> list[JsonRow]:
  """Those of a student, or of its population; trained if they are not yet."""
  folders = [
    workdir.network(context.workdir, name, STUDENT)
    for name in student.method.names
  ]
  if not all(map(saved.exists, folders)):
    if student.teacher != TEACHER:
      folder = workdir.network(context.workdir, student.teacher, STUDENT)
      teacher = teachers.read(folder, job.dataset, job.training.precision)
    _train_student(job, context, student, teacher)
  return [saved.describe(folder).row for folder in folders]


def _train_student(job, context, student, teacher) -> None:
  """Trains a student, or its population; saves each with its row."""
  net, method = _build(job, student.network), student.method
  preprocess = _students_preprocess(job, method, teacher)
  results = train.run_method(context, method, net, preprocess, teacher)
  test = _tester(job, net, preprocess)
  members = method.members(job.training)
  for member, result in zip(members, results, strict=True):
    variables = result.learners[state.STUDENT]
    details = _details(student, member)
    if teacher is not None:
      details['ir_error'] = evaluation.ir_errors(
        evaluation.Reader(teacher.net, teacher.variables, teacher.preprocess),
        evaluation.Reader(net, variables, preprocess),
        job.dataset.splits['test'],
      )
    row = rows.measured(
      member.name,
      student.network,
      variables,
      job.training.precision,
      test(result.learners),
      epochs=method.epochs,
      seconds=result.train_seconds,
      **details,
    )
    folder = workdir.network(context.workdir, member.name, STUDENT)
    _save(job, folder, student.network, preprocess, row, result)


def _students_preprocess(job, method, teacher) -> Preprocess:
  """A copied stem reads what the teacher's does; else that of the data."""
  copies = [part for phase in method.phases for part in phase.copy]
  if teacher is not None and 'stem' in copies:
    return teacher.preprocess
  return job.dataset.preprocess


def _details(student, member) -> dict[str, Any]:
  """What a row says of how its student was trained."""
  method = student.method
  details = {
    'seed': member.seed,
    'data_seed': member.data_seed,
    'objectives': [
      {'phase': phase.name} | dataclasses.asdict(objective)
      for phase, objective in zip(method.phases, member.objectives, strict=True)
    ],
  }
  return details | (
    {'teacher': student.teacher} if method.needs_teacher else {}
  )


def _tester(job, net, preprocess):
  """Of learners, on the test split."""
  return job.task.evaluator(net, preprocess, job.dataset.splits['test'])


def _save(job, folder, network, preprocess, row, result: loop.PhaseResult):
  facts = saved.Facts(
    spec=None if isinstance(network, BlockNet) else dict(network),
    dataset=job.dataset.name,
    classes=list(job.dataset.class_names),
    input=preprocess.facts(),
    precision=job.training.precision,
    digest='',
    row=row.to_json(),
  )
  saved.save(folder, facts, result.learners[state.STUDENT])


def _baseline_row(job, context, baseline) -> JsonRow:
  """The row of a baseline: made before, or made now and kept."""
  row = workdir.read_baseline(context.workdir, baseline.name)
  if row is not None:
    return row
  context.observer.interrupt(f'before {baseline.name}')
  try:
    row = {'method': baseline.name, **baseline.row(job.dataset)}
  except Exception as error:
    raise UserError(
      f'baseline {baseline.name} failed ({reason(error)}); the other rows '
      'stand, and the same command without it prints them'
    ) from error
  workdir.write_baseline(context.workdir, baseline.name, row)
  return row


# What results.json says of the whole run.


def _results(job: Run, found: list[JsonRow]) -> dict[str, Any]:
  columns, notes = [c.to_json() for c in job.task.columns], []
  if job.reference is not None:
    values, column = job.reference.values, job.reference.column
    found = [
      {**row, column.key: values[row['method']]}
      if row['method'] in values
      else row
      for row in found
    ]
    # Beside the task's first number.
    columns.insert(1, column.to_json())
    notes.append(job.reference.note)
  return {
    'dataset': job.dataset.name,
    'classes': list(job.dataset.class_names),
    'seed': job.training.seed,
    'columns': columns,
    'selects': job.task.selects.key,
    'notes': notes,
    'rows': found,
    'device': _device(),
    'versions': {n: importlib.metadata.version(n) for n in _REPORTED},
    'command': shlex.join(['python', *_command()]),
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
