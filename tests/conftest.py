"""Strict JAX for every test, and a small pair of networks to test with."""

import dataclasses
import functools
import pickle
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from drawn import untimed
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache

from experiments import cli, recipes
from lit_jax import blocks, command, layers
from lit_jax.data.feed import Superbatch
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.layers import BatchNorm, Conv, convolution, text
from lit_jax.models.resnet import Head
from lit_jax.runs import rows, runner
from lit_jax.tasks import Classify
from lit_jax.training import state, task

# Before the first computation, for the backend then starts with them.
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Every other warning fails the test that raises it. Each entry says why it
# may be passed over.
ALLOWED_WARNINGS: tuple[str, ...] = (
  # Orbax gives up reading a damaged checkpoint at the first bad array, and
  # leaves its other reads unfinished in a closed event loop; when they are
  # collected, in whichever test, is chance.
  'ignore:Exception ignored in. (None|<coroutine object _read_array)'
  ':pytest.PytestUnraisableExceptionWarning',
)

CLASSES = 5
SHAPE = (8, 8, 3)


def pytest_configure(config):
  for line in ('error', *ALLOWED_WARNINGS):
    config.addinivalue_line('filterwarnings', line)


class Layers(nn.Module):
  """Layers of convolution, batch norm and ReLU, the first one strided."""

  features: int
  stride: int = 1
  count: int = 1
  dtype: Any = jnp.float32

  takes_two_batches = True

  @nn.compact
  def __call__(self, x, train=False):
    for i in range(self.count):
      step = self.stride if i == 0 else 1
      x = Conv(self.features, (3, 3), (step, step), dtype=self.dtype)(x)
      x = nn.relu(BatchNorm(self.dtype)(x, train))
    return x


def _net(depth, dtype=jnp.float32):
  layers = functools.partial(Layers, dtype=dtype)
  return blocks.BlockNet(
    layers(4),
    tuple(layers(w, s, depth) for w, s in ((4, 1), (6, 2), (8, 2))),
    Head(CLASSES, dtype),
    jax.ShapeDtypeStruct(SHAPE, jnp.float32),
  )


def _variables(net, seed):
  """Variables as after some training: nothing is all 0 or all 1.

  Drawn here and not by `blocks.init`, which takes seconds to compile.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name == 'kernel':
      # Inputs of unit size give outputs of about unit size.
      values = (
        rng.normal(size=leaf.shape) * (2 / leaf.size * leaf.shape[-1]) ** 0.5
      )
    else:
      middle = 1.0 if name in ('scale', 'var') else 0.0
      values = middle + rng.uniform(-0.3, 0.3, leaf.shape)
    return jnp.asarray(values, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, blocks.shapes(net))


@dataclasses.dataclass(frozen=True)
class Tiny:
  """Three-block networks on 8x8x3 images; the teacher is twice as deep."""

  teacher: blocks.BlockNet
  student: blocks.BlockNet
  teacher_variables: dict[str, Any]
  student_variables: dict[str, Any]
  preprocess: ImagePreprocess

  def networks(self, dtype):
    """Teacher and student of the same variables, computing in another dtype."""
    return _net(2, dtype), _net(1, dtype)

  def plan(self, optimizer, **changes):
    """How the student learns from the teacher, by one optimiser."""
    return task.Plan(
      Classify(CLASSES),
      self.teacher,
      self.student,
      {state.STUDENT: optimizer},
      (),
      self.preprocess,
      self.preprocess,
    )._replace(**changes)

  def superbatch(self, steps, batch, count=None, seed=0):
    """Of one order of data."""
    rng = np.random.default_rng(seed)
    return Superbatch(
      rng.integers(0, 256, (1, steps, batch, *SHAPE), np.uint8),
      rng.integers(0, CLASSES, (1, steps, batch), np.int32),
      np.int32(steps if count is None else count),
    )


@pytest.fixture
def accelerator_forms(monkeypatch):
  """Whatever the test traces is in the forms for accelerators."""

  def refuse(*args):
    raise AssertionError('a form for CPUs')

  for module, name in (
    (convolution, '_conv'),
    (convolution, '_grouped'),
    (convolution, '_pointwise'),
    (text, 'winograd'),
  ):
    monkeypatch.setattr(module, name, refuse)
  with layers.plain_forms():
    yield


@pytest.fixture
def unpickled(monkeypatch):
  """What was read as a pickle, which is nothing."""
  seen = []
  for name in ('load', 'loads', 'Unpickler'):
    monkeypatch.setattr(pickle, name, lambda *args, **_: seen.append(args))
  yield seen
  assert seen == []


@pytest.fixture(scope='module', autouse=True)
def programs_of_one_file(tmp_path_factory):
  """Compiled programs are let go after each file, and kept on the disk.

  Each takes some of the memory maps that Linux grants a process (65,530), and
  XLA crashes where there are none left. The same programs come again, and
  compiling takes most of the time. Each process has a folder of its own, for
  JAX does not write an entry at once.
  """
  folder = tmp_path_factory.getbasetemp()
  names = {
    'jax_compilation_cache_dir': str(folder / 'programs'),
    'jax_persistent_cache_min_compile_time_secs': 0.2,
  }
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in names.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  jax.clear_caches()


@pytest.fixture
def lit_jax_command(capsys):
  """`lit-jax` in this process: exit code, stdout, stderr."""

  def run(*args):
    capsys.readouterr()
    try:
      command.main([*map(str, args)])
      code = 0
    except SystemExit as stopped:
      code = stopped.code or 0
    written = capsys.readouterr()
    return code, written.out, written.err

  return run


@pytest.fixture(scope='module')
def parsed_flags():
  """For commands that are called without a command line."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope='session')
def tiny():
  teacher, student = _net(2), _net(1)
  return Tiny(
    teacher,
    student,
    _variables(teacher, 0),
    _variables(student, 10),
    ImagePreprocess((0.5, 0.4, 0.3), (0.25, 0.2, 0.3)),
  )


@pytest.fixture
def quick(monkeypatch):
  """Runs measure no latencies, try no blocks in the teacher, write no page."""
  monkeypatch.setattr(rows, 'timed', untimed)
  monkeypatch.setattr(runner.stitch, 'evaluator', lambda *args: None)
  monkeypatch.setattr(runner.report, 'write_html', lambda workdir: None)


@pytest.fixture
def in_this_process(monkeypatch, capsys):
  """Runs a command with its flags here: exit code, stdout, stderr."""

  def run(call, *argv):
    # Where the last configuration file was loaded to; a new process has none.
    monkeypatch.delitem(sys.modules, 'config_config', raising=False)
    monkeypatch.setattr(sys, 'argv', [*map(str, argv)])
    capsys.readouterr()
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
      call()
    written = capsys.readouterr()
    # `sys.exit(None)` is a success as well.
    return stopped.value.code or 0, written.out, written.err

  return run


@pytest.fixture
def main(quick, in_this_process):
  """`experiments.cifar` in this process, with a job or what `build` makes."""

  def run(*args, build=recipes.compression):
    return in_this_process(lambda: cli.main(build), 'cifar', *args)

  return run
