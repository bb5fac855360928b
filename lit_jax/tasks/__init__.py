"""What families of networks are trained for, one file each.

A task is a class with the attributes and methods of `training.task.Task`, and
`of(dataset)`, which makes one from what the data say.
"""

from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError, imported
from lit_jax.tasks.classify import Classify
from lit_jax.training.task import Task

TASKS = {'classify': Classify}


def build(name: str, dataset: Dataset) -> Task:
  """The task of that name, for these data.

  Args:
    name: a key of TASKS, or the import path of a class of the user's own,
      'my_package.tasks:Regress'.
    dataset: says what else there is to know, such as the number of classes.

  Raises:
    UserError: no such task.
  """
  task = imported('task', name, TASKS)
  if not hasattr(task, 'of'):
    raise UserError(f'task {name!r} has no `of` that makes one for the data')
  return task.of(dataset)
