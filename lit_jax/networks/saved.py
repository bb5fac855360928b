"""One trained network in a folder: `network.json` and Orbax arrays.

This is what is left of a student when training is over, and what a teacher is
read from. The JSON file says which network it is and what is known of it.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lit_jax import models
from lit_jax.blocks import shapes
from lit_jax.errors import UserError

EMBEDDED = 'embedded'
_EMBEDDED_FOLDER = pathlib.Path(__file__).parent / 'teachers'
_JSON, _ARRAYS = 'network.json', 'arrays'


def embedded(dataset: str) -> pathlib.Path:
  """Folder of the teacher that comes with the package, for that data set."""
  # The small set is cut from the whole one.
  return _EMBEDDED_FOLDER / dataset.removesuffix('_mini')


def save(
  folder: pathlib.Path,
  spec: Mapping[str, Any],
  variables: Mapping[str, Any],
  facts: Mapping[str, Any],
) -> None:
  """Writes a network; the folder appears whole or not at all.

  Args:
    folder: must not exist yet, or is replaced.
    spec: what `models.build` makes the network from.
    variables: 'params' and 'batch_stats'.
    facts: JSON values kept beside it (data set, accuracy …).
  """
  part = folder.with_name(folder.name + '.part')
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(
      (part / _ARRAYS).resolve(), jax.tree.map(np.asarray, dict(variables))
    )
  text = json.dumps({'spec': dict(spec), 'facts': dict(facts)}, indent=2)
  (part / _JSON).write_text(text + '\n')
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(part, folder)


def exists(folder: pathlib.Path) -> bool:
  return (folder / _JSON).is_file()


def describe(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """The specification and the facts of a saved network.

  Raises:
    UserError: no network there, or its JSON is damaged.
  """
  path = folder / _JSON
  try:
    content = json.loads(path.read_text())
    return content['spec'], content['facts']
  except (OSError, ValueError, KeyError, TypeError):
    raise UserError(
      f'no readable network in {folder}: {_JSON} is missing or damaged; name '
      'the folder of a saved network, such as WORKDIR/lit/student'
    ) from None


def load(
  folder: pathlib.Path, spec: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Reads a network.

  Args:
    folder: written by `save`.
    spec: the network that is wanted; None takes any.

  Returns:
    Its specification, variables (float32 arrays), and facts.

  Raises:
    UserError: no network there, another architecture, or damaged arrays.
  """
  found, facts = describe(folder)
  if spec is not None:
    _check_spec(folder, found, spec)
  template = shapes(models.build(found))
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      variables = checkpointer.restore((folder / _ARRAYS).resolve(), template)
  except Exception as error:  # Orbax raises many kinds for a damaged folder.
    raise UserError(
      f'cannot read the arrays of {folder} ({first_line(error)}); copy the '
      'folder again or train it anew'
    ) from None
  return found, variables, facts


def _check_spec(folder, found, wanted):
  # Through JSON, so that tuples and lists compare equal.
  wanted = json.loads(json.dumps(dict(wanted)))
  differing = sorted(
    key
    for key in found.keys() | wanted.keys()
    if found.get(key) != wanted.get(key)
  )
  if differing:
    details = ', '.join(
      f'{key} {found.get(key)} (wanted {wanted.get(key)})' for key in differing
    )
    raise UserError(
      f'{folder} holds another network than the configuration asks for: '
      f'{details}'
    )


def first_line(error: BaseException) -> str:
  """The first line of an error's text, shortened, for one-line messages."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  # TensorStore ends its messages with where to find more.
  return lines[0].split('. See full')[0][:160]
