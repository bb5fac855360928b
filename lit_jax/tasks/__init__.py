"""What families of networks are trained for, one file each.

A task is a class with the attributes and methods of `training.task.Task`, and
`of(dataset)`, which makes one from what the data say.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError, imported
from lit_jax.tasks.attributes import Attributes
from lit_jax.tasks.classify import Classify
from lit_jax.tasks.translate import Translate
from lit_jax.training.task import Task

TASKS = {
  'attributes': Attributes,
  'classify': Classify,
  'translate': Translate,
}


def find(name: str) -> Any:
  """The class of that name: a key of TASKS, or an import path of one's own.

  Raises:
    UserError: no such task.
  """
  task = imported('task', name, TASKS)
  if not callable(getattr(task, 'of', None)):
    raise UserError(f'task {name!r} has no `of` that makes one for the data')
  return task


def options(name: str) -> tuple[str, ...]:
  """The names of what the task's `of` takes beside the data.

  Raises:
    UserError: no such task.
  """
  return tuple(inspect.signature(find(name).of).parameters)[1:]


def build(
  name: str, dataset: Dataset, settings: Mapping[str, Any] | None = None
) -> Task:
  """The task of that name, for these data.

  Args:
    name: a key of TASKS, or the import path of a class of the user's own,
      'my_package.tasks:Regress'.
    dataset: says what else there is to know, such as the number of classes.
    settings: of which the task takes those that its `of` names.

  Raises:
    UserError: no such task.
  """
  known = options(name)
  own = {k: v for k, v in (settings or {}).items() if k in known}
  return find(name).of(dataset, **own)
