"""What a configuration can hold: every key, and the type of its value.

Beside these, the ranges of what a configuration alone has. The numbers that a
phase, an objective or a network can have are said in `lit_jax`, for who comes
without a configuration needs them too.
"""

import functools
import inspect
import unicodedata
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pydantic
from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError
from pydantic import AfterValidator, BeforeValidator, Field

from lit_jax import models, tasks
from lit_jax.data.portraits.sources import PortraitOptions
from lit_jax.data.texts.sources import TextOptions
from lit_jax.errors import UserError, imported, near, shown
from lit_jax.runs.phases import JUDGE, STUDENT, TEACHER, check_name

# Control characters, halves of characters, and what separates lines.
_NO_TEXT = 'Cc', 'Cs', 'Zl', 'Zp'


def _one_line(text):
  if any(unicodedata.category(c) in _NO_TEXT for c in text):
    raise ValueError('it must be one line of text')
  return text


def _as_tuple(value):
  return tuple(value) if isinstance(value, list) else value


# As long as a path can be.
Text = Annotated[str, Field(max_length=4096), AfterValidator(_one_line)]
# Of 64 bits, so that it can be computed with and shown.
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Integers = Annotated[tuple[Integer, ...], BeforeValidator(_as_tuple)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]
Pair = Annotated[tuple[float, float], BeforeValidator(_as_tuple)]
Sheet = dict[str, Any]

# Of what functions of lit_jax are annotated with.
_TYPES = {str: Text, int: Integer, Sequence[int]: Integers}


def _taken(function: Callable[..., Any], *without: str) -> dict[str, Any]:
  """Fields of what a function takes, each of which may be absent."""
  return {
    name: (_TYPES.get(own.annotation, own.annotation), None)
    for name, own in inspect.signature(function).parameters.items()
    if name not in without
  }


class _Keys(pydantic.BaseModel):
  """Of a sheet; those without a default must be there."""

  # An integer is a number, but nothing else is taken for another kind.
  model_config = pydantic.ConfigDict(strict=True, extra='forbid', frozen=True)


class Phase(_Keys):
  """Those of `experiments.configs.resnet.phase`."""

  epochs: Integer
  learning_rate: float
  optimizer: Literal['sgd', 'adam']
  schedule: Text
  milestones: Numbers
  decay: float
  warmup_epochs: float
  alpha: float
  beta: float
  temperature: float
  ir_loss: Text
  blocks: Text
  teacher_input: bool
  anneal_input: bool
  running_statistics: Text
  output_loss: Text
  # What pydantic's models have is no name of a field.
  copied: Text = Field(alias='copy')
  frozen: Text
  sparsity: float
  prune_by: Text


class Population(_Keys):
  """Lists of numbers, as texts."""

  seed: Text
  alpha: Text
  beta: Text
  temperature: Text


_DATA = _taken(TextOptions) | _taken(PortraitOptions)
Data = pydantic.create_model(
  'Data',
  __base__=_Keys,
  __doc__='Of all kinds of data; `lit_jax.data.sources` says which take what.',
  **_DATA,
)


class Common(_Keys):
  """What every configuration has beside its phases."""

  task: Text
  dataset: Text
  data_dir: Text
  validation: Natural
  score_on: Literal['test', 'validation']
  train_examples: Natural
  method: Text
  full_depth: Text
  seed: Integer
  sequence: Text
  data_seed: Integer
  population: Sheet
  precision: Text
  deterministic: bool
  tracker: Text
  batch_size: Integer
  sync_batch_norm: bool
  devices: Annotated[Integer, Field(ge=0, le=10**6)]
  examples_per_device: Annotated[Integer, Field(ge=1)]
  examples_per_gpu: Annotated[Integer, Field(ge=1)]
  repeats: Annotated[Integer, Field(ge=1, le=10**6)]
  momentum: float
  weight_decay: float
  adam_betas: Pair
  select: Text
  steps_per_call: Integer
  stitch: bool
  epochs_scale: Annotated[float, Field(gt=0, le=10**6)]
  teacher: Sheet
  student: Sheet
  methods: dict[str, Text]


_SOME: dict[str, Any] = {
  'data': (Sheet, None),
  'crop': (bool, None),
  'flip': (bool, None),
  'shift': (Integer, None),
  'noise': (float, None),
  'baseline': (Text, None),
  'judge': (Sheet, None),
}
_OF_TASKS = {
  name: field
  for task in tasks.TASKS.values()
  for name, field in _taken(task.of, 'dataset').items()
}
Settings = pydantic.create_model(
  'Settings',
  __base__=Common,
  __doc__='Those, and what some data, tasks or rows have beside.',
  **_OF_TASKS,
  **_SOME,
)


class OwnNetwork(_Keys):
  """Of the user's own family, whose function says what else it takes."""

  model_config = pydantic.ConfigDict(extra='allow')

  family: Text
  checkpoint: Text = ''


@functools.cache
def _network(family: str, saved: bool) -> type[pydantic.BaseModel]:
  """The options of a family; `saved` where a network may be given."""
  fields = _taken(models.FAMILIES[family], 'dtype')
  fields['family'] = Text, ...
  if saved:
    fields['checkpoint'] = Text, ''
  return pydantic.create_model('Network', __base__=_Keys, **fields)


def check(config: Any) -> None:
  """Finds keys that are unknown, missing, or have a value of another kind.

  Args:
    config: what `get_config` returned.

  Raises:
    UserError: names the key, its value and what is wanted.
  """
  if not isinstance(config, ConfigDict):
    raise UserError(
      f'the configuration is {shown(config)}; let get_config return an '
      'ml_collections.ConfigDict, as experiments/configs/resnet.py does'
    )
  try:
    values = config.to_dict()
  except RequiredValueError:
    raise UserError(
      'the configuration has a placeholder without a value; set it by a flag'
    ) from None
  own = _own_keys(values.get('task'))
  others = {k: v for k, v in values.items() if k not in own}
  phases = {k: v for k, v in others.items() if _is_phase(k, v, values)}
  _validate(Settings, {k: others[k] for k in others if k not in phases})
  tasks.find(values['task'])
  _validate(Population, values['population'], 'population.')
  _validate(Data, values.get('data', {}), 'data.')
  for name in values['methods']:
    check_name('method', name)
  for role in (TEACHER, STUDENT, JUDGE):
    if role in others:
      _check_network(role, others[role])
  for name, sheet in phases.items():
    _validate(Phase, sheet, f'{name}.')


def _own_keys(task) -> set[str]:
  """Those that a task of the user's own takes, whatever they are."""
  if not isinstance(task, str) or task in tasks.TASKS:
    return set()
  return {*tasks.options(task)} - {*Common.model_fields, *_SOME}


def _is_phase(name, value, values) -> bool:
  """Whether a key has a phase, or should have since a method names it."""
  if name in Settings.model_fields:
    return False
  if isinstance(value, dict) and 'learning_rate' in value:
    return True
  methods = values.get('methods')
  texts = methods.values() if isinstance(methods, dict) else ()
  return any(
    name in map(str.strip, text.split(','))
    for text in texts
    if isinstance(text, str)
  )


def _check_network(role, sheet) -> None:
  # Nothing is narrowed, which every family knows.
  sheet = {k: v for k, v in sheet.items() if (k, v) != ('inner', ())}
  family = sheet.get('family')
  if not isinstance(family, str) or ':' in family:
    _validate(OwnNetwork, sheet, f'{role}.')
    return
  imported(f'{role}.family', family, models.FAMILIES)
  # A judge is trained in every run.
  model = _network(family, saved=role != JUDGE)
  _validate(model, sheet, f'{role}.', f' of the family {family!r}')


# The line.

_SHEET = 'it must be a ConfigDict of keys, as in experiments/configs'
_WANTED = {
  'bool_type': 'it must be True or False',
  'dict_type': _SHEET,
  'float_type': 'it must be a number',
  'int_type': 'it must be an integer',
  'missing': 'a number is missing',
  'string_type': 'it must be a text',
  'tuple_type': 'it must be a tuple of numbers, such as (1, 2)',
}


def _validate(
  model: type[pydantic.BaseModel], values: Any, where: str = '', of: str = ''
) -> None:
  """Raises UserError unless the values are those of the model.

  Args:
    model: of a sheet.
    values: its keys and values.
    where: what stands before each key, such as 'lit.'.
    of: whose keys they are, for the message.
  """
  if not isinstance(values, dict):
    raise UserError(f'{_place(where[:-1])} is {shown(values)}; {_SHEET}')
  try:
    model.model_validate(values)
  except pydantic.ValidationError as error:
    found = error.errors(include_url=False)
  else:
    return
  # First, for what seems to be missing may be misspelt.
  first = min(found, key=lambda one: one['type'] != 'extra_forbidden')
  key, *below = first['loc']
  path = where + str(key)
  path += ''.join(f'[{i}]' if isinstance(i, int) else f'.{i}' for i in below)
  if first['type'] == 'extra_forbidden':
    known = [f.alias or name for name, f in model.model_fields.items()]
    raise UserError(
      f'unknown key {shown(path)}{of}{near(key, known)}; correct it, or leave '
      'it out'
    )
  if first['type'] == 'missing' and not below:
    raise UserError(
      f'the configuration lacks the key {shown(path)}; derive it from '
      'experiments/configs/resnet.py or vdcnn.py'
    )
  raise UserError(
    f'{_place(path)} is {shown(first["input"])}; {_wanted(first)}'
  )


def _place(path):
  """A key in a line; an odd one as Python writes it."""
  is_usual = path.isprintable() and len(path) <= 80
  return path if is_usual else shown(path)


def _wanted(error) -> str:
  """What pydantic says that a value should be, in this project's words."""
  if error['type'] in _WANTED:
    return _WANTED[error['type']]
  if error['type'] == 'value_error':
    return str(error['ctx']['error'])
  _, _, words = error['msg'].partition(' should ')
  words = words.replace('greater than or equal to', 'at least')
  return f'it must {words.replace("less than or equal to", "at most")}'
