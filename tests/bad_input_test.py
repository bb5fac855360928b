"""Bad input, full disks and signals: one line, an exit code, nothing lost."""

import errno
import fcntl
import gzip
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl.testing import flagsaver

from experiments import cli
from lit_jax import blocks, models
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.images import sources
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.runs import runner
from lit_jax.training import logs, loop
from lit_jax.training.interrupt import Interrupted

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / 'experiments' / 'configs'
_load = sources.load

# A run of seconds: on 8x8 images, a network of 8 layers by scratch.
SMALL = {
  'dataset': 'fashion_mnist_mini',
  'method': 'scratch',
  'teacher.depth': 8,
  'student.depth': 8,
  'batch_size': 16,
  'steps_per_call': 4,
  'scratch.epochs': 2,
}
STEPS_PER_EPOCH = 6


def _noise(count):
  rng = np.random.default_rng(count)
  return Split(
    rng.integers(0, 256, (count, 8, 8, 3), np.uint8),
    rng.integers(0, 10, count, np.int32),
  )


NOISE = Dataset(
  'noise',
  {'train': _noise(100), 'test': _noise(41)},
  10,
  ImagePreprocess((0.5, 0.4, 0.3), (0.25, 0.2, 0.3)),
)


@pytest.fixture
def small(main, monkeypatch, tmp_path):
  """That command line with small settings, changed by keyword."""
  monkeypatch.setattr(sources, 'load', _noise_or_real)

  def run(changes=None, workdir=None, config='resnet'):
    keys = SMALL | (changes or {})
    return main(
      f'--config={CONFIGS / config}.py',
      f'--workdir={workdir or tmp_path / "run"}',
      *(f'--config.{key}={value}' for key, value in keys.items()),
    )

  return run


def _noise_or_real(name, data_dir=''):
  return NOISE if name == SMALL['dataset'] else _load(name, data_dir)


def _error(outcome):
  """The one line of a refusal."""
  code, out, err = outcome
  assert code == 2, err
  assert out == ''
  assert err.startswith('error: ') and err.endswith('\n')
  assert err.count('\n') == 1, err
  assert 'Traceback' not in err
  return err


def _files(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in sorted(folder.rglob('*'))
    if p.is_file() and p.name != '.lock'
  }


# Flags and configurations.


BAD_KEYS = [
  ({'dataset': 'cifar11'}, ["'cifar11'", 'cifar10']),
  ({'teacher.family': 'vgg', 'method': 'lit'}, ["'vgg'", 'resnet, resnext']),
  ({'student.family': 'resnets'}, ["'resnets'", 'resnet, resnext']),
  ({'student.depth': 9}, ['depth 9', '8, 14, 20']),
  ({'student.units': '(1,2)'}, ['units (1, 2)', 'give three']),
  ({'student.shortcut': 'none'}, ["'none'", 'pad, conv']),
  ({'method': 'scrach'}, ["'scrach'", "perhaps 'scratch'"]),
  ({'method': 'teacher'}, ["method 'teacher'", 'kd, lit']),
  ({'method': 'kd,,lit'}, ["'kd,,lit'", 'an empty or']),
  ({'method': ','}, ["','", 'empty']),
  ({'lit.copy': 'stem,,head', 'method': 'lit'}, ['lit.copy', 'an empty or']),
  ({'method': 'kd,kd'}, ['kd,kd', 'repeated name']),
  ({'methods.lit': 'lit,lit', 'method': 'lit'}, ['lit,lit', 'repeated name']),
  ({'methods.lit': 'lit,polish', 'method': 'lit'}, ["'polish'"]),
  ({'methods.lit': 'seed', 'method': 'lit'}, ["'seed'"]),
  ({'precision': 'fp23'}, ["'fp23'", 'fp32, bf16, fp16']),
  ({'select': 'first'}, ["'first'", 'last, best']),
  ({'select': 'best'}, ['validation=5000']),
  # The noise has 100 examples.
  ({'validation': 100}, ['validation size 100', '1 to 99']),
  ({'validation': -1}, ['validation is -1', 'at least 0']),
  ({'seed': -1}, ['seed is -1']),
  ({'batch_size': 15}, ['batch size 15', '2 devices', 'take 14']),
  ({'batch_size': 0}, ['batch size 0', 'take 2']),
  ({'batch_size': 102}, ['batch size 102', '100 training examples']),
  ({'steps_per_call': 0}, ['steps_per_call is 0', 'at least 1']),
  ({'epochs_scale': 0}, ['epochs_scale is 0']),
  ({'epochs_scale': 'nan'}, ['epochs_scale is nan']),
  ({'epochs_scale': 'inf'}, ['epochs_scale is inf']),
  ({'scratch.epochs': 0}, ['scratch/scratch', 'epochs is 0', 'at least 1']),
  ({'scratch.epochs': -3}, ['scratch/scratch', 'at least 1']),
  ({'scratch.learning_rate': 0}, ['scratch/scratch', 'learning rate is 0']),
  ({'scratch.learning_rate': 'nan'}, ['learning rate is nan']),
  ({'scratch.schedule': 'step'}, ["schedule 'step'", 'steps, cosine, linear']),
  ({'train_teacher.schedule': 'exp', 'method': 'kd'}, ["schedule 'exp'"]),
  ({'train_teacher.epochs': 0, 'method': 'kd'}, ['teacher/train_teacher']),
  ({'train_teacher.alpha': 0.5, 'method': 'kd'}, ['labels alone', 'must be 1']),
  # What only a later phase would trip over stops the run at its start.
  ({'finetune.temperature': 0, 'method': 'lit'}, ['lit/finetune']),
  ({'lit.blocks': '0,3', 'method': 'lit'}, ['block 3', '0 to 2']),
  ({'lit.blocks': '1,1', 'method': 'lit'}, ['(1, 1)', 'only once']),
  ({'lit.blocks': '-1', 'method': 'lit'}, ['block -1', '0 to 2']),
  ({'lit.blocks': 'first', 'method': 'lit'}, ["'first'", "'0,2'"]),
  ({'lit.ir_loss': 'l3', 'method': 'lit'}, ["ir_loss 'l3'", 'smooth_l1']),
  ({'lit.running_statistics': 'x', 'method': 'lit'}, ['student, both']),
  ({'lit.copy': 'stem,neck', 'method': 'lit'}, ["'neck'", 'blocks_2, head']),
  ({'lit.frozen': 'blocks_3', 'method': 'lit'}, ["'blocks_3'", 'blocks_2']),
  (
    {'lit.copy': 'blocks_1', 'teacher.depth': 14, 'method': 'lit'},
    ['lit/lit', "'blocks_1'", 'other layers'],
  ),
  *(
    ({f'lit.{key}': value, 'method': 'lit'}, [f'{key} is {value}', '[0, 1]'])
    for key in ('alpha', 'beta')
    for value in (-0.1, 1.5, 'nan', 'inf')
  ),
  *(
    ({'kd.temperature': value, 'method': 'kd'}, ['temperature', 'than 0'])
    for value in (0, -6, 'nan')
  ),
  ({'teacher.checkpoint': 'embedded', 'method': 'kd'}, ['embedded', 'noise']),
  ({'scratch.sparsity': 1}, ['scratch/scratch', 'sparsity is 1', 'less than']),
  ({'scratch.prune_by': 'unit'}, ["prune_by 'unit'", 'global, layer']),
  ({'student.inner': '(8,16)'}, ['inner (8, 16)', 'give three']),
  ({'student.checkpoint': 'no/such'}, ['start of scratch', 'no/such']),
  # Keys that do not exist, and values of another kind.
  ({'batchsize': 8}, ['batchsize', 'batch_size']),
  ({'lit.alhpa': 0.5}, ['alhpa', 'alpha']),
  ({'teacher.dept': 8}, ['dept', 'depth']),
  ({'batch_size': 'many'}, ['batch_size', 'many']),
  ({'lit.alpha': 'high'}, ['alpha', 'high']),
  ({'scratch.epochs': 1.5}, ['epochs', '1.5']),
  ({'validation': 'perhaps'}, ['validation', 'perhaps']),
]


@pytest.mark.parametrize(
  'changes, words', BAD_KEYS, ids=[str(changes) for changes, _ in BAD_KEYS]
)
def test_bad_setting(changes, words, small, tmp_path):
  line = _error(small(changes))
  for word in words:
    assert word in line
  assert not (tmp_path / 'run').exists()


def test_networks_that_do_not_fit(small, tmp_path):
  # The stems are 64 and 16 wide.
  line = _error(small({'method': 'kd', 'teacher.family': 'resnext'}))
  for words in ('stem', '(8, 8, 64)', '(8, 8, 16)', 'in the student'):
    assert words in line
  assert not (tmp_path / 'run').exists()


def test_an_option_of_another_family(small, tmp_path):
  # ResNeXt's options stay where only the family is changed.
  line = _error(small({'student.family': 'resnet'}, config='resnext'))
  assert "unknown key 'student.base_width' of the family 'resnet'" in line
  assert not (tmp_path / 'run').exists()


def test_no_config(main, tmp_path):
  line = _error(main(f'--workdir={tmp_path / "run"}'))
  assert '--config=FILE, such as experiments/configs/resnet.py' in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('workdir', [(), ('--workdir=',)])
def test_no_workdir(workdir, main):
  line = _error(main(f'--config={CONFIGS / "resnet.py"}', *workdir))
  assert '--workdir=DIR' in line


@pytest.mark.parametrize('key', [(), ('--config.seed=1',)])
def test_config_file_missing(key, main, tmp_path):
  path = tmp_path / 'nowhere.py'
  line = _error(main(f'--config={path}', f'--workdir={tmp_path / "run"}', *key))
  assert str(path) in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'text', ['config = 1', 'def get_config(:', 'import nothing_of_that_name']
)
def test_config_file_damaged(text, main, tmp_path):
  path = tmp_path / 'broken.py'
  path.write_text(text + '\n')
  _error(main(f'--config={path}', f'--workdir={tmp_path / "run"}'))
  assert not (tmp_path / 'run').exists()


def test_unknown_flag(main, tmp_path):
  line = _error(main(f'--workdir={tmp_path / "run"}', '--wrokdir=x'))
  assert 'wrokdir' in line and '--help' in line


def test_unexpected_argument(main, tmp_path):
  line = _error(
    main(
      f'--config={CONFIGS / "resnet.py"}', f'--workdir={tmp_path}/run', 'lit'
    )
  )
  assert "'lit'" in line
  assert not (tmp_path / 'run').exists()


# Exit codes.


@pytest.mark.parametrize(
  'error, code, text',
  [
    (UserError('so it is; do that'), 2, 'error: so it is; do that\n'),
    (Interrupted('saved; go on', 15), 143, 'saved; go on\n'),
    (Interrupted('saved; go on', 2), 130, 'saved; go on\n'),
    (
      RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes'),
      2,
      'error: out of device memory; lower --config.steps_per_call and run the '
      'same command again, or --config.batch_size in a new workdir\n',
    ),
    # A second signal.
    (KeyboardInterrupt(), 130, 'stopped at once; the last checkpoint stands\n'),
  ],
)
def test_exit_code(error, code, text, main, monkeypatch, tmp_path):
  def fail(*args):
    raise error

  monkeypatch.setattr(runner, 'train_and_report', fail)
  outcome = main(
    f'--config={CONFIGS / "resnet.py"}',
    f'--workdir={tmp_path}',
    build=lambda config: None,
  )
  assert outcome == (code, '', text)


def test_a_bug_is_not_hidden(monkeypatch, tmp_path):
  def fail(*args):
    raise ZeroDivisionError('a bug')

  argv = [f'--config={CONFIGS / "resnet.py"}', f'--workdir={tmp_path}']
  monkeypatch.setattr(sys, 'argv', ['cifar', *argv])
  with flagsaver.flagsaver(), pytest.raises(ZeroDivisionError):
    cli.main(fail)


# Data.


CIFAR_FILES = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
RECORD = 1 + 3 * 32 * 32


def _cifar_missing_file(folder):
  (folder / CIFAR_FILES[0]).write_bytes(b'')
  return 'cifar10', 'data_batch_1.bin'


def _cifar_cut_short(folder):
  (folder / CIFAR_FILES[0]).write_bytes(bytes(9999 * RECORD))
  return 'cifar10', 'cut short'


def _cifar_label(folder):
  raw = np.zeros((10000, RECORD), np.uint8)
  raw[7, 0] = 10
  (folder / CIFAR_FILES[0]).write_bytes(raw.tobytes())
  return 'cifar10', 'label 7 is 10, not 0 to 9'


def _cifar_archive(folder):
  (folder / 'cifar-10-binary.tar.gz').write_bytes(b'another file')
  return 'cifar10', 'MD5 checksum'


def _fashion(folder, shape):
  header = np.array([0x803, *shape], '>u4').tobytes()
  packed = gzip.compress(header + bytes(int(np.prod(shape))))
  for name in (
    'train-images-idx3-ubyte',
    'train-labels-idx1-ubyte',
    't10k-images-idx3-ubyte',
    't10k-labels-idx1-ubyte',
  ):
    (folder / f'{name}.gz').write_bytes(packed)
  return 'fashion_mnist'


def _fashion_shape(folder):
  return _fashion(folder, (6, 27, 28)), '(6, 27, 28), not (60000, 28, 28)'


def _fashion_file_missing(folder):
  _fashion(folder, (6, 28, 28))
  (folder / 't10k-labels-idx1-ubyte.gz').unlink()
  return 'fashion_mnist', 'lacks t10k-labels-idx1-ubyte.gz'


@pytest.mark.parametrize(
  'damage',
  [
    _cifar_missing_file,
    _cifar_cut_short,
    _cifar_label,
    _cifar_archive,
    _fashion_shape,
    _fashion_file_missing,
  ],
)
def test_bad_data(damage, small, tmp_path):
  folder = tmp_path / 'data'
  folder.mkdir()
  name, words = damage(folder)
  before = _files(folder)
  line = _error(small({'dataset': name, 'data_dir': folder}))
  assert words in line and str(folder) in line
  assert _files(folder) == before
  assert not (tmp_path / 'run').exists()


def test_data_folder_missing(small, tmp_path, monkeypatch):
  # Debian's package may be installed here.
  monkeypatch.setenv('LIT_JAX_SYSTEM_DATA', str(tmp_path / 'system'))
  folder = tmp_path / 'data'
  line = _error(small({'dataset': 'fashion_mnist', 'data_dir': folder}))
  assert str(folder) in line and 'dataset-fashion-mnist' in line
  assert not folder.exists() and not (tmp_path / 'run').exists()


# A teacher that is given.


RESNET = {'family': 'resnet', 'shortcut': 'pad', 'classes': 10}
RESNET['input_shape'] = [8, 8, 3]


def _save_teacher(folder, depth):
  spec = RESNET | {'depth': depth}
  shapes = blocks.shapes(models.build(spec))
  variables = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
  facts = saved.Facts(
    spec, 'noise', [], NOISE.preprocess.facts(), 'fp32', '', {}
  )
  saved.save(folder, facts, variables)
  return folder


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  return _save_teacher(tmp_path_factory.mktemp('teacher') / 'student', 8)


def _with_teacher(folder):
  return {'method': 'kd', 'teacher.checkpoint': folder}


def test_teacher_missing(small, tmp_path):
  folder = tmp_path / 'teacher'
  line = _error(small(_with_teacher(folder)))
  assert str(folder) in line and 'network.json is missing' in line
  assert not folder.exists()


def test_teacher_of_another_depth(small, teacher):
  before = _files(teacher)
  line = _error(small(_with_teacher(teacher) | {'teacher.depth': 14}))
  assert str(teacher) in line and 'depth 8 (wanted 14)' in line
  assert _files(teacher) == before


def _copy(folder, target):
  for name, content in _files(folder).items():
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return target


@pytest.mark.parametrize('text', ['', '{', '[]', '{"spec": {}}'])
def test_teacher_with_damaged_json(text, small, teacher, tmp_path):
  folder = _copy(teacher, tmp_path / 'teacher')
  (folder / 'network.json').write_text(text)
  assert 'damaged' in _error(small(_with_teacher(folder)))


@pytest.mark.parametrize('keep', [0.0, 0.5, None])
def test_teacher_with_truncated_arrays(keep, small, teacher, tmp_path):
  folder = _copy(teacher, tmp_path / 'teacher')
  files = [p for p in (folder / 'arrays').rglob('*') if p.is_file()]
  path = max(files, key=lambda p: p.stat().st_size)
  content = path.read_bytes()
  path.unlink()
  if keep is not None:
    path.write_bytes(content[: int(keep * len(content))])
  before = _files(folder)
  line = _error(small(_with_teacher(folder)))
  assert f'cannot read the arrays of {folder}' in line
  assert _files(folder) == before


def test_a_bad_teacher_stops_before_anything_is_made(small, tmp_path):
  line = _error(
    small({'method': 'scratch,kd', 'teacher.checkpoint': tmp_path / 'no'})
  )
  assert 'no readable network' in line
  assert not list((tmp_path / 'run').rglob('*'))


# Workdirs.


@pytest.fixture
def stopped_early(small, monkeypatch, tmp_path):
  """The workdir of a small run that was cut off before its first step."""

  def stop(*args):
    raise Interrupted('stopped', 15)

  with monkeypatch.context() as patch:
    patch.setattr(loop, 'run', stop)
    assert small()[0] == 143
  workdir = tmp_path / 'run'
  assert (workdir / 'config.json').exists()
  return workdir


def test_workdir_of_another_config(small, stopped_early):
  before = _files(stopped_early)
  line = _error(small({'seed': 7, 'scratch.learning_rate': 0.2}))
  assert str(stopped_early) in line
  assert 'seed was 0, is 7' in line
  assert 'scratch.learning_rate was 0.1, is 0.2' in line
  assert _files(stopped_early) == before


def test_where_the_data_lies_is_no_other_config(
  small, stopped_early, monkeypatch, tmp_path
):
  monkeypatch.setattr(runner.train, 'run_method', _stop_again)
  assert small({'data_dir': tmp_path})[0] == 143


def _stop_again(*args):
  raise Interrupted('stopped', 15)


@pytest.mark.parametrize('text', ['', '{"seed": ', '\0\0\0'])
def test_damaged_config(text, small, stopped_early):
  path = stopped_early / 'config.json'
  path.write_text(text)
  before = _files(stopped_early)
  line = _error(small())
  assert str(path) in line and 'damaged' in line
  assert _files(stopped_early) == before


def test_results_of_an_unknown_config(small, tmp_path):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  row = {
    'method': 'scratch',
    'model': 'resnet-8',
    'depth': 8,
    'parameters': 1,
    'macs': 1,
    'accuracy': 1.0,
    'epochs': 1,
    'train_seconds': 1.0,
    'latency_ms': {'1': 1.0, '128': 1.0},
  }
  text = json.dumps({'dataset': 'noise', 'seed': 0, 'rows': [row]})
  (workdir / 'results.json').write_text(text)
  assert 'config.json' in _error(small())
  assert _files(workdir) == {'results.json': text.encode()}


def test_a_workdir_in_use(small, stopped_early):
  before = _files(stopped_early)
  with (stopped_early / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    line = _error(small())
  assert f'another run is at work in {stopped_early}' in line
  assert _files(stopped_early) == before


@pytest.mark.parametrize('below', ['', 'deeper'])
def test_workdir_is_a_file(below, small, tmp_path):
  path = tmp_path / 'file'
  path.write_text('mine')
  workdir = path / below if below else path
  line = _error(small(workdir=workdir))
  assert f'cannot use workdir {workdir}' in line
  assert path.read_text() == 'mine'


def test_workdir_that_cannot_be_made(small):
  # Not even by root.
  line = _error(small(workdir='/proc/lit_jax'))
  assert 'cannot use workdir /proc/lit_jax' in line


# Full disks.


def _full():
  return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_in_tensorstore():
  # How TensorStore, which Orbax writes with, words it.
  return ValueError(
    'RESOURCE_EXHAUSTED: Error writing "d/1f3": write failed\n'
    "[OS error 28: No space left on device] [source locations='file_util.cc']"
  )


def _assert_full(outcome, workdir):
  # Before it, lines told of the epochs.
  line = _error((outcome[0], '', outcome[2]))
  assert 'no space left' in line.lower() and str(workdir) in line


@pytest.mark.slow
@pytest.mark.parametrize('error', [_full, _full_in_tensorstore])
def test_disk_full_at_a_checkpoint(error, small, monkeypatch, tmp_path):
  save = ocp.CheckpointManager.save
  saved = []

  def fail_second(manager, step, *args, **kwargs):
    saved.append(step)
    if len(saved) == 2:
      raise error()
    return save(manager, step, *args, **kwargs)

  folder = tmp_path / 'run' / 'scratch' / 'scratch'
  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'save', fail_second)
    outcome = small()
  _assert_full(outcome, tmp_path / 'run')
  assert 'run the same command again to go on' in outcome[2]
  assert saved == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
  assert [p.name for p in folder.iterdir()] == [str(STEPS_PER_EPOCH)]
  first = _files(folder)
  # With room again, the same command goes on from there.
  code, out, _ = small()
  assert code == 0 and 'scratch' in out
  after = _files(folder)
  assert {name: after[name] for name in first} == first
  records = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(r)['step'] for r in records] == [6, 6, 12, 12]


def test_disk_full_at_the_log(small, monkeypatch, tmp_path):
  workdir = tmp_path / 'run'
  workdir.mkdir()
  (workdir / 'metrics.jsonl').symlink_to('/dev/full')
  # It reads the file first, and that device never ends.
  monkeypatch.setattr(logs, 'drop_after', lambda *args: 0.0)
  _assert_full(small(), workdir)
  assert not (workdir / 'results.json').exists()
  assert not list((workdir / 'scratch' / 'scratch').iterdir())


@pytest.mark.parametrize(
  'name', ['config.json', pytest.param('network.json', marks=pytest.mark.slow)]
)
def test_disk_full_at_a_small_file(name, small, monkeypatch, tmp_path):
  sync = os.fsync

  def fail(descriptor):
    # As a full disk does: the file is there, and was not written.
    if name in os.readlink(f'/proc/self/fd/{descriptor}'):
      raise _full()
    sync(descriptor)

  workdir = tmp_path / 'run'
  with monkeypatch.context() as patch:
    patch.setattr(os, 'fsync', fail)
    outcome = small({'scratch.epochs': 1})
  _assert_full(outcome, workdir)
  assert (workdir / 'config.json').exists() == (name != 'config.json')
  assert not (workdir / 'scratch' / 'student').exists()
  assert not (workdir / 'results.json').exists()
  code, _, _ = small({'scratch.epochs': 1})
  assert code == 0
  assert saved.exists(workdir / 'scratch' / 'student')
  assert (workdir / 'results.json').exists()


@pytest.mark.parametrize(
  'text',
  [
    'PERMISSION_DENIED: Error writing "step/0": Permission denied '
    "[os_error_code='13']",
    'NOT_FOUND: Error writing "step/0": Failed to create directory: "run/d": '
    "No such file or directory [os_error_code='2']",
  ],
)
def test_what_tensorstore_says_of_a_folder(text, small, monkeypatch, tmp_path):
  def fail(*args, **kwargs):
    raise ValueError(text)

  monkeypatch.setattr(ocp.StandardCheckpointer, 'save', fail)
  outcome = small({'scratch.epochs': 1})
  line = _error((outcome[0], '', outcome[2]))
  words = text.partition(': ')[2].partition(' [')[0].rpartition(': ')[2]
  assert f'refuses {tmp_path / "run"}: {words.lower()}; ' in line


def test_what_tensorstores_threads_raise_after_it_is_left_out(monkeypatch):
  told = []
  monkeypatch.setattr(sys, 'unraisablehook', told.append)
  with flagsaver.flagsaver():
    cli.parse(['test'])
  for text in ('Event loop is closed', 'something else'):
    sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
  assert [str(one.exc_value) for one in told] == ['something else']


# Signals, to a process of its own.


def _wait(process, done):
  """Waits for `done()`, at most two minutes, while the process runs."""
  deadline = time.monotonic() + 120
  while not done():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.1)


@pytest.mark.slow
def test_signals_and_going_on(tmp_path):
  workdir = tmp_path / 'run'
  keys = SMALL | {'batch_size': 100, 'scratch.epochs': 3}
  command = [
    sys.executable,
    '-m',
    'experiments.cifar',
    f'--config={CONFIGS / "fashion_mnist.py"}',
    f'--workdir={workdir}',
    *(f'--config.{key}={value}' for key, value in keys.items()),
  ]
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'programs'),
  }

  def start():
    return subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def records():
    path = workdir / 'metrics.jsonl'
    return path.read_text().splitlines() if path.exists() else []

  for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
    before = len(records())
    process = start()
    try:
      _wait(process, lambda before=before: len(records()) > before)
      process.send_signal(number)
      _, err = process.communicate(timeout=120)
    finally:
      process.kill()
    assert process.returncode == code, err
    soon, stopped = err.splitlines()
    assert 'once more stops at once' in soon
    assert 'stopped in scratch/scratch at step' in stopped
    assert 'run the same command again to go on' in stopped
    steps = [json.loads(r)['step'] for r in records()]
    assert steps == sorted(steps)
    step = int(err.split('at step ')[1].split()[0])
    assert (workdir / 'scratch' / 'scratch' / str(step)).is_dir()
    assert not (workdir / 'results.json').exists()
  process = start()
  out, err = process.communicate(timeout=120)
  assert (process.returncode, err) == (0, '')
  assert 'scratch' in out and 'report.html' in out
  # The user's own cache was taken.
  assert list((tmp_path / 'programs').iterdir())
  assert not (workdir / 'cache').exists()
  assert json.loads(records()[-1])['step'] == 3 * 2000 // 100
  assert json.loads((workdir / 'results.json').read_text())['rows']
