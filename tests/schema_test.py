"""What a configuration can hold: all else is refused, in one line, at once."""

import importlib
import pathlib
import sys

import pytest
from cases import assert_one_line, cases
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_dict

from experiments import recipes, schema
from experiments.configs import resnet
from experiments.paper import scales
from lit_jax.errors import UserError

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)

CONFIGS = pathlib.Path(__file__).parents[1] / 'experiments' / 'configs'
NAMES = sorted(p.stem for p in CONFIGS.glob('*.py') if p.stem != '__init__')


def config_of(name, **changes):
  """A recipe with keys such as lit__beta set, to values of any kind."""
  return changed(name, {tuple(k.split('__')): v for k, v in changes.items()})


def changed(name, changes):
  """A recipe with what stands at these paths set, as by a file of one's own.

  Its sheets are made anew, for a ConfigDict keeps the kind of a value.
  """
  module = importlib.import_module(f'experiments.configs.{name}')
  values = module.get_config().to_dict()
  for (*sheets, key), value in changes.items():
    sheet = values
    for name in sheets:
      sheet = sheet[name]
    sheet[key] = value.to_dict() if isinstance(value, ConfigDict) else value
  return ConfigDict(values)


def refused(config):
  """The line that the command line prints of a configuration."""
  with pytest.raises(UserError) as caught:
    recipes.check(config)
  line = str(caught.value)
  assert_one_line(line)
  return line


# What is right.


@pytest.mark.parametrize('name', NAMES)
def test_every_recipe_is_right_by_each_of_its_methods(name):
  config = config_of(name)
  recipes.check(config)
  for method in config.methods:
    config.method = method
    recipes.check(config)


@pytest.mark.parametrize('scale', scales.SCALES)
def test_the_papers_recipes_are_right(scale):
  for pair in scales.SCALES[scale].pairs.values():
    recipes.check(scales.recipe(pair, scales.SCALES[scale].settings))


@pytest.mark.parametrize(
  'changes',
  [
    # An integer is a number, and a list a tuple.
    dict(lit__alpha=1, momentum=0, epochs_scale=2),
    dict(lit__milestones=[60, 100.5], student__units=[1, 1, 1]),
    dict(adam_betas=[0, 0.999]),
    # Families and numbers that `lit_jax` knows.
    dict(teacher__family='resnext', teacher__shortcut='conv'),
    dict(steps_per_call=10**6, lit__warmup_epochs=175.0),
    # Beyond the end, where no step is.
    dict(lit__milestones=(1e30,)),
  ],
)
def test_other_values_that_are_right(changes):
  recipes.check(config_of('resnet', **changes))


def test_a_phase_of_ones_own():
  own = dict(methods__lit='lit,polish')
  recipes.check(config_of('resnet', polish=resnet.phase(), **own))
  polish = resnet.phase(betta=1.0)
  assert "'polish.betta'" in refused(config_of('resnet', polish=polish, **own))


def test_what_is_checked_is_not_changed():
  config = config_of('resnet', lit__alpha=1, lit__milestones=[1, 2])
  before = config.to_dict()
  recipes.check(config)
  assert config.to_dict() == before
  assert recipes.as_json(config)['lit']['milestones'] == [1, 2]


# What is wrong: by changes of resnet.py, and words of the line.


def _of(key, *values, words):
  """The same words for several values, of which each is told as well."""
  return [({key: v}, [*words, repr(v)]) for v in values]


NAN, INF = float('nan'), float('inf')
# These passed the check of before, and ended a run later, or never.
LATE = [
  *_of(
    'lit__warmup_epochs', NAN, INF, -1.0, 1e300, 176.0, words=['lit/lit: w']
  ),
  *_of(
    'lit__milestones', (NAN,), (1e300,), (-1.0,), words=['lit/lit: of mile']
  ),
  *_of('lit__decay', NAN, INF, -0.1, 0.0, 1e300, words=['lit/lit: decay is']),
  *_of('finetune__decay', NAN, words=['lit/finetune: decay is']),
  *_of('epochs_scale', 1e300, INF, NAN, 0.0, -1.0, words=['epochs_scale is ']),
  ({'lit__epochs': 10**400}, ['lit.epochs is 1000', 'less than']),
  ({'lit__epochs': 2**31}, ['lit/lit: epochs is 2147483648', 'below 2^31']),
  ({'steps_per_call': 2**31}, ['steps_per_call is', 'below 2^31']),
  *_of('momentum', NAN, -0.5, 1.0, INF, words=['lit/lit: momentum is']),
  *_of('weight_decay', NAN, -1e-4, INF, 1e39, words=['lit/lit: weight_decay']),
  *_of('lit__learning_rate', INF, 1e39, 1e-60, words=['learning rate is']),
  *_of('lit__temperature', INF, 1e300, 1e-300, words=['lit/lit: temperature']),
  *_of('lit__sparsity', NAN, words=['lit/lit: sparsity']),
  (
    {'adam_betas': (0.9, 1.0), 'finetune__optimizer': 'adam'},
    ["lit/finetune: Adam's b2 is 1.0", 'less than 1'],
  ),
  (
    {'adam_betas': (NAN, 0.9), 'lit__optimizer': 'adam'},
    ["lit/lit: Adam's b1 is nan"],
  ),
]
# These trained nothing, or let go what was learned, with exit code 0.
NOTHING = [
  (
    {'lit__frozen': 'stem,blocks_0,blocks_1,blocks_2,head'},
    ['lit/lit: nothing learns', '(stem, blocks_0, blocks_1, blocks_2, head)'],
  ),
  (
    {'lit__beta': 0.0, 'lit__frozen': 'stem,blocks_0,blocks_1,blocks_2'},
    ['lit/lit: nothing learns', '(stem, blocks_0, blocks_1, blocks_2)'],
  ),
  ({'lit__beta': 0.0, 'lit__blocks': ''}, ['lit/lit: ', 'compare blocks']),
  (
    {'lit__beta': 0.0, 'lit__blocks': '1'},
    ['lit/lit: with beta 0', 'add blocks_0,blocks_2 to frozen'],
  ),
  (
    {'method': 'fitnets_two_stage', 'hint__frozen': 'stem,head'},
    ['fitnets_two_stage/hint: with beta 0', 'add blocks_2 to frozen'],
  ),
  # A member of a population is judged as one that is trained alone.
  (
    {'population__beta': '0,0.5', 'lit__blocks': '0,1'},
    ['lit/lit: with beta 0', 'add blocks_2 to frozen'],
  ),
  ({'full_depth': 'lti'}, ["full_depth 'lti'", "perhaps 'lit'"]),
]
TAKEN = [
  (
    {f'methods__{name}': 'kd', 'method': name},
    [f'{name!r} is no name for a method', 'choose another'],
  )
  for name in ('cache', 'tensorboard', 'pictures', 'judge')
] + [
  ({'methods': ConfigDict({name: 'kd'}), 'method': 'kd'}, ['for a folder'])
  for name in ('', 'a/b', 'x' * 201, 'a\nb', ' a')
]  # fmt: skip
# Another kind than is wanted.
KINDS = [
  *_of(
    'lit__milestones', 5, 'a', None, {}, words=['lit.milestones is', '(1, 2)']
  ),
  ({'lit__milestones': (1, 'a')}, ["lit.milestones[1] is 'a'", 'a number']),
  ({'lit__milestones': (1, None)}, ['lit.milestones[1] is None']),
  *_of('student__units', 3, 'abc', None, words=['student.units is', '(1, 2)']),
  ({'student__units': (1, 1.5, 1)}, ['student.units[1] is 1.5', 'an integer']),
  *_of('student__depth', None, '20', 20.0, words=['student.depth is']),
  *_of(
    'batch_size', 16.0, '16', None, True, words=['batch_size is', 'integer']
  ),
  *_of('seed', 1.0, None, words=['seed is', 'an integer']),
  *_of(
    'momentum', '0.9', None, True, 10**400, words=['momentum is', 'a number']
  ),
  *_of('crop', 1, None, 'yes', words=['crop is', 'True or False']),
  *_of('lit__beta', None, 'half', words=['lit.beta is', 'a number']),
  *_of('lit__blocks', (0, 2), None, 1, words=['lit.blocks is', 'a text']),
  *_of('lit', None, 5, words=['lit is', 'a ConfigDict']),
  *_of('student', None, 5, (), words=['student is', 'a ConfigDict']),
  *_of('methods', None, 'lit', words=['methods is', 'a ConfigDict']),
  *_of('population', None, words=['population is', 'a ConfigDict']),
  *_of('population__beta', 0.5, None, words=['population.beta is', 'a text']),
  *_of('method', None, ('lit',), words=['method is', 'a text']),
  *_of('data_dir', 'a\nb', 'a\0', '\u2028', words=['data_dir is', 'one line']),
  ({'data_dir': 'x' * 5000}, ['data_dir is', 'at most 4096 characters']),
  ({'method': '\ud800'}, ['method is']),
  *_of('adam_betas', (0.9,), (0.9, 0.9, 0.9), 0.9, words=['adam_betas']),
  *_of('score_on', 'tset', words=['score_on is', "'test' or 'validation'"]),
  *_of('lit__optimizer', 'adan', words=['lit.optimizer is', "'sgd' or 'adam'"]),
  *_of('validation', -1, 0.1, words=['validation is']),
  *_of('repeats', 0, 10**7, words=['repeats is', 'it must be at ']),
  *_of('examples_per_device', 0, words=['it must be at least 1']),
]
# Keys.
UNKNOWN = [
  ({'lit__betta': 0.5}, ["unknown key 'lit.betta'", "perhaps 'beta'"]),
  ({'batchsize': 8}, ["unknown key 'batchsize'", "perhaps 'batch_size'"]),
  ({'student__dept': 8}, ["'student.dept'", 'resnet', "perhaps 'depth'"]),
  ({'student__cardinality': 8}, ["'student.cardinality'", "family 'resnet'"]),
  ({'population__betas': ''}, ["'population.betas'", "perhaps 'beta'"]),
  ({'polish': 3}, ["unknown key 'polish'", 'leave it out']),
  ({'my_sheet': ConfigDict({'a': 1})}, ["unknown key 'my_sheet'"]),
  ({'student__family': 'resnets'}, ["student.family 'resnets'", "'resnet'"]),
  ({'student': ConfigDict({'depth': 20})}, ["lacks the key 'student.family'"]),
  ({'task': 'clasify'}, ["task 'clasify'", "perhaps 'classify'"]),
]
WRONG = LATE + NOTHING + TAKEN + KINDS + UNKNOWN


@pytest.mark.parametrize(
  'changes, words', WRONG, ids=[f'{changes!s:.60}' for changes, _ in WRONG]
)
def test_what_is_wrong_is_told_in_one_line(changes, words):
  line = refused(config_of('resnet', **changes))
  for word in words:
    assert word[:60] in line


@pytest.mark.parametrize(
  'name, changes, words',
  [
    ('vdcnn', {'data__lenght': 3}, ["'data.lenght'", "perhaps 'length'"]),
    ('vdcnn', {'data__length': '99'}, ["data.length is '99'", 'an integer']),
    ('vdcnn', {'data__length': 16}, ['texts of 16 characters']),
    ('vdcnn', {'student__widths': None}, ['student.widths is None']),
    ('vdcnn', {'student__widths': (1, 2)}, ['VDCNN widths (1, 2)', 'four']),
    ('vdcnn', {'student__shortcut': 'pad'}, ["student.shortcut is 'pad'"]),
    ('vdcnn', {'noise': None}, ['noise is None', 'a number']),
    ('resnext', {'student__cardinality': 0}, ['cardinality 0']),
    ('stargan', {'n_critic': 1.5}, ['n_critic is 1.5', 'an integer']),
    ('stargan', {'reconstrution': 1.0}, ["perhaps 'reconstruction'"]),
    ('stargan', {'judge__depth': 9}, ['ResNet depth 9']),
    ('stargan', {'judge__checkpoint': 'x'}, ["'judge.checkpoint'"]),
    ('stargan', {'judge': None}, ['judge is None']),
    ('stargan', {'lit__frozen': 'stem,blocks_0'}, ['nothing learns']),
    ('stargan', {'lit__optimizer': 'sgd', 'lit__frozen': ''}, ['add head to']),
  ],
)
def test_what_is_wrong_in_other_recipes(name, changes, words):
  line = refused(config_of(name, **changes))
  for word in words:
    assert word in line


@pytest.mark.parametrize('key', schema.Common.model_fields)
def test_no_key_may_be_missing(key):
  config = config_of('resnet')
  del config[key]
  assert f'the configuration lacks the key {key!r}' in refused(config)


@pytest.mark.parametrize('key', ['train_teacher', 'lit', 'finetune'])
def test_no_phase_may_be_missing(key):
  config = config_of('resnet')
  del config[key]
  assert f'a phase {key!r} that the config has not' in refused(config)


@pytest.mark.parametrize('sheet', ['lit', 'hint', 'population'])
def test_no_key_of_a_sheet_may_be_missing(sheet):
  for key in config_of('resnet')[sheet]:
    config = config_of('resnet')
    del config[sheet][key]
    assert f"lacks the key '{sheet}.{key}'" in refused(config)


def test_a_placeholder_without_a_value():
  config = config_of('resnet', seed=config_dict.required_placeholder(int))
  assert 'placeholder' in refused(config)
  config.seed = 3
  recipes.check(config)


def test_numbers_of_text_that_no_machine_computes_with():
  for text in ('9' * 30, '9' * 4090, '1,x', '0,1.5'):
    assert 'write numbers' in refused(config_of('resnet', sequence=text))
  line = refused(config_of('resnet', population__seed=str(2**32)))
  assert 'lie in 0 to 2^32 - 1' in line


# A task of one's own, and the keys that it takes.


@pytest.fixture
def own_task(tmp_path, monkeypatch):
  (tmp_path / 'users_tasks.py').write_text(
    'from lit_jax.tasks import Classify\n'
    'class Mine(Classify):\n'
    '  @classmethod\n'
    '  def of(cls, dataset, sharpness=1.0, sheet=None):\n'
    '    return cls(dataset.classes)\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  yield 'users_tasks:Mine'
  sys.modules.pop('users_tasks', None)


def test_a_task_of_ones_own_has_keys_of_its_own(own_task):
  own = dict(sharpness=0.5, sheet=ConfigDict({'any': None}))
  recipes.check(config_of('resnet', task=own_task, **own))
  # No other task takes them, and this one no others.
  assert "unknown key 'sharpness'" in refused(config_of('resnet', **own))
  changes = dict(task=own_task, sharpnes=0.5)
  assert "unknown key 'sharpnes'" in refused(config_of('resnet', **changes))


def test_a_family_of_ones_own_takes_what_it_will():
  own = ConfigDict(dict(family='my_nets:plain', width=None, depth='deep'))
  recipes.check(config_of('resnet', student=own, teacher=own))
  own.checkpoint = 3
  line = refused(config_of('resnet', student=own))
  assert 'student.checkpoint is 3; it must be a text' in line


# The command line.


@pytest.mark.parametrize(
  'body, words',
  [
    ('return None', ['configuration is None', 'ConfigDict']),
    ('return {"seed": 1}', ["configuration is {'seed': 1}", 'ConfigDict']),
    ('return nothing_of_that_name', ['mine.py:3: NameError', 'mend the file']),
    ('return 1 / 0', ['mine.py:3: ZeroDivisionError: division by zero']),
    ('raise TypeError("one\\ntwo")', ['mine.py:3: TypeError: one;']),
    ('raise KeyError("lit")', ["mine.py:3: KeyError: 'lit'"]),
    ('c = resnet.get_config(); return c.lit.betta', ['mine.py:3: Attribute']),
    ('c = resnet.get_config(); c.seed = "x"; return c', ['mine.py:3: TypeErr']),
    (
      'c = resnet.get_config().to_dict(); c["batch_size"] = 16.0; '
      'return resnet.ConfigDict(c)',
      ['batch_size is 16.0; it must be an integer'],
    ),
    (
      'c = resnet.get_config(); c.lit.betta = .5; return c',
      ["unknown key 'lit.betta'; perhaps 'beta'"],
    ),
  ],
)
def test_a_configuration_file_of_ones_own(body, words, main, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    f'from experiments.configs import resnet\ndef get_config():\n  {body}\n'
  )
  line = _refused_at_once(main, tmp_path, path)
  for word in words:
    assert word in line


def test_a_configuration_file_without_get_config(main, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('config = 1\n')
  line = _refused_at_once(main, tmp_path, path)
  assert 'no function get_config' in line


@pytest.mark.parametrize(
  'flag, words',
  [
    ('lit.milestones=("a",)', "lit.milestones[0] is 'a'; it must be a number"),
    ('student.units=(1,"a",1)', "student.units[1] is 'a'; it must be an int"),
    ('lit.warmup_epochs=nan', 'lit/lit: warmup_epochs is nan'),
    ('epochs_scale=1e300', 'epochs_scale is 1e+300; it must be at most'),
    ('momentum=nan', 'lit/lit: momentum is nan; at least 0 and less than 1'),
    (f'lit.epochs={"9" * 400}', 'lit.epochs is 999'),
  ],
)
def test_a_flag_of_another_kind(flag, words, main, tmp_path):
  path = CONFIGS / 'resnet.py'
  assert words in _refused_at_once(main, tmp_path, path, f'--config.{flag}')


def _refused_at_once(main, tmp_path, path, *flags):
  """The line, of a command that neither reads data nor trains."""
  workdir = tmp_path / 'run'
  code, out, err = main(
    f'--config={path}', f'--workdir={workdir}', *flags, build=_never
  )
  assert (code, out) == (2, ''), err
  assert err.startswith('error: ') and err.endswith('\n')
  assert_one_line(err[:-1])
  assert not workdir.exists()
  return err


def _never(config):
  raise AssertionError('data would be read')


def test_too_little_memory(main, tmp_path):
  def build(config):
    raise MemoryError('Unable to allocate 73.0 GiB')

  outcome = main(
    f'--config={CONFIGS / "resnet.py"}', f'--workdir={tmp_path}', build=build
  )
  code, _, err = outcome
  assert code == 2 and err.count('\n') == 1
  assert err.startswith('error: out of memory (Unable to allocate 73.0 GiB); ')


# Whatever is set, to whatever: right, or one line.


def _kinds(config, path=()):
  """The kind of every value, by its path."""
  kinds = {}
  for key in config:
    kinds[*path, key] = type(config[key])
    if isinstance(config[key], ConfigDict):
      kinds |= _kinds(config[key], (*path, key))
  return kinds


KINDS_OF = {name: _kinds(config_of(name)) for name in NAMES}
KEYS = sorted({path[-1] for kinds in KINDS_OF.values() for path in kinds})
HUGE = 2**31, -(2**63), 2**64, 10**30, 10**400, 10**5000
INTEGERS = st.integers(-3, 300) | st.integers() | st.sampled_from(HUGE)
FLOATS = st.one_of(
  st.floats(),
  st.floats(0, 1),
  st.sampled_from([0.0, 0.5, 1.0, 16.0, 1e300, -1e-300, INF, NAN]),
)
WORDS = (
  '', ',', 'all', '0,1', '2', '-1', '0.5,1', 'lit', 'kd', 'lit,finetune',
  'hint', 'stem,head', 'stem,blocks_0,blocks_1,blocks_2,head', 'blocks_2',
  'adam', 'cosine', 'both', 'l1', 'pad', 'resnext', 'my_nets:plain', 'cache',
  'embedded', 'validation', 'best', 'tfidf', '\0', '\ud800', '\u2028',
)  # fmt: skip
TEXTS = st.one_of(
  st.sampled_from(WORDS),
  st.sampled_from(KEYS),
  st.text(max_size=20),
  st.builds(lambda text: text * 3000, st.text(min_size=1, max_size=2)),
)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS
LISTS = st.lists(INTEGERS, max_size=4) | st.lists(FLOATS | SCALARS, max_size=4)
VALUES = st.one_of(
  SCALARS,
  LISTS,
  LISTS.map(tuple),
  st.dictionaries(st.sampled_from(KEYS) | st.text(), SCALARS, max_size=4),
)
OF_KIND = {
  bool: st.booleans(),
  int: INTEGERS,
  float: FLOATS,
  str: TEXTS,
  tuple: LISTS.map(tuple),
}


@st.composite
def configurations(draw):
  """A recipe, and what is set in it: by paths, of which few are unknown."""
  name = draw(st.sampled_from(NAMES))
  kinds, changes = KINDS_OF[name], {}
  for _ in range(draw(st.integers(1, 4))):
    path = draw(st.sampled_from(list(kinds)))
    # Most values are of the kind that stands there, and may be right.
    values = OF_KIND.get(kinds[path]) if draw(st.integers(0, 4)) else None
    if draw(st.integers(0, 9)) == 0:
      path = (*path[:-1], draw(st.sampled_from(KEYS) | st.text(max_size=10)))
    changes[path] = draw(VALUES if values is None else values)
  return name, changes


@cases()
@given(configurations())
def test_any_configuration_is_right_or_refused_in_one_line(drawn):
  try:
    config = changed(*drawn)
  except (KeyError, TypeError, ValueError):
    # A sheet was replaced before, or has a key that no ConfigDict has.
    return
  try:
    recipes.check(config)
  except UserError as error:
    assert_one_line(str(error))
    return
  # What the command line does next without the data.
  recipes.row_names(config)
  recipes.starts(config)
  recipes.as_json(config)
