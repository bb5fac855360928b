"""Tuning: what is tried and chosen, and that no test example is ever read."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from experiments import baselines, cli, held_out, recipes, tune
from experiments.configs import resnet
from lit_jax import report
from lit_jax.data.dataset import Dataset, Split, hold_out, without_test
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.data.texts import characters
from lit_jax.errors import UserError
from lit_jax.runs import checks, results, runner
from lit_jax.training import loop
from lit_jax.training.interrupt import Interrupted, Observer

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)

CONFIGS = pathlib.Path(__file__).parents[1] / 'experiments' / 'configs'
SIGNAL = 15
NOTE = 'Scored on the 30 held-out training examples, and on no test example.'
TEMPERATURE, ALPHA, BETA = tune.SWEEPS
# Networks of 8 layers and one epoch of each phase.
SMALL = (
  '--config.dataset=fashion_mnist_mini',
  '--config.teacher.depth=8',
  '--config.student.depth=8',
  '--config.batch_size=16',
  '--config.steps_per_call=4',
  '--config.epochs_scale=0.001',
)


class Unreadable:
  """An array that tells its shape alone."""

  def __init__(self, array):
    self.dtype, self.shape, self.ndim = array.dtype, array.shape, array.ndim

  def __len__(self):
    return self.shape[0]

  def __getitem__(self, rows):
    raise AssertionError('read')

  def __array__(self, *args, **kwargs):
    raise AssertionError('read')


def _split(count, seed):
  rng = np.random.default_rng(seed)
  return Split(
    rng.integers(0, 256, (count, 8, 8, 3), np.uint8),
    rng.integers(0, 10, count, np.int32),
  )


def _noise(train=0, test=1):
  return Dataset(
    'noise',
    {'train': _split(100, train), 'test': _split(41, test)},
    10,
    ImagePreprocess((0.5, 0.4, 0.3), (0.25, 0.2, 0.3)),
    content='a hash',
  )


def _without_reading():
  noise = _noise()
  test = Split(*map(Unreadable, noise.splits['test']))
  noise.splits['test'] = test
  return noise


@pytest.fixture
def data(monkeypatch):
  """Puts a data set in the place of every one."""

  def put(dataset):
    monkeypatch.setattr(recipes.sources, 'load', lambda *args: dataset)

  put(_noise())
  return put


@pytest.fixture
def tuning(quick, in_this_process, tmp_path, data):
  """The command line in this process: exit code, stdout, stderr."""

  def run(*args, config='resnet', workdir=tmp_path / 'tuned', flags=SMALL):
    return in_this_process(
      lambda: cli.run(tune.make),
      'tune', f'--config={CONFIGS / config}.py', f'--workdir={workdir}',
      *flags, *args,
    )  # fmt: skip

  return run


@pytest.fixture
def made_up(monkeypatch):
  """Runs that are not made: their configurations, and what they shall find."""
  made, shares = [], {}

  def execute(config, folder, observer):
    del observer
    made.append((folder.name, config))
    if not config.method:
      return tune.Outcome((), 'accuracy', True, True, config.validation)
    values = recipes.numbers('', config.population[folder.name])
    found = tuple(shares.get(folder.name, {}).get(v, 0.5) for v in values)
    folder.mkdir(parents=True)
    return tune.Outcome(found, 'accuracy', True, True, config.validation)

  monkeypatch.setattr(tune, 'execute', execute)
  monkeypatch.setattr(tune.checks, 'check', lambda job: None)
  return made, shares


def _found(workdir):
  return json.loads((workdir / 'tuned.json').read_text())


# The choice.


@pytest.mark.parametrize(
  ('scores', 'own', 'largest', 'wanted'),
  [
    ((0.5, 0.7, 0.6), 1.0, True, 2.0),
    # Of equal ones the recipe's own, and else the first.
    ((0.7, 0.5, 0.7), 4.0, True, 4.0),
    ((0.7, 0.5, 0.7), 2.0, True, 1.0),
    ((0.7, 0.5, 0.7), 9.0, True, 1.0),
    # Such as an error: less of it is better.
    ((0.5, 0.7, 0.6), 2.0, False, 1.0),
  ],
)
def test_the_best_value(scores, own, largest, wanted):
  assert tune.best((1.0, 2.0, 4.0), scores, own, largest) == wanted


def test_sampling_error_by_hand():
  # 100 examples, of which a fifth is wrong: √(.8 · .2 / 100).
  assert tune.sampling_error(0.8, 100) == pytest.approx(0.04)
  rng = np.random.default_rng(0)
  drawn = (rng.uniform(size=(20_000, 100)) < 0.8).mean(1).std()
  assert tune.sampling_error(0.8, 100) == pytest.approx(drawn, rel=0.02)


def test_each_sweep_takes_what_was_chosen_before(tuning, made_up, tmp_path):
  made, shares = made_up
  shares |= {
    'temperature': {2.0: 0.7, 6.0: 0.6},
    'alpha': {0.25: 0.8},
    'beta': {0.0: 0.9, 0.5: 0.9},
  }
  code, out, _ = tuning('--small_depth=14', '--held_out=30')
  assert code == 0
  names, configs = zip(*made, strict=True)
  assert names == ('teacher', 'temperature', 'alpha', 'beta')
  teacher, temperature, alpha, beta = configs
  for config in configs:
    assert (config.validation, config.score_on) == (30, 'validation')
  assert [config.method for config in configs] == ['', 'kd', 'kd', 'lit']
  shared = str(tmp_path / 'tuned' / 'teacher')
  assert [c.teacher.checkpoint for c in configs] == ['', *[shared] * 3]
  assert [c.student.depth for c in configs] == [8, 14, 8, 8]
  assert temperature.kd.temperature == 6 and temperature.kd.alpha == 0.95
  assert temperature.population.temperature == '1.0,2.0,4.0,6.0,10.0,20.0'
  # α has that τ, and β both, in the fine-tuning as well.
  assert alpha.kd.temperature == 2 and alpha.kd.alpha == 0.95
  assert alpha.population.temperature == ''
  for phase in (beta.lit, beta.finetune):
    assert (phase.alpha, phase.temperature) == (0.25, 2)
  assert (beta.lit.beta, beta.population.beta) == (
    0.75,
    '0.0,0.25,0.5,0.75,1.0',
  )
  found = _found(tmp_path / 'tuned')
  assert [found[s.setting] for s in tune.SWEEPS] == [2, 0.25, 0]
  assert found['held_out'] == 30
  assert found['command'].startswith('python ')
  tau, _, last = found['path']
  assert tau['tried'][1] == {'value': 2.0, 'accuracy': 0.7}
  assert (tau['student'], last['student']) == ('resnet-14', 'resnet-8')
  assert tau['sampling_error'] == pytest.approx(math.sqrt(0.7 * 0.3 / 30))
  # .1 is more than √(.7 · .3 / 30) = .084; .4 is more, too.
  assert [step['within_error'] for step in found['path']] == [False] * 3
  assert 'n = 30 held-out training examples' in out
  (line,) = [line for line in out.splitlines() if '70.00' in line]
  assert line.split() == ['2', '70.00', '8.37', 'chosen']
  assert (
    "temperature: 2 is chosen, 10.00 points better than the recipe's own 6: "
    'more than the sampling error of 8.37\n'
  ) in out


def test_a_choice_within_the_sampling_error_is_told_of(
  tuning, made_up, tmp_path
):
  _, shares = made_up
  shares |= {'temperature': {2.0: 0.7, 6.0: 0.65}, 'beta': {0.5: 0.6}}
  _, out, _ = tuning('--held_out=30', '--betas=.25,.5')
  path = _found(tmp_path / 'tuned')['path']
  assert [step['within_error'] for step in path] == [True, None, None]
  assert "5.00 points better than the recipe's own 6: within the sampl" in out
  # All are equal.
  assert "alpha: none is better than the recipe's own 0.95\n" in out
  assert "beta: 0.5 is chosen; the recipe's own 0.75 was not tried\n" in out


def test_what_is_held_out(tuning, made_up, tmp_path):
  made, _ = made_up
  # A tenth of the 100; the recipe's; the flag's.
  for i, (args, wanted) in enumerate(
    [
      ((), 10),
      (('--config.validation=20',), 20),
      (('--config.validation=20', '--held_out=30'), 30),
    ]
  ):
    tuning(*args, workdir=tmp_path / str(i))
    assert {config.validation for _, config in made[-4:]} == {wanted}
    assert _found(tmp_path / str(i))['held_out'] == wanted


def test_a_given_teacher_is_not_trained(tuning, made_up):
  made, _ = made_up
  _, _, err = tuning('--config.teacher.checkpoint=embedded')
  assert [name for name, _ in made] == ['temperature', 'alpha', 'beta']
  assert {c.teacher.checkpoint for _, c in made} == {'embedded'}
  assert err.startswith(
    'warning: the teacher embedded has seen the 10 held-out examples'
  )
  assert err.count('\n') == 1


# Populations.


def _members(config, sweep, values):
  wanted = tune.Wanted({sweep.setting: values}, 0, 30)
  own = tune.sweep_config(config, sweep, {}, wanted, 'embedded')
  (student,) = recipes.compression(own).students
  return student.method.population


def test_kd_without_soft_labels_is_a_member_as_others(data):
  found = _members(resnet.get_config(), ALPHA, (0.0, 0.5, 1.0))
  assert [m.objectives[0].alpha for m in found] == [0, 0.5, 1]
  assert [m.objectives[0].computes('soft') for m in found] == [
    True, True, False
  ]  # fmt: skip


def test_a_beta_without_irs_is_left_out_where_statistics_follow_them(
  tuning, made_up
):
  made, _ = made_up
  _, out, _ = tuning('--config.lit.running_statistics=both')
  assert made[-1][1].population.beta == '0.0,0.25,0.5,0.75'
  assert 'beta 1 is left out: running_statistics of both passes' in out


def test_the_phases_that_a_value_is_for():
  config: recipes.Config = resnet.get_config()
  alike = {'lit', 'one_ir', 'fitnets', 'several_irs', 'annealed'}
  soft = alike | {'kd', 'finetune'}
  assert set(tune.concerned(config, 'temperature')) == soft
  assert set(tune.concerned(config, 'alpha')) == soft
  # The hint is compared alone, by β = 0.
  assert set(tune.concerned(config, 'beta')) == alike
  # Where LIT itself has no soft labels yet, it may have them by another β.
  config.lit.beta = 0.0
  assert set(tune.concerned(config, 'alpha')) == soft
  assert set(tune.concerned(config, 'beta')) == alike
  config.finetune.alpha = 1.0
  assert set(tune.concerned(config, 'alpha')) == soft - {'finetune'}


# The flags.


def test_the_flags_train_with_what_was_chosen(
  tuning, made_up, main, data, tmp_path
):
  made_up[1].update(temperature={10.0: 0.7}, alpha={0.25: 0.8}, beta={0.5: 0.9})
  tuning()
  given = []

  def build(config):
    given.append(config)
    raise UserError('enough')

  args = [
    f'--config={CONFIGS / "resnet"}.py', *SMALL,
    f'--workdir={tmp_path / "run"}',
  ]  # fmt: skip
  flags = f'--flagfile={tmp_path / "tuned" / "tuned.flags"}'
  assert main(*args, flags, build=build)[2] == 'error: enough\n'
  (config,) = given
  for phase in (config.kd, config.lit, config.finetune, config.fitnets):
    assert (phase.alpha, phase.temperature) == (0.25, 10)
  assert [config[n].beta for n in ('lit', 'kd', 'finetune')] == [0.5, 1, 1]
  assert (config.scratch.alpha, config.hint.beta) == (1, 0)
  # What is written behind them counts.
  main(*args, flags, '--config.kd.alpha=0.5', build=build)
  assert given[-1].kd.alpha == 0.5
  # As every flag of a key, they follow the configuration.
  code, _, err = main(flags, *args, build=build)
  assert code == 2 and err.count('\n') == 1


# The test split.


@pytest.fixture
def digests(monkeypatch):
  """Runs whose scores follow from every example that they are given."""

  def execute(config, folder, observer):
    del observer
    folder.mkdir(parents=True)
    job = recipes.compression(config)
    number = checks.checksum(list(job.dataset.splits.values()))
    count = sum(len(student.method.names) for student in job.students)
    scores = tuple(number / (i + 1) / 2**32 for i in range(count))
    examples = job.dataset.splits[job.dataset.scored].examples
    return tune.Outcome(scores, 'accuracy', True, True, examples)

  monkeypatch.setattr(tune, 'execute', execute)


def _path(found):
  return [step['tried'] for step in found['path']]


def test_no_test_example_is_given_to_a_run(tuning, digests, data, tmp_path):
  found = {}
  for name, dataset in {
    'other test': _noise(test=2),
    'unreadable test': _without_reading(),
    'other train': _noise(train=3),
  }.items():
    data(dataset)
    assert tuning(workdir=tmp_path / name)[0] == 0
    found[name] = _path(_found(tmp_path / name))
  assert found['other test'] == found['unreadable test']
  assert found['other test'] != found['other train']


class Third(Observer):
  """Asks for a stop before the third phase."""

  left = 3

  def interrupt(self, where):
    self.left -= where.startswith('before ')
    if not self.left:
      raise Interrupted(where, SIGNAL)


@pytest.mark.slow
def test_tuning_at_its_smallest(tuning, data, tmp_path, monkeypatch):
  trained, train = [], loop.run

  def spy(phase, workdir, first, observer, *more):
    trained.append((workdir.name, phase.name))
    return train(phase, workdir, first, observer, *more)

  monkeypatch.setattr(loop, 'run', spy)
  flags = '--held_out=30', '--temperatures=2,6', '--alphas=.95,1', '--betas=0,1'
  data(_without_reading())
  with monkeypatch.context() as patch:
    patch.setattr(cli.startup, 'FirstSteps', Third)
    code, _, err = tuning(*flags, workdir=tmp_path / 'a')
  assert code == 128 + SIGNAL and 'before kd/kd' in err
  first = [('teacher', 'train_teacher'), ('temperature', 'kd')]
  assert trained == first
  # The same command goes on where it stood.
  assert tuning(*flags, workdir=tmp_path / 'a')[0] == 0
  others = [('alpha', 'kd'), ('beta', 'lit'), ('beta', 'finetune')]
  assert trained == first + others
  found = _found(tmp_path / 'a')
  assert [len(tried) for tried in _path(found)] == [2, 2, 2]
  assert found['held_out'] == 30
  for name in ('teacher', 'temperature', 'alpha', 'beta'):
    facts = json.loads((tmp_path / 'a' / name / 'data.json').read_text())
    assert {k: v['examples'] for k, v in facts['splits'].items()} == {
      'train': 70, 'validation': 30
    }  # fmt: skip
    results = json.loads((tmp_path / 'a' / name / 'results.json').read_text())
    for row in results['rows']:
      assert np.sum(row['confusion']) == 30
  # Once more, nothing is trained.
  assert tuning(*flags, workdir=tmp_path / 'a')[0] == 0
  assert trained == first + others
  assert _found(tmp_path / 'a') == found
  # With another test split everything is the same, bit for bit.
  data(_noise(test=2))
  tuning(*flags, workdir=tmp_path / 'b')
  assert _path(_found(tmp_path / 'b')) == _path(found)
  assert len(trained) == 2 * len(first + others)
  # Other values are another tuning.
  code, _, err = tuning(
    '--temperatures=2', '--held_out=30', workdir=tmp_path / 'b'
  )
  assert code == 2 and 'population.temperature was 2.0,6.0, is 2.0' in err


# What the teacher has seen.


def _teacher(folder, validation=0, content='a hash', **more):
  """A workdir with a teacher, as far as it is looked at."""
  for name in ('teacher/teacher', 'lit/student'):
    (folder / name).mkdir(parents=True)
    (folder / name / 'network.json').write_text('{}')
  config = {'validation': validation} | more
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'data.json').write_text(json.dumps({'content': content}))
  return str(folder)


def test_what_a_teacher_has_seen(tmp_path):
  def seen(teacher):
    return held_out.seen_by(teacher, _noise(), 30)

  assert seen('embedded') == held_out.HAS_SEEN
  own = dataclasses.replace(_noise(), name='fashion_mnist_mini')
  name = 'embedded/fashion_mnist'
  assert held_out.seen_by(name, own, 30) == held_out.HAS_SEEN
  assert seen(_teacher(tmp_path / 'all')) == held_out.HAS_SEEN
  assert seen(_teacher(tmp_path / 'less', 29)) == held_out.HAS_SEEN
  own = _teacher(tmp_path / 'as many', 30)
  assert seen(own) == seen(_teacher(tmp_path / 'more', 40)) == ''
  # Those of the 30 are among the first 40.
  held = [
    hold_out(_noise(), count).splits['validation'].inputs for count in (30, 40)
  ]
  assert {x.tobytes() for x in held[0]} < {x.tobytes() for x in held[1]}
  for unknown in (
    _teacher(tmp_path / 'other data', 30, 'another hash'),
    _teacher(tmp_path / 'no hash', 30, ''),
    _teacher(tmp_path / 'a part', train_examples=50),
    f'{own}/lit/student',
    str(tmp_path / 'elsewhere'),
  ):
    assert seen(unknown) == held_out.MAY_HAVE_SEEN
  # The network itself may be named.
  assert seen(f'{own}/teacher/teacher') == ''


# Bad input.


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--temperatures=1,x'], "--temperatures is '1,x'; write numbers"),
    (['--temperatures=0'], '--temperatures: temperature is 0.0; it must be gr'),
    (['--temperatures=nan'], '--temperatures: temperature is nan'),
    (['--alphas='], '--alphas is empty; give numbers to try'),
    (['--alphas=.5,0.5'], "--alphas '.5,0.5' repeats a value"),
    (['--betas=1.5'], '--betas: beta is 1.5; it must lie in [0, 1]'),
    (['--small_depth=-1'], '--small_depth=-1; give 1 or more'),
    (['--small_depth=9'], 'depth 9'),
    (['--held_out=-5'], '--held_out=-5; give 1 or more'),
    (['--held_out=100'], 'validation size 100 for noise'),
    (['--config.population.seed=0,1'], "population.seed is '0,1'; a sweep is"),
    (['--config.sequence=8'], "sequence is '8'; a sweep trains one student"),
    (['--config.select=best'], "select is 'best'; a sweep compares last"),
    (['--config.kd.alpha=1'], 'temperature changes nothing in kd'),
    (['--config.lit.beta=1'], 'beta changes nothing in lit'),
    (['--config.lit.copy=tail'], "no part 'tail'"),
    (['lit'], "unexpected argument 'lit'"),
  ],
)
def test_bad_flags(flags, words, tuning, monkeypatch, tmp_path):
  monkeypatch.setattr(loop, 'run', None)
  code, out, err = tuning(*flags)
  assert code == 2, err
  assert (out, err.count('\n')) == ('', 1)
  assert err.startswith('error: ') and words in err
  assert not (tmp_path / 'tuned').exists()


def test_the_workdir_of_a_run_is_refused(tuning, tmp_path):
  _teacher(tmp_path / 'run')
  code, _, err = tuning(workdir=tmp_path / 'run')
  assert code == 2 and 'is the workdir of a run; choose another' in err


# Scored on the validation split, in an ordinary run.


def test_without_test():
  held = without_test(hold_out(_noise(), 30))
  assert set(held.splits) == {'train', 'validation'}
  assert (held.scored, _noise().scored) == ('validation', 'test')
  with pytest.raises(UserError, match='noise has no validation split'):
    without_test(_noise())


@pytest.mark.slow
def test_a_run_that_is_scored_on_the_validation_split(
  main, data, monkeypatch, tmp_path
):
  given = {}
  wanted = hold_out(_noise(), 30).splits['validation']
  ir_errors = runner.evaluation.ir_errors

  def spy(teacher, own, split):
    given['ir_error'] = split
    return ir_errors(teacher, own, split)

  monkeypatch.setattr(runner.evaluation, 'ir_errors', spy)
  data(_without_reading())
  args = [
    f'--config={CONFIGS / "resnet"}.py', f'--workdir={tmp_path}', *SMALL,
    '--config.method=kd', '--config.score_on=validation',
    '--config.validation=30',
  ]  # fmt: skip
  code, out, err = main(*args)
  assert code == 0, err
  assert NOTE in out
  content = json.loads((tmp_path / 'results.json').read_text())
  assert content['notes'] == [NOTE]
  assert [row['method'] for row in content['rows']] == ['teacher', 'kd']
  for row in content['rows']:
    np.testing.assert_array_equal(
      np.sum(row['confusion'], 1), np.bincount(wanted.labels, minlength=10)
    )
  np.testing.assert_array_equal(given['ir_error'].inputs, wanted.inputs)
  records = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  splits = {json.loads(line)['split'] for line in records}
  assert splits == {'train', 'validation'}
  monkeypatch.undo()
  page = report.write_html(tmp_path).read_text()
  assert NOTE in page and 'test split' not in page


@pytest.mark.parametrize(
  ('flags', 'words'),
  [
    (['--config.score_on=validation'], 'noise has no validation split'),
    (['--config.score_on=train'], "score_on is 'train'; it must be 'test' or"),
  ],
)
def test_a_split_that_cannot_be_scored(flags, words, main, data, tmp_path):
  code, _, err = main(
    f'--config={CONFIGS / "resnet"}.py', f'--workdir={tmp_path}', *SMALL, *flags
  )
  assert code == 2 and words in err and err.count('\n') == 1


def test_a_baseline_is_scored_on_the_same_split():
  pytest.importorskip('sklearn')
  pa = pytest.importorskip('pyarrow')
  texts = {
    'train': ['good and fine', 'bad and poor'] * 2,
    'validation': ['fine', 'good', 'poor'],
  }
  labels = {'train': [1, 0, 1, 0], 'validation': [1, 0, 0]}
  dataset = Dataset(
    'texts',
    {
      name: Split(
        characters.encode(pa.array(own), 16), np.array(labels[name], np.int32)
      )
      for name, own in texts.items()
    },
    2,
    ImagePreprocess((), ()),
  )
  row = baselines.tfidf(dataset)
  # Of the label 0 one of two is taken for it, and of 1 the only one.
  assert row.scores['confusion'] == [[1, 1], [0, 1]]


def test_the_results_say_what_they_are_of(data):
  config: recipes.Config = resnet.get_config()
  config.validation, config.score_on = 30, 'validation'
  content = results.results(recipes.compression(config), [])
  assert content['notes'] == [NOTE]
  config.score_on = 'test'
  notes = results.results(recipes.compression(config), [])['notes']
  assert NOTE not in notes


def test_published_numbers_are_of_the_test_split(data):
  config: recipes.Config = resnet.get_config()
  config.validation = 30
  assert recipes.compression(config).reference is not None
  config.score_on = 'validation'
  assert recipes.compression(config).reference is None
