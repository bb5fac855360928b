"""Configurations to the dataclasses of lit_jax."""

import dataclasses
import difflib
import itertools
import json
import math
from typing import Any

from ml_collections import ConfigDict

from lit_jax import compress, objectives, phases
from lit_jax.data import sources
from lit_jax.errors import UserError

# Another place of the data, or another method beside, changes no result.
_NOT_IN_CONFIG = ('data_dir', 'method')


# A ConfigDict, whose attributes are its keys; types know nothing of them.
Config = Any


def compression(config: Config) -> compress.Run:
  """A whole run from its configuration.

  Raises:
    UserError: an unknown method or phase, or data that cannot be read.
  """
  methods = _methods(config)
  teacher_phase = _phase(config, 'train_teacher')
  dataset = sources.load(config.dataset, config.data_dir)
  if config.validation:
    dataset = sources.hold_out(dataset, config.validation)
  shape = dataset.splits['train'].images.shape[1:]
  fitting = {'classes': dataset.classes, 'input_shape': list(shape)}
  teacher = _spec(config.teacher)
  checkpoint = teacher.pop('checkpoint')
  return compress.Run(
    dataset=dataset,
    teacher=teacher | fitting,
    student=_spec(config.student) | fitting,
    teacher_checkpoint=checkpoint,
    teacher_method=phases.Method(compress.TEACHER, (teacher_phase,)),
    methods=methods,
    training=phases.Training(
      batch_size=config.batch_size,
      seed=config.seed,
      precision=config.precision,
      momentum=config.momentum,
      weight_decay=config.weight_decay,
      steps_per_call=config.steps_per_call,
      select=config.select,
      crop=config.crop,
      data_seed=_data_seed(config, config.seed),
    ),
    config=as_json(config),
  )


def as_json(config: Config) -> dict[str, Any]:
  """What defines the run's results; a workdir takes one such."""
  values = json.loads(config.to_json_best_effort())
  return {k: v for k, v in values.items() if k not in _NOT_IN_CONFIG}


def student_names(config: Config) -> tuple[str, ...]:
  """The students that the configuration asks for, in the results' order."""
  return tuple(n for method in _methods(config) for n in method.names)


def _methods(config):
  names = _names(config.method, 'method')
  return tuple(_population(config, _method(config, name)) for name in names)


def _data_seed(config, seed):
  return seed if config.data_seed == -1 else config.data_seed


def _population(config, method):
  """The method, with a member for every combination of the given values."""
  tried = {
    key: _values(f'population.{key}', config.population[key])
    for key in ('seed', 'alpha', 'beta', 'temperature')
    if config.population[key]
  }
  if not tried:
    return method
  members = tuple(
    _member(config, method, dict(zip(tried, values, strict=True)))
    for values in itertools.product(*tried.values())
  )
  own = {(m.seed, m.data_seed, m.objectives) for m in members}
  if len(own) < len(members):
    raise UserError(
      f'population.{" and .".join(tried)} make members of {method.name} that '
      'are alike: beta weighs something where IRs are compared, alpha and '
      'temperature where there are soft labels; leave out what changes nothing'
    )
  return dataclasses.replace(method, population=members)


def _member(config, method, own):
  """A member of these values, named after them: 'lit-seed1-beta0.5'."""
  name = '-'.join(
    [method.name, *(f'{key}{value}' for key, value in own.items())]
  )
  seed = own.get('seed', config.seed)
  return phases.Member(
    name, seed, _data_seed(config, seed), _objectives(method, own)
  )


def _objectives(method, own):
  """Each phase's, with these α, β and τ where they weigh anything in it.

  β does in a phase that compares IRs, so that a fine-tuning keeps its β of 1;
  α and τ do where there are soft labels under that β.
  """
  result = []
  for phase in method.phases:
    objective = phase.objective
    if 'beta' in own and objective.needs_irs:
      objective = dataclasses.replace(objective, beta=own['beta'])
    if 'alpha' in own and objective.needs_soft_labels:
      objective = dataclasses.replace(objective, alpha=own['alpha'])
    # After α, for without soft labels every temperature is the same.
    if 'temperature' in own and objective.needs_soft_labels:
      temperature = own['temperature']
      objective = dataclasses.replace(objective, temperature=temperature)
    result.append(objective)
  return tuple(result)


def _values(what, text):
  """Different numbers from a comma list: integers for seeds."""
  kind = int if what.endswith('seed') else float
  try:
    values = tuple(kind(word) for word in _names(str(text), what))
  except ValueError:
    raise UserError(
      f'{what} is {text!r}; write numbers, such as 0,1,2'
    ) from None
  if len(set(values)) < len(values):
    raise UserError(f'{what} {text!r} repeats a value')
  return values


def _names(text: str, what: str) -> tuple[str, ...]:
  """The names of a comma list, each once; none of an empty text."""
  names = tuple(name.strip() for name in text.split(',')) if text else ()
  if not all(names) or len(set(names)) < len(names):
    raise UserError(
      f'{what} {text!r} has an empty or a repeated name; write it as a,b,c'
    )
  return names


def _method(config, name):
  if name == compress.TEACHER or name not in config.methods:
    near = difflib.get_close_matches(name, config.methods, 1)
    hint = f', perhaps {near[0]!r}' if near else ''
    raise UserError(
      f'unknown method {name!r}{hint}; choose from {", ".join(config.methods)}'
    )
  names = _names(config.methods[name], f'methods.{name}')
  return phases.Method(name, tuple(_phase(config, n) for n in names))


def _phase(config, name):
  sheet = _sheet(config, name)
  scale = config.epochs_scale
  if not (scale > 0 and math.isfinite(scale)):
    raise UserError(f'epochs_scale is {scale}; it must be greater than 0')
  epochs = max(1, round(sheet.epochs * scale)) if sheet.epochs > 0 else 0
  # Milestones keep their place in a phase whose length was rounded.
  ratio = epochs / max(1, sheet.epochs)
  return phases.Phase(
    name=name,
    objective=objectives.Objective(
      alpha=sheet.alpha,
      beta=sheet.beta,
      temperature=sheet.temperature,
      ir_loss=sheet.ir_loss,
      blocks=_blocks(name, sheet.blocks),
      teacher_input=sheet.teacher_input,
      running_statistics=sheet.running_statistics,
    ),
    epochs=epochs,
    learning_rate=sheet.learning_rate,
    schedule=sheet.schedule,
    milestones=tuple(m * ratio for m in sheet.milestones),
    decay=sheet.decay,
    warmup_epochs=sheet.warmup_epochs * ratio,
    copy=_names(sheet.copy, f'{name}.copy'),
    frozen=_names(sheet.frozen, f'{name}.frozen'),
  )


def _sheet(config: Config, name: str) -> Config:
  sheet = config.get(name)
  if not isinstance(sheet, ConfigDict) or 'learning_rate' not in sheet:
    raise UserError(f'methods name a phase {name!r} that the config has not')
  return sheet


def _spec(sheet: Config) -> dict[str, Any]:
  """A network's options; the units of each block take a depth's place."""
  spec = sheet.to_dict()
  spec.pop('depth' if spec['units'] else 'units')
  return spec


def _blocks(name: str, text: str) -> tuple[int, ...] | None:
  if text == 'all':
    return None
  try:
    return tuple(int(i) for i in text.split(',') if i.strip())
  except ValueError:
    raise UserError(
      f"{name}.blocks is {text!r}; write 'all', or indices such as '0,2'"
    ) from None
