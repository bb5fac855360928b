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
from experiments.configs import resnet, resnext, stargan, vdcnn
from experiments.worker import peak_rss_mb
from lit_jax import blocks, layers, models, objectives, summary
from lit_jax.data.dataset import Split
from lit_jax.data.feed import Feed, Superbatch
from lit_jax.data.preprocess import AsIs, ImagePreprocess, LabelledImages
from lit_jax.data.texts.characters import VOCABULARY
from lit_jax.models.stargan import Discriminator
from lit_jax.networks.latency import latency_ms
from lit_jax.tasks.classify import Classify
from lit_jax.tasks.translate import DISCRIMINATOR, Translate
from lit_jax.training import (
  devices,
  optim,
  population,
  startup,
  state,
  steps,
)
from lit_jax.training.packing import pack
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
    classes: how many; of images to translate, how many attributes.
    values: inputs are 0 to values - 1.
    norm_scale: of the random batch norms, under which a deep network's values
      stay of order one.
    colours: mean and deviation of each channel, in units of 0-1 pixels; None
      where inputs are taken as they are.
    phases: of the configuration, whose steps are timed one after another.
    batches: the usual ones.
  """

  config: Callable[[], Any]
  shape: tuple[int, ...]
  classes: int
  values: int = 256
  norm_scale: float = _RESIDUAL_SCALE
  colours: tuple[tuple[float, ...], tuple[float, ...]] | None = (
    (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
  )  # fmt: skip
  phases: tuple[str, ...] = ('lit',)
  batches: tuple[int, ...] = (32, 128)


CASES = {
  'resnet': Case(resnet.get_config, (32, 32, 3), 10),
  'resnext': Case(resnext.get_config, (32, 32, 3), 10),
  'vdcnn': Case(vdcnn.get_config, (1014,), 5, VOCABULARY, 1.0, None),
  # LIT compares the one block, without any output; fine-tuning is adversarial.
  'stargan': Case(
    stargan.get_config,
    (128, 128, 3),
    5,
    colours=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    phases=('lit', 'finetune'),
    batches=(16,),
  ),
}
_LEAST_EXAMPLES = 2048
# Settings of the adversarial loss; see lit_jax/tasks/translate.py.
_ADVERSARIAL = (
  'discriminator_width', 'n_critic', 'gradient_penalty', 'classification',
  'reconstruction',
)  # fmt: skip
# Reads and writes of a convolution's output, in elements each: in evaluation
# it is written and read, and read again by every second unit's shortcut; in
# training it also passes batch norm and ReLU, both ways.
EVALUATION_PASSES, TRAINING_PASSES = 2.5, 14
# Of a critic's convolutions, which only a bias and a leaky ReLU follow: an
# output is written, read and written by the ReLU, and read; its gradient the
# same way, with a look at the ReLU's input; and both are read again for the
# gradient of the kernel. The penalty's second order is as much as both again,
# and a frozen critic has no gradients of kernels.
CRITIC_PASSES, PENALTY_PASSES, FROZEN_CRITIC_PASSES = 11, 20, 9
# Reads and writes of a critic's weight in an update: seven convolutions read
# it, three write a gradient, and Adam reads four numbers and writes three.
CRITIC_WEIGHT_PASSES = 17

Job = Mapping[str, Any]


def job(
  case: str,
  batch: int,
  precision: str,
  steps_per_call: int,
  depths: tuple[int, int] = (0, 0),
  members: int = 1,
  phase: str = 'lit',
  sync_batch_norm: bool = True,
) -> dict[str, Any]:
  """What both sides are to run, as plain values.

  Args:
    case: a key of CASES.
    batch: examples a step.
    precision: 'fp32', 'bf16' or 'fp16'.
    steps_per_call: of our program; made whole cycles, of which each has an
      update of every network that learns.
    depths: teacher's and student's, where not the configuration's (0).
    members: students that are trained together.
    phase: of the configuration, one of the case's `phases`; it is what runs.
    sync_batch_norm: as `Plan.sync_batch_norm`.
  """
  inputs = CASES[case]
  config = inputs.config()
  sheet = recipes.phase(config, phase)
  objective = sheet.objective
  fitting: dict[str, Any] = {
    'classes': inputs.classes, 'input_shape': list(inputs.shape)
  }  # fmt: skip
  translate = None
  if config.task == 'translate':
    fitting = {'attributes': inputs.classes, 'image_size': inputs.shape[0]}
    translate = {name: config[name] for name in _ADVERSARIAL}
  adversarial = bool(translate) and objective.computes('hard')
  cycle = config.n_critic if adversarial else 1
  teacher, student = (
    recipes.spec(network) | fitting | ({'depth': depth} if depth else {})
    for network, depth in zip(
      (config.teacher, config.student), depths, strict=True
    )
  )
  adam = isinstance(sheet.optimizer, optim.Adam)
  return {
    'case': case,
    'phase': phase,
    'batch': batch,
    'examples_per_device': config.examples_per_device,
    'precision': precision,
    'steps_per_call': math.ceil(steps_per_call / cycle) * cycle,
    'cycle': cycle,
    'members': members,
    'sync_batch_norm': sync_batch_norm,
    'teacher': teacher,
    'student': student,
    'alpha': objective.alpha,
    'beta': objective.beta,
    'temperature': objective.temperature,
    'ir_loss': objective.ir_loss,
    'copy': sheet.copy,
    'frozen': sheet.frozen,
    'learning_rate': sheet.learning_rate,
    'momentum': config.momentum,
    'weight_decay': config.weight_decay,
    'adam_betas': tuple(config.adam_betas) if adam else None,
    'translate': translate,
    'adversarial': adversarial,
    'colours': inputs.colours,
  }


def narrowed(settings: Job) -> Job:
  """The job with few channels, where networks have a width of their own."""
  narrow: dict[str, Any] = {
    role: settings[role] | ({'width': 8} if 'width' in settings[role] else {})
    for role in ('teacher', 'student')
  }
  if settings['translate']:
    narrow['translate'] = settings['translate'] | {'discriminator_width': 8}
  return {**settings, **narrow}


def data(settings: Job) -> Split:
  """Random inputs, of which an epoch makes full calls."""
  call = settings['steps_per_call'] * settings['batch']
  count = call * math.ceil(max(_LEAST_EXAMPLES, call) / call)
  rng = np.random.default_rng(0)
  student = settings['student']
  values = CASES[settings['case']].values
  if settings['translate']:
    size = student['image_size']
    image = rng.integers(0, values, (count, size, size, 3), np.uint8)
    label = rng.integers(0, 2, (count, student['attributes']), np.uint8)
    return Split({'image': image, 'label': label}, None)
  shape, classes = (student[k] for k in ('input_shape', 'classes'))
  return Split(
    rng.integers(0, values, (count, *shape), np.uint8),
    rng.integers(0, classes, count, np.int32),
  )


def check_batches(settings: Job) -> Split:
  """Inputs and labels of the steps that are compared with the peers'.

  One step more than a cycle, to see the last one's update.
  """
  split, shape = data(settings), (settings['cycle'] + 1, settings['batch'])
  return split.take(np.resize(np.arange(split.examples), shape))


def _preprocess(settings, augments):
  if settings['translate']:
    return LabelledImages(flip=augments)
  if settings['colours'] is None:
    return AsIs()
  return ImagePreprocess(*settings['colours'], crop=augments, flip=augments)


def _network(settings, role, precision):
  return models.build(settings[role], policy(precision).dtype)


def _draw(shapes, seed, scale):
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

  return jax.tree_util.tree_map_with_path(draw, shapes)


def _variables(settings):
  """Of teacher and student, as the phase begins."""
  scale = CASES[settings['case']].norm_scale
  teacher, student = (
    _draw(blocks.shapes(models.build(settings[role])), seed, scale)
    for seed, role in enumerate(('teacher', 'student'))
  )
  copy = tuple(part for part in settings['copy'] if part != DISCRIMINATOR)
  return teacher, state.copy_parts(teacher, student, copy)


def _critic(settings):
  """The discriminator, and the shapes of its variables and of an image."""
  student = settings['student']
  critic = Discriminator(
    student['attributes'], settings['translate']['discriminator_width']
  )
  size = student['image_size']
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = jax.eval_shape(critic.init, key, image)
  return critic, {'batch_stats': {}} | dict(shapes), image


def _networks(settings):
  """Variables of all networks, as the phase begins."""
  teacher, student = _variables(settings)
  found = {'teacher': teacher, STUDENT: student}
  if settings['adversarial']:
    scale = CASES[settings['case']].norm_scale
    found[DISCRIMINATOR] = _draw(_critic(settings)[1], 2, scale)
  return found


def _as_in_pytorch(role, arrays):
  """Variables by Flax path, in the names and layouts of the peer's networks.

  Kernels of StarGAN's up-sampling are not mirrored, and those of the
  discriminator's head are of all places of the image at once, (h, w, c).
  """
  if role == DISCRIMINATOR:
    depth = sum('/bias' in path for path in arrays)
    width = arrays['params/realness/kernel'].shape[2]
    for i in range(1, depth + 1):
      arrays[f'params/conv{i}/bias'] = arrays.pop(f'params/bias{i}')
    arrays['params/real/kernel'] = arrays.pop('params/realness/kernel')
    kernel = arrays['params/attributes/kernel']
    size = math.isqrt(len(kernel) // width)
    kernel = kernel.reshape(size, size, width, -1)
    arrays['params/attributes/kernel'] = kernel
  for path, kernel in arrays.items():
    if path.startswith('params/head/conv') and kernel.shape[:2] == (4, 4):
      arrays[path] = kernel[::-1, ::-1].swapaxes(2, 3).copy()
  return arrays


def _plan(settings, precision, augments):
  preprocess = _preprocess(settings, augments)
  rate = optim.schedule('steps', settings['learning_rate'], 1, 1)
  rule = optim.Sgd(settings['momentum'], settings['weight_decay'])
  if settings['adam_betas']:
    rule = optim.Adam(*settings['adam_betas'])
  optimizers = {STUDENT: optim.optimizer(rule, rate, settings['frozen'])}
  if settings['adversarial']:
    optimizers[DISCRIMINATOR] = optim.optimizer(rule, rate)
  return Plan(
    task=_task(settings),
    teacher=_network(settings, 'teacher', precision),
    student=_network(settings, 'student', precision),
    optimizers=optimizers,
    frozen=settings['frozen'],
    preprocess=preprocess,
    teacher_preprocess=preprocess,
    axis_name=devices.AXIS,
    shared=settings['frozen'],
    sync_batch_norm=settings['sync_batch_norm'],
  )


def _task(settings):
  if settings['translate']:
    count = settings['student']['attributes']
    return Translate(tuple(map(str, range(count))), **settings['translate'])
  return Classify(settings['student']['classes'])


def _objectives(settings):
  """Of every member, stacked."""
  names = ('alpha', 'beta', 'temperature', 'ir_loss')
  own = objectives.Objective(
    *(settings[name] for name in names),
    output_loss=_task(settings).output_loss,
  )
  return population.stack([own] * settings['members'])


def _begin(settings, precision, augments=True):
  """The program, its plan, and the arrays that it starts from."""
  plan = _plan(settings, precision, augments)
  first, teacher = map(devices.replicate, _first(settings, plan, precision))
  program = population.train_program(plan, settings['members'])
  return devices.map_train(program), plan, first, teacher


def _first(settings, plan, precision):
  """The state of all members at the first step, and the teacher's variables."""
  learners = _networks(settings)
  teacher = learners.pop('teacher')
  own = state.begin_phase(learners, plan.optimizers, policy(precision))
  first = population.stack([own] * settings['members'])
  return pack(first), steps.ready_teacher(plan, teacher)


def train_call(settings: Job) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """The program of one device before it is mapped, and a call's arguments.

  The superbatch is cut as `devices.shard_superbatch` does.
  """
  plan = _plan(settings, settings['precision'], augments=True)
  feed = Feed(
    data(settings), settings['batch'], settings['steps_per_call'], [0]
  )
  arguments = (
    *_first(settings, plan, settings['precision']),
    devices.shard_superbatch(feed.superbatch(0)),
    _objectives(settings),
    population.stack([jax.random.key(0)]),
  )
  return population.train_program(plan, settings['members']), arguments


def _peak_memory_mb():
  stats = jax.local_devices()[0].memory_stats()
  if jax.default_backend() == 'cpu' or not stats:
    return peak_rss_mb()
  return stats['peak_bytes_in_use'] / 1e6


def _compared(settings, student, step):
  """Names of a step's numbers that a peer's are compared with, in order.

  The realness of images and the penalty are within the total alone: they pass
  through 0, where rounding, which Adam makes more of in every step, is large
  beside them.
  """
  if not settings['adversarial']:
    return ('loss', *(f'ir/{name}' for name in student.block_names))
  names = 'loss', 'critic/attributes'
  if (step + 1) % settings['cycle']:
    return names
  terms = ('loss', 'attributes', 'reconstruction')
  return (*names, *(f'generator/{term}' for term in terms))


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
    """Initial variables by Flax path of all networks, as peers load them."""
    found = {}
    for role, variables in _networks(settings).items():
      flat = traverse_util.flatten_dict(variables, sep='/')
      arrays = {path: np.asarray(x) for path, x in flat.items()}
      found[role] = _as_in_pytorch(role, arrays)
    return found

  def given(
    self, settings: Job, inputs: Any, labels: Any
  ) -> tuple[np.ndarray, ...]:
    """What a peer's `check` is given for the same steps as `losses`.

    That is the inputs and labels; of images to translate, the images, their
    labels, and what our steps draw: the labels that are asked for, and the
    places between a real image and a fake one, [steps, batch].
    """
    if not settings['translate']:
      return inputs, labels
    plan = _plan(settings, 'fp32', augments=False)._replace(axis_name=None)
    batches = Superbatch(inputs, labels, np.asarray(1, np.int32))
    own, targets, mix, _ = plan.task.prepare(
      plan, objectives.scratch('l2'), None, batches, jnp.int32(0),
      jax.random.key(0),
    )  # fmt: skip
    drawn = own['image'], own['label'], targets, mix
    return tuple(np.array(x) for x in drawn)

  def losses(
    self, settings: Job, inputs: Any, labels: Any
  ) -> list[list[float]]:
    """Each step's losses in float32, not augmented.

    They are the total and the IR parts; of the adversarial loss the critic's
    total and part of attributes, and where the generator learned too, then its
    own and its reconstruction.

    Args:
      settings: see `job`.
      inputs: uint8 [steps, batch, …], or a dictionary of such arrays.
      labels: int32 [steps, batch], or None.
    """
    with jax.default_matmul_precision('highest'):
      program, plan, first, teacher = _begin(
        {**settings, 'members': 1}, 'fp32', augments=False
      )
      keys = population.stack([jax.random.key(0)])
      alone = _objectives({**settings, 'members': 1})
      found = []
      for i in range(len(jax.tree.leaves(inputs)[0])):
        own, wanted = jax.tree.map(
          lambda x, i=i: x[None, i : i + 1], (inputs, labels)
        )
        batch = Superbatch(own, wanted, np.asarray(1, np.int32))
        first, metrics = program(
          first, teacher, devices.shard_superbatch(batch), alone, keys
        )
        names = _compared(settings, plan.student, i)
        found.append([float(metrics[name][0, 0]) for name in names])
    return found

  def floors(self, settings: Job) -> dict[str, float]:
    return floors(settings) | peaks(settings['precision'])


class Training:
  """Steps as lit_jax.training.loop runs them."""

  def __init__(self, settings: Job):
    startup.use_cores(settings['batch'], settings['examples_per_device'])
    startup.use_graphs()
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

  @property
  def steps(self) -> int:
    """Taken so far."""
    return self._step

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


def step_macs(settings: Job) -> float:
  """Multiply-accumulates of one example in a step.

  Of plain convolutions: Winograd's do with half of them, so that a share of
  these may be above what the hardware was asked for.

  Of a LIT step: the teacher runs forward once. Of the student, what learns runs
  forward and has two gradients (3 times its forward pass), and the blocks after
  the first do so twice, on two inputs. The frozen stem runs forward alone, or
  in translation not at all; the frozen head has the gradient of its input (2
  times). Where β is 0, no head runs.

  Of an adversarial step, with a generator G and a critic D: the critic's update
  runs G forward once, and D on real and on fake images with the gradients of
  its kernels (3 D each). The penalty runs D forward, takes the gradient of the
  image, and of that the gradients of the kernels, which is a pass forward and a
  convolution more (4 D; the leaky ReLU has no second derivative). The
  generator's update, in one step of a cycle, has G twice with all gradients
  (6 G), and D with that of its input (2 D). Of D's first convolution on real
  and fake images, and of G's on real ones, no gradient of the input is needed.
  """
  teacher = summary(models.build(settings['teacher']))
  student = summary(models.build(settings['student']))
  frozen = settings['frozen']
  if settings['adversarial']:
    net = models.build(settings['student'])
    critic = _critic_convolutions(settings)
    first = next(iter(_convolutions_by_part(net)['stem']))
    whole = sum(conv.macs for conv in critic)
    critic_update = student.macs + 10 * whole - 2 * critic[0].macs
    generator_update = 6 * student.macs - first.macs + 2 * whole
    return critic_update + generator_update / settings['cycle']

  def times(part):
    if part == 'stem':
      # Translation takes the teacher's T_0 where the stem is a copy.
      return 2 if part not in frozen else 0 if settings['translate'] else 1
    back = 1 if part in frozen else 2
    runs = 2 if part.startswith('blocks_') and part != 'blocks_0' else 1
    return runs * (1 + back)

  parts = _parts_that_run(settings)
  return sum(teacher.parts[name].macs for name in parts) + sum(
    times(name) * student.parts[name].macs for name in parts
  )


def _parts_that_run(settings):
  """In a LIT step: without KD, which β weighs, there is no output."""
  parts = models.build(settings['student']).parts
  return parts if settings['beta'] > 0 else parts[:-1]


def step_elements(settings: Job) -> float:
  """Elements of one example that a step reads or writes in memory.

  An estimate. Each element of a convolution's output counts EVALUATION_PASSES
  in the teacher and in the student's frozen parts, TRAINING_PASSES elsewhere,
  and that twice in the blocks after the first; of a critic see CRITIC_PASSES.
  Weights are left out; `floors` has those of an adversarial step.
  """
  teacher = conv_outputs(models.build(settings['teacher']))
  student = conv_outputs(models.build(settings['student']))
  if settings['adversarial']:
    generator = sum(student.values())
    critic = sum(conv.elements for conv in _critic_convolutions(settings))
    critic_update = EVALUATION_PASSES * generator
    critic_update += (2 * CRITIC_PASSES + PENALTY_PASSES) * critic
    generator_update = 2 * TRAINING_PASSES * generator
    generator_update += FROZEN_CRITIC_PASSES * critic
    return critic_update + generator_update / settings['cycle']
  total = 0.0
  for name in _parts_that_run(settings):
    passes = TRAINING_PASSES
    if name in settings['frozen']:
      passes = EVALUATION_PASSES
    runs = 2 if name.startswith('blocks_') and name != 'blocks_0' else 1
    if name == 'stem' and settings['translate']:
      runs = 0
    total += EVALUATION_PASSES * teacher[name] + runs * passes * student[name]
  return total


def _critic_weights(settings):
  """Numbers in the discriminator, of which it has more than of activations."""
  shapes = _critic(settings)[1]
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def floors(settings: Job) -> dict[str, float]:
  """Floating-point operations (2 a multiply-accumulate) and bytes of a step.

  Bytes are those of `step_elements`, and of a critic's weights, in float32,
  what its update and its optimiser read and write.
  """
  itemsize = jnp.dtype(policy(settings['precision']).dtype).itemsize
  batch = settings['batch']
  number_of_bytes = float(batch * step_elements(settings) * itemsize)
  if settings['adversarial']:
    number_of_bytes += 4.0 * CRITIC_WEIGHT_PASSES * _critic_weights(settings)
  return {
    'flops': 2.0 * batch * step_macs(settings),
    'bytes': number_of_bytes,
  }


class Convolution(NamedTuple):
  """Attributes: elements of its output, and multiply-accumulates."""

  elements: int
  macs: int


def conv_outputs(net: blocks.BlockNet) -> dict[str, int]:
  """Elements of all convolutions' outputs for one example, by part."""
  return {
    name: sum(conv.elements for conv in found)
    for name, found in _convolutions_by_part(net).items()
  }


def _convolutions_by_part(net):
  """All convolutions for one example, in the order in which they run."""
  variables = blocks.shapes(net)
  parts: dict[str, list[Convolution]] = {}
  x = blocks.example(net)
  for name in net.parts:
    run = blocks.part_function(net, name)
    with layers.plain_forms():
      jaxpr, x = jax.make_jaxpr(run, return_shape=True)(variables, x)
    parts[name] = list(_convolutions(jaxpr.jaxpr))
  return parts


def _critic_convolutions(settings):
  """The discriminator's, for one image; the last one tells attributes."""
  critic, shapes, image = _critic(settings)
  with layers.plain_forms():
    jaxpr = jax.make_jaxpr(critic.apply)(shapes, image)
  logits = shapes['params']['attributes']['kernel'].shape
  product = Convolution(logits[1], math.prod(logits))
  return [*_convolutions(jaxpr.jaxpr), product]


def _convolutions(jaxpr):
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'conv_general_dilated':
      elements = math.prod(eqn.outvars[0].aval.shape)
      # Products of an output's element: the kernel's without its outputs.
      products = math.prod(eqn.invars[1].aval.shape[:-1])
      yield Convolution(elements, elements * products)
    for value in eqn.params.values():
      if isinstance(value, core.ClosedJaxpr):
        value = value.jaxpr
      if isinstance(value, core.Jaxpr):
        yield from _convolutions(value)


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
