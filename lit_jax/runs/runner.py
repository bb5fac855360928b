"""A whole run: teacher, students by every method, and the report.

The same run again goes on where it stands, or, when finished, only reports.
workdir.py says what it leaves. Of several processes all train, and the first
alone has to do with the workdir (hosts.py).
"""

import contextlib
import dataclasses
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from lit_jax import files, hosts, report
from lit_jax.blocks import BlockNet
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError, reason
from lit_jax.networks import saved, sparse
from lit_jax.runs import (
  checks,
  results,
  rows,
  starts,
  teachers,
  train,
  workdir,
)
from lit_jax.runs.jobs import Job, JsonRow
from lit_jax.runs.phases import JUDGE, STUDENT, TEACHER
from lit_jax.runs.train import Context, Teacher
from lit_jax.tasks import disagreements
from lit_jax.training import evaluation, logs, loop, state, stitch
from lit_jax.training.interrupt import Observer
from lit_jax.training.task import Evaluation


def run(
  job: Job, folder: pathlib.Path, observer: Observer | None = None
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
  done = finished(
    folder, job.config, job.names, job.teacher_checkpoint, job.starts
  )
  if done is not None:
    # At hand here, so that results of other data are not taken for these.
    _compare_data(job, folder.expanduser())
    return done
  return train_and_report(job, folder, observer or Observer())


def finished(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  names: tuple[str, ...],
  teacher_checkpoint: str = '',
  starts_of: Mapping[str, str] = types.MappingProxyType({}),
) -> dict[str, Any] | None:
  """The results of a run that is over, or None; needs no data.

  Args:
    folder: of the run.
    config: what the run is made with.
    names: of the rows that are wanted beside the teacher's, in order.
    teacher_checkpoint: of the run.
    starts_of: what its students begin as, by method (`Job.starts`).

  Raises:
    UserError: the workdir was made with another configuration, or with another
      teacher or start than lies there now.
  """
  folder = folder.expanduser()
  return hosts.once(
    lambda: _finished(folder, config, names, teacher_checkpoint, starts_of)
  )


def _finished(folder, config, names, teacher_checkpoint, starts_of):
  workdir.compare_config(folder, config)
  content = workdir.read_results(folder)
  if content is None:
    # Not there, or damaged: it is made again from the trained networks.
    return None
  found = [row['method'] for row in content['rows']]
  if tuple(name for name in found if name != TEACHER) != names:
    return None
  given = {'teacher': teacher_checkpoint} if teacher_checkpoint else {}
  given |= {checks.start_key(name): start for name, start in starts_of.items()}
  for key, checkpoint in given.items():
    network = teachers.given_folder(checkpoint, content['dataset'])
    if saved.exists(network):
      workdir.compare_given(folder, {key: saved.describe(network).digest})
  if not all(map(_is_whole, _own_networks(folder, names))):
    return None
  try:
    report.write_html(folder)
  except UserError as error:
    # The disk of a run that is over may be read-only by now.
    print(f'the page is not made again: {error}', file=sys.stderr)
  return content


def train_and_report(
  job: Job, folder: pathlib.Path, observer: Observer
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
  given = checks.check(job)
  with _claimed(folder, job.config) as check_claim:
    _compare_data(job, folder)
    context = Context(
      folder, job.task, job.dataset, job.training, observer, check_claim
    )
    job = _judged(job, context)
    context = dataclasses.replace(context, task=job.task)
    teacher = given
    if job.needs_teacher and teacher is None:
      teacher = _trained_teacher(job, context)
    found = []
    for student in job.students:
      found += _students(job, context, student, teacher)
    if teacher is not None:
      # Last, for a given teacher's takes seconds that training need not await.
      found.insert(0, _teacher(job, context, teacher))
    return hosts.once(lambda: _finish(job, context, found))


@contextlib.contextmanager
def _claimed(folder, config):
  """As `workdir.claimed` by the first process; in others there is no claim."""
  with contextlib.ExitStack() as stack:
    found = []

    def claim():
      found.append(stack.enter_context(workdir.claimed(folder, config)))

    hosts.once(claim)
    yield found[0] if found else lambda: None


def _compare_data(job, folder):
  hosts.once(lambda: workdir.compare_data(folder, checks.data_facts(job)))


def _finish(job, context, found: list[rows.Timed]) -> dict[str, Any]:
  """Latencies, baselines, results and page, of the trained networks' rows."""
  folder = context.workdir
  made = rows.timed(found, job.training.precision)
  for baseline in job.baselines:
    # What there is, for a baseline is another's program and may fail.
    workdir.write_results(folder, results.results(job, made))
    made.append(_baseline_row(job, context, baseline))
  content = results.results(job, made)
  context.check_claim()
  workdir.write_results(folder, content)
  report.write_html(folder)
  return content


# Judge, teacher, students, baselines.


def _judged(job: Job, context: Context) -> Job:
  """The job, with its judge trained where it needs one."""
  if job.judge is None:
    return job
  judge, precision = job.judge, job.training.precision
  folder = workdir.network(context.workdir, JUDGE, JUDGE)
  if not _is_ready(folder):
    own = dataclasses.replace(job, task=judge.task, dataset=judge.dataset)
    context = dataclasses.replace(context, task=own.task, dataset=own.dataset)
    _train_alone(own, context, JUDGE, judge.network, judge.method, folder)
  reader = teachers.read(folder, judge.dataset, precision, judge.network)
  task = job.task.judged_by(reader, _row(folder))
  return dataclasses.replace(job, task=task)


def _train_alone(job, context, name, network, method, folder) -> None:
  """Trains a network that has no teacher, and saves it with its row."""
  net, preprocess = job.build(network), job.dataset.preprocess
  (result,) = train.run_method(context, method, net, preprocess, None)
  row = rows.made(
    name, network, epochs=method.epochs, seconds=result.train_seconds
  )
  hosts.once(context.check_claim)
  _save(job, folder, network, preprocess, row, result)
  _score(job, context, folder, row, net, preprocess, result.learners)


def _score(job, context, folder, row, net, preprocess, learners, **details):
  """Measures a network that is saved, and adds what was found to its row."""
  found = _evaluation(job, context, row['method'], net, preprocess, learners)
  if found is not None:

    def annotate():
      drawn = _drawn(context.workdir, row['method'], found)
      scored = rows.scored(row, found.scores, **details, **drawn)
      saved.annotate(folder, scored)

    hosts.once(annotate)


def _evaluation(
  job, context, name, net, preprocess, learners
) -> Evaluation | None:
  """Of a network on the scored split, made once; None where it cannot be."""
  known = context.evaluations
  if name not in known:
    split = job.dataset.splits[job.dataset.scored]
    test = job.task.evaluator(net, preprocess, split)
    known[name] = rows.measured(
      f'the evaluation of {name}', lambda: test(learners)
    )
  return known[name]


def _of_teacher(job, context, name, teacher: Teacher) -> Evaluation | None:
  return _evaluation(
    job, context, name, teacher.net, teacher.preprocess, teacher.learners
  )


def _trained_teacher(job: Job, context: Context) -> Teacher:
  """The teacher that was trained before, or is trained now."""
  folder = workdir.network(context.workdir, TEACHER, TEACHER)
  if not _is_ready(folder):
    method = job.teacher_method
    _train_alone(job, context, TEACHER, job.teacher, method, folder)
  return teachers.read(
    folder, job.dataset, job.training.precision, job.teacher, job.task
  )


def _teacher(job, context, teacher) -> rows.Timed:
  """The row of the teacher, which a given one does not bring along."""
  if not job.gives_teacher:
    folder = workdir.network(context.workdir, TEACHER, TEACHER)
    row = _row(folder)
  else:
    row = rows.made(TEACHER, job.teacher)
    found = _of_teacher(job, context, TEACHER, teacher)
    if found is not None:
      drawn = hosts.once(lambda: _drawn(context.workdir, TEACHER, found))
      row = rows.scored(row, found.scores, **drawn)
  return rows.Timed(row, job.teacher, lambda: teacher.variables)


def _students(job, context, student, teacher) -> list[rows.Timed]:
  """The row of a student, or of its population; trained if not done yet."""
  folders = [
    workdir.network(context.workdir, name, STUDENT)
    for name in student.method.names
  ]
  # All of them, for each that is damaged is put aside.
  if not all([_is_ready(folder) for folder in folders]):
    if student.teacher != TEACHER:
      folder = workdir.network(context.workdir, student.teacher, STUDENT)
      teacher = teachers.read(
        folder,
        job.dataset,
        job.training.precision,
        job.network_of(student.teacher),
        job.task,
      )
    _train_student(job, context, student, teacher)
  return [
    rows.Timed(
      _row(folder),
      student.network,
      lambda folder=folder: saved.load(folder, student.network)[1],
    )
    for folder in folders
  ]


def _train_student(job, context, student, teacher) -> None:
  """Trains a student, or its population; saves each with its row."""
  net, method = job.build(student.network), student.method
  start = starts.read(job, student)
  preprocess = _students_preprocess(job, method, teacher, start)
  results = train.run_method(
    context, method, net, preprocess, teacher, start and start.variables
  )
  members = [
    _Trained(workdir.network(context.workdir, member.name, STUDENT), row, own)
    for member, own in zip(method.members(job.training), results, strict=True)
    for row in [_students_row(student, member, own)]
  ]
  # All of them before any is measured, which may fail.
  hosts.once(context.check_claim)
  for member in members:
    _save(
      job, member.folder, student.network, preprocess, member.row, member.result
    )
  tried = None
  if job.stitch and method.compares_irs:
    split = job.dataset.splits[job.dataset.scored]
    tried = stitch.evaluator(context.task, teacher, net, split)
  for member in members:
    _score_student(
      job, context, member, net, preprocess, student.teacher, teacher, tried
    )


class _Trained(NamedTuple):
  """Attributes: a student's folder; its row; what its training gave."""

  folder: pathlib.Path
  row: JsonRow
  result: loop.PhaseResult


def _students_row(student, member, result) -> JsonRow:
  variables = result.learners[state.STUDENT]
  return rows.made(
    member.name,
    student.network,
    epochs=student.method.epochs,
    seconds=result.train_seconds,
    **_details(student, member, variables),
  )


def _score_student(
  job, context, member, net, preprocess, teacher_name, teacher, tried
) -> None:
  folder, row, result = member
  details = {}
  if teacher is not None:
    own = evaluation.Reader(net, result.learners[state.STUDENT], preprocess)
    details = _of_blocks(job, row, teacher, own, tried)
    found = _evaluation(
      job, context, row['method'], net, preprocess, result.learners
    )
    if found is not None and found.answers is not None:
      theirs = _of_teacher(job, context, teacher_name, teacher)
      details |= _disagreements(job, context, row['method'], theirs, found)
  _score(job, context, folder, row, net, preprocess, result.learners, **details)


def _of_blocks(job, row, teacher, own, tried) -> dict[str, Any]:
  """What a row says of its student's blocks beside the teacher's.

  Args:
    job: whose data are scored.
    row: the student's.
    teacher: with whom it is compared.
    own: the student.
    tried: tries its blocks in the teacher (`stitch.evaluator`); None for none.
  """
  split = job.dataset.splits[job.dataset.scored]
  errors = rows.measured(
    f'the IR error of {row["method"]}',
    lambda: evaluation.ir_errors(teacher, own, split),
  )
  if errors is None:
    return {}
  names = own.net.block_names
  found = {'ir_error': {name: errors[name] for name in names}}
  stitches = tried and rows.measured(
    f'the stitch report of {row["method"]}', lambda: tried(own.variables)
  )
  if stitches:
    # A block is fed with what the part before it puts out.
    found['stitch'] = {
      name: stitches[name] | {'input_shift': errors[before]['own_input']}
      for before, name in zip(('stem', *names[:-1]), names, strict=True)
    }
  return found


def _disagreements(job, context, name, teacher, student) -> dict[str, Any]:
  """What a row has of the examples on which two classifiers disagree."""
  if teacher is None or teacher.answers is None:
    return {}
  split = job.dataset.splits[job.dataset.scored]
  found = disagreements.find(
    split, job.dataset.preprocess, teacher.answers, student.answers
  )
  sheet = found.sheet
  if sheet is None:
    return found.details
  images = hosts.once(
    lambda: logs.write_sheet(context.workdir, name, 'disagreements', sheet)
  )
  return found.details | {'disagreement_images': images}


def _students_preprocess(job, method, teacher, start) -> Preprocess:
  """A copied stem reads what the teacher's does, and a saved network its own.

  Else that of the data.
  """
  copies = [part for phase in method.phases for part in phase.copy]
  if teacher is not None and 'stem' in copies:
    return teacher.preprocess
  return job.dataset.preprocess if start is None else start.preprocess


def _details(student, member, variables) -> dict[str, Any]:
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
  if method.needs_teacher:
    details['teacher'] = student.teacher
  if student.start:
    details['start'] = student.start
  elif student.variables is not None:
    details['start'] = 'given'
  if method.prunes:
    details['nonzeros'] = sparse.nonzeros(variables['params'])
    details['sparse_bytes'] = sparse.stored_bytes(variables)
  return details


def _drawn(workdir_, name, found) -> dict[str, Any]:
  """Writes an evaluation's sheets; what its row says of them, if any."""
  sheets = {
    title: logs.write_sheet(workdir_, name, title, sheet)
    for title, sheet in found.sheets.items()
  }
  return {'sheets': sheets} if sheets else {}


# Networks of this run.


def _own_networks(folder, names) -> list[pathlib.Path]:
  """The folders in which a finished run keeps the networks that it trained."""
  found = [workdir.network(folder, name, STUDENT) for name in names]
  found += [workdir.network(folder, role, role) for role in (TEACHER, JUDGE)]
  # Baselines have no network, and a given teacher lies elsewhere.
  return [own for own in found if own.parent.is_dir() and own.exists()]


def _is_whole(folder) -> bool:
  try:
    saved.check(folder)
    return True
  except UserError:
    return False


def _is_ready(folder) -> bool:
  """Whether a network of this run is trained, saved and measured.

  One that is damaged is put aside: the checkpoints make it again.
  """
  return hosts.once(lambda: _is_scored(folder))


def _is_scored(folder):
  if not folder.exists():
    return False
  try:
    return rows.is_scored(saved.check(folder).row)
  except UserError as error:
    print(f'{error}; it is made again', file=sys.stderr)
    files.put_aside(folder)
    return False


def _save(job, folder, network, preprocess, row, result: loop.PhaseResult):
  facts = saved.Facts(
    spec=None if isinstance(network, BlockNet) else dict(network),
    dataset=job.dataset.name,
    classes=list(job.dataset.class_names),
    input=preprocess.facts(),
    precision=job.training.precision,
    digest='',
    row=dict(row),
  )
  learners = dict(result.learners)
  student = learners.pop(state.STUDENT)
  # The others serve who goes on training: a teacher's students.
  teaches = row['method'] in (TEACHER, *(s.teacher for s in job.students))
  others = learners if teaches else {}

  def save():
    saved.save(folder, facts, student, others)

  hosts.once(save)


def _row(folder) -> JsonRow:
  return hosts.once(lambda: saved.describe(folder).row)


def _baseline_row(job, context, baseline) -> JsonRow:
  """The row of a baseline: made before, or made now and kept."""
  row = workdir.read_baseline(context.workdir, baseline.name)
  if row is not None:
    return row
  context.observer.interrupt(f'before {baseline.name}')
  try:
    made = baseline.row(job.dataset)
    row = dataclasses.replace(made, method=baseline.name).to_json()
  except Exception as error:
    raise UserError(
      f'baseline {baseline.name} failed ({reason(error)}); the other rows '
      'stand, and the same command without it prints them'
    ) from error
  workdir.write_baseline(context.workdir, baseline.name, row)
  return row
