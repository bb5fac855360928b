"""Whole runs of text classifiers by the command line, on reviews made here."""

import csv
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from experiments import baselines, recipes
from experiments.configs import resnet
from lit_jax.networks import saved
from lit_jax.runs import runner, train
from lit_jax.training import loop

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)

CONFIG = pathlib.Path(__file__).parents[1] / 'experiments/configs/vdcnn.py'
# Of each network of this run; the step is the same at any size.
NETWORK = {'widths': '(4,4,6,8)', 'k': 2, 'hidden': 8}
SETTINGS = {
  'dataset': 'own',
  'data.length': 24,
  'batch_size': 4,
  'steps_per_call': 2,
  'noise': 0.2,
  'seed': 3,
  'teacher.units': '(2,1,1,1)',
  'train_teacher.epochs': 1,
  'lit.epochs': 2,
  'finetune.epochs': 1,
  'method': 'lit',
  **{f'teacher.{key}': value for key, value in NETWORK.items()},
  **{f'student.{key}': value for key, value in NETWORK.items()},
}
TRAIN, TEST, PER_EPOCH = 22, 9, 5
SIGNAL = 15


def _write(path, count, seed):
  """Reviews of two classes that words tell apart, one class twice as often."""
  rng = np.random.default_rng(seed)
  with path.open('w', newline='') as f:
    writer = csv.writer(f)
    writer.writerow(['stars', 'review'])
    for i in range(count):
      good = i % 3 > 0
      word = 'fine' if good else 'bad'
      more = ''.join(rng.choice(list('abc é'), rng.integers(1, 30)))
      writer.writerow(['up' if good else 'down', f'{word} {more}'])


@pytest.fixture(scope='module')
def reviews(tmp_path_factory):
  folder = tmp_path_factory.mktemp('reviews')
  _write(folder / 'train.csv', TRAIN, 0)
  _write(folder / 'test.csv', TEST, 1)
  return folder


@pytest.fixture
def amazon(main, reviews, tmp_path):
  """The command line on these reviews, with settings changed."""

  def run(changes=None, workdir=tmp_path / 'run'):
    keys = {
      'data.path': reviews,
      'data.text': 'review',
      'data.label': 'stars',
      'data.cache': tmp_path / 'texts',
      **SETTINGS,
      **(changes or {}),
    }
    return main(
      f'--config={CONFIG}',
      f'--workdir={workdir}',
      *(f'--config.{key}={value}' for key, value in keys.items()),
    )

  return run


def _results(workdir):
  return json.loads((workdir / 'results.json').read_text())


def _network(workdir, name):
  role = 'teacher' if name == 'teacher' else 'student'
  return saved.load(workdir / name / role)[1]


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def _stop_at(patch, call):
  """The `call`-th call of a feed after this sets the stop of its run."""
  calls = []
  train_phase = loop.run

  def run(phase, workdir, first, observer, *more):
    superbatch = phase.feed.superbatch

    def asked(step):
      calls.append(step)
      if len(calls) == call:
        observer.stop = SIGNAL
      return superbatch(step)

    phase.feed.superbatch = asked
    return train_phase(phase, workdir, first, observer, *more)

  patch.setattr(loop, 'run', run)


@pytest.mark.slow
def test_a_run_that_was_stopped_is_the_run_that_was_not(amazon, tmp_path):
  code, out, err = amazon({'baseline': 'tfidf'})
  assert code == 0, err
  whole = tmp_path / 'run'
  teacher, student, outside = _results(whole)['rows']
  assert _results(whole)['classes'] == ['down', 'up']
  assert (teacher['method'], student['method']) == ('teacher', 'lit')
  for row in (teacher, student, outside):
    confusion = np.array(row['confusion'])
    np.testing.assert_array_equal(confusion.sum(1), [3, 6])
    right = np.diag(confusion)
    assert row['accuracy'] == pytest.approx(right.sum() / TEST)
    assert row['balanced_accuracy'] == pytest.approx(
      (right / confusion.sum(1)).mean()
    )
  # A word tells each class.
  assert (outside['method'], outside['accuracy']) == ('tfidf', 1.0)
  assert 'tfidf' in out and 'balanced' in out

  cut = tmp_path / 'cut'
  # Calls of 2, 2 and 1 steps an epoch: within the teacher's, and the first of
  # LIT, which is two calls after the end of the teacher's.
  for call in (2, 3):
    with pytest.MonkeyPatch.context() as patch:
      _stop_at(patch, call)
      code, _, err = amazon({'baseline': 'tfidf'}, cut)
    assert code == 128 + SIGNAL and 'same command again' in err
  assert amazon({'baseline': 'tfidf'}, cut)[0] == 0
  for name in ('teacher', 'lit'):
    _assert_same(_network(cut, name), _network(whole, name))
  # Finished: the same table again, without a look at the data.
  again = amazon({'baseline': 'tfidf', 'data.cache': tmp_path / 'none'})
  assert again[0] == 0 and out.endswith(again[1])
  assert not (tmp_path / 'none').exists()


@pytest.mark.slow
def test_in_a_sequence_each_student_teaches_the_next(
  amazon, tmp_path, monkeypatch
):
  taught = {}
  run_method = train.run_method

  def spy(context, method, net, preprocess, teacher, start=None):
    assert start is None
    taught[method.name] = teacher and jax.device_get(teacher.variables)
    return run_method(context, method, net, preprocess, teacher, start)

  monkeypatch.setattr(train, 'run_method', spy)
  code, out, err = amazon(
    {
      'teacher.units': '()', 'teacher.depth': 17, 'sequence': '17',
      'methods.lit': 'lit', 'lit.epochs': 1,
    }
  )  # fmt: skip
  assert code == 0, err
  rows = {row['method']: row for row in _results(tmp_path / 'run')['rows']}
  names = ['teacher', 'lit-17', 'lit-9']
  assert list(rows) == names
  assert [row['depth'] for row in rows.values()] == [20, 20, 12]
  assert [rows[n]['teacher'] for n in names[1:]] == ['teacher', 'lit-17']
  _assert_same(taught['lit-17'], _network(tmp_path / 'run', 'teacher'))
  _assert_same(taught['lit-9'], _network(tmp_path / 'run', 'lit-17'))
  assert all(name in out for name in names)


def test_sequences_of_every_method_and_family():
  config = resnet.get_config()
  config.update({'method': 'scratch,kd,lit', 'sequence': '44,32'})
  config.dataset = 'fashion_mnist_mini'
  job = recipes.compression(config)
  found = [(s.method.name, s.network['depth'], s.teacher) for s in job.students]
  assert found == [
    # From labels alone: each for itself.
    ('scratch-44', 44, 'teacher'),
    ('scratch-32', 32, 'teacher'),
    ('scratch-20', 20, 'teacher'),
    ('kd-44', 44, 'teacher'),
    ('kd-32', 32, 'kd-44'),
    ('kd-20', 20, 'kd-32'),
    ('lit-44', 44, 'teacher'),
    ('lit-32', 32, 'lit-44'),
    ('lit-20', 20, 'lit-32'),
  ]
  # Born again: of the same depth once more.
  config.update({'method': 'kd', 'sequence': '44,20'})
  found = [
    (s.method.name, s.teacher) for s in recipes.compression(config).students
  ]
  assert found == [
    ('kd-44', 'teacher'), ('kd-20', 'kd-44'), ('kd-20-again', 'kd-20'),
  ]  # fmt: skip
  config.student.units = (18, 3, 3)
  names = [s.method.name for s in recipes.compression(config).students]
  assert names[-1] == 'kd-18_3_3'


BAD = [
  ({'sequence': 'x'}, ["sequence is 'x'", 'write numbers']),
  ({'sequence': '10', 'student.depth': 9}, ['depth 10', '9, 17, 29, 49']),
  ({'sequence': '17,29'}, ['17, 29, 9', 'deeper than the one before']),
  ({'sequence': '17', 'population.beta': '0.1,0.2'}, ['population cannot']),
  ({'baseline': 'svm'}, ["baseline 'svm'", 'tfidf']),
  ({'noise': 1.0}, ['noise is 1.0', '0 to 1']),
  ({'dataset': 'cifar10', 'data.path': ''}, ['set of images', 'option noise']),
  ({'dataset': 'amazon_ful', 'data.path': ''}, ["'amazon_ful'", 'amazon_full']),
  ({'data.label': 'score'}, ['train.csv', "'score'", "'stars', 'review'"]),
  ({'data.length': 0}, ['length 0']),
  ({'data.on_bad': 'ignore'}, ["'ignore'", "'skip'"]),
  ({'data.length': 8}, ['8 characters', '2 largest']),
]  # fmt: skip


@pytest.mark.parametrize('changes, words', BAD)
def test_bad_settings(changes, words, amazon, tmp_path):
  code, out, err = amazon(changes)
  assert code == 2 and out == ''
  (line,) = [e for e in err.splitlines() if not e.startswith('reading ')]
  assert line.startswith('error: ')
  for word in words:
    assert word in line, line
  assert not (tmp_path / 'run').exists()


def test_a_row_that_cannot_be_used_leaves_nothing_behind(
  amazon, reviews, tmp_path
):
  broken = tmp_path / 'broken'
  broken.mkdir()
  for path in reviews.iterdir():
    (broken / path.name).write_bytes(path.read_bytes())
  with (broken / 'test.csv').open('a') as f:
    f.write('up,one,column too many\n')
  code, _, err = amazon({'data.path': broken})
  assert code == 2
  assert f'test.csv: row {TEST + 1} has 3 columns, not 2' in err
  assert not list((tmp_path / 'texts').iterdir())
  assert not (tmp_path / 'run').exists()


def _scratch(**changes):
  """A run of one short phase."""
  return {'method': 'scratch', 'scratch.epochs': 1, **changes}


@pytest.mark.slow
def test_a_baseline_that_fails_leaves_the_other_rows(
  amazon, tmp_path, monkeypatch
):
  def fail(dataset):
    raise ValueError('empty vocabulary\nand more')

  monkeypatch.setitem(baselines.BASELINES, 'tfidf', fail)
  code, _, err = amazon(_scratch(baseline='tfidf'))
  assert code == 2
  assert err.splitlines()[-1].startswith('error: baseline tfidf failed (empty')
  # The same command without it has the table at once.
  monkeypatch.setattr(runner, 'train_and_report', None)
  code, out, _ = amazon(_scratch())
  assert code == 0 and 'scratch' in out and 'tfidf' not in out
  monkeypatch.undo()


@pytest.mark.slow
def test_a_baseline_can_be_added_later_and_is_made_once(
  amazon, tmp_path, monkeypatch
):
  made = []
  tfidf = baselines.tfidf
  monkeypatch.setitem(
    baselines.BASELINES, 'tfidf', lambda d: made.append(d) or tfidf(d)
  )
  assert amazon(_scratch())[0] == 0
  assert amazon(_scratch(baseline='tfidf'))[0] == 0
  names = [row['method'] for row in _results(tmp_path / 'run')['rows']]
  assert names == ['scratch', 'tfidf'] and len(made) == 1
  (tmp_path / 'run' / 'results.json').unlink()
  assert amazon(_scratch(baseline='tfidf'))[0] == 0
  assert len(made) == 1


def test_a_workdir_takes_one_set_of_examples(amazon, reviews, tmp_path):
  assert amazon(_scratch())[0] == 0
  moved = tmp_path / 'moved'
  shutil.copytree(reviews, moved)
  both = _scratch() | {'method': 'scratch,kd', 'data.path': moved}
  text = (moved / 'train.csv').read_text()
  (moved / 'train.csv').write_text(text.replace('fine', 'good'))
  code, _, err = amazon(both)
  assert code == 2
  assert 'begun with other data: content was' in err
  with (moved / 'test.csv').open('a') as f:
    f.write('up,one more\n')
  code, _, err = amazon(both)
  assert f'splits.test.examples was {TEST}, is {TEST + 1}' in err
  assert not (tmp_path / 'run' / 'kd').exists()


def test_a_baseline_whose_package_is_missing(amazon, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  code, out, err = amazon(_scratch(baseline='tfidf'))
  assert code == 2 and out == '' and err.count('\n') == 1
  assert err.startswith("error: baseline tfidf needs the extra 'text'")
  assert "pip install 'lit_jax[text]'" in err
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('dataset', ['fine_foods', 'own', 'amazon_full'])
def test_the_packages_for_texts_are_missing(
  dataset, main, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  code, out, err = main(
    f'--config={CONFIG}',
    f'--workdir={tmp_path / "run"}',
    f'--config.dataset={dataset}',
    f'--config.data.path={tmp_path if dataset == "own" else ""}',
  )
  assert code == 2 and out == '' and err.count('\n') == 1
  assert err.startswith(f"error: {dataset} needs the extra 'text'")
  assert "pip install 'lit_jax[text]'" in err
  assert not (tmp_path / 'run').exists()


def test_texts_for_a_configuration_of_images(main, tmp_path):
  code, out, err = main(
    f'--config={CONFIG.parent / "resnet.py"}',
    f'--workdir={tmp_path / "run"}',
    '--config.dataset=fine_foods',
  )
  assert (code, out) == (2, '')
  assert err.startswith(
    "error: 'fine_foods' is a data set of texts and takes no option crop; it "
    'takes noise, path, '
  )
  assert err.count('\n') == 1


def test_a_text_configuration_lacks_a_key(main, tmp_path):
  for line, word in (
    ('del config.sequence', "lacks the key 'sequence'"),
    ('config.data.lenght = 3', "unknown key 'data.lenght'; perhaps 'length'"),
  ):
    path = tmp_path / 'mine.py'
    path.write_text(
      'from experiments.configs import vdcnn\n\n\n'
      f'def get_config():\n  config = vdcnn.get_config()\n  {line}\n'
      '  return config\n'
    )
    code, out, err = main(f'--config={path}', f'--workdir={tmp_path / "run"}')
    assert code == 2 and out == '' and err.count('\n') == 1
    assert word in err
