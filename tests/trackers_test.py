"""Experiment trackers: what they are told, and that no failure ends a run."""

import importlib.util
import json
import pathlib
import sys
import types

import pytest

from lit_jax.errors import UserError
from lit_jax.training import logs, trackers


def _installed(*packages):
  missing = [p for p in packages if importlib.util.find_spec(p) is None]
  return pytest.mark.skipif(
    bool(missing), reason="needs trackers: pip install -e '.[track]'"
  )


def _log(workdir, *names, step=0):
  return logs.PhaseLog(workdir, 'lit', 'finetune', step, names)


def _two_records(log):
  log.write('train', 8, 0.5, {'loss': 2.0, 'ir/blocks_0': 0.25})
  log.write('test', 16, 1.0, {'loss': 1.5, 'accuracy': 0.75})
  log.close()


TOLD = [
  ({'train/loss': 2.0, 'train/ir/blocks_0': 0.25}, 8),
  ({'test/loss': 1.5, 'test/accuracy': 0.75}, 16),
]


class Fake(types.ModuleType):
  """A module `wandb` that keeps what it is told, or fails from some call on."""

  def __init__(self, fails=''):
    super().__init__('wandb')
    self.told, self.begun, self.finished, self._fails = [], [], 0, fails

  def _maybe(self, what):
    if what == self._fails:
      raise ConnectionError('no route to host\nat all')

  def init(self, **settings):
    self._maybe('init')
    self.begun.append(settings)
    return self

  def log(self, values, step):
    self._maybe('log')
    self.told.append((values, step))

  def finish(self):
    self._maybe('finish')
    self.finished += 1

  @staticmethod
  def Settings(**settings):
    return settings


@pytest.fixture
def fake(monkeypatch):
  def make(fails=''):
    module = Fake(fails)
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module

  monkeypatch.delenv('WANDB_MODE', raising=False)
  return make


def test_a_tracker_is_told_what_the_log_has(fake, tmp_path):
  wandb = fake()
  workdir = tmp_path / 'run'
  workdir.mkdir()
  _two_records(_log(workdir, 'wandb'))
  assert (wandb.told, wandb.finished) == (TOLD, 1)
  (settings,) = wandb.begun
  assert (settings['name'], settings['group']) == ('lit/finetune', 'run')
  assert pathlib.Path(settings['dir']) == workdir
  # The same run once more, and another for another phase.
  _log(workdir, 'wandb', step=16).close()
  logs.PhaseLog(workdir, 'lit', 'lit', 0, ['wandb']).close()
  ids = [own['id'] for own in wandb.begun]
  assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize('fails', ['init', 'log', 'finish'])
def test_one_that_fails_is_said_once_and_left(fails, fake, tmp_path, capsys):
  wandb = fake(fails)
  _two_records(_log(tmp_path, 'wandb'))
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert said[0].startswith('wandb is left out from here on: ')
  assert 'no route to host' in said[0]
  assert wandb.told == (TOLD if fails == 'finish' else [])
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['loss'] for line in lines] == [2.0, 1.5]


def test_unknown_or_missing_trackers_are_refused(monkeypatch):
  with pytest.raises(UserError, match='tracker .*comet.*wandb.*mlflow'):
    trackers.check(['comet'])
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  for name in ('wandb', 'mlflow'):
    with pytest.raises(UserError, match=rf'tracker {name} needs .*\[track\]'):
      trackers.check([name])
  trackers.check([])


@_installed('wandb')
def test_wandb_offline(monkeypatch, tmp_path):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  _two_records(_log(tmp_path, 'wandb'))
  (kept,) = (tmp_path / 'wandb').glob('offline-run-*/run-*.wandb')
  content = kept.read_bytes()
  for word in (b'train/ir/blocks_0', b'test/accuracy', b'lit/finetune'):
    assert word in content


@_installed('mlflow', 'sqlalchemy', 'alembic')
@pytest.mark.filterwarnings('ignore')  # of its own database
def test_mlflow_in_a_file(monkeypatch, tmp_path):
  monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
  from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

  workdir = tmp_path / 'run'
  workdir.mkdir()
  _two_records(_log(workdir, 'mlflow'))
  # Gone on with.
  log = _log(workdir, 'mlflow', step=16)
  log.write('test', 32, 2.0, {'loss': 1.0})
  log.close()
  client = MlflowClient(tracking_uri=f'sqlite:///{workdir}/mlflow.db')
  experiment = client.get_experiment_by_name('run')
  (run,) = client.search_runs([experiment.experiment_id])
  assert run.info.run_name == 'lit/finetune'
  assert run.info.status == 'FINISHED'
  history = client.get_metric_history(run.info.run_id, 'test/loss')
  assert [(m.step, m.value) for m in history] == [(16, 1.5), (32, 1.0)]
