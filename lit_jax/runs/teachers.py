"""Where a teacher comes from: given, trained in this run, a student before."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from lit_jax import models
from lit_jax.blocks import BlockNet, shapes
from lit_jax.data.dataset import Dataset
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.runs import workdir
from lit_jax.runs.jobs import Job
from lit_jax.runs.phases import TEACHER
from lit_jax.runs.train import Teacher
from lit_jax.training import devices
from lit_jax.training.precision import policy
from lit_jax.training.state import STUDENT, Variables
from lit_jax.training.task import Task


def given(job: Job) -> Teacher:
  """The teacher that comes trained.

  Raises:
    UserError: as `read` and `in_memory`.
  """
  net = job.build(job.teacher)
  if job.teacher_variables is not None:
    return in_memory(job.teacher_variables, job.dataset, net)
  folder = given_folder(job.teacher_checkpoint, job.dataset.name)
  return read(
    folder, job.dataset, job.training.precision, job.teacher, job.task
  )


def given_digest(job: Job) -> str:
  """The digest of the teacher that comes trained."""
  return digest(job.teacher_variables, job.teacher_checkpoint, job.dataset.name)


def digest(
  variables: Mapping[str, Any] | None, checkpoint: str, dataset_name: str
) -> str:
  """The digest of variables that a user gave, or else of a saved network.

  Args:
    variables: 'params', and 'batch_stats'.
    checkpoint: as `given_folder` takes it, with the data set's name.
    dataset_name: of the run's data.
  """
  if variables is not None:
    return saved.digest(_complete(variables))
  return saved.describe(given_folder(checkpoint, dataset_name)).digest


def given_folder(checkpoint: str, dataset_name: str) -> pathlib.Path:
  """The folder of the teacher that the user named.

  Args:
    checkpoint: 'embedded', the folder of a saved network, the name of one that
      comes along (`saved.find`), or a workdir whose teacher is meant.
    dataset_name: for which one is embedded.

  Raises:
    UserError: none is embedded for that data set.
  """
  if checkpoint != saved.EMBEDDED:
    return of_name(checkpoint)
  folder = saved.embedded(dataset_name)
  if not saved.exists(folder):
    raise UserError(
      f'no teacher is embedded for {dataset_name}; train one '
      '(checkpoint empty) or name the folder of one'
    )
  return folder


def of_name(name: str) -> pathlib.Path:
  """The folder that `saved.find` finds; of a workdir, that of its teacher."""
  folder = saved.find(name)
  inside = workdir.network(folder, TEACHER, TEACHER)
  return inside if saved.exists(inside) else folder


def read(
  folder: pathlib.Path,
  dataset: Dataset,
  precision: str,
  wanted: models.Spec | BlockNet | None = None,
  task: Task | None = None,
) -> Teacher:
  """A saved network that teaches, fed with what it was trained on.

  Args:
    folder: of the network.
    dataset: whose classes it must know.
    precision: that it computes in.
    wanted: the network that it must be; None takes any.
    task: whose other networks are read with it, where they were kept.

  Raises:
    UserError: no such network, a damaged one, or one of other classes or data.
  """
  facts, variables = saved.load(folder, wanted)
  names = list(dataset.class_names)
  if facts.classes and names and facts.classes != names:
    raise UserError(
      f'{folder} tells the classes {", ".join(facts.classes)} apart, and '
      f'{dataset.name} has {", ".join(names)}; take a network of the same '
      'classes in the same order'
    )
  net = models.build(wanted or facts.spec or {}, policy(precision).dtype)
  preprocess = _fed_by(folder, facts, dataset)
  others = saved.load_others(folder, _others(task, net)) if task else {}
  variables, others = devices.replicate((variables, others))
  return Teacher(net, variables, preprocess, others)


def _others(task, net):
  """Shapes of the networks that a task trains beside this one."""
  learners = jax.eval_shape(lambda: task.fresh(net, jax.random.key(0)))
  return {name: v for name, v in learners.items() if name != STUDENT}


def in_memory(
  variables: Mapping[str, Any], dataset: Dataset, net: BlockNet
) -> Teacher:
  """A trained network that teaches, fed with the data as the students are.

  Raises:
    UserError: variables of another network.
  """
  found = checked('the teacher', variables, net)
  return Teacher(net, devices.replicate(found), dataset.preprocess)


def checked(
  whose: str, variables: Mapping[str, Any], net: BlockNet
) -> Variables:
  """Variables that a user gave, with 'batch_stats' even where there are none.

  Args:
    whose: they are, for messages.
    variables: 'params', and 'batch_stats'.
    net: the network that they must be of.

  Raises:
    UserError: they are of another network.
  """
  found = _complete(variables)
  if jax.tree.map(_shape, found) != jax.tree.map(_shape, shapes(net)):
    raise UserError(
      f'the variables of {whose} are not those of its network; give '
      "{'params': …, 'batch_stats': …} as blocks.init makes them"
    )
  return found


def _complete(variables):
  return {'batch_stats': {}} | dict(variables)


def _shape(leaf):
  return tuple(leaf.shape)


def _fed_by(folder, facts, dataset) -> Preprocess:
  try:
    return dataset.preprocess.fed_by(facts.input)
  except (UserError, KeyError, TypeError) as error:
    raise UserError(
      f'{folder} cannot be fed with {dataset.name}: {error}'
    ) from None
