"""`lit_jax.compress`: networks of the user's own, defaults for the rest."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lit_jax import blocks, models
from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import Preprocess, usual
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.networks.summary import summary
from lit_jax.objectives import Objective, scratch
from lit_jax.runs import checks, jobs, runner, teachers
from lit_jax.runs.phases import TEACHER, Method, Phase, Training
from lit_jax.tasks.classify import Classify
from lit_jax.training import state
from lit_jax.training.interrupt import Observer
from lit_jax.training.precision import policy
from lit_jax.training.task import Task

# The paper's, of classifiers.
OBJECTIVE = Objective(alpha=0.95, beta=0.75, temperature=6.0)
STEPS_PER_CALL = 8
# The fine-tuning's share of the epochs, and of the learning rate.
_FINETUNE = 0.3, 0.1

# A network, or the name of a saved one.
Given = jobs.Network | str | os.PathLike[str]


def compress(
  teacher: Given,
  student: Given,
  train: tuple[Any, Any],
  test: tuple[Any, Any],
  workdir: str | os.PathLike[str],
  *,
  teacher_variables: Mapping[str, Any] | None = None,
  student_variables: Mapping[str, Any] | None = None,
  epochs: int = 20,
  batch_size: int = 32,
  learning_rate: float = 0.1,
  objective: Objective | None = None,
  phases: tuple[Phase, ...] | None = None,
  preprocess: Preprocess | None = None,
  task: Task | None = None,
  seed: int = 0,
  precision: str = 'fp32',
  steps_per_call: int = STEPS_PER_CALL,
  stitch: bool = True,
  class_names: Sequence[str] = (),
  data_name: str = 'own',
  observer: Observer | None = None,
) -> dict[str, Any]:
  """Compresses a network by LIT: the teacher's training, LIT, fine-tuning.

  The workdir holds the trained networks (`networks.saved.load(DIR, student)`
  reads them), checkpoints, the table and `report.html`. The same call goes on
  where it was stopped, and only reports when all is done.

  Args:
    teacher: the deep network: a BlockNet, what `models.build` takes, or a saved
      network by its folder, as `Job.teacher_checkpoint` has it. That one is
      trained already, and fed by its own normalisation.
    student: the shallow one, likewise; `check_pair` says whether the two fit. A
      saved network is what it begins as.
    train: inputs, leaves [N, …], and labels, int32 [N] for classes.
    test: the same of held-out examples.
    workdir: made if missing.
    teacher_variables: of a trained teacher, 'params' and 'batch_stats'; None
      trains it on the same examples, from their labels alone.
    student_variables: what the student begins as, such as every second layer of
      the teacher; None draws its values.
    epochs: of the teacher, and of the student's phases together.
    batch_size: examples a step, over all devices.
    learning_rate: the highest; it falls to 0 along a cosine in each phase, and
      the fine-tuning's is a tenth of it.
    objective: of the LIT phase; by default the paper's α .95, β .75, τ 6. The
      fine-tuning has the same with β 1.
    phases: the student's instead of these two.
    preprocess: of the inputs; by default uint8 images are normalised by the
      mean and deviation of each channel, everything else is taken as it is.
    task: what the networks are trained for; by default to tell classes apart,
      as many as the teacher's output is long.
    seed: of initial values and data order.
    precision: 'fp16' scales the loss. What a BlockNet computes in is said by
      its own modules; others compute in it.
    steps_per_call: how many steps one call of the program makes.
    stitch: whether each block of the trained student is tried in the teacher;
      what that costs of the teacher's score stands in the student's row.
    class_names: in the order of the labels; a saved teacher of other classes is
      refused.
    data_name: of the data set, for messages and tables.
    observer: told of the first steps, and asked whether to stop.

  Returns:
    The content of `results.json`.

  Raises:
    UserError: networks, data or settings that do not fit; one line.
    Interrupted: asked to stop; saved.
  """
  big = _read('teacher', teacher, precision, data_name)
  small = _read('student', student, precision, data_name)
  for role, own, given in (
    ('teacher', big, teacher_variables),
    ('student', small, student_variables),
  ):
    if own.folder and given is not None:
      raise UserError(
        f'the {role} is a saved network, which has its own variables; leave '
        f'{role}_variables out'
      )
  dataset = _dataset(train, test, preprocess, tuple(class_names), data_name)
  task = task or _classify(big.net, dataset)
  objective = objective or OBJECTIVE.replace(output_loss=task.output_loss)
  phases = phases or usual_phases(
    big.net, small.net, objective, epochs, learning_rate
  )
  labels_alone = Phase(
    'train', scratch(task.output_loss), epochs, learning_rate, schedule='cosine'
  )
  training = Training(batch_size, seed, precision, steps_per_call, 'last')
  method = Method('lit', phases)
  job = jobs.Job(
    dataset=dataset,
    task=task,
    teacher=big.network,
    teacher_checkpoint=big.folder,
    teacher_variables=teacher_variables,
    teacher_method=Method(TEACHER, (labels_alone,)),
    students=(
      jobs.Student(
        small.network, method, start=small.folder, variables=student_variables
      ),
    ),
    training=training,
    config={
      'teacher': _known(big),
      'student': _known(small) | ({'start': 'saved'} if small.folder else {}),
      'phases': [str(phase) for phase in (labels_alone, *phases)],
      # Not steps_per_call, by which a result differs in its rounding alone, nor
      # stitch, which changes none.
      'training': f'{batch_size=} {seed=} {precision=}',
      'task': f'{type(task).__module__}.{task}',
      'preprocess': str(dataset.preprocess),
    },
    stitch=stitch,
  )
  return runner.run(job, pathlib.Path(workdir), observer)


class _Network(NamedTuple):
  """A network that was given.

  Attributes:
    network: as `models.build` takes it.
    net: the same, built.
    folder: where its variables are saved; '' for none.
  """

  network: jobs.Network
  net: BlockNet
  folder: str


def _read(role, given: Given, precision, data_name) -> _Network:
  folder = ''
  if isinstance(given, str | os.PathLike):
    found = teachers.given_folder(os.fspath(given), data_name)
    folder, given = str(found), saved.load(found)[0].spec or {}
  if not isinstance(given, BlockNet | Mapping):
    raise UserError(
      f'{role}: a {type(given).__name__} is no BlockNet; cut the network into '
      'stem, blocks and head: BlockNet(stem, blocks, head, example)'
    )
  net = models.build(given, policy(precision).dtype)
  checks.check_reads(role, net)
  return _Network(given, net, folder)


def _dataset(train, test, preprocess, class_names, name) -> Dataset:
  splits = {'train': _split('train', train), 'test': _split('test', test)}
  content = f'{checks.checksum([split.inputs for split in splits.values()]):x}'
  preprocess = preprocess or usual(splits['train'].inputs)
  return Dataset(
    name, splits, len(class_names), preprocess, class_names, content
  )


def _split(name, pair) -> Split:
  if not isinstance(pair, tuple | list) or len(pair) != 2:
    raise UserError(f'{name} is no pair of inputs and labels')
  # Lists of numbers become arrays, and so do the arrays of other libraries.
  return Split(*(jax.tree.map(np.asarray, part) for part in pair))


def _classify(teacher, dataset):
  if dataset.classes:
    return Classify(dataset.classes)
  output = blocks.cut_shapes(teacher)['head']
  if not isinstance(output, tuple) or len(output) != 1:
    raise UserError(
      f"the teacher's output has the shape {output}, which are no logits of "
      'classes; give the task that it is for'
    )
  return Classify(output[0])


def usual_phases(
  teacher: BlockNet,
  student: BlockNet,
  objective: Objective,
  epochs: int,
  learning_rate: float,
) -> tuple[Phase, Phase]:
  """LIT and fine-tuning, as `compress` has them.

  Args:
    teacher: of the student.
    student: gets the teacher's stem and head, where they are equal in both.
    objective: of the LIT phase.
    epochs: of both together.
    learning_rate: of the LIT phase.
  """
  share, lower = _FINETUNE
  finetune = max(1, round(epochs * share))
  copy = state.equal_parts(
    blocks.shapes(teacher), blocks.shapes(student), ('stem', 'head')
  )
  return (
    Phase(
      'lit',
      objective,
      max(1, epochs - finetune),
      learning_rate,
      schedule='cosine',
      copy=copy,
      frozen=copy,
    ),
    Phase(
      'finetune',
      objective.replace(beta=1.0),
      finetune,
      lower * learning_rate,
      schedule='cosine',
    ),
  )


def _known(given: _Network) -> dict[str, Any]:
  """What tells a network from another, as JSON values; code is not compared."""
  if not isinstance(given.network, BlockNet):
    return dict(given.network)
  # Functions among the attributes have addresses, which differ each time.
  written = re.sub(r' at 0x[0-9a-f]+', '', repr(given.net))
  return {'modules': written} | {
    name: [part.depth, part.parameters, part.macs, str(part.output_shape)]
    for name, part in summary(given.net).parts.items()
  }
