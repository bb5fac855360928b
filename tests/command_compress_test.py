"""`lit-jax compress` on examples in files, and `lit-jax report` of its run."""

import errno
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from drawn import untimed
from flax import linen as nn

from lit_jax import BlockNet, command, models
from lit_jax.command import compress
from lit_jax.data.images import class_names
from lit_jax.networks import saved
from lit_jax.runs import rows
from lit_jax.training import loop, startup

CLASSES, NAMES = 3, ('cat', 'dog', 'emu')
SHORT = '--epochs=2', '--batch_size=8', '--seed=3'


class Part(nn.Module):
  count: int

  @nn.compact
  def __call__(self, h, train=False):
    for _ in range(self.count):
      h = nn.relu(nn.Dense(4)(h))
    return h


class Head(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, h, train=False):
    return nn.Dense(self.classes)(h.mean((1, 2)))


def tiny(
  depth: int = 1,
  classes: int = CLASSES,
  input_shape: tuple[int, ...] = (4, 4, 1),
) -> BlockNet:
  """A family that compiles at once."""
  example = jax.ShapeDtypeStruct(tuple(input_shape), np.float32)
  parts = (Part(depth), Part(depth))
  return BlockNet(Part(1), parts, Head(classes), example)


@pytest.fixture(scope='module', autouse=True)
def family():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models.FAMILIES, 'tiny', tiny)
    patch.setattr(rows, 'timed', untimed)
    yield


def arrays(count, seed, scale=256):
  rng = np.random.default_rng(seed)
  return {
    'inputs': rng.integers(0, scale, (count, 4, 4, 1), np.uint8),
    # Not int32, as NumPy has it by default.
    'labels': rng.integers(0, CLASSES, count),
  }


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('files')
  np.savez(folder / 'train.npz', class_names=NAMES, **arrays(40, 0))
  np.savez(folder / 'test.npz', **arrays(10, 1))
  return folder


@pytest.fixture(scope='module')
def args(files):
  """What every run here is given, but the workdir and the networks."""
  return f'--train={files}/train.npz', f'--test={files}/test.npz', *SHORT


@pytest.fixture(scope='module')
def workdir(args, tmp_path_factory):
  """Of a run whose teacher was trained in it."""
  folder = tmp_path_factory.mktemp('runs') / 'first'
  command.main([
    'compress', 'tiny,depth=2', 'tiny', f'--workdir={folder}', '--beta=0.5',
    *args,
  ])  # fmt: skip
  return folder


@pytest.fixture
def run(lit_jax_command, args):
  """`lit-jax compress`: exit code, stdout, stderr."""

  def call(*more):
    return lit_jax_command('compress', *more, *args)

  return call


def results(workdir):
  return json.loads((workdir / 'results.json').read_text())


# A run.


def test_a_family_is_trained_and_compressed(workdir):
  teacher, lit = results(workdir)['rows']
  assert (teacher['method'], teacher['model']) == ('teacher', 'tiny-2')
  assert (lit['method'], lit['model'], lit['seed']) == ('lit', 'tiny-1', 3)
  # Stem, blocks and head.
  assert (teacher['depth'], lit['depth']) == (1 + 4 + 1, 1 + 2 + 1)
  weights = [
    (o['phase'], o['alpha'], o['beta'], o['temperature'])
    for o in lit['objectives']
  ]
  assert weights == [('lit', 0.95, 0.5, 6.0), ('finetune', 0.95, 1.0, 6.0)]
  assert results(workdir)['classes'] == [*NAMES]


def test_its_student_has_a_name_for_other_commands(workdir, lit_jax_command):
  facts, _ = saved.load(workdir / 'lit' / 'student')
  assert facts.spec == {
    'family': 'tiny', 'depth': 1, 'classes': 3, 'input_shape': [4, 4, 1],
  }  # fmt: skip
  assert facts.classes == [*NAMES]
  code, out, _ = lit_jax_command('summary', workdir / 'lit' / 'student')
  assert code == 0 and out.startswith('tiny-1\n')


def test_the_same_command_again_only_reports(workdir, run, monkeypatch):
  monkeypatch.setattr(loop, 'run', None)
  code, out, err = run(
    'tiny,depth=2', 'tiny', f'--workdir={workdir}', '--beta=0.5'
  )
  assert (code, err) == (0, '')
  assert 'tiny-2' in out and 'tiny-1' in out
  assert out.endswith(f'report: {workdir}/report.html\n')


def test_another_command_in_the_same_workdir_is_refused(workdir, run):
  code, _, err = run('tiny,depth=2', 'tiny', f'--workdir={workdir}')
  assert code == 2 and 'made with another configuration: phases was' in err


@pytest.mark.slow
def test_a_saved_teacher_brings_weights_and_normalisation(
  workdir, files, lit_jax_command, tmp_path
):
  # Darker images, whose own normalisation would be another.
  np.savez(tmp_path / 'dark.npz', class_names=NAMES, **arrays(40, 2, scale=9))
  code, _, err = lit_jax_command(
    'compress', workdir, workdir / 'lit' / 'student',
    f'--train={tmp_path}/dark.npz', f'--test={files}/test.npz',
    f'--workdir={tmp_path}/run', *SHORT,
  )  # fmt: skip
  assert code == 0, err
  teacher, lit = results(tmp_path / 'run')['rows']
  assert (teacher['epochs'], teacher['train_seconds']) == (0, 0.0)
  assert lit['start'] == str(workdir / 'lit' / 'student')
  whole = workdir / 'teacher' / 'teacher'
  before, after = (
    saved.load(folder)[0] for folder in (whole, tmp_path / 'run/lit/student')
  )
  assert after.input == before.input
  bound = json.loads((tmp_path / 'run' / 'data.json').read_text())
  assert bound['teacher'] == before.digest


@pytest.mark.slow
def test_a_stopped_run_goes_on(run, monkeypatch, tmp_path):
  tell = startup.FirstSteps.first_call

  def stop(self, steps):
    os.kill(os.getpid(), signal.SIGTERM)
    return tell(self, steps)

  words = 'tiny,depth=2', 'tiny', f'--workdir={tmp_path}'
  monkeypatch.setattr(startup.FirstSteps, 'first_call', stop)
  code, _, err = run(*words)
  assert code == 128 + signal.SIGTERM
  assert 'stopped in teacher/train at step' in err
  assert 'run the same command again to go on' in err
  monkeypatch.setattr(startup.FirstSteps, 'first_call', tell)
  code, out, err = run(*words)
  assert (code, err) == (0, '')
  assert len(results(tmp_path)['rows']) == 2


def test_a_second_signal_stops_at_once(run, monkeypatch, tmp_path):
  def stop(*args, **options):
    raise KeyboardInterrupt

  monkeypatch.setattr(compress, 'compress', stop)
  code, _, err = run('tiny', 'tiny', f'--workdir={tmp_path}')
  assert code == 130
  assert err == 'stopped at once; what is saved stands\n'


@pytest.mark.parametrize(
  'error, fault',
  [
    (
      OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
      'the file system refuses',
    ),
    (MemoryError('Unable to allocate 9 TiB'), 'out of memory (Unable to'),
  ],
)
def test_want_of_room_is_a_line(error, fault, run, monkeypatch, tmp_path):
  def fail(*args, **options):
    raise error

  monkeypatch.setattr(compress, 'compress', fail)
  code, out, err = run('tiny', 'tiny', f'--workdir={tmp_path}')
  assert (code, out) == (2, '')
  assert fault in err and err.count('\n') == 1


@pytest.fixture
def given(monkeypatch):
  """What `lit_jax.compress` was given, in place of a run."""
  seen = {}

  def take(teacher, student, train, test, workdir, **options):
    seen.update(options, teacher=teacher, student=student, train=train)
    return {'rows': []}

  monkeypatch.setattr(compress, 'compress', take)
  monkeypatch.setattr(compress.report, 'show', lambda results, page: None)
  return seen


def test_data_by_name_decide_what_networks_read(
  given, lit_jax_command, tmp_path
):
  code, _, err = lit_jax_command(
    'compress', 'resnet,depth=14', 'resnet,depth=8,shortcut=conv',
    '--data=fashion_mnist_mini', f'--workdir={tmp_path}', '--precision=bf16',
    '--learning_rate=0.2', '--alpha=0.5', '--temperature=2',
  )  # fmt: skip
  assert (code, err) == (0, '')
  for role in ('teacher', 'student'):
    assert given[role]['input_shape'] == [28, 28, 1]
    assert given[role]['classes'] == 10
  assert given['train'].examples == 2000
  assert given['data_name'] == 'fashion_mnist_mini'
  assert given['class_names'] == class_names.FASHION_MNIST
  assert given['preprocess'].mean == (0.286,)
  objective = given['objective']
  assert (objective.alpha, objective.beta, objective.temperature) == (
    0.5, 0.75, 2.0,
  )  # fmt: skip
  # What is not said is as `lit_jax.compress` has it.
  assert (given['epochs'], given['batch_size']) == (20, 32)
  assert (given['learning_rate'], given['precision']) == (0.2, 'bf16')


def test_float64_is_read_as_float32(given, lit_jax_command, tmp_path):
  inputs = np.zeros((4, 4, 4, 1))
  np.savez(tmp_path / 'a.npz', inputs=inputs, labels=[0, 1, 4, 0])
  code, _, err = lit_jax_command(
    'compress', 'tiny', 'tiny', f'--train={tmp_path}/a.npz',
    f'--test={tmp_path}/a.npz', f'--workdir={tmp_path}/run',
  )  # fmt: skip
  assert (code, err) == (0, '')
  assert given['train'].inputs.dtype == np.float32
  # Labels tell how many classes there are, where no names do.
  assert given['teacher']['classes'] == 5


# Bad input.


def test_networks_that_suit_neither_each_other_nor_the_data(
  lit_jax_command, files, tmp_path
):
  folder = tmp_path / 'run'
  where = f'--workdir={folder}'
  for networks, fault in (
    (('tiny', 'tiny,classes=4'), 'head returns shape (3,) in the teacher'),
    (('tiny,classes=4', 'tiny'), 'and own has 3 classes; make the two agree'),
    (('tiny', 'tiny,input_shape=4x4x2'), 'student read different inputs: (4,'),
    (('tiny,input_shape=4x4x2', 'tiny'), 'the networks read (4, 4, 2) float32'),
    (('tinu', 'tiny'), "perhaps 'tiny'"),
    (('tiny', 'none/there'), "no network 'none/there'"),
    (('tiny', 'tiny', '--epochs=0'), 'epochs is 0'),
    (('tiny', 'tiny', '--epochs=x'), "invalid int value: 'x'"),
    (('tiny', 'tiny', '--alpha=2'), 'alpha is 2.0'),
    (('tiny', 'tiny', '--learning_rate=nan'), 'learning rate is nan'),
    (('tiny', 'tiny', '--precision=fp8'), "unknown precision 'fp8'"),
    (('tiny', 'tiny', '--data=cifar10'), 'no data, or twice'),
    (('tiny', 'tiny', '--data_dir=x'), '--data_dir is for --data'),
    (('tiny', 'tiny', '--to=x'), 'unrecognized arguments: --to=x'),
  ):
    # What comes later on a command line counts.
    code, out, err = lit_jax_command(
      'compress', where, f'--train={files}/train.npz',
      f'--test={files}/test.npz', *SHORT, *networks,
    )  # fmt: skip
    assert (code, out) == (2, ''), networks
    assert fault in err and err.count('\n') == 1, (networks, err)
    assert not folder.exists(), networks


def test_a_teacher_of_other_classes_is_refused(
  workdir, files, lit_jax_command, tmp_path
):
  names = {'class_names': ('cat', 'cow', 'emu')}
  np.savez(tmp_path / 'other.npz', **names, **arrays(40, 0))
  code, out, err = lit_jax_command(
    'compress', workdir, 'tiny', f'--train={tmp_path}/other.npz',
    f'--test={files}/test.npz', f'--workdir={tmp_path}/run', *SHORT,
  )  # fmt: skip
  assert (code, out) == (2, '')
  assert 'tells the classes cat, dog, emu apart' in err
  assert err.count('\n') == 1


@pytest.mark.parametrize(
  'args, fault',
  [
    ((), 'no data, or twice; give --train=FILE.npz'),
    (('--train=a.npz',), 'no data, or twice'),
    (('--data=cifar11',), "unknown data set 'cifar11'; perhaps 'cifar10'"),
    (('--data=celeba',), "unknown data set 'celeba'"),
    (('--train=none.npz', '--test=none.npz'), 'none.npz cannot be read (No'),
  ],
)
def test_no_data(args, fault, lit_jax_command, tmp_path):
  code, out, err = lit_jax_command(
    'compress', 'tiny', 'tiny', f'--workdir={tmp_path}/run', *args
  )
  assert (code, out) == (2, '')
  assert fault in err and err.count('\n') == 1


@pytest.mark.parametrize(
  'content, fault',
  [
    (b'', 'cannot be read'),
    (b'PK\x03\x04' + bytes(60), 'cannot be read'),
    ({'inputs': np.zeros((3, 2))}, "has no array 'labels'"),
    ({'labels': [1, 2]}, "has no array 'inputs'"),
    ({'inputs': np.zeros(3), 'labels': [0.0, 1, 2]}, 'labels are float64 (3,)'),
    ({'inputs': np.zeros(3), 'labels': [0, 1]}, 'inputs (3,) and labels (2,)'),
    ({'inputs': np.zeros(0), 'labels': np.zeros(0, int)}, 'at least one input'),
    ({'inputs': np.array([{}]), 'labels': [0]}, 'without objects'),
    (
      {'inputs': np.zeros(1), 'labels': [0], 'class_names': [1]},
      'class_names are int64 (1,)',
    ),
    (
      {'inputs': np.zeros(1), 'labels': [0], 'class_names': ['a', 'a']},
      'name one class twice',
    ),
  ],
)
def test_files_that_hold_no_examples(content, fault, lit_jax_command, tmp_path):
  path = tmp_path / 'a.npz'
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    np.savez(path, **content)
  code, out, err = lit_jax_command(
    'compress', 'tiny', 'tiny', f'--train={path}', f'--test={path}',
    f'--workdir={tmp_path}/run',
  )  # fmt: skip
  assert (code, out) == (2, '')
  assert fault in err and err.count('\n') == 1
  assert 'Traceback' not in err


# The report.


def test_a_page_is_made_again(workdir, lit_jax_command, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(workdir, folder)
  page = (folder / 'report.html').read_bytes()
  (folder / 'report.html').unlink()
  code, out, err = lit_jax_command('report', folder)
  assert (code, err) == (0, '')
  assert (folder / 'report.html').read_bytes() == page
  (accuracy,) = {f'{100 * results(folder)["rows"][1]["accuracy"]:.2f}'}
  (line,) = re.findall('^lit .*', out, re.MULTILINE)
  assert accuracy in line.split()
  assert list(results(folder)['rows'][1]['stitch']) == ['blocks_0', 'blocks_1']
  assert re.search('^ +block 1 ', out, re.MULTILINE)
  assert re.search(r'^lit: .*block.*\.$', out, re.IGNORECASE | re.MULTILINE)
  assert out.endswith(f'report: {folder}/report.html\n')


@pytest.mark.parametrize(
  'content, fault',
  [
    (None, 'results.json: cannot read: No such file'),
    ('{"rows":', 'results.json: not JSON'),
    ('[]', 'expected a JSON object'),
    ('{"dataset": "a", "seed": 0, "rows": []}', 'rows is empty'),
    ('{"dataset": "a", "seed": 0, "rows": [3]}', 'rows[0]: expected'),
    ('[' * 100000, 'nested too deeply'),
  ],
)
def test_a_workdir_without_results(content, fault, lit_jax_command, tmp_path):
  if content is not None:
    (tmp_path / 'results.json').write_text(content)
  code, out, err = lit_jax_command('report', tmp_path)
  assert (code, out) == (2, '')
  assert fault in err and err.count('\n') == 1


def test_a_report_of_nothing(lit_jax_command):
  code, _, err = lit_jax_command('report')
  assert code == 2 and 'required: WORKDIR' in err
