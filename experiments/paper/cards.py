"""A card for every trained student: what it is, how it was made, how good."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lit_jax.files import write_text
from lit_jax.networks import saved
from lit_jax.runs.jobs import Job
from lit_jax.runs.phases import TEACHER, Method

FILE = 'card.md'


def write(
  folder: pathlib.Path,
  job: Job,
  method: Method,
  row: Mapping[str, Any],
  results: Mapping[str, Any],
) -> None:
  """Writes the card of a student into the folder of its network.

  Args:
    folder: of the saved network.
    job: that trained it.
    method: by which.
    row: its row.
    results: the content of `results.json`.
  """
  facts = saved.describe(folder)
  teacher = next((r for r in results['rows'] if r['method'] == TEACHER), None)
  columns = {c['key']: c for c in results.get('columns', ())}
  lines = [
    f'# {row["model"]} by {method.name}, {facts.dataset}',
    '',
    f'- Network: {row["model"]}, {row["depth"]} layers, '
    f'{row["parameters"]:,} parameters, {row["macs"]:,} multiply-accumulates.',
    f'- Data: `{facts.dataset}`, {_sizes(job)}.',
    f'- Classes: {", ".join(facts.classes) or "by number"}.',
    *_teacher(teacher, columns),
    f'- Scores on the {job.dataset.scored} split: {_scores(row, columns)}.',
    f'- Seed {row.get("seed", job.training.seed)}, batch '
    f'{job.training.batch_size}, {job.training.precision}; {row["epochs"]:g} '
    f'epochs in {row["train_seconds"]:.0f} s on {results["device"]}.',
    *_recipe(job, method, row['method']),
    f'- Made by `{results["command"]}`, jax {results["versions"]["jax"]}.',
    f'- Digest of the arrays: `{facts.digest}`.',
    '',
    'The network is fed with what `network.json` says under `input`:',
    '',
    '```python',
    'from lit_jax import models',
    'from lit_jax.networks import saved',
    '',
    "facts, variables = saved.load('THIS FOLDER')",
    'output, irs = models.build(facts.spec).apply(variables, inputs)',
    '```',
    '',
  ]
  write_text(folder / FILE, '\n'.join(lines))


def _sizes(job):
  return ', '.join(
    f'{split.examples:,} {name} examples'
    for name, split in job.dataset.splits.items()
  )


def _recipe(job, method, name) -> Sequence[str]:
  """The phases, of a population with the member's own objectives."""
  member = next(m for m in method.members(job.training) if m.name == name)
  own = [
    dataclasses.replace(phase, objective=objective)
    for phase, objective in zip(method.phases, member.objectives, strict=True)
  ]
  return [f'- Phase {i + 1}: `{phase}`' for i, phase in enumerate(own)]


def _teacher(row, columns) -> Sequence[str]:
  if row is None:
    return ()
  return (f'- Teacher: {row["model"]}; {_scores(row, columns)}.',)


def _scores(row, columns) -> str:
  found = []
  for key, column in columns.items():
    value = row.get(key)
    if isinstance(value, int | float):
      percent = column['format'] == 'percent'
      text = f'{100 * value:.2f} %' if percent else f'{value:.4g}'
      found.append(f'{column.get("label", key.replace("_", " "))} {text}')
  return ', '.join(found)
