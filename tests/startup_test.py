"""Compiled programs kept for the next start, and the line that tells of it."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import cli
from experiments.configs import resnet
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.training import startup

ROOT = pathlib.Path(__file__).parents[1]
# One call of 4 steps, and what a run does around it.
KEYS = {
  'dataset': 'fashion_mnist_mini',
  'method': 'scratch',
  'student.depth': 8,
  'batch_size': 500,
  'steps_per_call': 4,
  'scratch.epochs': 1,
}
SETTINGS = (
  'jax_compilation_cache_dir',
  'jax_persistent_cache_min_compile_time_secs',
  'jax_persistent_cache_min_entry_size_bytes',
)


def _run(workdir, **environment):
  """The command line in a process of its own: hits, misses, and seconds."""
  settings = os.environ | {'JAX_PLATFORMS': 'cpu'} | environment
  begun = time.monotonic()
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'experiments.cifar',
      f'--config={ROOT / "experiments" / "configs" / "fashion_mnist.py"}',
      f'--workdir={workdir}',
      *(f'--config.{key}={value}' for key, value in KEYS.items()),
    ],
    cwd=ROOT,
    env=settings,
    capture_output=True,
    text=True,
    timeout=300,
  )
  seconds = time.monotonic() - begun
  # No warning of the cache, of Python's or of XLA's.
  assert (done.returncode, done.stderr) == (0, '')
  (found,) = re.findall(
    r'^first 4 steps done ([\d.]+) s after the start '
    r'\(compilation cache: (\d+) hits, (\d+) misses\)$',
    done.stdout,
    re.MULTILINE,
  )
  assert 0.5 < float(found[0]) < seconds + 0.1
  return int(found[1]), int(found[2])


def _student(workdir):
  """The trained network's arrays."""
  folder = workdir / 'scratch' / 'student'
  return jax.tree.leaves(saved.load(folder)[1])


def _clear(workdir):
  """Leaves only the cache."""
  for path in workdir.iterdir():
    if path.is_dir() and path.name != 'cache':
      shutil.rmtree(path)
    elif path.is_file():
      path.unlink()


def _entries(folder):
  return sorted(folder.glob('*-cache'))


def _assert_same(a, b):
  assert len(a) == len(b) > 0
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path):
  workdir = tmp_path / 'run'
  # Said after the first steps, so that the train program is one of them.
  hits, misses = _run(workdir)
  assert hits == 0 and misses > 0
  student, entries = _student(workdir), _entries(workdir / 'cache')
  _clear(workdir)
  assert _run(workdir) == (misses, 0)
  _assert_same(_student(workdir), student)
  assert _entries(workdir / 'cache') == entries


@pytest.fixture
def no_cache():
  """JAX as a process finds it whose user has no cache."""
  before = {name: getattr(jax.config, name) for name in SETTINGS}
  jax.config.update(SETTINGS[0], None)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def _compile(first):
  """Compiles a program anew, and says of it what a run would."""
  jax.clear_caches()
  compilation_cache.reset_cache()
  line = startup.FirstSteps()
  assert float(jax.jit(lambda x: jnp.cos(x) + first)(0.0)) == 1 + first
  return line.first_call(1)


def test_a_damaged_entry_is_compiled_again(no_cache, tmp_path):
  startup.keep_programs(tmp_path)
  assert '0 hits, 1 misses' in _compile(2.0)
  (entry,) = _entries(tmp_path / 'cache')
  assert '1 hits, 0 misses' in _compile(2.0)
  content = entry.read_bytes()
  for damaged in (b'', content[: len(content) // 2], b'no program'):
    entry.write_bytes(damaged)
    # Warnings are errors here.
    assert '0 hits, 1 misses' in _compile(2.0)
  entry.write_bytes(content)
  assert '1 hits, 0 misses' in _compile(2.0)


@pytest.mark.parametrize('name', ['cache', 'nowhere'])
def test_a_cache_that_cannot_be_written(name, no_cache, tmp_path):
  """Not even by root: a file stands where the folder, or one above, would."""
  path = tmp_path / name
  path.write_text('mine')
  startup.keep_programs(tmp_path if name == 'cache' else path)
  for _ in range(2):
    assert '0 hits, 1 misses' in _compile(3.0)
  assert path.read_text() == 'mine'


def test_the_users_own_cache_is_used_in_full(no_cache, tmp_path):
  own = tmp_path / 'own'
  jax.config.update('jax_compilation_cache_dir', str(own))
  startup.keep_programs(tmp_path)
  assert '0 hits, 1 misses' in _compile(5.0)
  # By JAX's own thresholds, so quick a compilation is not kept.
  assert '1 hits, 0 misses' in _compile(5.0)
  assert len(_entries(own)) == 1
  assert not (tmp_path / 'cache').exists()


def test_the_users_own_thresholds_are_left(no_cache, tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '9')
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 9.0)
  startup.keep_programs(tmp_path)
  assert jax.config.jax_persistent_cache_min_compile_time_secs == 9.0
  assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1


@pytest.mark.parametrize('seconds', [0.1, 0.3])
def test_ctrl_c_at_once_shows_no_traceback(seconds):
  command = [sys.executable, '-m', 'experiments.cifar', '--help']
  process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
  time.sleep(seconds)
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert b'Traceback' not in err


def test_the_line_is_said_once(no_cache):
  line = startup.FirstSteps()
  assert re.fullmatch(
    r'first 8 steps done [\d.]+ s after the start '
    r'\(compilation cache: (off|\d+ hits, \d+ misses)\)',
    line.first_call(8),
  )
  assert line.first_call(8) is None


def test_seconds_of_the_process():
  command = (
    'from lit_jax.training import startup; print(startup.process_seconds())'
  )
  begun = time.monotonic()
  out = subprocess.check_output([sys.executable, '-c', command], cwd=ROOT)
  # JAX alone takes longer to import than the lower bound; ticks are 10 ms.
  assert 0.1 < float(out) < time.monotonic() - begun + 0.02


def test_seconds_without_proc(monkeypatch):
  def fail(*args):
    raise FileNotFoundError

  monkeypatch.setattr(pathlib.Path, 'read_text', fail)
  monkeypatch.setattr(startup, '_IMPORTED', time.monotonic() - 5)
  assert 5 <= startup.process_seconds() < 6


@pytest.mark.parametrize(
  'batch, least, cores, devices',
  [
    (32, 16, 2, 2),
    (16, 16, 2, 1),  # 8 examples are too few
    (16, 8, 2, 2),
    (128, 16, 64, 8),
    (100, 16, 4, 4),
    (33, 16, 2, 1),  # not divisible
    (0, 16, 2, 1),  # bad input, refused later
    (32, 0, 2, 2),
  ],
)
def test_a_device_a_core_as_far_as_the_batch_goes_round(
  batch, least, cores, devices
):
  assert startup.even_devices(batch, least, cores) == devices


@pytest.fixture
def gpus(monkeypatch):
  """Has the machine seem to have GPUs; the value tells which JAX may see."""
  monkeypatch.setattr(startup, '_has_cuda', lambda: True)
  monkeypatch.setattr(
    startup.glob, 'glob', lambda _: [f'/dev/nvidia{i}' for i in range(8)]
  )
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  name = 'jax_cuda_visible_devices'
  assert jax.config.values[name] == 'all'
  yield lambda: jax.config.values[name]
  jax.config.update(name, 'all')


@pytest.mark.parametrize(
  'batch, least, wanted, visible, count, told',
  [
    (32, 128, 0, None, (1, 8), '0'),
    (512, 128, 0, None, (4, 8), '0,1,2,3'),
    (384, 128, 0, None, (3, 8), '0,1,2'),
    (1024, 128, 0, None, (8, 8), 'all'),
    (32, 128, 8, None, (8, 8), 'all'),
    (32, 128, 2, None, (2, 8), '0,1'),
    # Places among those that CUDA sees.
    (32, 16, 0, '4,5,6', (2, 3), '0,1'),
    (32, 16, 0, '', (0, 0), 'all'),
  ],
)
def test_as_many_gpus_as_the_batch_goes_round(
  batch, least, wanted, visible, count, told, gpus, monkeypatch
):
  if visible is not None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
  assert startup.use_gpus(batch, least, wanted) == count
  assert gpus() == told


def test_more_gpus_than_there_are(gpus):
  with pytest.raises(UserError, match='devices=9, and there are 8 GPUs'):
    startup.use_gpus(32, 16, 9)


def test_the_users_own_gpus_stay(gpus):
  jax.config.update('jax_cuda_visible_devices', '3')
  startup.use_gpus(512, 16)
  assert gpus() == '3'


def test_the_users_own_number_of_devices_stays():
  before = jax.config.values['jax_num_cpu_devices']  # 2, by conftest.py
  startup.use_cores(16, 16)
  assert jax.config.values['jax_num_cpu_devices'] == before == 2


@pytest.mark.parametrize(
  'flags, devices',
  [
    ('', startup.even_devices(64, 16, startup.cores())),
    ('--xla_force_host_platform_device_count=3', 3),
  ],
)
def test_devices_of_a_process(flags, devices):
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'import jax; from lit_jax.training import startup; '
      'startup.use_cores(64, 16); '
      'print(jax.local_device_count(), jax.numpy.arange(4).sum())',
    ],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (done.stdout, done.stderr) == (f'{devices} 6\n', '')


def test_a_gpu_repeats_every_bit_if_asked(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_other=1')
  startup.use_deterministic()
  assert os.environ['XLA_FLAGS'] == f'--xla_other=1 {startup.DETERMINISTIC}'
  own = '--xla_gpu_deterministic_ops=false'
  monkeypatch.setenv('XLA_FLAGS', own)
  startup.use_deterministic()
  assert os.environ['XLA_FLAGS'] == own


def test_xla_knows_its_flags():
  # A flag that it does not know ends the process.
  flags = f'{startup.DETERMINISTIC} {startup.GRAPHS}'
  done = subprocess.run(
    [sys.executable, '-c', 'import jax; print(jax.numpy.arange(4).sum())'],
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert (done.stdout, done.stderr) == ('6\n', '')


@pytest.mark.parametrize(
  'precision, deterministic, words',
  [
    ('fp32', False, ['TF32', 'not bit for bit']),
    ('fp32', True, ['TF32']),
    ('bf16', False, ['not bit for bit']),
    ('bf16', True, []),
  ],
)
def test_what_holds_on_a_gpu_alone_is_said(
  precision, deterministic, words, tmp_path, monkeypatch, capsys
):
  config = resnet.get_config()
  config.update(dict(precision=precision, deterministic=deterministic))
  asked = []
  monkeypatch.setattr(startup, 'use_cores', lambda *args: None)
  monkeypatch.setattr(startup, 'keep_programs', lambda *args: None)
  monkeypatch.setattr(startup, 'use_graphs', lambda: False)
  monkeypatch.setattr(startup, 'use_deterministic', lambda: asked.append(1))
  for backend, said in (('cpu', []), ('gpu', words)):
    monkeypatch.setattr(jax, 'default_backend', lambda own=backend: own)
    cli.start(config, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(said)
    assert all(word in line for word, line in zip(said, lines, strict=True))
  assert len(asked) == 2 * deterministic
