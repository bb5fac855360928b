"""Configurations to the dataclasses of lit_jax."""

import dataclasses
import functools
import itertools
import json
from typing import Any

from ml_collections import ConfigDict

from experiments import baselines, published, schema
from lit_jax import models, objectives, tasks
from lit_jax.data import sources
from lit_jax.data.dataset import hold_out, repeat, shorten, without_test
from lit_jax.errors import UserError, choose, names, shown
from lit_jax.runs import checks, jobs, phases
from lit_jax.training import devices, optim

# Another place of the data, another method or baseline beside change no result,
# nor does what else is measured, and other devices or another length of a call
# none beyond its rounding: who runs out of memory goes on in the same workdir.
# What the data is, is compared when it is read.
_NOT_IN_CONFIG = (
  'data_dir', 'method', 'baseline', 'tracker', 'data.path', 'data.cache',
  'devices', 'examples_per_device', 'examples_per_gpu', 'steps_per_call',
  'deterministic', 'stitch',
)  # fmt: skip


# What `score_on` can be.
TEST, VALIDATION = 'test', 'validation'

# A ConfigDict, whose attributes are its keys; types know nothing of them.
Config = Any


def compression(config: Config) -> jobs.Job:
  """A whole run from its configuration, which `check` has found right.

  Raises:
    UserError: an unknown method or phase, data that cannot be read, or none
      held out to score on.
  """
  students = _students(config)
  teacher_method = _method_of(config, phases.TEACHER)
  outside = _baselines(config)
  devices.check_batch(config.batch_size)
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
    teacher_method=teacher_method,
    students=tuple(_fitted(student, fitting) for student in students),
    training=_training(config),
    config=as_json(config),
    baselines=outside,
    # The paper's numbers are of the test split.
    reference=_published(config.dataset, teacher, students)
    if config.score_on == TEST
    else None,
    judge=_judge(config, task, dataset),
    stitch=config.stitch,
  )


def check(config: Config) -> None:
  """Finds what is wrong with a configuration, whatever the data are.

  No data are read, and nothing is computed: devices are chosen after it.

  Args:
    config: what `get_config` returned, with what flags changed in it.

  Raises:
    UserError: one line of what, where, and what to do.
  """
  schema.check(config)
  if config.score_on == VALIDATION and config.select == 'best':
    raise UserError(
      'score_on=validation would score on the examples that select=best chose '
      'by; take select=last'
    )
  phases.check_settings(_training(config))
  students = _students(config)
  methods = [student.method for student in students]
  checks.check_names(methods, _baseline_names(config), config.select)
  for student in students:
    _check_method(config, student.network, student.method)
  teacher = _method_of(config, phases.TEACHER)
  if config.teacher.get('checkpoint') or not _needs_teacher(methods):
    # It is not trained.
    teacher = dataclasses.replace(teacher, phases=())
  _check_method(config, spec(config.teacher), teacher)
  if phases.JUDGE in config and 'train_judge' in config:
    judge = _method_of(config, phases.JUDGE)
    _check_method(config, spec(config.judge), judge)


def _needs_teacher(methods):
  return not methods or any(method.needs_teacher for method in methods)


def _check_method(config, network, method):
  """Checks as much of a method, and its network, as needs no data."""
  phases.check_phases(method)
  family = network['family']
  if family not in models.FAMILIES:
    return
  # Of what the data decide, this alone can make an option a wrong one.
  length = config.get('data', {}).get('length', 0)
  of_texts = family == 'vdcnn' and length > 0
  known = {'input_shape': (length,)} if of_texts else {}
  net = models.build(network | known)
  learners = getattr(tasks.find(config.task), 'learners', None)
  if isinstance(learners, tuple):
    phases.check_method(method, net, learners)


def _training(config):
  return phases.Training(
    batch_size=config.batch_size,
    seed=config.seed,
    precision=config.precision,
    steps_per_call=config.steps_per_call,
    select=config.select,
    data_seed=_data_seed(config, config.seed),
    sync_batch_norm=config.sync_batch_norm,
    trackers=names(config.tracker, 'tracker'),
  )


def _method_of(config, role):
  """That of the teacher, or of the judge."""
  return phases.Method(role, (phase(config, f'train_{role}'),))


def _judge(config, task, dataset):
  """The network that judges the others, where the task needs one."""
  found = task.judge(dataset)
  if found is None:
    return None
  own, data = found
  if phases.JUDGE not in config:
    raise UserError(
      f"the configuration lacks the key 'judge', the network that judges for "
      f'the task {config.task!r}; experiments/configs/stargan.py has one'
    )
  network = spec(config.judge) | own.network_options(data)
  return jobs.Judge(own, data, network, _method_of(config, phases.JUDGE))


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
    UserError: a name that is unknown.
  """
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
  full = [
    choose('method in full_depth', name, config.methods)
    for name in names(config.full_depth, 'full_depth')
  ]
  if not between:
    return tuple(
      _full(config, method)
      if method.name in full
      else jobs.Student(last, method, start=start)
      for method in methods
    )
  if start:
    raise UserError(
      f'student.checkpoint {shown(start)} begins one student, and sequence '
      f'{shown(config.sequence)} names several; leave one of them empty'
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
      f'sequence {shown(config.sequence)}: students between are told by depth, '
      'and config.student has none'
    )
  # A family of the user's own may have depths of another kind.
  ends = [
    [sheet.depth]
    if isinstance(sheet.get('depth'), int) and not sheet.get('units')
    else []
    for sheet in (config.teacher, config.student)
  ]
  depths = (*ends[0], *between, *ends[1])
  if any(a < b for a, b in itertools.pairwise(depths)):
    raise UserError(
      f'sequence {shown(config.sequence)}: from the teacher to the student the '
      f'depths are {shown(depths)}; none can be deeper than the one before it'
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
    values = tuple(kind(word) for word in names(text, what))
    # More than a machine computes with.
    if any(kind is int and abs(value) >= 2**63 for value in values):
      raise ValueError
  except ValueError:
    raise UserError(
      f'{what} is {shown(text)}; write numbers, such as 0,1,2'
    ) from None
  if len(set(values)) < len(values):
    raise UserError(f'{what} {shown(text)} repeats a value')
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
  """The phase of that name; the numbers in it may be out of range.

  Raises:
    UserError: no such phase, or a setting that makes none.
  """
  sheet, epochs = _sheet(config, name), 0
  if sheet.epochs > 0:
    epochs = max(1, round(sheet.epochs * config.epochs_scale))
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
      anneal_input=sheet.anneal_input,
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
  if name == 'adam':
    return optim.Adam(*config.adam_betas)
  return optim.Sgd(config.momentum, config.weight_decay)


def _sheet(config: Config, name: str) -> Config:
  sheet = config.get(name)
  if not _is_phase(sheet):
    raise UserError(
      f'methods name a phase {shown(name)} that the config has not'
    )
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
    options.pop('depth' if options['units'] else 'units', None)
  return options


def _blocks(name: str, text: str) -> tuple[int, ...] | None:
  if text == 'all':
    return None
  try:
    return tuple(int(i) for i in text.split(',') if i.strip())
  except ValueError:
    raise UserError(
      f"{name}.blocks is {shown(text)}; write 'all', or indices such as '0,2'"
    ) from None
