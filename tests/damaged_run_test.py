"""Runs whose files were damaged, whose disk is full, whose device is too small.

Each is run again by the same job, and ends with the bits of the first run.
"""

import errno
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from drawn import noise

from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.objectives import scratch
from lit_jax.runs import jobs, phases, rows, runner, workdir
from lit_jax.tasks import Classify
from lit_jax.training import loop
from lit_jax.training.interrupt import Observer

SPEC = {'family': 'resnet', 'depth': 8, 'input_shape': [8, 8, 3], 'classes': 10}
PHASE = phases.Phase('scratch', scratch(), 2, 0.1)


def _job(**training):
  settings = dict(
    batch_size=8, seed=3, precision='fp32', steps_per_call=4, select='last'
  )
  return jobs.Job(
    dataset=noise(40, 20),
    task=Classify(10),
    teacher=SPEC,
    teacher_checkpoint='',
    teacher_method=phases.Method('teacher', (PHASE,)),
    students=(jobs.Student(SPEC, phases.Method('scratch', (PHASE,))),),
    training=phases.Training(**(settings | training)),
    config={'name': 'a test'},
  )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A finished run that nothing has happened to."""
  folder = tmp_path_factory.mktemp('whole') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    _no_clock_and_no_page(patch)
    runner.run(_job(), folder)
  return folder


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
  """A copy of it, and how it is run again: its results, and its phases' ends.

  A phase that only reads its last checkpoint takes no step.
  """
  folder = tmp_path / 'run'
  shutil.copytree(whole, folder)
  _no_clock_and_no_page(monkeypatch)
  steps = []
  program = loop.population.train_program

  def counted(*args):
    made = program(*args)
    steps.append(args)
    return made

  monkeypatch.setattr(loop.population, 'train_program', counted)

  def again(**training):
    return runner.run(_job(**training), folder)

  return folder, again, steps


def _no_clock_and_no_page(patch):
  timed = lambda found, precision: [  # noqa: E731
    {**own.row, 'latency_ms': {}} for own in found
  ]
  patch.setattr(rows, 'timed', timed)
  patch.setattr(runner.report, 'write_html', lambda workdir: None)


def _student(folder) -> pathlib.Path:
  return workdir.network(folder, 'scratch', 'student')


def _assert_same_student(folder, whole):
  found, wanted = (saved.load(_student(own)) for own in (folder, whole))
  assert found[0].digest == wanted[0].digest
  jax.tree.map(np.testing.assert_array_equal, found[1], wanted[1])
  assert found[0].row == wanted[0].row


def _largest(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 8
  path.write_bytes(content)


def _remove_facts(folder):
  (folder / 'network.json').write_text('{}')


def _empty(folder):
  (folder / 'network.json').write_text('')


def _nested(folder):
  (folder / 'network.json').write_text('[' * 100_000)


def _cut(folder):
  path = _largest(folder / 'arrays')
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(folder):
  _flip_a_bit(_largest(folder / 'arrays'))


def _file(folder):
  shutil.rmtree(folder)
  folder.write_text('mine')


@pytest.mark.parametrize('finished', [True, False])
@pytest.mark.parametrize(
  'harm', [_remove_facts, _empty, _nested, _cut, _flip, _file]
)
def test_a_damaged_student_is_made_again(harm, finished, run, whole, capsys):
  folder, again, steps = run
  if not finished:
    (folder / 'results.json').unlink()
  harm(_student(folder))
  again()
  _assert_same_student(folder, whole)
  said = capsys.readouterr().err
  assert str(_student(folder)) in said and 'made again' in said
  # From the last checkpoint, and not by training.
  assert not steps
  assert _student(folder).with_name('student.damaged').exists()


@pytest.mark.parametrize(
  'content',
  [
    b'', b'null', b'[1]', b'{"rows": []}', b'[' * 100_000, b'\xff',
    b'{"dataset": "noise", "seed": 3, "columns": [], "rows": [{"method": 1}]}',
    b'{"dataset": 3, "seed": 3, "columns": 1, "rows": 2}',
  ],
)  # fmt: skip
def test_results_of_another_shape_are_made_again(content, run, whole):
  folder, again, steps = run
  (folder / 'results.json').write_bytes(content)
  found = again()
  wanted = json.loads((whole / 'results.json').read_text())
  assert found['rows'] == wanted['rows'] and not steps


@pytest.mark.parametrize('name', ['config.json', 'data.json'])
@pytest.mark.parametrize('content', ['[' * 100_000, '', 'null'])
def test_what_a_run_was_begun_with_is_not_guessed(name, content, run):
  folder, again, _ = run
  (folder / name).write_text(content)
  with pytest.raises(UserError, match=f'{name} is damaged') as caught:
    again()
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


def test_a_finished_run_needs_no_write(run, monkeypatch, capsys):
  folder, again, _ = run

  def read_only(folder):
    raise UserError(
      f'{folder}/report.html: cannot write: Read-only file system'
    )

  monkeypatch.setattr(runner.report, 'write_html', read_only)
  assert [row['method'] for row in again()['rows']] == ['scratch']
  (said,) = capsys.readouterr().err.splitlines()
  assert 'Read-only file system' in said


def test_another_length_of_a_call_goes_on(run, whole):
  folder, again, _ = run
  (folder / 'results.json').unlink()
  again(steps_per_call=1)
  _assert_same_student(folder, whole)


# A workdir that somebody removes.


class _Removing(Observer):
  """Removes the workdir when it is told of a moment."""

  def __init__(self, folder, moment, made_again):
    self.folder, self.moment, self.made_again = folder, moment, made_again

  def first_call(self, steps):
    self.reached('the first steps')

  def interrupt(self, place):
    self.reached(place)

  def reached(self, place):
    if place.startswith(self.moment):
      while self.folder.exists():  # a checkpoint may be written meanwhile
        shutil.rmtree(self.folder, ignore_errors=True)
      if self.made_again:
        # As by another run.
        self.folder.mkdir(exist_ok=True)
        (self.folder / '.lock').touch()


@pytest.mark.parametrize(
  'moment, made_again',
  [
    ('before scratch/', False), ('the first steps', True),
    ('in scratch/', False), ('in scratch/', True), ('trained', False),
  ],
)  # fmt: skip
def test_a_removed_workdir_ends_the_run(
  moment, made_again, whole, tmp_path, monkeypatch
):
  _no_clock_and_no_page(monkeypatch)
  folder = tmp_path / 'run'
  observer = _Removing(folder, moment, made_again)
  train = runner.train.run_method

  def trained(*args):
    result = train(*args)
    observer.reached('trained')
    return result

  monkeypatch.setattr(runner.train, 'run_method', trained)
  with pytest.raises(UserError, match='was removed while this run') as caught:
    runner.run(_job(), folder, observer)
  assert '\n' not in str(caught.value)
  # Nothing is written to what may be another's, but for a checkpoint that was
  # being written, which is never whole.
  left = [path for path in tmp_path.rglob('*') if path.is_file()]
  own = [path.name for path in left if '.orbax-checkpoint-tmp' not in str(path)]
  assert own == (['.lock'] if made_again else [])
  if moment == 'in scratch/':
    # The same command begins anew.
    runner.run(_job(), folder)
    found, wanted = (saved.load(_student(own))[0] for own in (folder, whole))
    assert found.digest == wanted.digest


def test_checkpoints_of_an_unknown_configuration_are_refused(run):
  folder, again, _ = run
  for name in ('config.json', 'results.json'):
    (folder / name).unlink()
  with pytest.raises(UserError, match='checkpoints without config.json'):
    again()
  assert _student(folder).exists()


# A device that cannot measure.


def _out_of_memory(*args):
  raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory: 9 bytes')


def test_a_student_is_saved_before_it_is_measured(
  run, whole, monkeypatch, capsys
):
  folder, again, steps = run
  (folder / 'results.json').unlink()
  shutil.rmtree(_student(folder))
  with monkeypatch.context() as patch:
    patch.setattr(Classify, 'evaluator', lambda *args: _out_of_memory)
    found = again()
  (row,) = found['rows']
  assert row['unscored'] is True and 'accuracy' not in row
  assert 'the evaluation of scratch is left out' in capsys.readouterr().err
  arrays = saved.load(_student(folder))[0].digest
  assert arrays == saved.load(_student(whole))[0].digest
  # When the results are asked for again, the gap is filled.
  (folder / 'results.json').unlink()
  again()
  _assert_same_student(folder, whole)
  assert not steps


# Locks.


@pytest.mark.parametrize(
  'number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]
)
def test_a_file_system_without_locks(number, run, monkeypatch, capsys):
  def refuse(*args):
    raise OSError(number, 'no locks here')

  folder, again, _ = run
  (folder / 'results.json').unlink()
  monkeypatch.setattr(workdir.fcntl, 'flock', refuse)
  assert [row['method'] for row in again()['rows']] == ['scratch']
  assert f'file system of {folder} has no locks' in capsys.readouterr().err
  assert not workdir.is_busy(folder)


def test_other_images_with_the_same_labels_are_noticed(run):
  folder, _, _ = run
  (folder / 'results.json').unlink()
  job = _job()
  train = job.dataset.splits['train']
  train.inputs[0, 0, 0, 0] ^= 1
  with pytest.raises(UserError, match='begun with other data: content was'):
    runner.run(job, folder)
