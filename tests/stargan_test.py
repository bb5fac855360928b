"""StarGAN: networks, losses and steps against numbers from PyTorch; its sizes.

The reference (fixtures/stargan.npz, made by fixtures/make_stargan_fixtures.py)
is in float64; parity_test.py says what the tolerances stand for. Gradients of
gradients, and those of a generator that a critic judges, go through more sums:
they have twice the tolerance.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures import weights
from flax import traverse_util

import lit_jax
from lit_jax import blocks, models
from lit_jax.data.preprocess import LabelledImages
from lit_jax.errors import UserError
from lit_jax.models.stargan import Discriminator, stargan
from lit_jax.objectives import Objective, scratch
from lit_jax.tasks import translate
from lit_jax.tasks.translate import DISCRIMINATOR, Translate
from lit_jax.training import optim, precision, state, steps, task
from lit_jax.training.state import STUDENT

FORWARD = 1e-5
BACKWARD = 4e-5
# Adam divides by the size of a gradient, also where that is small.
MOVED = 2e-4
SCRATCH = scratch('l2')
PREPROCESS = LabelledImages(flip=False)
NAMES = ('a', 'b', 'c')


@functools.cache
def stored():
  path = pathlib.Path(__file__).parent / 'fixtures' / 'stargan.npz'
  with np.load(path) as f:
    return dict(f)


def seed_of(case):
  return int(stored()[f'{case}/seed'])


def flat(tree: Any) -> dict[str, Any]:
  return dict(traverse_util.flatten_dict(tree, sep='/'))


def far(prefix, found, tolerance):
  """What is further from the stored numbers than that, by its name.

  What is stored and was not found, or the other way round, is infinitely far.
  """
  found = {f'{prefix}/{path}': array for path, array in found.items()}
  names = {name for name in stored() if name.startswith(f'{prefix}/')}
  assert names
  deviations = {
    name: weights.deviation(name, found[name], stored()[name])
    if name in found and name in names
    else float('inf')
    for name in names | found.keys()
  }
  return {n: d for n, d in deviations.items() if not d < tolerance}


def drawn(shapes, seed, role=weights.STUDENT):
  """The params of these shapes, as the script draws them."""
  sizes = {f'params/{k}': v.shape for k, v in flat(shapes).items()}
  arrays = weights.draw(sizes, seed, role)
  return traverse_util.unflatten_dict(
    {
      path.removeprefix('params/'): jnp.asarray(array)
      for path, array in arrays.items()
    },
    sep='/',
  )


def network(depth=weights.DEPTH, dtype=jnp.float32):
  return stargan(depth, weights.WIDTH, weights.ATTRIBUTES, weights.SIZE, dtype)


DISCRIMINATING = Discriminator(weights.ATTRIBUTES, weights.CRITIC_WIDTH)


def generator_params(seed, depth=weights.DEPTH, role=weights.STUDENT):
  return drawn(blocks.shapes(network(depth))['params'], seed, role)


def critic_params(seed, size=weights.SIZE):
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  shapes = jax.eval_shape(DISCRIMINATING.init, jax.random.key(0), images)
  return drawn(shapes['params'], seed)


class Batch(NamedTuple):
  """What the step of a task takes, and the two inputs of the generator."""

  own: dict[str, jax.Array]
  target: jax.Array
  mix: jax.Array

  @property
  def real(self):
    return PREPROCESS.normalize(self.own)

  @property
  def asked(self):
    return PREPROCESS.normalize(self.own | {'label': self.target})


def batch(seed, i=0):
  found = {k: jnp.asarray(v[i]) for k, v in weights.translations(seed).items()}
  own = {'image': found['image'], 'label': found['label']}
  assert (own['label'] != found['target']).any()
  return Batch(own, found['target'], found['mix'])


def scalar(name, x):
  directions = weights.translation_directions(name, x.shape)
  return (x * jnp.asarray(directions)).sum()


def as_lists(outputs, irs):
  return {'images': outputs} | {f'irs_{i}': ir for i, ir in enumerate(irs)}


def jit(function):
  # Most of the time goes into compilation, for these programs run but twice.
  return jax.jit(
    function, compiler_options={'xla_backend_optimization_level': 0}
  )


# The networks.


@functools.cache
def generator_pass():
  """Output, IRs, and gradients by parameters and input."""
  seed = seed_of('passes')
  x = batch(seed).asked

  @jit
  def run(params, x):
    def loss(params, x):
      images, irs = network().apply({'params': params}, x)
      return scalar('images', images), as_lists(images, irs)

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  return run(generator_params(seed), x)


def test_generator_is_that_of_pytorch():
  (by_params, by_input), outputs = generator_pass()
  assert not far('passes/generator', outputs, FORWARD)
  assert not far('passes/generator_gradients', flat(by_params), BACKWARD)
  assert not far('passes/generator_input', by_input, BACKWARD)


def critic_pass(params, images):
  @jit
  def run(params, images):
    def loss(params, images):
      patches, logits = DISCRIMINATING.apply({'params': params}, images)
      total = scalar('patches', patches) + scalar('logits', logits)
      return total, {'patches': patches, 'logits': logits}

    return jax.grad(loss, (0, 1), has_aux=True)(params, images)

  return run(params, images)


def test_discriminator_is_that_of_pytorch():
  seed = seed_of('passes')
  params, images = critic_params(seed), batch(seed).real['image']
  (by_params, by_images), outputs = critic_pass(params, images)
  assert not far('passes/critic', outputs, FORWARD)
  assert not far('passes/critic_gradients', flat(by_params), BACKWARD)
  assert not far('passes/critic_input', {'image': by_images}, BACKWARD)


def test_networks_in_the_forms_of_accelerators(accelerator_forms):
  generator_pass.cache_clear()
  test_generator_is_that_of_pytorch()
  test_discriminator_is_that_of_pytorch()
  generator_pass.cache_clear()


def test_one_wrong_label_is_noticed():
  seed = seed_of('passes')
  params, x = generator_params(seed), batch(seed).asked
  turned = x | {'label': x['label'].at[1].set(jnp.roll(x['label'][1], 1))}
  images, irs = jit(network().apply)({'params': params}, turned)
  assert len(far('passes/generator', as_lists(images, irs), FORWARD)) == 3


# Losses.


def make_task(case='translation', n_critic=1):
  return Translate(
    NAMES,
    weights.TRANSLATION[case][1],
    discriminator_width=weights.CRITIC_WIDTH,
    n_critic=n_critic,
    gradient_penalty=weights.PENALTY,
    classification=weights.CLASSIFICATION,
    reconstruction=weights.RECONSTRUCTION,
  )


class Kept(NamedTuple):
  """Optimiser state that is the last gradient."""

  gradient: optax.Updates


def keep_gradient():
  """Passes updates on unchanged."""

  def update(updates, state, params=None):
    del state, params
    return updates, Kept(updates)

  def init(params):
    return Kept(jax.tree.map(jnp.zeros_like, params))

  return optax.GradientTransformation(init, update)


ADAM = optax.chain(
  keep_gradient(),
  optim.optimizer(
    optim.Adam(*weights.ADAM_BETAS, weights.ADAM_EPSILON),
    optax.constant_schedule(weights.ADAM_RATE),
  ),
)


def make_plan(own_task, optimizer, teacher=None):
  return task.Plan(
    own_task,
    teacher,
    network(),
    {STUDENT: optimizer, DISCRIMINATOR: optimizer},
    (),
    PREPROCESS,
    PREPROCESS,
  )


@functools.cache
def run_steps(case, objective):
  """Steps of the task on the stored batches: start, states after, metrics."""
  seed, (lit, _) = seed_of(case), weights.TRANSLATION[case]
  teacher = network(weights.TEACHER_DEPTH) if lit else None
  plan = make_plan(make_task(case), ADAM, teacher)
  variables = {
    'params': generator_params(seed, weights.TEACHER_DEPTH, weights.TEACHER)
  }

  @jit
  def step(now, one):
    wide = jax.tree.map(lambda x: x[None], one.own | {'label': one.target})
    outputs = steps.teacher_outputs(plan, objective, variables, wide)
    outputs = jax.tree.map(lambda x: x[0], outputs)
    prepared = one.own, one.target, one.mix, outputs
    return plan.task.step(plan, now, jnp.int32(0), objective, prepared)

  start = state.begin_phase(
    {
      STUDENT: {'params': generator_params(seed), 'batch_stats': {}},
      DISCRIMINATOR: {'params': critic_params(seed), 'batch_stats': {}},
    },
    plan.optimizers,
    precision.policy('fp32'),
  )
  states, rows = [start], []
  for i in range(weights.ADAM_STEPS):
    after, metrics = step(states[-1], batch(seed, i))
    states.append(after)
    rows.append(metrics)
  return states, rows


class Judged(NamedTuple):
  """What the losses are made of, float64, computed apart from the task.

  Attributes:
    real: patches and logits of the real images.
    fake: of the translations.
    slopes: of the patches' sum, by each mixed image.
    later: patches and logits of the translations after the critic's step.
    difference: of the images and what comes back.
  """

  real: Any
  fake: Any
  slopes: Any
  later: Any
  difference: Any


def judged(one, generating, critic, later):
  """Of a batch, by the critic's parameters before and after its step."""

  @jit
  def generate(x):
    return network().apply({'params': generating}, x)[0]

  @jit
  def judge(params, images):
    return DISCRIMINATING.apply({'params': params}, images)

  @jit
  @jax.grad
  def slope(image):
    # Of one image alone, whatever the others are.
    return DISCRIMINATING.apply({'params': critic}, image[None])[0].sum()

  x = one.real
  fake = generate(one.asked)
  mix = one.mix[:, None, None, None]
  found = Judged(
    judge(critic, x['image']),
    judge(critic, fake),
    jnp.stack([slope(own) for own in mix * x['image'] + (1 - mix) * fake]),
    judge(later, fake),
    x['image'] - generate({**x, 'image': fake}),
  )
  return jax.tree.map(lambda v: np.asarray(v, np.float64), found)


def summed_entropy(logits, labels):
  """Binary cross-entropy of probabilities, in NumPy: sum, then mean."""
  p = 1 / (1 + np.exp(-logits))
  each = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
  return each.sum(1).mean()


def softmax_entropy(logits, labels):
  odds = np.exp(logits)
  return -np.log((odds * labels).sum(1) / odds.sum(1)).mean()


def losses_by_hand(one, found, entropy):
  own, target = (
    np.asarray(v, np.float64) for v in (one.own['label'], one.target)
  )
  norms = np.sqrt(np.square(found.slopes).sum((1, 2, 3)))
  terms = {
    'critic/real': found.real[0].mean(),
    'critic/fake': found.fake[0].mean(),
    'critic/penalty': np.square(norms - 1).mean(),
    'critic/attributes': entropy(found.real[1], own),
    'generator/fake': found.later[0].mean(),
    'generator/attributes': entropy(found.later[1], target),
    'generator/reconstruction': np.abs(found.difference).mean(),
  }
  # λ_gp = 10, λ_cls = 1.5, λ_rec = 7.
  critic = (
    terms['critic/fake']
    - terms['critic/real']
    + 10 * terms['critic/penalty']
    + 1.5 * terms['critic/attributes']
  )
  generator = (
    -terms['generator/fake']
    + 1.5 * terms['generator/attributes']
    + 7 * terms['generator/reconstruction']
  )
  return terms | {
    'loss': critic, 'hard': generator, 'generator/loss': generator
  }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  'case, entropy, other',
  [
    ('translation', summed_entropy, softmax_entropy),
    ('translation_one_domain', softmax_entropy, summed_entropy),
  ],
)
def test_losses_by_hand(case, entropy, other):
  states, rows = run_steps(case, SCRATCH)
  for i, metrics in enumerate(rows):
    before, after = states[i : i + 2]
    one = batch(seed_of(case), i)
    found = judged(
      one,
      before.student.params,
      before.learners[DISCRIMINATOR].params,
      after.learners[DISCRIMINATOR].params,
    )
    wanted = losses_by_hand(one, found, entropy)
    assert metrics.keys() == wanted.keys()
    for name, value in wanted.items():
      np.testing.assert_allclose(metrics[name], value, rtol=5e-5, err_msg=name)
    wrong = losses_by_hand(one, found, other)
    for name in ('critic/attributes', 'generator/attributes'):
      assert abs(metrics[name] / wrong[name] - 1) > 0.05
  stacked = jax.tree.map(lambda *v: np.stack(v), *rows)
  assert not far(f'{case}/metrics', stacked, FORWARD)


def test_penalty_and_its_gradient_are_those_of_pytorch():
  seed = seed_of('penalty')
  one, own_task = batch(seed), make_task()
  fake, _ = jit(network().apply)({'params': generator_params(seed)}, one.asked)

  @jit
  @jax.value_and_grad
  def penalty(params):
    return own_task._penalty(params, one.real['image'], fake, one.mix)

  value, gradient = penalty(critic_params(seed))
  assert not far('penalty/value', {'penalty': value}, FORWARD)
  assert not far('penalty/gradients', flat(gradient), BACKWARD)
  # It is not a gradient of nothing.
  assert optax.tree.norm(gradient) > 1e-2


def test_penalty_where_the_critic_has_no_slope():
  one, own_task = batch(0), make_task()
  zeros = jax.tree.map(jnp.zeros_like, critic_params(0))

  @jit
  @jax.value_and_grad
  def penalty(params):
    images = one.real['image']
    return own_task._penalty(params, images, -images, one.mix)

  value, gradient = penalty(zeros)
  np.testing.assert_allclose(value, 1, rtol=1e-5)
  chex.assert_trees_all_equal(gradient, zeros)


# Steps.


def moved(before, after):
  return flat(
    jax.tree.map(
      lambda new, old: np.float64(new) - np.float64(old), after, before
    )
  )


LIT = Objective(weights.ALPHA, weights.BETA, 1.0, output_loss='l2')


@pytest.mark.parametrize(
  'case, objective',
  [
    ('translation', SCRATCH),
    pytest.param('translation_lit', LIT, marks=pytest.mark.slow),
  ],
)
def test_steps_of_both_networks_are_those_of_pytorch(case, objective):
  states, rows = run_steps(case, objective)
  metrics = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  assert not far(f'{case}/metrics', metrics, FORWARD)
  parts = {'generator': STUDENT, 'critic': DISCRIMINATOR}
  for part, name in parts.items():
    for i, after in enumerate(states[1:]):
      gradient = after.learners[name].opt_state[0].gradient
      bound = BACKWARD if i == 0 else MOVED
      assert not far(f'{case}/{part}_gradients_{i}', flat(gradient), bound)
    found = moved(states[0].learners[name].params, after.learners[name].params)
    assert not far(f'{case}/{part}_moved', found, MOVED)


# Sizes.


@pytest.mark.parametrize(
  'depth, units, parameters', [(18, 6, 8_430_528), (10, 2, 3_707_840)]
)
def test_published_generators(depth, units, parameters):
  net = stargan(depth)
  found = lit_jax.summary(net)
  assert (found.depth, found.parameters) == (depth, parameters)
  # By the layers: 7x7 of image and label, two of 4x4, and so back.
  w = 64
  stem = 49 * 8 * w + 16 * (2 * w * w + 8 * w * w) + 2 * 7 * w
  block = units * 2 * (9 * (4 * w) ** 2 + 2 * 4 * w)
  head = 16 * (8 * w * w + 2 * w * w) + 2 * 3 * w + 49 * w * 3
  sizes = {'stem': stem, 'blocks_0': block, 'head': head}
  assert {n: p.parameters for n, p in found.parts.items()} == sizes
  assert {n: p.depth for n, p in found.parts.items()} == {
    'stem': 3, 'blocks_0': depth - 6, 'head': 3
  }  # fmt: skip
  assert blocks.cut_shapes(net) == {
    'stem': (32, 32, 256), 'blocks_0': (32, 32, 256), 'head': (128, 128, 3)
  }  # fmt: skip


def test_published_pair_fits():
  blocks.check_pair(stargan(18), stargan(10))
  with pytest.raises(UserError, match='different inputs'):
    blocks.check_pair(stargan(18), stargan(10, attributes=4))
  with pytest.raises(UserError, match='stem returns shape'):
    blocks.check_pair(stargan(18), stargan(10, width=32))


def critic_shapes(size, attributes, width=64):
  net = Discriminator(attributes, width)
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  outputs, variables = jax.eval_shape(
    net.init_with_output, jax.random.key(0), images
  )
  return outputs, variables['params']


def test_published_discriminator():
  (patches, logits), params = critic_shapes(128, 5)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count == 44_762_048
  assert (patches.shape, logits.shape) == ((2, 2, 2), (2, 5))
  widths = [params[f'conv{i}']['kernel'].shape[-1] for i in range(1, 7)]
  assert widths == [64, 128, 256, 512, 1024, 2048]


@pytest.mark.parametrize(
  'size, layers, left',
  [(16, 3, 2), (20, 3, 2), (32, 4, 2), (36, 4, 2), (48, 4, 3), (64, 5, 2)],
)
def test_sizes_that_both_networks_take(size, layers, left):
  net = stargan(8, 2, 3, size)
  assert blocks.cut_shapes(net)['head'] == (size, size, 3)
  (patches, logits), params = critic_shapes(size, 3, 2)
  assert (patches.shape, logits.shape) == ((2, left, left), (2, 3))
  assert sum(name.startswith('conv') for name in params) == layers


@pytest.mark.parametrize(
  'options, words',
  [
    ({'depth': 9}, r'depth 9 is not of the form 2n\+6'),
    ({'depth': 6}, 'depth 6'),
    ({'depth': -2}, 'depth -2'),
    ({'width': 0}, 'width 0'),
    ({'attributes': 0}, 'attributes 0'),
    ({'image_size': 12}, 'images of 12 pixels'),
    ({'image_size': 18}, 'images of 18 pixels.*divisible by 4'),
    ({'image_size': 0}, 'images of 0 pixels'),
    ({'image_size': -16}, 'images of -16 pixels'),
  ],
)
def test_what_no_generator_has(options, words):
  with pytest.raises(UserError, match=words) as raised:
    stargan(**options)
  assert '\n' not in str(raised.value)


def test_family_by_name():
  spec = {
    'family': 'stargan', 'depth': 10, 'width': 4, 'attributes': 2,
    'image_size': 16,
  }  # fmt: skip
  net = models.build(spec)
  assert lit_jax.summary(net).depth == 10
  with pytest.raises(UserError, match='classes'):
    models.build(spec | {'classes': 10})


def test_both_networks_begin_as_in_pytorch():
  # PyTorch draws kernels and biases within 1 / sqrt(fan in).
  net, x = network(8), batch(0).asked
  params = jit(net.init)(jax.random.key(0), x)['params']
  bounds = {
    'stem/conv2': 16 * weights.WIDTH,
    'blocks_0/units_0/conv1': 9 * 4 * weights.WIDTH,
    # Of a transposed convolution the outputs count.
    'head/conv1': 16 * 2 * weights.WIDTH,
    'head/conv3': 49 * weights.WIDTH,
  }
  for name, fan_in in bounds.items():
    kernel = flat(params)[f'{name}/kernel']
    np.testing.assert_allclose(jnp.abs(kernel).max(), fan_in**-0.5, rtol=0.03)
  net = Discriminator(5, 32)
  images = jnp.zeros((1, 16, 16, 3))
  found = jit(net.init)(jax.random.key(0), images)['params']
  fan_ins = {'conv2/kernel': 16 * 32, 'bias2': 16 * 32, 'bias3': 16 * 64}
  for name, fan_in in fan_ins.items():
    values = jnp.abs(flat(found)[name])
    assert values.max() <= fan_in**-0.5
    np.testing.assert_allclose(values.max(), fan_in**-0.5, rtol=0.05)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_types_of_the_networks(dtype):
  x = batch(0).asked
  params = {'params': generator_params(0)}
  images, irs = jax.eval_shape(network(dtype=dtype).apply, params, x)
  assert images.dtype == jnp.float32
  assert {ir.dtype for ir in irs} == {jnp.dtype(dtype)}
  narrow = jax.ShapeDtypeStruct(images.shape, dtype)
  outputs = jax.eval_shape(
    DISCRIMINATING.apply, {'params': critic_params(0)}, narrow
  )
  assert {leaf.dtype for leaf in outputs} == {jnp.dtype(jnp.float32)}
  assert translate._computes_in(network(dtype=dtype)) == dtype
