"""One trained network in a folder: `network.json` and Orbax arrays.

This is what is left of a student when training is over, and what a teacher is
read from. The JSON file says which network it is, what it must be fed with,
and what is known of it.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lit_jax import hosts, models
from lit_jax.blocks import BlockNet, shapes
from lit_jax.errors import UserError, first_line, shown
from lit_jax.files import read_json, sync_folder, write_json

EMBEDDED = 'embedded'
_EMBEDDED_FOLDER = pathlib.Path(__file__).parent / 'teachers'
# Students that come with the project, beside the package.
STUDENTS = pathlib.Path(__file__).parents[2] / 'students'
_JSON, _ARRAYS, _OTHERS = 'network.json', 'arrays', 'others'
_MEND = 'copy the folder again or train it anew'
# What JSON has for each fact.
_KINDS: dict[str, tuple[type, ...]] = {
  'spec': (dict, type(None)),
  'dataset': (str,),
  'classes': (list,),
  'input': (dict,),
  'precision': (str,),
  'digest': (str,),
  'row': (dict,),
  'others': (dict,),
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a saved network is, beside its arrays; JSON values.

  Attributes:
    spec: what `models.build` makes the network from; None where it was given
      as a BlockNet.
    dataset: name of the data set that it was trained on.
    classes: names of its classes, [] where they are their numbers.
    input: what it must be fed with (`Preprocess.facts`).
    precision: that it was trained in: 'fp32', 'bf16' or 'fp16'.
    digest: of its arrays (`digest`).
    row: its row of `results.json`, without how long it takes.
    others: digests of the networks that its task trained beside it and that
      are kept with it, by name.
  """

  spec: dict[str, Any] | None
  dataset: str
  classes: list[str]
  input: dict[str, Any]
  precision: str
  digest: str
  row: dict[str, Any]
  others: dict[str, str] = dataclasses.field(default_factory=dict)


def embedded(dataset: str) -> pathlib.Path:
  """Folder of the teacher that comes with the package, for that data set."""
  # The small set is cut from the whole one.
  return _EMBEDDED_FOLDER / dataset.removesuffix('_mini')


def find(name: str | os.PathLike[str]) -> pathlib.Path:
  """The folder of a network: that of this path, or of one that comes along.

  Args:
    name: a path, which goes first; the name of a folder in STUDENTS; or
      'embedded/NAME' for the package's teacher of that data set.
  """
  folder = pathlib.Path(name).expanduser()
  if folder.exists():
    return folder
  match folder.parts:
    case [student]:
      own = STUDENTS / student
    case [first, dataset] if first == EMBEDDED:
      own = embedded(dataset)
    case _:
      return folder
  return own if exists(own) else folder


def digest(variables: Mapping[str, Any]) -> str:
  """SHA-256 of the names, dtypes, shapes and bytes of all arrays, in hex."""
  result = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
    array = np.ascontiguousarray(leaf)
    name = jax.tree_util.keystr(path)
    result.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    result.update(array.tobytes())
  return result.hexdigest()


def save(
  folder: pathlib.Path,
  facts: Facts,
  variables: Mapping[str, Any],
  others: Mapping[str, Any] | None = None,
) -> Facts:
  """Writes a network; the folder appears whole or not at all.

  Args:
    folder: must not exist yet, or is replaced.
    facts: kept beside it; the digests are computed here.
    variables: 'params' and 'batch_stats'.
    others: the same of networks to be kept with it, by name. Who uses the
      network alone can remove their folder, `others`.

  Returns:
    The facts, with the digests.
  """
  arrays = _on_host(variables)
  beside = {name: _on_host(own) for name, own in (others or {}).items()}
  facts = dataclasses.replace(
    facts,
    digest=digest(arrays),
    others={name: digest(own) for name, own in beside.items()},
  )
  part = folder.with_name(folder.name + '.part')
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  with ocp.StandardCheckpointer(**hosts.orbax_options()) as checkpointer:
    checkpointer.save((part / _ARRAYS).resolve(), arrays)
    for name, own in beside.items():
      checkpointer.save((part / _OTHERS / name).resolve(), own)
  write_json(part / _JSON, dataclasses.asdict(facts))
  shutil.rmtree(folder, ignore_errors=True)
  os.replace(part, folder)
  sync_folder(folder.parent)
  return facts


def _on_host(variables):
  return jax.tree.map(np.asarray, dict(variables))


def exists(folder: pathlib.Path) -> bool:
  """Whether a saved network lies there."""
  return (folder / _JSON).is_file()


def describe(folder: pathlib.Path) -> Facts:
  """The facts of a saved network.

  Raises:
    UserError: no network there, its JSON is damaged, or facts are missing.
  """
  path = folder / _JSON
  try:
    content = dict(read_json(path))
  except (OSError, ValueError, TypeError):
    raise UserError(
      f'no readable network in {folder}: {_JSON} is missing or damaged; name '
      'the folder of a saved network, such as WORKDIR/lit/student'
    ) from None
  fields = dataclasses.fields(Facts)
  names = [field.name for field in fields if field.name in content]
  if missing := [
    field.name
    for field in fields
    if field.name not in content
    and field.default_factory is dataclasses.MISSING
  ]:
    raise UserError(
      f'{path} does not say {", ".join(missing)}: it is damaged, or of an '
      'earlier version; train the network anew'
    )
  for name in names:
    if not isinstance(content[name], _KINDS[name]):
      raise UserError(
        f'{path}: {name} is {shown(content[name])}, which no network has; '
        f'{_MEND}'
      )
  return Facts(**{name: content[name] for name in names})


def annotate(folder: pathlib.Path, row: Mapping[str, Any]) -> None:
  """Changes the row that a saved network has, whole or not at all.

  Raises:
    UserError: as `describe`.
  """
  facts = dataclasses.replace(describe(folder), row=dict(row))
  write_json(folder / _JSON, dataclasses.asdict(facts))


def check(folder: pathlib.Path) -> Facts:
  """The facts of a saved network, after a look at all its arrays.

  Raises:
    UserError: as `load`.
  """
  facts = describe(folder)
  _restored(folder, folder / _ARRAYS, None, facts.digest)
  for name, wanted in facts.others.items():
    if (arrays := folder / _OTHERS / name).exists():
      _restored(folder, arrays, None, wanted, f'the {name}')
  return facts


def load(
  folder: str | os.PathLike[str],
  wanted: Mapping[str, Any] | BlockNet | None = None,
) -> tuple[Facts, dict[str, Any]]:
  """Reads a network.

  Args:
    folder: written by `save`, or a name that `find` knows.
    wanted: its specification or the network itself; None takes any of
      lit_jax's own families. Other code is run where the caller names it, never
      because a file does.

  Returns:
    Its facts and variables (float32 arrays).

  Raises:
    UserError: no network there, another architecture, or damaged arrays.
  """
  folder = find(folder)
  facts = describe(folder)
  if wanted is not None and not isinstance(wanted, BlockNet):
    _check_spec(folder, facts.spec or {}, wanted)
  arrays = folder / _ARRAYS
  if wanted is not None:
    template = shapes(models.build(wanted))
    return facts, _restored(folder, arrays, template, facts.digest)
  if facts.spec is None:
    raise UserError(
      f'{folder} holds a network that was given as a BlockNet; give that '
      'BlockNet to load it'
    )
  variables = _restored(folder, arrays, None, facts.digest)
  layers = len(jax.tree.leaves(variables))
  _check_shapes(folder, variables, _described(folder, facts.spec, layers))
  return facts, variables


def load_others(
  folder: pathlib.Path, templates: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Reads the networks that are kept with one.

  Args:
    folder: written by `save`.
    templates: the variables' shapes and dtypes, by name.

  Returns:
    The variables of each of those names that is there.

  Raises:
    UserError: as `load`.
  """
  kept = describe(folder).others
  return {
    name: _restored(
      folder, folder / _OTHERS / name, template, kept[name], f'the {name}'
    )
    for name, template in templates.items()
    if name in kept and (folder / _OTHERS / name).exists()
  }


def _restored(
  folder, arrays, template, wanted, what='the arrays'
) -> dict[str, Any]:
  """The variables, after a look at their digest; without a template any."""
  try:
    with ocp.StandardCheckpointer(**hosts.orbax_options()) as checkpointer:
      variables = checkpointer.restore(arrays.resolve(), template)
  except Exception as error:  # Orbax raises many kinds for a damaged folder.
    raise _unreadable(folder, what, first_line(error)) from None
  if template is not None:
    _check_shapes(folder, variables, template, what)
  if digest(jax.device_get(variables)) != wanted:
    raise _unreadable(folder, what, 'they are not those that were saved')
  return variables


def _check_shapes(folder, variables, template, what='the arrays'):
  """Orbax does not look at them."""
  found, expected = (
    jax.tree.map(lambda leaf: tuple(leaf.shape), tree)
    for tree in (variables, template)
  )
  if found != expected:
    raise _unreadable(folder, what, 'they have other shapes than are asked for')


def _described(folder, spec, most) -> dict[str, Any]:
  """The shapes of what a file says, of that many layers at most."""
  family = spec.get('family')
  if not isinstance(family, str) or family not in models.FAMILIES:
    raise UserError(
      f'{folder} holds a network of the family {shown(family)}, which is no '
      'part of lit_jax; where you trust that code, give the specification '
      'to load it'
    )
  try:
    # Of millions of layers the shapes alone would take hours.
    if max(spec.get('depth', 0), sum(spec.get('units', ()))) > most:
      raise ValueError(f'it has {most} arrays for more layers')
    return shapes(models.build(spec))
  except Exception as error:  # Whatever a family does with other values.
    raise UserError(
      f'{folder / _JSON} describes no network ({first_line(error)}); {_MEND}'
    ) from None


def _unreadable(folder, what, why):
  return UserError(f'cannot read {what} of {folder} ({why}); {_MEND}')


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
