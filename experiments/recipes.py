"""Configurations to the dataclasses of lit_jax."""

import dataclasses
import functools
import itertools
import json
import math
from typing import Any

from ml_collections import ConfigDict

from experiments import baselines, published
from experiments.configs import resnet
from lit_jax import models, objectives, tasks
from lit_jax.data import sources
from lit_jax.data.dataset import hold_out, repeat, shorten, without_test
from lit_jax.errors import UserError, choose, names
from lit_jax.runs import jobs, phases
from lit_jax.training import optim

# Another place of the data, another method or baseline beside change no result,
# and other devices or another length of a call none beyond its rounding: who
# runs out of memory goes on in the same workdir. What the data is, is compared
# when it is read.
_NOT_IN_CONFIG = (
  'data_dir', 'method', 'baseline', 'data.path', 'data.cache',
  'examples_per_device', 'steps_per_call',
)  # fmt: skip


# What `score_on` can be.
SCORED = TEST, VALIDATION = 'test', 'validation'

# A ConfigDict, whose attributes are its keys; types know nothing of them.
Config = Any


def compression(config: Config) -> jobs.Job:
  """A whole run from its configuration.

  Raises:
    UserError: an unknown method or phase, data that cannot be read, or none
      held out to score on.
  """
  choose('score_on', config.score_on, SCORED)
  if config.score_on == VALIDATION and config.select == 'best':
    raise UserError(
      'score_on=validation would score on the examples that select=best chose '
      'by; take select=last'
    )
  students = _students(config)
  teacher_phase = phase(config, 'train_teacher')
  outside = _baselines(config)
  dataset = _dataset(config)
  if config.validation:
    dataset = hold_out(dataset, config.validation)
  if config.score_on == VALIDATION:
    dataset = without_test(dataset)
  dataset = shorten(dataset, config.train_examples)
  dataset = repeat(dataset, config.repeats)
  task = tasks.build(config.task, dataset, config.to_dict())
  fitting = task.network_options(dataset)
  teacher = spec(config.teacher)
  return jobs.Job(
    dataset=dataset,
    task=task,
    teacher=teacher | fitting,
    teacher_checkpoint=config.teacher.get('checkpoint', ''),
    teacher_method=phases.Method(phases.TEACHER, (teacher_phase,)),
    students=tuple(_fitted(student, fitting) for student in students),
    training=phases.Training(
      batch_size=config.batch_size,
      seed=config.seed,
      precision=config.precision,
      steps_per_call=config.steps_per_call,
      select=config.select,
      data_seed=_data_seed(config, config.seed),
    ),
    config=as_json(config),
    baselines=outside,
    # The paper's numbers are of the test split.
    reference=_published(config.dataset, teacher, students)
    if config.score_on == TEST
    else None,
    judge=_judge(config, task, dataset),
  )


def _judge(config, task, dataset):
  """The network that judges the others, where the task needs one."""
  found = task.judge(dataset)
  if found is None:
    return None
  own, data = found
  network = spec(config.judge) | own.network_options(data)
  method = phases.Method(phases.JUDGE, (phase(config, 'train_judge'),))
  return jobs.Judge(own, data, network, method)


def _fitted(student, options):
  """The student with what the data decide of its network."""
  return dataclasses.replace(student, network=student.network | options)


def _published(dataset, teacher, students):
  """The paper's numbers beside ours, where it has this run."""
  scores = published.translations(dataset, models.title(teacher))
  if scores:
    return jobs.Reference(
      published.TRANSLATIONS_COLUMN, scores, published.TRANSLATIONS_NOTE
    )
  values = {}
  for student in students:
    names_of = student.method.names
    title = models.title(student.network)
    values |= published.accuracies(
      dataset, models.title(teacher), title, names_of
    )
  if not values:
    return None
  return jobs.Reference(published.COLUMN, values, published.NOTE)


def training_examples(config: Config) -> int:
  """How many the data set has, of which none is held out yet.

  Raises:
    UserError: data that cannot be read.
  """
  return _dataset(config).splits['train'].examples


def _dataset(config):
  settings = ('crop', 'flip', 'shift', 'noise')
  options = {key: config[key] for key in settings if key in config}
  options |= config.get('data', {})
  return sources.load(config.dataset, config.data_dir, options)


def _baseline_names(config):
  wanted = names(config.get('baseline', ''), 'baseline')
  return tuple(choose('baseline', n, baselines.BASELINES) for n in wanted)


def _baselines(config):
  return tuple(
    jobs.Baseline(name, baselines.find(name))
    for name in _baseline_names(config)
  )


def as_json(config: Config) -> dict[str, Any]:
  """What defines the run's results; a workdir takes one such."""
  values = json.loads(config.to_json_best_effort())
  for key in _NOT_IN_CONFIG:
    *sheets, name = key.split('.')
    tree = functools.reduce(lambda t, sheet: t.get(sheet, {}), sheets, values)
    tree.pop(name, None)
  return values


def row_names(config: Config) -> tuple[str, ...]:
  """The rows beside the teacher's that are asked for, in the results' order.

  Raises:
    UserError: a key that the configuration lacks, or a name that is unknown.
  """
  # What one kind of data alone has is asked for where that is read, and a
  # phase where a method names it.
  usual = resnet.get_config()
  wanted = {key for key in usual if not _is_phase(usual[key])} - {'crop'}
  if missing := sorted(wanted - set(config)):
    raise UserError(
      f'the configuration lacks the key {missing[0]!r}; derive it from '
      'experiments/configs/resnet.py or vdcnn.py'
    )
  students = [n for s in _students(config) for n in s.method.names]
  return (*students, *_baseline_names(config))


def starts(config: Config) -> dict[str, str]:
  """What students begin as, by method; of those alone that begin so."""
  return {s.method.name: s.start for s in _students(config) if s.start}


def _students(config):
  """By every method one, or where `sequence` names depths between, a chain.

  Their networks still lack what depends on the data.
  """
  methods = [
    _population(config, method(config, name))
    for name in names(config.method, 'method')
  ]
  last = spec(config.student)
  between = [
    spec(config.student) | {'depth': depth}
    for depth in numbers('sequence', config.sequence)
  ]
  for options in between:
    options.pop('units', None)
  start = config.student.get('checkpoint', '')
  full = names(config.full_depth, 'full_depth')
  if not between:
    return tuple(
      _full(config, method)
      if method.name in full
      else jobs.Student(last, method, start=start)
      for method in methods
    )
  if start:
    raise UserError(
      f'student.checkpoint {start} begins one student, and sequence '
      f'{config.sequence} names several; leave one of them empty'
    )
  _check_sequence(config, [options['depth'] for options in between])
  chains = [_chain(method, (*between, last)) for method in methods]
  return tuple(student for chain in chains for student in chain)


def _full(config, method):
  """A student of the teacher's network, whose values are drawn."""
  return jobs.Student(spec(config.teacher), method)


def _check_sequence(config, between):
  """None can be deeper than the one before it."""
  if 'depth' not in config.student:
    raise UserError(
      f'sequence {config.sequence}: students between are told by depth, and '
      'config.student has none'
    )
  ends = [
    [] if sheet.get('units') or 'depth' not in sheet else [sheet.depth]
    for sheet in (config.teacher, config.student)
  ]
  depths = [*ends[0], *between, *ends[1]]
  if any(a < b for a, b in itertools.pairwise(depths)):
    raise UserError(
      f'sequence {config.sequence}: from the teacher to the student the depths '
      f'are {", ".join(map(str, depths))}; none can be deeper than the one '
      'before it'
    )


def _chain(method, specs):
  """Each student teaches the next: 'lit-17' is the teacher of 'lit-9'."""
  if method.population:
    raise UserError(
      'a population cannot teach the next of a sequence; give sequence or '
      'population'
    )
  students, teacher = [], phases.TEACHER
  for options in specs:
    size = options.get('depth') or '_'.join(map(str, options['units']))
    name = f'{method.name}-{size}'
    if name in [student.method.name for student in students]:  # born again
      name += '-again'
    own = dataclasses.replace(method, name=name)
    students.append(jobs.Student(options, own, teacher))
    # Who learns from labels alone needs nobody before it.
    if method.needs_teacher:
      teacher = own.name
  return students


def _data_seed(config, seed):
  return seed if config.data_seed == -1 else config.data_seed


def _population(config, method):
  """The method, with a member for every combination of the given values."""
  tried = {
    key: numbers(f'population.{key}', config.population[key])
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
    if 'beta' in own and objective.computes('ir'):
      objective = objective.replace(beta=own['beta'])
    if 'alpha' in own and objective.computes('soft'):
      objective = objective.replace(alpha=own['alpha'])
    # After α, for without soft labels every temperature is the same.
    if 'temperature' in own and objective.computes('soft'):
      objective = objective.replace(temperature=own['temperature'])
    result.append(objective)
  return tuple(result)


def numbers(what: str, text: str) -> tuple[Any, ...]:
  """Different numbers from a comma list: integers for seeds and depths.

  Args:
    what: where the list stands.
    text: '' is none.

  Raises:
    UserError: no numbers, or one of them twice.
  """
  kind = int if what.endswith(('seed', 'sequence')) else float
  try:
    values = tuple(kind(word) for word in names(str(text), what))
  except ValueError:
    raise UserError(
      f'{what} is {text!r}; write numbers, such as 0,1,2'
    ) from None
  if len(set(values)) < len(values):
    raise UserError(f'{what} {text!r} repeats a value')
  return values


def method(config: Config, name: str) -> phases.Method:
  """The method of that name.

  Raises:
    UserError: no such method or phase, or a setting that makes none.
  """
  choose('method', name, (m for m in config.methods if m != phases.TEACHER))
  of_phases = names(config.methods[name], f'methods.{name}')
  return phases.Method(name, tuple(phase(config, n) for n in of_phases))


def phase(config: Config, name: str) -> phases.Phase:
  """The phase of that name.

  Raises:
    UserError: no such phase, or a setting that makes none.
  """
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
      output_loss=sheet.output_loss,
    ),
    epochs=epochs,
    learning_rate=sheet.learning_rate,
    optimizer=_optimizer(config, sheet.optimizer),
    schedule=sheet.schedule,
    milestones=tuple(m * ratio for m in sheet.milestones),
    decay=sheet.decay,
    warmup_epochs=sheet.warmup_epochs * ratio,
    copy=names(sheet.copy, f'{name}.copy'),
    frozen=names(sheet.frozen, f'{name}.frozen'),
    sparsity=sheet.sparsity,
    prune_by=sheet.prune_by,
  )


def _optimizer(config: Config, name: str) -> optim.Optimizer:
  if choose('optimizer', name, optim.OPTIMIZERS) == 'adam':
    return optim.Adam(*config.adam_betas)
  return optim.Sgd(config.momentum, config.weight_decay)


def _sheet(config: Config, name: str) -> Config:
  sheet = config.get(name)
  if not _is_phase(sheet):
    raise UserError(f'methods name a phase {name!r} that the config has not')
  return sheet


def _is_phase(sheet):
  return isinstance(sheet, ConfigDict) and 'learning_rate' in sheet


def spec(sheet: Config) -> dict[str, Any]:
  """A network's options: the keys of its sheet, without its checkpoint.

  The units of each block take a depth's place, and what is not narrowed has no
  `inner`.
  """
  options = sheet.to_dict()
  options.pop('checkpoint', None)
  if options.get('inner') == ():
    options.pop('inner')
  if 'units' in options:
    options.pop('depth' if options['units'] else 'units')
  return options


def _blocks(name: str, text: str) -> tuple[int, ...] | None:
  if text == 'all':
    return None
  try:
    return tuple(int(i) for i in text.split(',') if i.strip())
  except ValueError:
    raise UserError(
      f"{name}.blocks is {text!r}; write 'all', or indices such as '0,2'"
    ) from None
