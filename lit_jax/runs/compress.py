"""`lit_jax.compress`: networks of the user's own, defaults for the rest."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lit_jax import blocks
from lit_jax.blocks import BlockNet
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import Preprocess, usual
from lit_jax.errors import UserError
from lit_jax.networks.summary import summary
from lit_jax.objectives import Objective, scratch
from lit_jax.runs import checks, jobs, runner
from lit_jax.runs.phases import TEACHER, Method, Phase, Training
from lit_jax.tasks.classify import Classify
from lit_jax.training import state
from lit_jax.training.interrupt import Observer
from lit_jax.training.task import Task

# The fine-tuning's share of the epochs, and of the learning rate.
_FINETUNE = 0.3, 0.1


def compress(
  teacher: BlockNet,
  student: BlockNet,
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
  steps_per_call: int = 8,
  observer: Observer | None = None,
) -> dict[str, Any]:
  """Compresses a network by LIT: the teacher's training, LIT, fine-tuning.

  The workdir holds the trained networks (`networks.saved.load(DIR, student)`
  reads them), checkpoints, the table and `report.html`. The same call goes on
  where it was stopped, and only reports when all is done.

  Args:
    teacher: the deep network.
    student: the shallow one; `check_pair` says whether the two fit.
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
    precision: 'fp16' scales the loss. What the networks compute in is said by
      their own modules.
    steps_per_call: how many steps one call of the program makes.
    observer: told of the first steps, and asked whether to stop.

  Returns:
    The content of `results.json`.

  Raises:
    UserError: networks, data or settings that do not fit; one line.
    Interrupted: asked to stop; saved.
  """
  _check_network('teacher', teacher)
  _check_network('student', student)
  dataset = _dataset(train, test, preprocess)
  task = task or _classify(teacher)
  objective = objective or Objective(
    0.95, 0.75, 6.0, output_loss=task.output_loss
  )
  phases = phases or _phases(teacher, student, objective, epochs, learning_rate)
  labels_alone = Phase(
    'train', scratch(task.output_loss), epochs, learning_rate, schedule='cosine'
  )
  training = Training(batch_size, seed, precision, steps_per_call, 'last')
  job = jobs.Job(
    dataset=dataset,
    task=task,
    teacher=teacher,
    teacher_checkpoint='',
    teacher_variables=teacher_variables,
    teacher_method=Method(TEACHER, (labels_alone,)),
    students=(
      jobs.Student(student, Method('lit', phases), variables=student_variables),
    ),
    training=training,
    config={
      'teacher': _known(teacher),
      'student': _known(student),
      'phases': [str(phase) for phase in (labels_alone, *phases)],
      # Not steps_per_call, by which a result differs in its rounding alone.
      'training': f'{batch_size=} {seed=} {precision=}',
      'task': f'{type(task).__module__}.{task}',
      'preprocess': str(dataset.preprocess),
    },
  )
  return runner.run(job, pathlib.Path(workdir), observer)


def _dataset(train, test, preprocess) -> Dataset:
  splits = {'train': _split('train', train), 'test': _split('test', test)}
  content = f'{checks.checksum([split.inputs for split in splits.values()]):x}'
  preprocess = preprocess or usual(splits['train'].inputs)
  return Dataset('own', splits, 0, preprocess, content=content)


def _split(name, pair) -> Split:
  if not isinstance(pair, tuple | list) or len(pair) != 2:
    raise UserError(f'{name} is no pair of inputs and labels')
  # Lists of numbers become arrays, and so do the arrays of other libraries.
  return Split(*(jax.tree.map(np.asarray, part) for part in pair))


def _check_network(role, net):
  if not isinstance(net, BlockNet):
    raise UserError(
      f'{role}: a {type(net).__name__} is no BlockNet; cut the network into '
      'stem, blocks and head: BlockNet(stem, blocks, head, example)'
    )
  checks.check_reads(role, net)


def _classify(teacher):
  output = blocks.cut_shapes(teacher)['head']
  if not isinstance(output, tuple) or len(output) != 1:
    raise UserError(
      f"the teacher's output has the shape {output}, which are no logits of "
      'classes; give the task that it is for'
    )
  return Classify(output[0])


def _phases(teacher, student, objective, epochs, learning_rate):
  """LIT and fine-tuning, whose epochs are `epochs` together."""
  share, lower = _FINETUNE
  finetune = max(1, round(epochs * share))
  copy = _equal_ends(teacher, student)
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


def _equal_ends(teacher, student):
  """Stem and head, where they are the same in both and can be copied."""
  found = []
  for part in ('stem', 'head'):
    try:
      state.copy_parts(blocks.shapes(teacher), blocks.shapes(student), (part,))
      found.append(part)
    except UserError:
      pass
  return tuple(found)


def _known(net) -> dict[str, Any]:
  """What tells a network from another, as JSON values; code is not compared."""
  # Functions among the attributes have addresses, which differ each time.
  written = re.sub(r' at 0x[0-9a-f]+', '', repr(net))
  return {'modules': written} | {
    name: [part.depth, part.parameters, part.macs, str(part.output_shape)]
    for name, part in summary(net).parts.items()
  }
