"""What can be found wrong with a job before anything is trained."""

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lit_jax import blocks
from lit_jax.blocks import BlockNet, check_pair
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError, reason, shown
from lit_jax.layers import unshared_statistics
from lit_jax.runs import phases, starts, teachers, workdir
from lit_jax.runs.jobs import Job
from lit_jax.runs.phases import TEACHER
from lit_jax.runs.train import Teacher


def check(job: Job) -> Teacher | None:
  """Raises UserError for all that can be; returns a teacher that was given."""
  teacher = job.build(job.teacher)
  _check_network(job, teacher)
  phases.check_training(job.training, job.dataset)
  steps = job.dataset.splits['train'].examples // job.training.batch_size
  check_names(
    [student.method for student in job.students],
    [baseline.name for baseline in job.baselines],
    job.training.select,
  )
  if job.judge is not None:
    _check_judge(job, job.judge, steps)
  known = {TEACHER: teacher}
  for student in job.students:
    net, method = job.build(student.network), student.method
    phases.check_method(method, net, job.task.learners, steps)
    _check_output_loss(job, method)
    check_statistics(net)
    if student.teacher not in known:
      raise UserError(
        f'{method.name} has the teacher {student.teacher!r}, which is no '
        f'single student before it; choose one of {", ".join(known)}'
      )
    if job.needs_teacher or student.teacher != TEACHER:
      check_pair(known[student.teacher], net)
      phases.check_copies(method, known[student.teacher], net)
    _check_network(job, net)
    starts.read(job, student)
    if not method.population:
      known[method.name] = net
  if not job.needs_teacher:
    return None
  if job.gives_teacher:
    # Found wrong now, not after the teacherless methods have run.
    teacher = teachers.given(job)
    _check_others(job, teacher)
    return teacher
  check_statistics(teacher)
  phases.check_method(job.teacher_method, teacher, job.task.learners, steps)
  _check_output_loss(job, job.teacher_method)
  _check_labels_alone('the teacher', job.teacher_method)
  return None


def _check_judge(job, judge, steps):
  net = job.build(judge.network)
  phases.check_method(judge.method, net, steps_per_epoch=steps)
  judge.task.check(judge.dataset, net)
  _check_labels_alone('the judge', judge.method)


def _check_labels_alone(who, method):
  if method.needs_teacher:
    raise UserError(
      f'{who} learns from labels alone: alpha and beta of its phases must be '
      '1, and nothing can be copied'
    )
  if method.prunes:
    raise UserError(f'{who} is not pruned; sparsity of its phases must be 0')


def _check_others(job, teacher):
  """A given teacher must have what is copied beside its own parts."""
  for student in job.students:
    for phase in student.method.phases:
      wanted = set(phase.copy) & set(job.task.learners)
      if student.teacher == TEACHER and wanted - set(teacher.others):
        raise UserError(
          f'{student.method.name}/{phase.name} copies the '
          f"teacher's {wanted.pop()}, and the given teacher comes without it; "
          'train the teacher here, or leave that out of copy'
        )


def _check_output_loss(job, method):
  wanted = job.task.output_loss
  for phase in method.phases:
    found = phase.objective.output_loss
    if found != wanted:
      raise UserError(
        f'{method.name}/{phase.name}: output_loss is {found!r}, and the task '
        f"compares its networks' outputs by {wanted!r}"
      )


def check_names(
  methods: Sequence[phases.Method], baselines: Sequence[str], select: str
) -> None:
  """Finds rows that cannot stand in one workdir.

  Args:
    methods: of the students.
    baselines: their names.
    select: as `Training.select`.

  Raises:
    UserError: a name that is given twice or taken, or a population whose best
      epochs are wanted.
  """
  names = [*(name for method in methods for name in method.names), *baselines]
  if len(set(names)) < len(names):
    raise UserError(f'method {shown(",".join(names))} names one method twice')
  if select == 'best' and any(m.population for m in methods):
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
  for taken in workdir.TAKEN:
    if taken in (*names, *folders):
      raise UserError(
        f'{taken!r} is no name for a method: in a workdir it is something '
        'else; choose another'
      )


def _check_network(job: Job, net: BlockNet) -> None:
  """Catches a data set that a network cannot read, or answer."""
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
  job.task.check(job.dataset, net)


def check_reads(who: str, net: BlockNet) -> None:
  """Raises UserError where a network fails at its own example.

  Args:
    who: is the network, for the message.
    net: maybe of modules of the user's own.
  """
  try:
    blocks.cut_shapes(net)
  except Exception as error:  # The user's modules may raise anything.
    raise UserError(
      f'{who}: the network cannot read its example ({reason(error)}); its '
      'parts are called as part(h, train)'
    ) from error


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


def check_statistics(net: BlockNet) -> None:
  """Raises UserError for batch statistics that the devices would not share."""
  if jax.device_count() == 1:
    return
  kinds = unshared_statistics(lambda: blocks.shapes(net))
  for path, kind in kinds.items():
    raise UserError(
      f'{path} is a {kind}, whose batch statistics the '
      f'{jax.device_count()} devices would not share; take '
      'flax.linen.BatchNorm or lit_jax.layers.BatchNorm, or train on one '
      'device (JAX_NUM_CPU_DEVICES=1, CUDA_VISIBLE_DEVICES=0)'
    )


def data_facts(job: Job) -> dict[str, Any]:
  """What a workdir is bound to beside its configuration."""
  dataset = job.dataset
  facts = {
    'dataset': dataset.name,
    'classes': list(dataset.class_names),
    'content': dataset.content or _content(dataset),
    'input': dataset.preprocess.facts(),
    'splits': {
      name: {
        'examples': split.examples,
        'labels_crc32': checksum(split.labels),
      }
      for name, split in dataset.splits.items()
    },
  }
  if job.needs_teacher:
    facts['teacher'] = 'trained in this workdir'
    if job.gives_teacher:
      facts['teacher'] = teachers.given_digest(job)
  for name, digest in starts.digests(job).items():
    facts[start_key(name)] = digest
  return facts


def _content(dataset) -> str:
  """A checksum of all that networks are shown, in hexadecimal."""
  return f'{checksum([own.inputs for own in dataset.splits.values()]):08x}'


def start_key(method: str) -> str:
  """Where `data_facts` has what a method's student begins as."""
  return f'start of {method}'


def checksum(tree: Any) -> int:
  """CRC-32 of the bytes of all arrays."""
  result = 0
  for leaf in jax.tree.leaves(tree):
    result = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), result)
  return result
