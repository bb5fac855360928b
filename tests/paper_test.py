"""The paper's artifacts: statistics, plan, and the command at its smallest."""

import json
import math
import re

import numpy as np
import pytest
from absl.testing import flagsaver
from scipy import stats

from experiments.paper import __main__ as command
from experiments.paper import (
  artifacts,
  document,
  figures,
  findings,
  plan,
  records,
  scales,
  statistics,
  workers,
)
from lit_jax import models
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.networks.summary import summary
from lit_jax.runs import workdir
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


def test_tests_by_scipy():
  rng = np.random.default_rng(0)
  for n, m in ((2, 2), (3, 3), (3, 5)):
    a, b = rng.normal(size=n), rng.normal(1, 2, size=m)
    found = statistics.compare(a, b)
    for equal, p in ((False, found.welch), (True, found.pooled)):
      wanted = stats.ttest_ind(a, b, equal_var=equal).pvalue
      assert p == pytest.approx(wanted)


def test_a_row_that_does_not_spread():
  # The mean of these is rounded, so that they seem to differ from it.
  same = [0.7, 0.7, 0.7]
  assert np.mean(same) != 0.7 and statistics.summary(same).std == 0
  found = statistics.compare(same, [0.5, 0.52, 0.51])
  # Only the other spreads: two degrees of freedom.
  t = 0.19 / (0.01 / math.sqrt(3))
  assert found.welch == pytest.approx(2 * stats.t.sf(t, 2))
  assert found.verdict == statistics.HELD


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


def test_rows_alike_by_hand():
  a, b = [1.0, 2.0, 3.0], [1.1, 2.2, 3.3]
  found = statistics.compare_equal(a, b, margin=5.0)
  # Both bounds by one-sided Welch tests.
  error = math.sqrt((1 + 1.21) / 3)
  freedom = (1 + 1.21) ** 2 / ((1 + 1.21**2) / 2)
  p = stats.t.sf((5.0 - 0.2) / error, freedom)
  assert p < 0.05 and found.verdict == statistics.HELD
  # Few runs of a wide spread show nothing within a narrow margin.
  found = statistics.compare_equal(a, b, margin=0.5)
  assert found.verdict == statistics.NOT_DECIDED
  apart = statistics.compare_equal([1.0, 1.01, 1.02], [2.0, 2.01, 2.02], 0.5)
  assert apart.verdict == statistics.CONTRADICTED
  # A difference that is sure, and that nobody minds.
  near = statistics.compare_equal([1.0, 1.01, 1.02], [1.1, 1.11, 1.12], 0.5)
  assert near.verdict == statistics.HELD and near.welch < 0.05
  assert statistics.compare_equal([1.0], [1.0], 0.5).verdict == (
    statistics.NOT_DECIDED
  )


def test_no_loss_against_a_single_score_is_a_test_of_one_sample():
  scores, teacher = [0.90, 0.91, 0.92], 0.95
  found = statistics.compare_no_loss(scores, [teacher], margin=0.005)
  assert found.welch == pytest.approx(stats.ttest_1samp(scores, teacher).pvalue)
  assert found.pooled is None and found.verdict == statistics.CONTRADICTED
  for reference, verdict in (
    (0.90, statistics.NOT_DECIDED),
    (0.88, statistics.HELD),
    (0.912, statistics.NOT_DECIDED),
  ):
    found = statistics.compare_no_loss(scores, [reference], margin=0.005)
    assert found.verdict == verdict, reference


def test_a_single_run_shows_nothing():
  # A teacher is what it is; a student of one run may lie anywhere.
  three = [0.930, 0.9301, 0.9302]
  for found in (
    statistics.compare_equal([0.931], three, 0.005),
    statistics.compare_equal(three, [0.931], 0.005),
    statistics.compare_no_loss([0.95], three, 0.005),
  ):
    assert found.verdict == statistics.NOT_DECIDED


# The plan.


def test_the_papers_numbers():
  resnet, resnext = artifacts.ARTIFACTS['table3']
  assert [e.published for e in resnet.entries[:5]] == [
    (0.9325,), (0.9275,), (0.9274,), (0.9268,), (0.9042,)
  ]  # fmt: skip
  assert not any(e.published for e in resnet.entries[5:])
  assert resnext.entries[0].published == (0.9472,)
  assert artifacts.ARTIFACTS['table4'][0].entries[2].published == (
    0.9302, 0.0006
  )  # fmt: skip


@pytest.mark.parametrize('name', artifacts.ARTIFACTS)
def test_every_claim_is_of_entries_that_there_are(name):
  for half in artifacts.ARTIFACTS[name]:
    labels = [entry.label for entry in half.entries]
    assert len(set(labels)) == len(labels)
    for claim in half.claims:
      assert {claim.better, claim.than} <= set(labels), claim
    for entry in half.entries:
      assert {entry.teacher, entry.start} <= {*labels, ''}


def _halves(scale, *names):
  return [
    half
    for name in names
    for half in plan.halves(scale, name, artifacts.find(name)[name])
  ]


def _runs(scale, *names, seeds=2):
  return plan.runs(scale, _halves(scale, *names), seeds)


def _root(tmp_path, scale='smoke'):
  return records.Root(tmp_path, scale, {})


def _todo(scale, tmp_path, *names, seeds=2):
  return plan.todo(scale, _runs(scale, *names, seeds=seeds), _root(tmp_path))


def test_the_same_run_is_made_once_whatever_it_is_for(tmp_path):
  table3, table4 = (_todo(FULL, tmp_path, n) for n in ('table3', 'table4'))
  both = _todo(FULL, tmp_path, 'table3', 'table4')
  # Seven methods and the equal budget, which is ResNet's own already; the rows
  # of LIT, which are those of L2 and two seeds and families; two teachers.
  assert len(table3) == 2 + 2 * (7 + 8) and len(table4) == 2 + 2 * 2 * 3
  assert len(both) == len(set(both)) == len(table3) + len(table4) - 4 - 2
  # The α and β of the recipes are among those of the sweeps.
  swept = set(_runs(FULL, 'fig7')) | set(_runs(FULL, 'fig8'))
  assert len(swept & set(table3)) == 2 * 2 * 2


def test_a_teacher_comes_before_its_students_and_is_shared(tmp_path):
  runs = _todo(FULL, tmp_path, 'fig2')
  teachers = [i for i, run in enumerate(runs) if not run.method]
  assert len(teachers) == 4  # two families, two data sets
  for i in teachers:
    taught = [
      j for j, run in enumerate(runs) if runs[i] in dict(run.given).values()
    ]
    assert len(taught) == 2 * 5 * 3 and i < min(taught)
    # Who learns from labels alone does not wait for it.
    assert not any(runs[j].method == 'scratch' for j in taught)
  # The embedded one is not trained.
  assert all(run.method for run in _todo(SMOKE, tmp_path, 'fig8'))


def test_a_run_says_what_it_is_made_with(tmp_path):
  (run, *_) = [
    r for r in _runs(FULL, 'fig8') if ('lit.beta', 0.25) in r.settings
  ]
  root = _root(tmp_path)
  teacher = dict(run.given)['teacher.checkpoint']
  with pytest.raises(UserError, match=f'{teacher.name} is gone'):
    plan.config(FULL, (run,), root)
  _finish(FULL, root, teacher)
  config = plan.config(FULL, (run,), root)
  assert config.lit.beta == 0.25 and config.finetune.beta == 1.0
  assert config.method == 'lit' and config.student.depth == 20
  assert config.teacher.checkpoint == str(root.network(teacher.name))
  assert plan.epochs(FULL, run) == 175 + 75
  assert plan.epochs(FULL, teacher) == 200


def _finish(scale, root, *runs, accuracy=0.5):
  """Records runs as finished, with networks that are none."""
  for run in runs:
    network = f'{run.name}/network'
    folder = root.folder / network
    folder.mkdir(parents=True)
    (folder / 'network.json').write_text('{}')
    row = {
      'method': run.method, 'accuracy': accuracy, 'epochs': 2, 'depth': 8,
      'train_seconds': 30.0, 'model': 'resnet-8', 'parameters': 75002,
      'macs': 9_145_216, 'latency_ms': {'1': 0.5, '128': 50.0},
      'confusion': [[1]], 'seed': 0,
    }  # fmt: skip
    record = {
      'run': run, 'recipe': plan.recipe(scale, run), 'row': records.slim(row),
      'given': {}, 'dataset': 'made up', 'device': 'none',
      'versions': {'jax': '1'}, 'network': network,
    }  # fmt: skip
    root.write(run.name, {run.name: record})


def test_a_student_that_teaches_is_the_teacher(tmp_path):
  (half,) = [h for h in _halves(FULL, 'fig3') if h.family == 'vdcnn_full']
  entry = artifacts.entry(half, 'LIT by student 2')
  run = plan.run_of(FULL, half, entry, 1)
  ((key, giver),) = run.given
  assert key == 'teacher.checkpoint' and giver.method == 'lit'
  root = _root(tmp_path)
  _finish(FULL, root, giver)
  config = plan.config(FULL, (run,), root)
  # The giver is of the same seed.
  assert dict(giver.settings)['seed'] == dict(run.settings)['seed'] == 1
  assert (config.teacher.depth, config.student.depth) == (17, 9)
  assert config.teacher.checkpoint == str(root.network(giver.name))


def test_runs_whose_network_is_gone_are_made_again_where_it_is_needed(tmp_path):
  (half,) = [h for h in _halves(FULL, 'fig3') if h.family == 'vdcnn_full']
  run = plan.run_of(FULL, half, artifacts.entry(half, 'LIT by student 2'), 0)
  giver = dict(run.given)['teacher.checkpoint']
  teacher = dict(giver.given)['teacher.checkpoint']
  here = _root(tmp_path / 'here')
  _finish(FULL, here, giver)
  record = {giver.name: here.record(giver.name)}
  elsewhere = records.Root(tmp_path / 'elsewhere', 'full', record)
  # Its row is known, and its network is not there.
  assert plan.todo(FULL, [giver], elsewhere) == ()
  assert plan.todo(FULL, [run], elsewhere) == (teacher, giver, run)
  assert plan.todo(FULL, [run], here) == (run,)


def test_members_that_differ_in_beta_alone_are_trained_together(tmp_path):
  runs = _todo(SMOKE, tmp_path, 'fig8', 'table4')
  groups = plan.groups(SMOKE, runs)
  assert sorted(map(len, groups)) == [1, 1, 1, 1, 5, 5]
  group = next(g for g in groups if len(g) == 5)
  config = plan.config(SMOKE, group, _root(tmp_path))
  assert config.population.beta == '0.0,0.25,0.5,0.75,1.0'
  assert config.method == 'lit' and not config.population.alpha
  # What is finished is left out, and another group is another workdir.
  less = plan.groups(SMOKE, [run for run in runs if run != group[1]])
  assert plan.folder(next(g for g in less if len(g) == 4)) != plan.folder(group)


def test_what_shares_a_judge_is_trained_together(tmp_path):
  groups = plan.groups(SMOKE, _todo(SMOKE, tmp_path, 'table2'))
  assert [len(group) for group in groups] == [6, 6]
  config = plan.config(SMOKE, groups[1], _root(tmp_path))
  assert config.method == 'lit,l2,scratch,random,random_deep'
  assert config.seed == 1


def test_a_teacher_that_is_trained_is_judged_with_every_seed(tmp_path):
  runs = _todo(FULL, tmp_path, 'table2')
  groups = plan.groups(FULL, runs)
  assert [len(group) for group in groups] == [1, 6, 6]
  (teacher,) = groups[0]
  assert plan.epochs(FULL, teacher) == 20 and not teacher.given
  root = _root(tmp_path)
  _finish(FULL, root, teacher)
  for group in groups[1:]:
    assert {dict(r.given)['teacher.checkpoint'] for r in group} == {teacher}
    assert sum(plan.epochs(FULL, r) for r in group if not r.method) == 0
    config = plan.config(FULL, group, root)
    assert config.teacher.checkpoint == str(root.network(teacher.name))


def test_rows_of_another_recipe_do_not_count(tmp_path, monkeypatch):
  (run, *_) = _runs(SMOKE, 'table4')
  root = _root(tmp_path)
  _finish(SMOKE, root, run)
  assert plan.record(SMOKE, root, run) is not None
  pair = SMOKE.pairs['resnet']

  def changed(key, value):
    def make():
      config = pair.config()
      scales.set_keys(config, {key: value})
      return config

    pairs = SMOKE.pairs | {'resnet': pair._replace(config=make)}
    return SMOKE._replace(pairs=pairs)

  assert plan.record(changed('lit.epochs', 17), root, run) is None
  assert plan.record(changed('batch_size', 17), root, run) is None
  # What is of other methods changes nothing.
  assert plan.record(changed('kd.epochs', 17), root, run) is not None
  assert plan.todo(changed('lit.epochs', 17), [run], root) == (run,)


def test_unknown_settings_are_no_settings():
  with pytest.raises(KeyError):
    scales.recipe(SMOKE.pairs['resnet'], {'lit.gamma': 1})


@pytest.mark.parametrize('name', scales.SCALES)
def test_every_entry_is_of_its_recipe(name):
  scale = scales.find(name)
  for run in _runs(scale, *artifacts.ARTIFACTS, seeds=1):
    untrained = not run.method or run.method.startswith('random')
    assert plan.epochs(scale, run) > 0 or untrained


def test_the_cost_is_that_of_finished_runs():
  (kd, *_), (lit, *_) = (
    [r for r in _runs(SMOKE, 'table3') if r.method == m] for m in ('kd', 'lit')
  )
  assert plan.seconds(SMOKE, kd, {}) is None
  row = {'train_seconds': 60.0}
  # Another seed takes as long; another method by its multiply-accumulates:
  # KD's teacher forward and student thrice, LIT's blocks once more.
  assert plan.seconds(SMOKE, kd, {kd: row}) == pytest.approx(60.0)
  teacher, student = (
    summary(models.build({'family': 'resnet', 'depth': depth})).macs
    for depth in (20, 8)
  )
  kd_work = teacher + 3 * student
  assert plan.work(SMOKE, kd) == pytest.approx(2000 * kd_work)
  assert plan.work(SMOKE, lit) == pytest.approx(
    2000 * (2 * kd_work + 3 * student)
  )
  assert plan.seconds(SMOKE, lit, {kd: row}) == pytest.approx(
    60.0 * (2 * kd_work + 3 * student) / kd_work
  )


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

  def execute(scale, group, root, observer):
    for run in group:
      made.append(run)
      accuracy = {'lit': 0.9, 'kd': 0.8}.get(run.method, 0.7)
      _finish(scale, root, run, accuracy=accuracy + 0.001 * len(made))

  monkeypatch.setattr(plan, 'execute', execute)

  def run(artifact, observer=None, **others):
    values = {
      'artifact': artifact, 'scale': 'smoke', 'workdir': str(tmp_path),
      'processes': 1, 'seeds': 2,
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
  assert len(made) == len(set(made)) == 6 + 12
  out = capsys.readouterr().out
  assert '14 rows, 2 of them finished' in out
  assert 'LIT better than KD: held (+' in out and 'Welch p = ' in out
  (numbers,) = json.loads((tmp_path / 'table3.json').read_text())
  lit, kd, *_ = numbers['rows']
  assert lit['n'] == 2 and lit['published'] == []
  assert lit['mean'] == pytest.approx(np.mean(lit['scores']))
  assert lit['mean'] - kd['mean'] == pytest.approx(
    numbers['claims'][0]['difference']
  )
  # Tests write no page.
  assert not list(tmp_path.glob('*.md'))


def test_processes_share_a_plan(paper, monkeypatch, tmp_path, capsys):
  execute, tried = plan.execute, []

  def busy_at_first(scale, group, root, observer):
    tried.append(group)
    if len(tried) == 1:
      raise workdir.Busy('another run is at work')
    execute(scale, group, root, observer)

  monkeypatch.setattr(plan, 'execute', busy_at_first)
  paper('table4')
  # All others first, then what another process has let go of.
  assert len(tried) == 7 and tried[-1] == tried[0]
  # What another process has finished meanwhile is not made again.
  tried.clear()
  monkeypatch.setattr(command, '_WAIT', 0.0)

  def finished_elsewhere(scale, group, root, observer):
    tried.append(group)
    _finish(scale, root, *group)
    raise workdir.Busy('another run is at work')

  monkeypatch.setattr(plan, 'execute', finished_elsewhere)
  paper('fig7')
  assert len(tried) == 2


class Process:
  """Stands for one that was started."""

  def __init__(self, arguments, env):
    self.arguments, self.env, self.events = arguments, env, []

  def terminate(self):
    self.events.append('terminate')

  def wait(self):
    self.events.append('wait')


@pytest.fixture
def started(monkeypatch):
  """Processes that were started on three cores, and affinities."""
  processes, affinities = [], []

  def start(arguments, env, start_new_session):
    # A Ctrl-C must not reach them twice.
    assert start_new_session
    processes.append(Process(arguments, env))
    return processes[-1]

  monkeypatch.setattr(workers.subprocess, 'Popen', start)
  monkeypatch.setattr(workers, '_cores', lambda: [0, 2, 3])
  monkeypatch.setattr(workers, '_has_gpu', lambda: False)
  monkeypatch.setattr(
    workers.os, 'sched_setaffinity', lambda _, own: affinities.append(list(own))
  )
  return processes, affinities


def test_each_core_gets_a_process(started, monkeypatch):
  processes, affinities = started
  with workers.started(0, tasks=9):
    assert not workers.is_one()
  owned = [p.env[workers.VARIABLE] for p in processes]
  assert owned == ['2', '3'] and affinities == [[0], [0, 2, 3]]
  assert [p.events for p in processes] == [['wait'], ['wait']]
  # One of them keeps to its core and starts no others.
  monkeypatch.setenv(workers.VARIABLE, '2')
  with workers.started(0, tasks=9):
    assert workers.is_one() and len(processes) == 2
  assert affinities[-1] == [2]


@pytest.mark.parametrize(
  ('count', 'tasks', 'gpu', 'others'),
  [(0, 9, False, 2), (0, 9, True, 0), (2, 9, True, 1), (5, 9, False, 2),
   (0, 2, False, 1), (0, 1, False, 0), (0, 0, False, 0), (1, 9, False, 0)],
)  # fmt: skip
def test_how_many_processes_there_are(
  started, monkeypatch, count, tasks, gpu, others
):
  processes, affinities = started
  monkeypatch.setattr(workers, '_has_gpu', lambda: gpu)
  with workers.started(count, tasks):
    pass
  assert len(processes) == others
  # Two processes share three cores.
  if others == 1:
    assert affinities[0] == [0, 3]


def test_processes_are_stopped_with_the_first(started):
  processes, _ = started
  with pytest.raises(Interrupted), workers.started(0, tasks=9):
    raise Interrupted('in a phase', SIGNAL)
  assert [p.events for p in processes] == [['terminate', 'wait']] * 2


def test_one_that_fails_does_not_keep_the_others(paper, monkeypatch, capsys):
  execute, tried = plan.execute, []

  def fails_at_first(scale, group, root, observer):
    tried.append(group)
    if len(tried) == 1:
      raise UserError('the loss is nan')
    execute(scale, group, root, observer)

  monkeypatch.setattr(plan, 'execute', fails_at_first)
  with pytest.raises(UserError, match='7 of 14 workdirs failed'):
    # LIT's first student is what all pruned ones of its seed begin as.
    paper('fig6', seeds=1)
  assert 'failed: the loss is nan' in capsys.readouterr().err
  assert len(tried) == 1 + 7


def test_a_workdir_that_is_claimed_is_busy(tmp_path):
  assert not workdir.is_busy(tmp_path)
  with (
    workdir.claimed(tmp_path, {}),
    pytest.raises(workdir.Busy, match='another run is at work'),
    workdir.claimed(tmp_path, {}),
  ):
    pass
  assert not workdir.is_busy(tmp_path)
  with workdir.claimed(tmp_path, {}):
    assert workdir.is_busy(tmp_path)


def test_a_dry_run_makes_nothing(paper, tmp_path, capsys):
  assert paper('all', dry_run=True) == []
  assert not list(tmp_path.iterdir())
  out = capsys.readouterr().out
  assert 'smoke has no resnext_100' in out and 'no like was timed yet' in out
  # Three more runs of half a minute.
  paper('table4')
  capsys.readouterr()
  paper('table4', seeds=3, dry_run=True)
  out = capsys.readouterr().out
  assert '3 runs of 6 epochs in 3 workdirs; about 2 min by finished' in out


def test_damaged_results_are_told_of(paper, tmp_path):
  (run, *_) = paper('table4')
  (tmp_path / 'rows' / f'{run.name}.json').write_text('{"row": 3}')
  with pytest.raises(UserError, match=r'\.json is damaged; delete it'):
    paper('table4')


@pytest.mark.parametrize(
  ('values', 'words'),
  [
    ({'artifact': ''}, 'no artifact; give --artifact=table2'),
    ({'artifact': 'table9'}, "unknown artifact 'table9'"),
    ({'artifact': 'table3', 'scale': 'huge'}, "unknown scale 'huge'"),
    ({'artifact': 'table3', 'seeds': -1}, '--seeds=-1; give 1 or more'),
    ({'artifact': 'table3', 'processes': -1}, '--processes=-1; give 1 or more'),
    ({'artifact': 'table3', 'publish': True}, 'is for tests; publish another'),
  ],
)
def test_bad_flags(paper, values, words):
  with pytest.raises(UserError, match=words):
    paper(**values)


def test_only_numbers_and_words_are_recorded(tmp_path):
  (run, *_) = _runs(SMOKE, 'table4')
  root = _root(tmp_path)
  _finish(SMOKE, root, run)
  row = root.record(run.name)['row']
  assert 'confusion' not in row and row['latency_ms']['128'] == 50.0


# The page.


@pytest.fixture
def found(tmp_path):
  """Figure 8 of made-up runs."""
  (half,) = _halves(SMOKE, 'fig8')
  root = _root(tmp_path)
  for i, run in enumerate(_runs(SMOKE, 'fig8')):
    _finish(SMOKE, root, run, accuracy=0.8 + 0.01 * i)
  return findings.findings(SMOKE, half, 2, root)


def test_a_figure_has_its_points_and_says_what_to_see(found):
  svg = figures.draw(found)
  words = ' '.join(re.findall(r'<!-- (.*?) -->', svg))
  held = sum(c['verdict'] == statistics.HELD for c in found['claims'])
  assert 0 < held < 6
  assert f'{held} of 6 claims held' in words
  for text in ('β, the weight of KD', 'accuracy %, mean ± std', '0.25'):
    assert text in words
  assert svg == figures.draw(found)


def test_a_page_has_every_number(found, tmp_path):
  page = tmp_path / 'paper.md'
  document.write(page, [document.Section('fig8', 'smoke', [found])], 'the end')
  text = page.read_text()
  for row in found['rows']:
    assert f'| {row["label"]} | resnet-8 | {100 * row["mean"]:.2f} |' in text
  assert text.count('\n- β') == 6 and text.endswith('the end')
  assert 'runs are made' not in text
  # What is missing is said.
  found['finished'] = [9, 10]
  document.write(page, [document.Section('fig8', 'smoke', [found])], '')
  assert '**9 of 10 runs are made.**' in page.read_text()
  for file in re.findall(r'!\[.*?\]\((.*?)\)', text):
    assert (tmp_path / file).is_file()


def test_what_a_student_saves(tmp_path):
  halves = {half.family: half for half in _halves(SMOKE, 'claims')}
  half, root = halves['resnet'], _root(tmp_path)
  for entry in plan.entries(SMOKE, half):
    (run,) = plan.runs_of(SMOKE, half, entry, 1)
    _finish(SMOKE, root, run)
  found = findings.findings(SMOKE, half, 1, root)
  (teacher, *_) = [row for row in found['rows'] if not row['method']]
  teacher.update(depth=20, parameters=150_004, macs=3 * 9_145_216,
                 latency_ms={'1': 1.0, '128': 200.0})  # fmt: skip
  (line,) = findings.savings(found)
  assert line == (
    'LIT, student 1, resnet-8 of resnet-8: 2.5 times fewer layers, 2 times '
    'fewer parameters, 3 times fewer multiply-accumulates, 4 times as fast at '
    'batch 128'
  )


@pytest.mark.slow
def test_table_6_is_the_papers():
  text = document.networks()
  assert '| resnet-110 | [18, 18, 18] | 110 | 1,7' in text
  assert '| resnext-20 | [3, 3, 3] | 29 | ' in text


@pytest.mark.slow
def test_the_committed_page_is_of_the_committed_rows(tmp_path):
  kept = document.DOCS / 'paper.md'
  images = {path.name for path in (document.DOCS / 'paper').glob('*.png')}
  (tmp_path / 'paper').mkdir()
  for name in images:
    (tmp_path / 'paper' / name).touch()
  document.write_page(tmp_path / 'paper.md')
  assert (tmp_path / 'paper.md').read_text() == kept.read_text()
  written = {path.name for path in (tmp_path / 'paper').iterdir()}
  assert written == {p.name for p in (document.DOCS / 'paper').iterdir()}


@pytest.mark.slow
def test_an_artifact_at_its_smallest(tmp_path, capsys):
  values = {
    'artifact': 'table4', 'scale': 'smoke', 'seeds': 1,
    'workdir': str(tmp_path), 'processes': 1,
  }  # fmt: skip
  with flagsaver.flagsaver(**values):
    command.make(['paper'], Observer())
  out = capsys.readouterr().out
  assert 'not tested: too few runs' in out
  (numbers,) = json.loads((tmp_path / 'table4.json').read_text())
  # Ten classes; one epoch of LIT and one of fine-tuning.
  assert [row['label'] for row in numbers['rows']] == ['L2', 'L1', 'smooth L1']
  for row in numbers['rows']:
    assert row['epochs'] == 2 and row['scores'][0] > 0.2
  (card, *others) = sorted(tmp_path.glob('*/lit/student/card.md'))
  assert len(others) == 2
  text = card.read_text()
  _, variables = saved.load(card.parent)
  assert f'`{saved.digest(variables)}`' in text
  for words in (
    '# resnet-8 by lit, fashion_mnist_mini', '512 train examples',
    'Teacher: resnet-20; accuracy 93.50 %', 'Phase 2: `Phase(name=\'finetune\'',
  ):  # fmt: skip
    assert words in text
