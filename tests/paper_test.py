"""The paper's artifacts: statistics, plan, and the command at its smallest."""

import json
import math

import numpy as np
import pytest
from absl.testing import flagsaver
from scipy import stats

from experiments.paper import __main__ as command
from experiments.paper import artifacts, plan, scales, statistics
from lit_jax.errors import UserError
from lit_jax.training.interrupt import Interrupted, Observer

SMOKE = scales.find('smoke')
FULL = scales.find('full')
SIGNAL = 15

pytestmark = pytest.mark.usefixtures('parsed_flags')

# Statistics.


def test_summary_by_hand():
  assert statistics.summary([2.0]) == (1, 2.0, None)
  n, mean, std = statistics.summary([1.0, 2.0, 4.0])
  assert (n, mean) == (3, pytest.approx(7 / 3))
  # Squares of the deviations: 16/9, 1/9, 25/9; two degrees of freedom.
  assert std == pytest.approx(math.sqrt(42 / 9 / 2))


def test_tests_by_hand():
  a, b = [1.0, 2.0, 3.0], [3.0, 5.0, 7.0]
  found = statistics.compare(b, a)
  assert found.difference == 3
  # Variances 1 and 4, three each; Welch-Satterthwaite's degrees of freedom.
  error, freedom = math.sqrt(5 / 3), (5 / 3) ** 2 / (1 / 18 + 16 / 18)
  assert found.welch == pytest.approx(2 * stats.t.sf(3 / error, freedom))
  # The pooled variance is 5/2, and the error the same, as the rows are equal.
  assert found.pooled == pytest.approx(2 * stats.t.sf(3 / error, 4))
  assert found.verdict == statistics.NOT_DECIDED


@pytest.mark.parametrize(
  ('better', 'than', 'verdict'),
  [
    ([0.93, 0.931, 0.932], [0.92, 0.921, 0.922], statistics.HELD),
    ([0.92, 0.921, 0.922], [0.93, 0.931, 0.932], statistics.CONTRADICTED),
    ([0.93, 0.94, 0.95], [0.92, 0.93, 0.95], statistics.NOT_DECIDED),
    ([0.95], [0.5, 0.6], statistics.NOT_DECIDED),
    ([0.9, 0.9], [0.5, 0.5], statistics.NOT_DECIDED),
  ],
)
def test_verdicts(better, than, verdict):
  assert statistics.compare(better, than).verdict == verdict


def test_what_can_be_detected_is_found_that_often():
  rows = [statistics.Summary(4, 0.0, 1.0), statistics.Summary(5, 0.0, 2.0)]
  effect = statistics.detectable(*rows)
  rng = np.random.default_rng(0)
  draws = 4000
  found = sum(
    statistics.compare(rng.normal(effect, 1, 4), rng.normal(0, 2, 5)).verdict
    == statistics.HELD
    for _ in range(draws)
  )
  # By the spreads that are drawn, not the ones assumed: about .8.
  assert 0.74 < found / draws < 0.86
  assert statistics.detectable(rows[0], rows[1]._replace(n=1, std=None)) is None


@pytest.mark.parametrize('n, std', [(2, 0.01), (3, 0.01), (3, 1.0), (20, 2.0)])
def test_what_can_be_detected_at_any_degrees_of_freedom(n, std):
  found = statistics.detectable(
    statistics.Summary(n, 0.0, std), statistics.Summary(n, 0.0, 1.0)
  )
  error = math.sqrt((std**2 + 1) / n)
  freedom = (n - 1) * (std**2 + 1) ** 2 / (std**4 + 1)
  rng = np.random.default_rng(0)
  spread = np.sqrt(rng.chisquare(freedom, 200_000) / freedom)
  t = (rng.normal(size=200_000) + found / error) / spread
  share = (abs(t) > stats.t.ppf(0.975, freedom)).mean()
  # Of so many draws one standard error is .0009.
  assert abs(share - 0.8) < 0.004


# The plan.


def test_the_papers_numbers():
  resnet, resnext = artifacts.ARTIFACTS['table3']
  assert [e.published for e in resnet.entries] == [
    (0.9325,), (0.9275,), (0.9274,), (0.9268,), (0.9042,)
  ]  # fmt: skip
  assert resnext.entries[0].published == (0.9472,)
  assert artifacts.ARTIFACTS['table4'][0].entries[2].published == (
    0.9302, 0.0006
  )  # fmt: skip


def _runs(scale, *names, seeds=2):
  halves = [half for name in names for half in artifacts.find(name)[name]]
  return plan.runs(scale, halves, seeds)


def test_the_same_run_is_made_once_whatever_it_is_for():
  table3, table4 = _runs(FULL, 'table3'), _runs(FULL, 'table4')
  both = _runs(FULL, 'table3', 'table4')
  # The rows of LIT, which are those of L2 and two seeds and families, and the
  # two teachers.
  assert len(table3) == 2 + 2 * 2 * 5 and len(table4) == 2 + 2 * 2 * 3
  assert len(both) == len(set(both)) == len(table3) + len(table4) - 4 - 2
  # The α and β of the recipes are among those of the sweeps.
  swept = set(_runs(FULL, 'fig7')) | set(_runs(FULL, 'fig8'))
  assert len(swept & set(table3)) == 2 + 2 * 2 * 2


def test_a_teacher_comes_before_its_students_and_is_shared():
  runs = _runs(FULL, 'fig2')
  teachers = [i for i, run in enumerate(runs) if not run.method]
  assert len(teachers) == 2
  for i in teachers:
    same = [j for j, r in enumerate(runs) if r.family == runs[i].family]
    assert i == min(same)
  # The embedded one is not trained.
  assert all(run.method for run in _runs(SMOKE, 'fig2'))


def test_a_run_says_what_it_is_made_with(tmp_path):
  (run, *_) = [
    r for r in _runs(FULL, 'fig8') if ('lit.beta', 0.25) in r.settings
  ]
  config = plan.config(FULL, run, tmp_path)
  assert config.lit.beta == 0.25 and config.finetune.beta == 1.0
  assert config.method == 'lit' and config.student.depth == 20
  teacher = plan.teacher_of(FULL, run)
  assert config.teacher.checkpoint == str(tmp_path / teacher.name)
  assert plan.epochs(FULL, run) == 175 + 75
  assert plan.epochs(FULL, teacher) == 200


def test_unknown_settings_are_no_settings():
  with pytest.raises(KeyError):
    scales.recipe(SMOKE.pairs['resnet'], {'lit.gamma': 1})


def test_every_entry_is_of_its_recipe():
  for scale in scales.SCALES.values():
    for run in _runs(scale, *artifacts.ARTIFACTS, seeds=1):
      assert plan.epochs(scale, run) > 0


# The command.


class Stopped(Observer):
  """Asks for a stop the n-th time that it may."""

  def __init__(self, n):
    self.left = n

  def interrupt(self, where):
    self.left -= 1
    if not self.left:
      raise Interrupted(where, SIGNAL)


@pytest.fixture
def paper(monkeypatch, tmp_path):
  """The command with these flags, and runs that are made up: what was made."""
  made = []

  def execute(scale, run, root, observer):
    made.append(run)
    folder = root / run.name
    folder.mkdir(parents=True)
    accuracy = {'lit': 0.9, 'kd': 0.8}.get(run.method, 0.7) + 0.001 * len(made)
    row = {
      'method': run.method, 'accuracy': accuracy, 'epochs': 2, 'depth': 8,
      'train_seconds': 30.0,
    }  # fmt: skip
    (folder / 'results.json').write_text(json.dumps({'rows': [row]}))

  monkeypatch.setattr(plan, 'execute', execute)

  def run(artifact, observer=None, **others):
    values = {
      'artifact': artifact, 'scale': 'smoke', 'workdir': str(tmp_path)
    } | others  # fmt: skip
    with flagsaver.flagsaver(**values):
      command.make(['paper'], observer or Observer())
    return made

  return run


def test_a_plan_that_was_stopped_goes_on(paper, tmp_path, capsys):
  with pytest.raises(Interrupted, match='before resnet'):
    paper('table4', Stopped(3))
  made = paper('table4')
  assert len(made) == len(set(made)) == 6
  # Another artifact finds the runs of LIT, and makes the others.
  paper('table3')
  assert len(made) == len(set(made)) == 6 + 8
  out = capsys.readouterr().out
  assert '10 runs, 2 of them finished' in out
  assert 'LIT above KD: held (+' in out and 'Welch p = ' in out
  (numbers,) = json.loads((tmp_path / 'table3.json').read_text())
  lit, kd, *_ = numbers['rows']
  assert lit['n'] == 2 and lit['published'] == []
  assert lit['mean'] == pytest.approx(np.mean(lit['accuracy']))
  assert lit['mean'] - kd['mean'] == pytest.approx(
    numbers['claims'][0]['difference']
  )


def test_a_dry_run_makes_nothing(paper, tmp_path, capsys):
  assert paper('all', dry_run=True) == []
  assert not list(tmp_path.iterdir())
  out = capsys.readouterr().out
  assert 'smoke has no resnext' in out and 'epochs to train; ' in out
  # Three more runs of half a minute.
  paper('table4')
  capsys.readouterr()
  paper('table4', seeds=3, dry_run=True)
  assert 'about 2 min by finished runs' in capsys.readouterr().out


def test_damaged_results_are_told_of(paper, tmp_path):
  (run, *_) = paper('table4')
  (tmp_path / run.name / 'results.json').write_text('{"rows": 3}')
  with pytest.raises(UserError, match='results.json is damaged; delete that'):
    paper('table4')


@pytest.mark.parametrize(
  ('values', 'words'),
  [
    ({'artifact': ''}, 'no artifact; give --artifact=table3'),
    ({'artifact': 'table9'}, "unknown artifact 'table9'"),
    ({'artifact': 'table3', 'scale': 'huge'}, "unknown scale 'huge'"),
    ({'artifact': 'table3', 'seeds': -1}, '--seeds=-1; give 1 or more'),
  ],
)
def test_bad_flags(paper, values, words):
  with pytest.raises(UserError, match=words):
    paper(**values)


@pytest.mark.slow
def test_an_artifact_at_its_smallest(tmp_path, capsys):
  values = {
    'artifact': 'table4', 'scale': 'smoke', 'seeds': 1,
    'workdir': str(tmp_path),
  }  # fmt: skip
  with flagsaver.flagsaver(**values):
    command.make(['paper'], Observer())
  out = capsys.readouterr().out
  assert 'not tested: too few runs' in out
  (numbers,) = json.loads((tmp_path / 'table4.json').read_text())
  # Ten classes; one epoch of LIT and one of fine-tuning.
  assert [row['label'] for row in numbers['rows']] == ['l2', 'l1', 'smooth_l1']
  for row in numbers['rows']:
    assert row['epochs'] == 2 and row['accuracy'][0] > 0.5
