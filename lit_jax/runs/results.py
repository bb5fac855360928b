"""What `results.json` says of a whole run."""

import importlib.metadata
import shlex
import sys
from typing import Any

import jax

from lit_jax.runs.jobs import Job, JsonRow
from lit_jax.training import startup

_REPORTED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def results(job: Job, found: list[JsonRow]) -> dict[str, Any]:
  """Its content.

  Args:
    job: what was to be done.
    found: the rows so far, in the order of the table.
  """
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
  if job.dataset.scored == 'validation':
    examples = job.dataset.splits['validation'].examples
    notes.append(
      f'Scored on the {examples} held-out training examples, and on no test '
      'example.'
    )
  return {
    'dataset': job.dataset.name,
    'classes': list(job.dataset.class_names),
    'seed': job.training.seed,
    'columns': columns,
    'selects': job.task.selects.key,
    'selects_largest': job.task.selects.largest,
    'loss_name': job.task.loss_name,
    'notes': notes,
    'rows': found,
    'device': _device(),
    'versions': versions(),
    'command': command(),
  }


def versions() -> dict[str, str]:
  """Of the packages that numbers depend on."""
  return {name: importlib.metadata.version(name) for name in _REPORTED}


def _device():
  devices = jax.local_devices()
  return (
    f'{len(devices)} x {devices[0].device_kind}, {startup.cores()} CPU cores'
  )


def program() -> list[str]:
  """What of this process's command line stands behind `python`."""
  # `python -m package.module` leaves the module's path in argv[0].
  spec = getattr(sys.modules.get('__main__'), '__spec__', None)
  if spec and spec.name:
    return ['-m', spec.name.removesuffix('.__main__'), *sys.argv[1:]]
  return list(sys.argv)


def command() -> str:
  """The command line of this process."""
  return shlex.join(['python', *program()])
