"""Translation: its labels, draws, alternating steps, and evaluation.

The losses themselves are held to PyTorch in stargan_test.py. The generator here
is a small one of its own, of which programs compile quickly.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_member
import optax
import pytest
from flax import linen as nn
from jax.extend import core

from lit_jax import blocks, layers
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.feed import Superbatch
from lit_jax.data.preprocess import ImagePreprocess, LabelledImages
from lit_jax.errors import UserError
from lit_jax.layers import Conv
from lit_jax.models.stargan import Discriminator
from lit_jax.objectives import Objective, scratch
from lit_jax.runs import phases, train
from lit_jax.tasks import judging, translate
from lit_jax.tasks.translate import DISCRIMINATOR, Translate
from lit_jax.training import (
  devices,
  evaluation,
  optim,
  population,
  precision,
  state,
  task,
)  # fmt: skip
from lit_jax.training.interrupt import Observer
from lit_jax.training.state import STUDENT

SIZE, ATTRIBUTES, C, BATCH = 16, 3, 5, 4
N_CRITIC = 2
KEY = jax.random.key(42)
SCRATCH = scratch('l2')
LIT = Objective(0.9, 0.6, 1.0, output_loss='l2')
IR_ALONE = Objective(0.0, 0.0, 1.0, output_loss='l2')
OUTPUT_ALONE = Objective(0.0, 1.0, 1.0, output_loss='l2')
NAMES = ('dark', 'fair', 'glasses')
GROUP = ((0, 1),)
TASK = Translate(NAMES, GROUP, discriminator_width=2, n_critic=N_CRITIC)


# Networks.


class Reads(nn.Module):
  """Image and label to a map of features."""

  features: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train=False):
    image, label = x['image'], x['label']
    label = jnp.broadcast_to(
      label[:, None, None], (*image.shape[:3], label.shape[-1])
    )
    h = jnp.concatenate([image, label], -1).astype(self.dtype)
    return nn.tanh(Conv(self.features, dtype=self.dtype)(h))


class Maps(nn.Module):
  """Units of h + tanh(convolution of h)."""

  count: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h, train=False):
    for _ in range(self.count):
      h = h + nn.tanh(Conv(h.shape[-1], dtype=self.dtype)(h))
    return h


class Draws(nn.Module):
  """Features to an image."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h, train=False):
    return jnp.tanh(Conv(3, dtype=self.dtype)(h).astype(jnp.float32))


EXAMPLE = {
  'image': jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.float32),
  'label': jax.ShapeDtypeStruct((ATTRIBUTES,), jnp.float32),
}


def network(count, dtype=jnp.float32):
  return blocks.BlockNet(
    Reads(dtype=dtype), (Maps(count, dtype),), Draws(dtype), EXAMPLE
  )


def drawn(shapes, seed):
  """Variables drawn without compiling anything: of unit gain, no zeros."""
  rng = np.random.default_rng(seed)

  def draw(leaf):
    fan_in = max(1, leaf.size // leaf.shape[-1]) if leaf.ndim > 1 else 16
    return (rng.normal(size=leaf.shape) * fan_in**-0.5).astype(leaf.dtype)

  return jax.tree.map(draw, shapes)


@functools.cache
def teacher_variables():
  return drawn(blocks.shapes(network(2)), 0)


@functools.cache
def learners(seed=1):
  images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
  net = Discriminator(ATTRIBUTES, 2)
  own = jax.eval_shape(net.init, jax.random.key(0), images)
  return {
    STUDENT: drawn(blocks.shapes(network(1)), seed),
    DISCRIMINATOR: {'batch_stats': {}} | drawn(dict(own), seed + 100),
  }


def make_superbatch(count=C, batch=BATCH):
  rng = np.random.default_rng(0)
  lead = (1, count, batch)
  inputs = {
    'image': rng.integers(0, 256, (*lead, SIZE, SIZE, 3), np.uint8),
    'label': rng.integers(0, 2, (*lead, ATTRIBUTES)).astype(np.uint8),
  }
  # Of any four labels no two are alike.
  inputs['label'][..., 0] = np.arange(batch) % 2
  inputs['label'][..., 1] = np.arange(batch) // 2 % 2
  return Superbatch(inputs, None, np.int32(count))


SUPERBATCH = make_superbatch()


def only(superbatch, i):
  """Its i-th batch in the first place, and count 1."""
  inputs = jax.tree.map(lambda x: np.roll(x, -i, 1), superbatch.inputs)
  return superbatch._replace(inputs=inputs, count=np.int32(1))


# Rates that tell the step: 1, 1/2, 1/4 … hundredths.
def rate(step):
  return 0.01 * 0.5**step


def marching(schedule):
  """Moves every number by the rate, whatever the size of its gradient."""
  sign = optax.stateless(lambda updates, _: jax.tree.map(jnp.sign, updates))
  return optax.chain(sign, optax.scale_by_learning_rate(schedule))


def marching_both():
  period = TASK.updates_every(STUDENT, SCRATCH)
  return {
    STUDENT: marching(train._at_updates(rate, period)),
    DISCRIMINATOR: marching(rate),
  }


def adam(frozen=()):
  return optim.optimizer(
    optim.Adam(0.5, 0.999), optax.constant_schedule(0.003), frozen
  )


def make_plan(objective=SCRATCH, **changes):
  optimizers = {STUDENT: adam(), DISCRIMINATOR: adam()}
  plan = task.Plan(
    TASK,
    network(2) if objective.needs_teacher else None,
    network(1),
    optimizers,
    (),
    LabelledImages(),
    LabelledImages(),
  )
  return plan._replace(**changes)


def begin(plan, objective=SCRATCH, policy='fp32'):
  return state.begin_phase(
    plan.task.begin(learners(), None, objective, ()),
    plan.optimizers,
    precision.policy(policy),
  )


def jit(function):
  # Most of the time goes into compilation, for these programs are small.
  return jax.jit(
    function, compiler_options={'xla_backend_optimization_level': 0}
  )


def run(program, start, superbatch, objective):
  return program(start, teacher_variables(), superbatch, objective, KEY)


def differing(before, after):
  """The leaves that differ, by path."""
  same = jax.tree.map(
    lambda a, b: bool(np.array_equal(a, b)), before, after
  )  # fmt: skip
  leaves = jax.tree_util.tree_leaves_with_path(same)
  return {jax.tree_util.keystr(path) for path, equal in leaves if not equal}


# Labels.


def test_asked_labels_by_hand():
  label = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
  found = translate.asked_labels(label, GROUP)
  # An attribute of the group is set and the other is not; glasses turn round.
  wanted = [
    [[1, 0, 1], [0, 1, 1], [1, 0, 0]],
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  ]
  np.testing.assert_array_equal(found, wanted)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(label, [[1, 0, 1], [0, 0, 0]])


def test_asked_labels_of_no_group_and_of_one_alone():
  label = np.array([[0, 1, 0]], np.uint8)
  np.testing.assert_array_equal(
    translate.asked_labels(label, ()), [[[1, 1, 0], [0, 0, 0], [0, 1, 1]]]
  )
  np.testing.assert_array_equal(
    translate.asked_labels(label, ((0, 1, 2),)), [np.eye(3)]
  )


def test_true_images_by_hand():
  # Person 7 with and without glasses; person 9 once.
  label = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 0]], np.uint8)
  images = np.zeros((3, 2, 2, 3), np.uint8)
  split = Split({'image': images, 'label': label}, np.array([7, 7, 9]))
  asked = translate.asked_labels(label, GROUP)
  # Dark is what they are; fair is nobody; glasses are the other of person 7.
  np.testing.assert_array_equal(
    translate.true_images(split, asked),
    [[0, -1, 1], [1, -1, 0], [2, -1, -1]],
  )
  assert translate.true_images(Split(split.inputs, None), asked) is None


# Draws.


def prepared(superbatch, first=0, axis_name=None, objective=SCRATCH):
  """What `prepare` gives for a superbatch of one order."""
  plan = make_plan(objective, axis_name=axis_name)

  def prepare(inputs):
    own = Superbatch(inputs, None, superbatch.count)
    return plan.task.prepare(
      plan, objective, teacher_variables(), own, jnp.int32(first), KEY
    )

  if axis_name is None:
    inputs = jax.tree.map(lambda x: x[0], superbatch.inputs)
    return jit(prepare)(inputs)
  cut = devices.shard_superbatch(superbatch)
  inputs = jax.tree.map(lambda x: x[:, 0], cut.inputs)
  found = jax.pmap(prepare, axis_name=axis_name)(inputs)
  # [devices, C, n / devices, …] → [C, n, …].
  return jax.tree.map(
    lambda x: np.concatenate(list(np.asarray(x)), axis=1), found
  )


@pytest.fixture(scope='module')
def draws():
  return jax.device_get(prepared(SUPERBATCH))


def places(own, target):
  """Of each target label its place in the batch, [C, n]."""
  equal = (own[:, None] == target[:, :, None]).all(-1)
  assert (equal.sum(-1) == 1).all()
  return equal.argmax(-1)


def test_targets_are_a_permutation_of_the_batch(draws):
  own, target, _, outputs = draws
  assert outputs is None
  np.testing.assert_array_equal(own['label'], SUPERBATCH.inputs['label'][0])
  assert target.dtype == np.uint8
  orders = places(own['label'], target)
  np.testing.assert_array_equal(np.sort(orders), [range(BATCH)] * C)
  # Every step has an order of its own; of five, some are no rest.
  assert len({tuple(order) for order in orders}) > 2


def test_mixing_weights_are_of_each_image_and_step(draws):
  mix = draws[2]
  assert mix.shape == (C, BATCH) and mix.dtype == np.float32
  assert ((mix >= 0) & (mix < 1)).all()
  assert len(np.unique(mix)) == C * BATCH
  assert mix.min() < 0.3 and mix.max() > 0.7


def test_draws_are_those_of_the_step(draws):
  # A call from step 2 on, whose batches are those of step 2 on.
  inputs = jax.tree.map(lambda x: np.roll(x, -2, 1), SUPERBATCH.inputs)
  found = prepared(SUPERBATCH._replace(inputs=inputs), first=2)
  chex.assert_trees_all_equal(
    *(
      jax.tree.map(np.asarray, part)
      for part in (
        jax.tree.map(lambda x: x[: C - 2], found),
        jax.tree.map(lambda x: x[2:], draws),
      )
    )
  )


def test_draws_are_the_same_on_two_devices(draws):
  found = prepared(SUPERBATCH, axis_name=devices.AXIS)
  chex.assert_trees_all_equal(found, draws)
  # On its own, a device would permute the labels of its half.
  orders = places(draws[0]['label'], draws[1])
  assert (orders[:, : BATCH // 2] >= BATCH // 2).any()


def test_the_teacher_translates_to_the_same_targets():
  own, target, mix, (output, irs) = prepared(SUPERBATCH, objective=LIT)
  x = LabelledImages().normalize({'image': own['image'][1], 'label': target[1]})
  wanted, wanted_irs = network(2).apply(teacher_variables(), x)
  chex.assert_trees_all_close(output[1], wanted, rtol=1e-5, atol=1e-5)
  chex.assert_trees_all_close(irs[1][1], wanted_irs[1], rtol=1e-5, atol=1e-5)
  assert mix.shape == (C, BATCH)
  assert prepared(SUPERBATCH, objective=IR_ALONE)[2] is None


# Who learns when.

GENERATORS = (
  'generator/fake', 'generator/attributes', 'generator/reconstruction',
  'generator/loss', 'hard',
)  # fmt: skip
CRITICS = (
  'critic/real', 'critic/fake', 'critic/penalty', 'critic/attributes', 'loss',
)  # fmt: skip


@pytest.fixture(scope='module')
def turns():
  """A program whose updates tell the rate, and its states step by step."""
  plan = make_plan(optimizers=marching_both())
  program = one_member.train_program(plan, jit)
  states, rows = [begin(plan)], []
  for i in range(C):
    after, metrics = run(program, states[-1], only(SUPERBATCH, i), SCRATCH)
    states.append(after)
    rows.append(jax.tree.map(lambda m: m[0], metrics))
  whole = run(program, begin(plan), SUPERBATCH, SCRATCH)
  return program, jax.device_get(states), jax.device_get(rows), whole


def test_the_generator_learns_in_every_second_step(turns):
  _, states, _, _ = turns
  count = len(jax.tree.leaves(learners()[STUDENT]))
  for step, (before, after) in enumerate(
    zip(states[:-1], states[1:], strict=True)
  ):
    changed = differing(before.student.params, after.student.params)
    if (step + 1) % N_CRITIC:
      # Nor does anything else of it change.
      chex.assert_trees_all_equal(before.student, after.student)
    else:
      assert len(changed) == count
    # The critic learns in each.
    params = [s.learners[DISCRIMINATOR].params for s in (before, after)]
    assert len(differing(*params)) == len(jax.tree.leaves(params[0]))
    assert after.step == step + 1


def test_rates_are_those_of_the_step(turns):
  _, states, _, _ = turns
  for step, (before, after) in enumerate(
    zip(states[:-1], states[1:], strict=True)
  ):
    for name, own in after.learners.items():
      moved = jax.tree.map(
        lambda a, b: np.abs(np.float64(a) - b).max(),
        own.params,
        before.learners[name].params,
      )
      still = name == STUDENT and (step + 1) % N_CRITIC
      wanted = 0 if still else rate(step)
      np.testing.assert_allclose(
        jax.tree.leaves(moved), wanted, rtol=1e-3, err_msg=f'{name} {step}'
      )


def test_metrics_of_the_generator_in_its_steps_alone(turns):
  _, _, rows, _ = turns
  for step, row in enumerate(rows):
    assert row.keys() == {*CRITICS, *GENERATORS}
    for name, value in row.items():
      computed = name in CRITICS or (step + 1) % N_CRITIC == 0
      assert np.isfinite(value) == computed, (name, step)
      assert np.isnan(value) != computed, (name, step)


def test_one_call_of_c_steps_is_c_calls_of_one(turns):
  _, states, rows, (whole, metrics) = turns
  chex.assert_trees_all_equal(jax.device_get(whole), states[-1])
  chex.assert_trees_all_equal(
    jax.device_get(metrics), jax.tree.map(lambda *m: np.stack(m), *rows)
  )


def test_turns_go_on_from_the_step_of_the_state(turns):
  program, states, _, _ = turns
  # In the second call the first step is an odd one.
  start = jax.tree.map(jnp.asarray, states[0]).replace(step=jnp.int32(1))
  _, metrics = run(program, start, SUPERBATCH, SCRATCH)
  computed = ~np.isnan(np.asarray(metrics['generator/loss']))
  np.testing.assert_array_equal(computed, [True, False, True, False, True])


@pytest.mark.parametrize('period', [1, 2, 5])
def test_rate_of_an_update(period):
  found = [train._at_updates(lambda step: step, period)(u) for u in range(4)]
  assert found == [u * period + period - 1 for u in range(4)]


@pytest.mark.parametrize(
  'objective, period', [(SCRATCH, N_CRITIC), (LIT, N_CRITIC), (IR_ALONE, 1)]
)
def test_phases_give_each_learner_its_rate(
  objective, period, monkeypatch, tmp_path
):
  rates = []

  def noted(settings, rate, frozen=(), keeps_zeros=False):
    assert not keeps_zeros
    rates.append(rate)
    return optax.identity()

  monkeypatch.setattr(train.optim, 'optimizer', noted)
  inputs = jax.tree.map(lambda x: x[0, 0], SUPERBATCH.inputs)
  split = Split(inputs, None)
  dataset = Dataset(
    'own', {'train': split, 'test': split}, ATTRIBUTES, LabelledImages(), NAMES
  )
  phase = phases.Phase(
    'p', objective, 10, 1.0, optim.Adam(), 'linear', milestones=(0,),
    copy=('stem',), frozen=('stem', 'head'),
  )  # fmt: skip
  method = phases.Method('m', (phase,))
  training = phases.Training(BATCH, 0, 'fp32', 2, 'last')
  setting = train._Setting(
    train.Context(tmp_path, TASK, dataset, training, Observer()),
    method,
    method.members(training),
    network(1),
    LabelledImages(),
    evaluation.Reader(network(2), teacher_variables(), LabelledImages()),
  )
  own = TASK.begin(learners(), None, objective, ())
  phase_run = train._phase_run(setting, 0, phase, own)
  phase_run.feed.close()
  assert phase_run.plan.shared == ('stem',)
  periods = dict(zip(own, rates, strict=True))
  # One step an epoch: the rate falls by a tenth with each.
  for u in range(2):
    step = u * period + period - 1
    np.testing.assert_allclose(periods[STUDENT](u), 1 - step / 10, rtol=1e-5)
    if DISCRIMINATOR in own:
      np.testing.assert_allclose(
        periods[DISCRIMINATOR](u), 1 - u / 10, rtol=1e-5
      )
  assert (DISCRIMINATOR in own) == (objective is not IR_ALONE)


def equations(jaxpr):
  """All equations of a jaxpr, also those within others."""
  for eqn in jaxpr.eqns:
    yield eqn
    for value in jax.tree.leaves(
      list(eqn.params.values()),
      is_leaf=lambda v: isinstance(v, core.Jaxpr | core.ClosedJaxpr),
    ):
      if isinstance(value, core.ClosedJaxpr):
        yield from equations(value.jaxpr)
      elif isinstance(value, core.Jaxpr):
        yield from equations(value)


def convolutions(jaxpr):
  names = ('conv_general_dilated', 'dot_general')
  return [e for e in equations(jaxpr) if e.primitive.name in names]


@pytest.mark.parametrize('members, orders', [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize('at_once', [False, True])
def test_the_generator_runs_in_its_steps_alone(members, orders, at_once):
  plan = make_plan()
  program = population.train_program(plan, members, orders)
  inputs = jax.tree.map(
    lambda x: np.repeat(x, orders, 0), SUPERBATCH.inputs
  )  # fmt: skip
  args = (
    population.stack([begin(plan)] * members),
    None,
    SUPERBATCH._replace(inputs=inputs),
    population.stack([SCRATCH] * members),
    jax.random.split(KEY, orders),
  )
  if at_once:
    with layers.plain_forms():
      jaxpr = jax.make_jaxpr(program)(*args)
  else:
    jaxpr = jax.make_jaxpr(program)(*args)
  steps = _working_loops(jaxpr.jaxpr)
  # A loop within the loop over steps: forward and backward of two generators
  # and a critic.
  (inner,) = [e for e in steps if not _working_loops(_body(e))]
  assert len(steps) == 2
  assert len(convolutions(_body(inner))) > 20
  # It has one number of turns, not one of every member.
  start = inner.params['cond_nconsts'] + inner.params['body_nconsts']
  first, last = inner.invars[start : start + 2]
  assert first.aval.shape == last.aval.shape == ()


def _body(loop):
  return loop.params['body_jaxpr'].jaxpr


def _working_loops(jaxpr):
  loops = [e for e in equations(jaxpr) if e.primitive.name == 'while']
  return [e for e in loops if convolutions(_body(e))]


# Objectives without a discriminator.


def test_irs_alone_move_the_block_alone():
  frozen = ('stem', 'head')
  plan = make_plan(
    IR_ALONE, optimizers={STUDENT: adam(frozen)}, frozen=frozen
  )  # fmt: skip
  start = begin(plan, IR_ALONE)
  assert start.learners.keys() == {STUDENT}
  program = one_member.train_program(plan, jit)
  after, metrics = run(program, start, SUPERBATCH, IR_ALONE)
  assert metrics.keys() == {'loss', 'ir/blocks_0'}
  chex.assert_trees_all_equal(metrics['loss'], metrics['ir/blocks_0'])
  # Every step, not every second one.
  assert np.isfinite(metrics['loss']).all()
  old, new = start.student.params, after.student.params
  for part in frozen:
    chex.assert_trees_all_equal(old[part], new[part])
  for leaf, other in zip(
    jax.tree.leaves(old['blocks_0']),
    jax.tree.leaves(new['blocks_0']),
    strict=True,
  ):
    assert (leaf != other).all()


def _of_teachers_parts(variables):
  """The student's, with the teacher's stem and head."""
  theirs = teacher_variables()['params']
  parts = {part: theirs[part] for part in ('stem', 'head')}
  return variables | {'params': variables['params'] | parts}


@pytest.mark.parametrize(
  'objective', [IR_ALONE, pytest.param(LIT, marks=pytest.mark.slow)]
)
def test_a_shared_stem_is_not_run_again(objective):
  frozen = ('stem', 'head')
  plan = make_plan(
    objective,
    optimizers={STUDENT: adam(frozen), DISCRIMINATOR: adam()},
    frozen=frozen,
  )
  start = begin(plan, objective)
  student = start.student.replace(
    params=_of_teachers_parts(learners()[STUDENT])['params']
  )
  start = start.replace(learners=start.learners | {STUDENT: student})
  alone, shared = (
    one_member.train_program(plan._replace(shared=parts), jit)
    for parts in ((), frozen)
  )
  (after, metrics), (again, same) = (
    run(program, start, SUPERBATCH, objective) for program in (alone, shared)
  )
  chex.assert_trees_all_close(metrics, same, rtol=1e-5)
  chex.assert_trees_all_close(
    after.student.params, again.student.params, atol=1e-5
  )
  if objective is IR_ALONE:
    # The loop has neither the stem nor its gradient.
    args = start, teacher_variables(), SUPERBATCH, objective, KEY
    counts = []
    for parts in ((), frozen):
      program = one_member.train_program(
        plan._replace(shared=parts), lambda f: f
      )
      counts.append(len(convolutions(jax.make_jaxpr(program)(*args).jaxpr)))
    assert counts[0] - counts[1] >= 2


def test_ir_loss_by_hand(ir_alone):
  after, metrics = ir_alone
  own, target, _, _ = prepared(SUPERBATCH, objective=IR_ALONE)
  x = LabelledImages().normalize({'image': own['image'][0], 'label': target[0]})
  (_, irs), (_, theirs) = (
    network(count).apply(variables, x)
    for count, variables in (
      (1, learners()[STUDENT]),
      (2, teacher_variables()),
    )
  )
  wanted = np.square(np.asarray(irs[1] - theirs[1])).mean()
  np.testing.assert_allclose(metrics['loss'][0], wanted, rtol=1e-5)
  # Nothing is frozen: the head has no gradient, the stem has.
  changed = differing(learners()[STUDENT]['params'], after.student.params)
  assert {path.split("'")[1] for path in changed} == {'stem', 'blocks_0'}


def test_output_loss_by_hand():
  own, target, mix, (wanted, irs) = prepared(
    SUPERBATCH, objective=OUTPUT_ALONE
  )  # fmt: skip
  assert (mix, irs) == (None, ())
  plan = make_plan(OUTPUT_ALONE, optimizers={STUDENT: adam()})
  program = one_member.train_program(plan, jit)
  start = begin(plan, OUTPUT_ALONE)
  assert start.learners.keys() == {STUDENT}
  _, metrics = run(program, start, only(SUPERBATCH, 0), OUTPUT_ALONE)
  assert metrics.keys() == {'loss', 'soft'}
  x = LabelledImages().normalize({'image': own['image'][0], 'label': target[0]})
  found, _ = network(1).apply(learners()[STUDENT], x)
  difference = np.asarray(found - wanted[0], np.float64)
  np.testing.assert_allclose(
    metrics['loss'][0], np.square(difference).mean(), rtol=1e-5
  )


# Ways to run one program.


def jitted(objective):
  plan = make_plan(objective)
  program = one_member.train_program(plan, jit)
  return run(program, begin(plan, objective), SUPERBATCH, objective)


@pytest.fixture(scope='module')
def lit():
  """All terms together: the state after five steps, and the metrics."""
  return jitted(LIT)


@pytest.fixture(scope='module')
def ir_alone():
  return jitted(IR_ALONE)


def test_hard_is_weighed_with_the_others(lit):
  # In the second step it is the generator's turn.
  m = {name: float(values[1]) for name, values in lit[1].items()}
  hard = (
    -m['generator/fake']
    + m['generator/attributes']
    + 10 * m['generator/reconstruction']
  )
  np.testing.assert_allclose(m['hard'], hard, rtol=1e-5)
  total = 0.6 * (0.9 * hard + 0.1 * m['soft']) + 0.4 * m['ir/blocks_0']
  np.testing.assert_allclose(m['generator/loss'], total, rtol=1e-5)
  critic = m['critic/fake'] - m['critic/real'] + 10 * m['critic/penalty']
  critic += m['critic/attributes']
  np.testing.assert_allclose(m['loss'], critic, rtol=1e-5)


@pytest.mark.parametrize(
  'objective, fixture',
  [(LIT, 'lit'), (IR_ALONE, 'ir_alone')],
  ids=['all', 'ir'],
)
@pytest.mark.parametrize(
  'way', [pytest.param('plain', marks=pytest.mark.slow), 'two devices']
)
def test_plain_jit_and_two_devices_agree(objective, fixture, way, request):
  wanted, wanted_metrics = request.getfixturevalue(fixture)
  plan, superbatch, wrap = make_plan(objective), SUPERBATCH, lambda f: f
  if way == 'two devices':
    assert jax.local_device_count() == 2
    plan = plan._replace(axis_name=devices.AXIS)
    superbatch, wrap = devices.shard_superbatch(superbatch), devices.map_train
  program = one_member.train_program(plan, wrap)
  after, metrics = run(program, begin(plan, objective), superbatch, objective)
  losses = np.asarray(metrics['loss'])
  assert losses.shape == (C,) and len(set(losses.tolist())) == C
  chex.assert_trees_all_close(metrics, wanted_metrics, rtol=1e-5, atol=1e-5)
  # Adam makes whole steps, of 0.003 here, of gradients that are rounding.
  chex.assert_trees_all_close(
    after.variables, wanted.variables, rtol=1e-4, atol=1e-4
  )


# Precision.


def scaled(start, scales):
  """The state under other loss scales, by learner."""
  changed = {}
  for name, own in start.learners.items():
    scale = own.loss_scale.replace(scale=jnp.float32(scales[name]))
    changed[name] = own.replace(loss_scale=scale)
  return start.replace(learners=changed)


def lowered(policy, **changes):
  dtype = precision.policy(policy).dtype
  return make_plan(student=network(1, dtype), **changes)


def test_bfloat16_losses_are_finite_and_near(turns):
  exact, states, _, _ = turns
  plan = lowered('bf16', optimizers=marching_both())
  program = one_member.train_program(plan, jit)
  # At step 1 both networks learn.
  start = begin(plan, policy='bf16').replace(step=jnp.int32(1))
  assert all(own.loss_scale is None for own in start.learners.values())
  after, metrics = run(program, start, SUPERBATCH, SCRATCH)
  same = jax.tree.map(jnp.asarray, states[0]).replace(step=jnp.int32(1))
  _, wanted = run(exact, same, SUPERBATCH, SCRATCH)
  for name, values in metrics.items():
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(
      np.isfinite(values), np.isfinite(wanted[name])
    )
    # Patches lie around 0: their mean is off by roundings of single values.
    np.testing.assert_allclose(
      values[0], wanted[name][0], rtol=0.02, atol=0.01, err_msg=name
    )
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(after.variables)}
  assert dtypes == {jnp.dtype(jnp.float32)}
  # It is not float32 after all.
  assert abs(metrics['loss'][0] / wanted['loss'][0] - 1) > 1e-5


def test_float16_learners_have_loss_scales_of_their_own():
  plan = lowered('fp16')
  program = one_member.train_program(plan, jit)
  good = dict.fromkeys((STUDENT, DISCRIMINATOR), 2.0**7)
  start = begin(plan, policy='fp16')
  two = SUPERBATCH._replace(count=np.int32(2))
  after, metrics = run(program, scaled(start, good), two, SCRATCH)
  assert (after.step, after.skipped) == (2, 0)
  assert np.isfinite(metrics['loss'][:2]).all()
  assert np.isnan(metrics['generator/loss'][0])
  assert np.isfinite(metrics['generator/loss'][1])
  np.testing.assert_array_equal(metrics['loss_scale'][:2], [2.0**7] * 2)
  for name in good:
    # One of the two overflows, beyond 65504 times any gradient here.
    once = scaled(start, good | {name: 2.0**40})
    after, metrics = run(program, once, two, SCRATCH)
    (other,) = (own for own in good if own != name)
    chex.assert_trees_all_equal(
      once.learners[name].params, after.learners[name].params
    )
    # The critic has two turns, and overflows in both.
    count = 2 if name == DISCRIMINATOR else 1
    assert after.skipped == count
    assert after.learners[name].loss_scale.scale == 2.0 ** (40 - count)
    assert after.learners[other].loss_scale.scale == 2.0**7
    assert differing(
      once.learners[other].params, after.learners[other].params
    )  # fmt: skip
    wanted = [1, 1] if name == DISCRIMINATOR else [0, 1]
    np.testing.assert_array_equal(metrics['skipped'][:2], wanted)
    assert np.isfinite(metrics['loss'][:2]).all()


@pytest.mark.parametrize('policy', ['bf16', 'fp16'])
def test_the_penalty_is_computed_in_float32(policy):
  plan = lowered(policy)
  dtype = jnp.dtype(precision.policy(policy).dtype)
  own, target, mix, _ = jax.tree.map(lambda x: x[0], prepared(SUPERBATCH))
  x = plan.preprocess.normalize(own)
  asked = plan.preprocess.normalize(own | {'label': target})
  start = begin(plan)

  def penalty_alone(params):
    return TASK._penalty(params, x['image'], x['image'][::-1], mix)

  def whole(params):
    return TASK._critic_loss(plan, start, params, x, asked, mix)[0]

  def types(function):
    params = start.learners[DISCRIMINATOR].params
    jaxpr = jax.make_jaxpr(jax.grad(function))(params)
    return {e.outvars[0].aval.dtype for e in convolutions(jaxpr.jaxpr)}

  assert types(penalty_alone) == {jnp.dtype(jnp.float32)}
  # All else of the critic is in the type of the networks.
  assert types(whole) == {jnp.dtype(jnp.float32), dtype}
  penalties = []

  def noted(self, params, real, fake, mix):
    penalties.append((real.dtype, fake.dtype))
    return jnp.float32(0)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Translate, '_penalty', noted)
    assert types(whole) == {dtype}
  assert set(penalties) == {(jnp.dtype(jnp.float32),) * 2}


# The beginning of a phase.


def taught():
  """A teacher as its own phase left it, with a discriminator."""
  return learners(5)


def test_begin_copies_the_discriminator():
  begun = TASK.begin(learners(), taught(), SCRATCH, (DISCRIMINATOR, 'stem'))
  chex.assert_trees_all_equal(begun[DISCRIMINATOR], taught()[DISCRIMINATOR])
  params, theirs = begun[STUDENT]['params'], taught()[STUDENT]['params']
  own = learners()[STUDENT]['params']
  chex.assert_trees_all_equal(params['stem'], theirs['stem'])
  for part in ('blocks_0', 'head'):
    chex.assert_trees_all_equal(params[part], own[part])
  assert differing(own['stem'], theirs['stem'])


def test_begin_keeps_its_own_discriminator():
  for teacher in (None, taught(), {STUDENT: taught()[STUDENT]}):
    begun = TASK.begin(learners(), teacher, SCRATCH, ())
    chex.assert_trees_all_equal(begun, learners())


def test_begin_without_a_hard_term_has_no_discriminator():
  for objective in (IR_ALONE, OUTPUT_ALONE):
    begun = TASK.begin(learners(), taught(), objective, (DISCRIMINATOR,))
    assert begun.keys() == {STUDENT}


@pytest.mark.parametrize('teacher', [None, {STUDENT: None}])
def test_begin_of_a_teacher_without_a_discriminator(teacher):
  with pytest.raises(UserError, match='without its discriminator') as raised:
    TASK.begin(learners(), teacher, SCRATCH, (DISCRIMINATOR,))
  assert '\n' not in str(raised.value)


def test_fresh_networks():
  # In the abstract: what the kernels are drawn from stands in stargan_test.py.
  found = jax.eval_shape(
    functools.partial(TASK.fresh, network(1)), jax.random.key(3)
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(found, learners())


def test_updates_every():
  assert TASK.updates_every(STUDENT, SCRATCH) == N_CRITIC
  assert TASK.updates_every(STUDENT, LIT) == N_CRITIC
  assert TASK.updates_every(STUDENT, IR_ALONE) == 1
  assert TASK.updates_every(DISCRIMINATOR, SCRATCH) == 1


# Settings and data.


def make_split(labels=None, size=SIZE):
  inputs = jax.tree.map(lambda x: x[0, 0], SUPERBATCH.inputs)
  if size != SIZE:
    inputs['image'] = np.zeros((BATCH, size, size, 3), np.uint8)
  return Split(inputs, labels)


def make_dataset(split, **changes):
  dataset = Dataset(
    'own', {'train': split, 'test': split}, ATTRIBUTES, LabelledImages(), NAMES
  )
  return dataclasses.replace(dataset, **changes)


@pytest.mark.parametrize(
  'options, words',
  [
    ({'n_critic': 0}, 'n_critic is 0'),
    ({'discriminator_width': 0}, 'discriminator_width 0'),
    ({'gradient_penalty': -1.0}, 'gradient_penalty is -1.0'),
    ({'classification': float('nan')}, 'classification is nan'),
    ({'reconstruction': float('inf')}, 'reconstruction is inf'),
    ({'scores': 'beauty'}, 'beauty'),
    ({'inception': 'w.pth'}, 'add inception to scores'),
  ],
)
def test_bad_settings(options, words):
  with pytest.raises(UserError, match=words) as raised:
    Translate.of(make_dataset(make_split()), **options)
  assert '\n' not in str(raised.value)


def test_task_of_data():
  dataset = make_dataset(make_split(), exclusive=GROUP, identities=True)
  found = Translate.of(dataset, reconstruction=0.0, n_critic=3)
  assert (found.attributes, found.exclusive) == (NAMES, GROUP)
  assert (found.targets_known, found.n_critic) == (True, 3)
  assert found.reconstruction == 0
  assert found.selects == task.Selection('l1', largest=False)
  assert found.network_options(dataset) == {
    'attributes': ATTRIBUTES, 'image_size': SIZE
  }  # fmt: skip
  unknown = Translate.of(make_dataset(make_split()))
  assert unknown.selects == task.Selection('attribute_accuracy')


def test_check_of_data():
  TASK.check(make_dataset(make_split()), network(1))
  with pytest.raises(UserError, match=r'output has the shape \(16, 16, 3\)'):
    TASK.check(make_dataset(make_split(size=20)), _of_size(network(1), 16))
  split = make_split()
  split.inputs['label'] = split.inputs['label'] * 2
  with pytest.raises(UserError, match='labels are 0 and 1.*0 to 2'):
    TASK.check(make_dataset(split), network(1))


class _Fixed(nn.Module):
  """Images of one size, whatever it reads."""

  size: int

  @nn.compact
  def __call__(self, h, train=False):
    return jnp.zeros((len(h), self.size, self.size, 3))


def _of_size(net, size):
  example = EXAMPLE | {
    'image': jax.ShapeDtypeStruct((20, 20, 3), jnp.float32)
  }  # fmt: skip
  return blocks.BlockNet(net.stem, net.blocks, _Fixed(size), example)


# Evaluation by generators whose images are known.


class Same(nn.Module):
  @nn.compact
  def __call__(self, h, train=False):
    return h


class Image(nn.Module):
  """The image that it reads."""

  @nn.compact
  def __call__(self, x, train=False):
    return x['image']


class White(nn.Module):
  """All pixels 255."""

  @nn.compact
  def __call__(self, x, train=False):
    return jnp.ones_like(x['image'])


class Painted(nn.Module):
  """Each attribute is the level of a channel; too bright by `off` of 255."""

  off: int = 0

  @nn.compact
  def __call__(self, x, train=False):
    level = 50 + 150 * x['label'] + self.off
    return jnp.broadcast_to(
      (level / 127.5 - 1)[:, None, None], x['image'].shape
    )


class Levels(nn.Module):
  """Logits of a classifier: a channel is bright where its attribute holds."""

  @nn.compact
  def __call__(self, h, train=False):
    return h.mean((1, 2))


def fixed(stem):
  return blocks.BlockNet(stem, (Same(),), Same(), EXAMPLE)


# Who is seen, and their attributes: person 4 twice.
LABEL = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]], np.uint8)
PEOPLE = np.array([4, 3, 4, 5], np.int32)


def painted_split(people=PEOPLE):
  level = (50 + 150 * LABEL).astype(np.uint8)
  image = np.broadcast_to(level[:, None, None], (4, SIZE, SIZE, 3)).copy()
  return Split({'image': image, 'label': LABEL}, people)


def reads_levels():
  half = ImagePreprocess((0.5,) * 3, (0.5,) * 3, crop=False, flip=False)
  example = jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.float32)
  net = blocks.BlockNet(Same(), (Same(),), Levels(), example)
  return evaluation.Reader(net, {}, half)


def evaluated(stem, split=None):
  own = dataclasses.replace(
    TASK, judges=(judging.AttributeJudge(reads_levels(), 1.0),)
  )
  split = painted_split() if split is None else split
  evaluate = own.evaluator(fixed(stem), LabelledImages(), split)
  return evaluate({STUDENT: {}})


def test_evaluation_of_the_identity():
  found = evaluated(Image())
  # Each comes back as it went.
  assert found.numbers['loss'] == 0
  # No change that was asked for is made.
  assert found.numbers['attribute_accuracy'] == 0
  # True images are known of each one's own group, which changes nothing: equal.
  # The glasses of person 4 are known twice: one channel of three is off by 150.
  # Of six known translations, four are exact.
  np.testing.assert_allclose(found.numbers['l1'], 2 * 50 / 6, rtol=1e-6)
  psnr = -10 * np.log10((150 / 255) ** 2 / 3)
  np.testing.assert_allclose(
    found.numbers['psnr'], (4 * 100 + 2 * psnr) / 6, rtol=1e-6
  )


def test_evaluation_of_a_constant():
  found = evaluated(White())
  # From white to what they are: -1 to 1 spans 255 steps.
  white = (255 - (50 + 150.0 * LABEL)) / 127.5
  np.testing.assert_allclose(found.numbers['loss'], white.mean(), rtol=1e-6)
  # White reads as all three attributes, which nobody was asked for.
  assert found.numbers['attribute_accuracy'] == 0
  # Known are everybody as they are, and the other one of person 4 twice.
  known = LABEL[[0, 1, 2, 3, 2, 0]]
  gaps = 255 - (50 + 150.0 * known)
  np.testing.assert_allclose(found.numbers['l1'], gaps.mean(), rtol=1e-6)
  psnr = -10 * np.log10(np.square(gaps / 255).mean(1))
  np.testing.assert_allclose(found.numbers['psnr'], psnr.mean(), rtol=1e-6)


def test_evaluation_of_what_was_asked_for():
  found = evaluated(Painted(3))
  assert found.numbers['attribute_accuracy'] == 1
  # Three steps of 255 too bright, everywhere.
  np.testing.assert_allclose(found.numbers['l1'], 3, rtol=1e-6)
  np.testing.assert_allclose(found.numbers['loss'], 3 / 127.5, rtol=1e-5)
  psnr = -20 * np.log10(3 / 255)
  np.testing.assert_allclose(found.numbers['psnr'], psnr, rtol=1e-6)
  # The features are the levels: means 3 steps apart, of equal covariance.
  distance = 3 * (3 / 127.5) ** 2
  np.testing.assert_allclose(
    found.numbers['attribute_distance'], distance, rtol=1e-3, atol=1e-7
  )
  assert evaluated(Painted()).numbers['attribute_distance'] < 1e-6


class Glasses(nn.Module):
  """Takes off whatever glasses there are, and is right in all else."""

  @nn.compact
  def __call__(self, x, train=False):
    label = x['label'] * jnp.array([[1.0, 1, 0]])
    return Painted().apply({}, x | {'label': label})


def test_attribute_accuracy_counts_changes_alone():
  # Asked for, by person: the other hair (four times), and glasses to put on
  # (rows 0, 3) or to take off (1, 2). Right are those without glasses after:
  # hair of rows 0 and 3, and off of rows 1 and 2. Hair that stays is no change.
  found = evaluated(Glasses())
  assert found.numbers['attribute_accuracy'] == 4 / 8


def test_evaluation_without_people():
  found = evaluated(Painted(3), painted_split(None))
  assert found.numbers.keys() == {
    'loss', 'attribute_accuracy', 'attribute_distance'
  }  # fmt: skip
  assert found.scores.keys() == {'attribute_accuracy', 'attribute_distance'}
  assert found.sheets['translations'].images.shape[:2] == (4, 4)


def test_sheet():
  found = evaluated(Painted())
  sheet = found.sheets['translations']
  assert sheet.columns == ('Input', *NAMES)
  # The first image of persons 4, 3 and 5, in the order of the split.
  assert sheet.images.shape == (3, 4, SIZE, SIZE, 3)
  assert sheet.images.dtype == np.uint8
  rows = [0, 1, 3]
  split = painted_split()
  np.testing.assert_array_equal(sheet.images[:, 0], split.inputs['image'][rows])
  asked = translate.asked_labels(LABEL, GROUP)[rows]
  np.testing.assert_array_equal(
    sheet.images[:, 1:],
    np.broadcast_to((50 + 150 * asked)[:, :, None, None], (3, 3, 16, 16, 3)),
  )
  assert 'attribute_accuracy 1' in found.line


def test_sheet_of_many_people_has_eight():
  rows = np.arange(40) % 4
  inputs = jax.tree.map(lambda x: x[rows], painted_split().inputs)
  many = Split(inputs, np.arange(40, dtype=np.int32) // 2)
  sheet = evaluated(Painted(), many).sheets['translations']
  assert sheet.images.shape[:2] == (8, 4)
  # Of persons 0 to 7: rows 0, 2, 4 …
  np.testing.assert_array_equal(
    sheet.images[:, 0], inputs['image'][: 2 * 8 : 2]
  )
