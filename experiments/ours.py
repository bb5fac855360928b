"""Our side of the benchmark: the production path, and what bounds its speed."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.extend import core

from experiments import recipes
from experiments.configs import resnet, resnext, vdcnn
from experiments.worker import peak_rss_mb
from lit_jax import blocks, layers, models, objectives, summary
from lit_jax.data.dataset import Split
from lit_jax.data.feed import Feed, Superbatch
from lit_jax.data.preprocess import AsIs, ImagePreprocess
from lit_jax.data.texts.characters import VOCABULARY
from lit_jax.networks.latency import latency_ms
from lit_jax.tasks.classify import Classify
from lit_jax.training import devices, optim, population, startup, state
from lit_jax.training.precision import policy
from lit_jax.training.state import STUDENT
from lit_jax.training.task import Plan

# Of batch norms: what a residual unit adds to its shortcut must not add up.
_RESIDUAL_SCALE = 0.5


class Case(NamedTuple):
  """A pair of networks, and what they read and tell apart.

  Attributes:
    config: makes its configuration.
    shape: of an example.
    classes: how many.
    values: inputs are 0 to values - 1.
    norm_scale: of the random batch norms, under which a deep network's values
      stay of order one.
    colours: mean and deviation of each channel, in units of 0-1 pixels; None
      where inputs are taken as they are.
  """

  config: Callable[[], Any]
  shape: tuple[int, ...]
  classes: int
  values: int = 256
  norm_scale: float = _RESIDUAL_SCALE
  colours: tuple[tuple[float, ...], tuple[float, ...]] | None = (
    (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
  )  # fmt: skip


CASES = {
  'resnet': Case(resnet.get_config, (32, 32, 3), 10),
  'resnext': Case(resnext.get_config, (32, 32, 3), 10),
  'vdcnn': Case(vdcnn.get_config, (1014,), 5, VOCABULARY, 1.0, None),
}
_LEAST_EXAMPLES = 2048
_CHECK_STEPS = 2
# Reads and writes of a convolution's output, in elements each: in evaluation
# it is written and read, and read again by every second unit's shortcut; in
# training it also passes batch norm and ReLU, both ways.
EVALUATION_PASSES, TRAINING_PASSES = 2.5, 14

Job = Mapping[str, Any]


def job(
  case: str,
  batch: int,
  precision: str,
  steps_per_call: int,
  depths: tuple[int, int] = (0, 0),
  members: int = 1,
) -> dict[str, Any]:
  """What both sides are to run, as plain values.

  Args:
    case: a key of CASES; its configuration's LIT phase is what runs.
    batch: examples a step.
    precision: 'fp32', 'bf16' or 'fp16'.
    steps_per_call: of our program.
    depths: teacher's and student's, where not the configuration's (0).
    members: students that are trained together.
  """
  inputs = CASES[case]
  config = inputs.config()
  phase = recipes.phase(config, 'lit')
  fitting = {'classes': inputs.classes, 'input_shape': list(inputs.shape)}
  teacher, student = (
    recipes.spec(sheet) | fitting | ({'depth': depth} if depth else {})
    for sheet, depth in zip(
      (config.teacher, config.student), depths, strict=True
    )
  )
  teacher.pop('checkpoint')
  objective = phase.objective
  return {
    'case': case,
    'batch': batch,
    'precision': precision,
    'steps_per_call': steps_per_call,
    'members': members,
    'teacher': teacher,
    'student': student,
    'alpha': objective.alpha,
    'beta': objective.beta,
    'temperature': objective.temperature,
    'ir_loss': objective.ir_loss,
    'copy': phase.copy,
    'frozen': phase.frozen,
    'learning_rate': phase.learning_rate,
    'momentum': config.momentum,
    'weight_decay': config.weight_decay,
    'colours': inputs.colours,
  }


def data(settings: Job) -> Split:
  """Random inputs, of which an epoch makes full calls."""
  call = settings['steps_per_call'] * settings['batch']
  count = call * math.ceil(max(_LEAST_EXAMPLES, call) / call)
  rng = np.random.default_rng(0)
  shape, classes = (settings['student'][k] for k in ('input_shape', 'classes'))
  values = CASES[settings['case']].values
  return Split(
    rng.integers(0, values, (count, *shape), np.uint8),
    rng.integers(0, classes, count, np.int32),
  )


def check_batches(settings: Job) -> tuple[np.ndarray, np.ndarray]:
  """Inputs and labels of the steps that are compared with the peers'."""
  split, shape = data(settings), (_CHECK_STEPS, settings['batch'])
  return split.take(np.resize(np.arange(split.examples), shape))


def _preprocess(settings, augments):
  if settings['colours'] is None:
    return AsIs()
  return ImagePreprocess(*settings['colours'], crop=augments, flip=augments)


def _network(settings, role, precision):
  return models.build(settings[role], policy(precision).dtype)


def _draw(spec, seed, scale):
  """Variables under which a deep network's values stay of order one."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name == 'table':
      values = rng.normal(size=leaf.shape)
    elif name == 'kernel':
      fan_in = math.prod(leaf.shape[:-1])
      values = rng.normal(size=leaf.shape) * math.sqrt(2 / fan_in)
    else:
      values = np.full(leaf.shape, {'scale': scale, 'var': 1.0}.get(name, 0.0))
    return values.astype(np.float32)

  return jax.tree_util.tree_map_with_path(
    draw, blocks.shapes(models.build(spec))
  )


def _variables(settings):
  """Of teacher and student, as the phase begins."""
  scale = CASES[settings['case']].norm_scale
  teacher, student = (
    _draw(settings[role], seed, scale)
    for seed, role in enumerate(('teacher', 'student'))
  )
  return teacher, state.copy_parts(teacher, student, settings['copy'])


def _plan(settings, precision, augments):
  preprocess = _preprocess(settings, augments)
  rate = optim.schedule('steps', settings['learning_rate'], 1, 1)
  sgd = optim.Sgd(settings['momentum'], settings['weight_decay'])
  return Plan(
    task=Classify(settings['student']['classes']),
    teacher=_network(settings, 'teacher', precision),
    student=_network(settings, 'student', precision),
    optimizers={STUDENT: optim.optimizer(sgd, rate, settings['frozen'])},
    frozen=settings['frozen'],
    preprocess=preprocess,
    teacher_preprocess=preprocess,
    axis_name=devices.AXIS,
  )


def _objectives(settings):
  """Of every member, stacked."""
  names = ('alpha', 'beta', 'temperature', 'ir_loss')
  own = objectives.Objective(*(settings[name] for name in names))
  return population.stack([own] * settings['members'])


def _begin(settings, precision, augments=True):
  """The program, its plan, and the arrays that it starts from."""
  plan = _plan(settings, precision, augments)
  teacher, student = _variables(settings)
  count = settings['members']
  own = state.begin_phase(
    {STUDENT: student}, plan.optimizers, policy(precision)
  )
  first = population.stack([own] * count)
  program = devices.map_train(population.train_program(plan, count))
  return program, plan, devices.replicate(first), devices.replicate(teacher)


def _peak_memory_mb():
  stats = jax.local_devices()[0].memory_stats()
  if jax.default_backend() == 'cpu' or not stats:
    return peak_rss_mb()
  return stats['peak_bytes_in_use'] / 1e6


class Reference:
  """What is needed once before the contest: facts, weights, losses, floors."""

  def facts(self) -> dict[str, Any]:
    devices = jax.local_devices()
    return {
      'backend': jax.default_backend(),
      'kind': devices[0].device_kind,
      'count': len(devices),
    }

  def arrays(self, settings: Job) -> dict[str, dict[str, np.ndarray]]:
    """Initial variables of teacher and student, by Flax path."""
    flat = (
      traverse_util.flatten_dict(v, sep='/') for v in _variables(settings)
    )
    return {
      role: {path: np.asarray(x) for path, x in tree.items()}
      for role, tree in zip(('teacher', 'student'), flat, strict=True)
    }

  def losses(
    self, settings: Job, inputs: np.ndarray, labels: np.ndarray
  ) -> list[list[float]]:
    """Total loss and IR parts of each step in float32, not augmented.

    Args:
      settings: see `job`.
      inputs: uint8 [steps, batch, …].
      labels: int32 [steps, batch].
    """
    with jax.default_matmul_precision('highest'):
      program, plan, first, teacher = _begin(
        {**settings, 'members': 1}, 'fp32', augments=False
      )
      keys = population.stack([jax.random.key(0)])
      alone = _objectives({**settings, 'members': 1})
      found = []
      for i in range(len(labels)):
        batch = Superbatch(
          inputs[None, i : i + 1],
          labels[None, i : i + 1],
          np.asarray(1, np.int32),
        )
        first, metrics = program(
          first, teacher, devices.shard_superbatch(batch), alone, keys
        )
        names = ('loss', *(f'ir/{b}' for b in plan.student.block_names))
        found.append([float(metrics[name][0, 0]) for name in names])
    return found

  def floors(self, settings: Job) -> dict[str, float]:
    return floors(settings) | peaks(settings['precision'])


class Training:
  """LIT steps as lit_jax.training.loop runs them."""

  def __init__(self, settings: Job):
    startup.use_cores(settings['batch'])
    self._settings = settings
    self._began = time.perf_counter()
    self._program, self._plan, self._state, self._teacher = _begin(
      settings, settings['precision']
    )
    self._feed = Feed(
      data(settings), settings['batch'], settings['steps_per_call'], [0]
    )
    self._objectives = _objectives(settings)
    self._keys = population.stack([jax.random.key(0)])
    self._step = 0
    self._loss = math.nan

  def warm_up(self) -> float:
    """Seconds from the start to the end of the first call; runs one more."""
    self._train(0)
    seconds = time.perf_counter() - self._began
    self._train(0)
    return seconds

  def run(self, seconds: float) -> dict[str, float]:
    """Trains for about that long, at least one call; each member's steps."""
    start = time.perf_counter()
    count = self._train(seconds) * self._settings['members']
    return {'steps_per_s': count / (time.perf_counter() - start)}

  def _train(self, seconds):
    first, start = self._step, time.perf_counter()
    waiting = losses = None
    while losses is None or time.perf_counter() - start < seconds:
      superbatch = self._feed.superbatch(self._step)
      self._state, metrics = self._program(
        self._state,
        self._teacher,
        devices.shard_superbatch(superbatch),
        self._objectives,
        self._keys,
      )
      self._step += int(superbatch.count)
      # The call before, as the loop does: the device is never idle.
      jax.block_until_ready(waiting)
      waiting = losses = metrics['loss']
    jax.block_until_ready((self._state, losses))
    self._loss = float(losses[int(superbatch.count) - 1].mean())
    return self._step - first

  def finite(self) -> bool:
    """Whether the last loss was a number."""
    return math.isfinite(self._loss)

  def peak_memory_mb(self) -> float:
    return _peak_memory_mb()


class Inference:
  """Latencies of teacher and student, by lit_jax.networks.latency."""

  def __init__(self, settings: Job, cache: str):
    """`cache` is a folder for compiled programs, which come again."""
    jax.config.update('jax_compilation_cache_dir', cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    self._began = time.perf_counter()
    self._batch = settings['batch']
    dtype = policy(settings['precision']).dtype
    self._nets = {}
    variables = _variables(settings)
    for role, tree in zip(('teacher', 'student'), variables, strict=True):
      net = models.build(settings[role], dtype)
      self._nets[role] = net, jax.tree.map(jnp.asarray, tree)

  def warm_up(self) -> float:
    """Seconds from the start until both networks have been timed once."""
    self.run(0)
    return time.perf_counter() - self._began

  def run(self, seconds: float) -> dict[str, float]:
    """Median milliseconds of a pass, by network."""
    del seconds
    return {
      f'{role}_ms': latency_ms(net, variables, self._batch)
      for role, (net, variables) in self._nets.items()
    }

  def finite(self) -> bool:
    return True

  def peak_memory_mb(self) -> float:
    return _peak_memory_mb()


def step_macs(settings: Job) -> int:
  """Multiply-accumulates of one example in a LIT step.

  Of plain convolutions: Winograd's do with half of them, so that a share of
  these may be above what the hardware was asked for.

  The teacher runs forward once. Of the student, what learns runs forward and
  has two gradients (3 times its forward pass), and the blocks after the first
  do so twice, on two inputs. The frozen stem runs forward alone; the frozen
  head has the gradient of its input (2 times).
  """
  teacher = summary(models.build(settings['teacher']))
  student = summary(models.build(settings['student']))
  frozen = settings['frozen']

  def times(part):
    if part == 'stem':
      return 1 if part in frozen else 2
    back = 1 if part in frozen else 2
    runs = 2 if part.startswith('blocks_') and part != 'blocks_0' else 1
    return runs * (1 + back)

  return teacher.macs + sum(
    times(name) * part.macs for name, part in student.parts.items()
  )


def step_elements(settings: Job) -> float:
  """Elements of one example that a LIT step reads or writes in memory.

  An estimate, made for ResNets. Each element of a convolution's output counts
  EVALUATION_PASSES in the teacher and in the student's frozen parts,
  TRAINING_PASSES elsewhere, and that twice in the blocks after the first.
  Weights are left out.
  """
  teacher = conv_outputs(models.build(settings['teacher']))
  student = conv_outputs(models.build(settings['student']))
  total = EVALUATION_PASSES * sum(teacher.values())
  for name, elements in student.items():
    passes = TRAINING_PASSES
    if name in settings['frozen']:
      passes = EVALUATION_PASSES
    runs = 2 if name.startswith('blocks_') and name != 'blocks_0' else 1
    total += runs * passes * elements
  return total


def floors(settings: Job) -> dict[str, float]:
  """Floating-point operations (2 a multiply-accumulate) and bytes of a step."""
  itemsize = jnp.dtype(policy(settings['precision']).dtype).itemsize
  batch = settings['batch']
  return {
    'flops': 2.0 * batch * step_macs(settings),
    'bytes': float(batch * step_elements(settings) * itemsize),
  }


def conv_outputs(net: blocks.BlockNet) -> dict[str, int]:
  """Elements of all convolutions' outputs for one example, by part."""
  variables = blocks.shapes(net)
  parts: dict[str, int] = {}
  x = blocks.example(net)
  for name in net.parts:
    run = blocks.part_function(net, name)
    with layers.plain_forms():
      jaxpr, x = jax.make_jaxpr(run, return_shape=True)(variables, x)
    parts[name] = _conv_elements(jaxpr.jaxpr)
  return parts


def _conv_elements(jaxpr):
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'conv_general_dilated':
      total += math.prod(eqn.outvars[0].aval.shape)
    for value in eqn.params.values():
      if isinstance(value, core.ClosedJaxpr):
        value = value.jaxpr
      if isinstance(value, core.Jaxpr):
        total += _conv_elements(value)
  return total


def peaks(precision: str) -> dict[str, float]:
  """FLOP/s of a large matrix product and bytes/s of a large copy, measured."""
  large = jax.default_backend() != 'cpu'
  dtype = policy(precision).dtype
  speeds = []
  for n in (4096, 8192) if large else (1024, 2048):
    x = jnp.ones((n, n), dtype)
    speeds.append(2.0 * n**3 / _best_seconds(lambda _, x: x @ x, x, x))
  numbers = jnp.ones(2**28 if large else 2**26, jnp.float32)
  copy = _best_seconds(lambda v: v + 1, numbers)
  return {
    'peak_flops_per_s': max(speeds),
    'peak_bytes_per_s': 2.0 * numbers.nbytes / copy,
  }


def _best_seconds(function, old, *args, repeats=20):
  """Of old = function(old, *args), which reuses the memory of `old`."""
  run = jax.jit(function, donate_argnums=0)
  old = jax.block_until_ready(run(old.copy(), *args))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    old = jax.block_until_ready(run(old, *args))
    times.append(time.perf_counter() - start)
  return min(times)
