"""The train and evaluation programs against steps written out plainly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_member
import optax
import pytest
from one_member import only

from lit_jax import layers, objectives
from lit_jax.blocks import infer
from lit_jax.data.dataset import Split
from lit_jax.data.feed import Superbatch
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.layers import shared_statistics
from lit_jax.objectives import Objective
from lit_jax.tasks import classify
from lit_jax.training import devices, evaluation, optim, precision, state, steps

C, BATCH = 3, 4
KEY = jax.random.key(42)
LIT = Objective(0.3, 0.6, 3.0)
OPTIMIZER = optim.optimizer(
  optim.Sgd(0.9, 1e-3), lambda step: 0.05 / (1 + step)
)
PARTS = ('stem', 'blocks_0', 'blocks_1', 'blocks_2', 'head')


def make_plan(tiny, optimizer=OPTIMIZER, **changes):
  return tiny.plan(optimizer, **changes)


def begin(tiny, optimizer=OPTIMIZER, policy='fp32'):
  return state.begin_phase(
    {state.STUDENT: tiny.student_variables},
    {state.STUDENT: optimizer},
    precision.policy(policy),
  )


def run(tiny, program, start, superbatch, objective=LIT):
  return program(start, tiny.teacher_variables, superbatch, objective, KEY)


@pytest.fixture(scope='module')
def traces():
  """Grows each time that `lit` is compiled."""
  return []


@pytest.fixture(scope='module')
def lit(tiny, traces):
  """The compiled program that most tests run."""

  def traced(program):
    def counting(*args):
      traces.append(len(traces))
      return program(*args)

    return jax.jit(counting)

  return one_member.train_program(make_plan(tiny), traced)


@pytest.fixture(scope='module')
def superbatch(tiny):
  return tiny.superbatch(C, BATCH)


# One step, written out.


def inputs(tiny, superbatch, i):
  """The i-th batch as the networks see it, and its labels."""
  images = tiny.preprocess.augment(
    superbatch.inputs[0, i], jax.random.fold_in(KEY, i)
  )
  return tiny.preprocess.normalize(images), superbatch.labels[0, i]


def forward(net, variables, x, train, **kwargs):
  found, new = net.apply(
    variables, x, train=train, mutable=['batch_stats'], **kwargs
  )
  return found, new['batch_stats']


def plain_step(tiny, objective, before, x, labels):
  """A step of LIT in two separate passes; nothing is shared between them."""
  q, targets = tiny.teacher.apply(tiny.teacher_variables, x)
  tau = objective.temperature

  def loss(params):
    variables = {'params': params, 'batch_stats': before.student.batch_stats}
    (p, _), batch_stats = forward(tiny.student, variables, x, True)
    hard = -jnp.mean(jax.nn.log_softmax(p)[jnp.arange(BATCH), labels])
    soft = -(jax.nn.softmax(q / tau) * jax.nn.log_softmax(p / tau)).sum(1)
    soft = tau**2 * soft.mean()
    # The second pass: block 1 from the image, the others from the teacher.
    (_, own), _ = forward(tiny.student, variables, x, True)
    irs = [own[1]]
    for i in (1, 2):
      h, _ = tiny.student.apply(
        variables,
        targets[i],
        i,
        True,
        mutable=['batch_stats'],
        method='block',
      )
      irs.append(h)
    errors = [
      jnp.mean((s - t) ** 2) for s, t in zip(irs, targets[1:], strict=True)
    ]
    kd = objective.alpha * hard + (1 - objective.alpha) * soft
    total = objective.beta * kd + (1 - objective.beta) * sum(errors)
    metrics = {
      'hard': hard,
      'soft': soft,
      'loss': total,
      'accuracy': jnp.mean(p.argmax(1) == labels),
    }
    metrics |= {f'ir/blocks_{i}': e for i, e in enumerate(errors)}
    return total, (batch_stats, metrics)

  own = before.student
  grads, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(own.params)
  updates, opt_state = OPTIMIZER.update(grads, own.opt_state, own.params)
  after = state.Learner(
    optax.apply_updates(own.params, updates), batch_stats, opt_state, None
  )
  learners = {state.STUDENT: after}
  return before.replace(step=before.step + 1, learners=learners), metrics


def test_steps_equal_plain_two_pass_steps(tiny, lit, superbatch):
  plain = jax.jit(lambda *args: plain_step(tiny, LIT, *args))
  wanted, rows = begin(tiny), []
  for i in range(C):
    wanted, metrics = plain(wanted, *inputs(tiny, superbatch, i))
    rows.append(metrics)
  found, metrics = run(tiny, lit, begin(tiny), superbatch)
  # The same sums in another order, over three steps.
  chex.assert_trees_all_close(
    metrics, jax.tree.map(lambda *m: jnp.stack(m), *rows), rtol=1e-5
  )
  chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_ready_teacher_teaches_the_same(tiny, lit, superbatch):
  plan = make_plan(tiny)
  assert steps.ready_teacher(plan, tiny.teacher_variables) is (
    tiny.teacher_variables
  )
  with layers.plain_forms():
    ready = steps.ready_teacher(plan, tiny.teacher_variables)
    program = one_member.train_program(plan, jax.jit)
    found = program(begin(tiny), ready, superbatch, LIT, KEY)
  assert 'folded' in ready['params']['stem']['Conv_0']
  wanted = run(tiny, lit, begin(tiny), superbatch)
  chex.assert_trees_all_close(found, wanted, rtol=2e-5, atol=2e-6)


def test_loss_is_equation_1_of_its_parts(tiny, lit, superbatch):
  _, metrics = run(tiny, lit, begin(tiny), only(superbatch, 0))
  x, labels = inputs(tiny, superbatch, 0)
  q, targets = tiny.teacher.apply(tiny.teacher_variables, x)
  (p, irs), _ = forward(tiny.student, tiny.student_variables, x, True)
  odds = np.exp(np.asarray(p, np.float64))
  hard = -np.log(odds[np.arange(BATCH), labels] / odds.sum(1)).mean()
  q3, p3 = (np.exp(np.asarray(v, np.float64) / 3) for v in (q, p))
  q3, p3 = q3 / q3.sum(1, keepdims=True), p3 / p3.sum(1, keepdims=True)
  soft = -9 * (q3 * np.log(p3)).sum(1).mean()
  ir = np.square(irs[1] - targets[1]).mean()
  for i in (1, 2):
    variables = tiny.student_variables
    h, _ = tiny.student.apply(
      variables, targets[i], i, True, mutable=['batch_stats'], method='block'
    )
    ir += np.square(h - targets[i + 1]).mean()
  # α = 0.3, β = 0.6, τ = 3.
  total = 0.6 * (0.3 * hard + 0.7 * soft) + 0.4 * ir
  found = [metrics[name][0] for name in ('hard', 'soft', 'loss')]
  np.testing.assert_allclose(found, [hard, soft, total], rtol=1e-5)
  found = sum(metrics[f'ir/blocks_{i}'][0] for i in range(3))
  np.testing.assert_allclose(found, ir, rtol=1e-5)


def test_augmentation_and_rate_go_on_from_the_state_step(tiny, lit, superbatch):
  # Two phases differ only by the step at which the state stands.
  later = begin(tiny).replace(step=jnp.int32(5))
  _, metrics = run(tiny, lit, later, only(superbatch, 0))
  images = tiny.preprocess.augment(
    superbatch.inputs[0, 0], jax.random.fold_in(KEY, 5)
  )
  x = tiny.preprocess.normalize(images)
  (p, _), _ = forward(tiny.student, tiny.student_variables, x, True)
  odds = jax.nn.log_softmax(p)[jnp.arange(BATCH), superbatch.labels[0, 0]]
  np.testing.assert_allclose(metrics['hard'][0], -odds.mean(), rtol=1e-5)


# Where the IR loss's gradient goes.


def moved(tiny, objective, superbatch):
  """The parts whose parameters a gradient step on the objective moves."""
  optimizer = optax.sgd(1.0)
  program = one_member.train_program(make_plan(tiny, optimizer), jax.jit)
  start = begin(tiny, optimizer)
  after, metrics = run(tiny, program, start, superbatch, objective)
  parts = set()
  for part, before in start.student.params.items():
    same = jax.tree.map(
      lambda a, b: bool((a == b).all()), before, after.student.params[part]
    )
    if not all(jax.tree.leaves(same)):
      parts.add(part)
  return parts, metrics


@pytest.mark.parametrize(
  ('block', 'teacher_input', 'wanted'),
  [
    # The first block's input is the image, which the stem reads.
    (0, True, {'stem', 'blocks_0'}),
    (1, True, {'blocks_1'}),
    (2, True, {'blocks_2'}),
    # From the student's own input it goes on to all that comes before.
    (1, False, {'stem', 'blocks_0', 'blocks_1'}),
    (2, False, {'stem', 'blocks_0', 'blocks_1', 'blocks_2'}),
  ],
)
def test_ir_gradient_stays_in_its_block(
  tiny, superbatch, block, teacher_input, wanted
):
  # β = 0 leaves the IR loss alone; the gradient elsewhere is exactly 0.
  objective = Objective(
    1.0, 0.0, 1.0, blocks=(block,), teacher_input=teacher_input
  )
  found, metrics = moved(tiny, objective, only(superbatch, 0))
  assert found == wanted
  assert {m for m in metrics if m.startswith('ir/')} == {f'ir/blocks_{block}'}


def test_own_input_compares_the_own_pass(tiny, superbatch):
  objective = LIT.replace(blocks=(2,), teacher_input=False)
  _, metrics = moved(tiny, objective, only(superbatch, 0))
  x, _ = inputs(tiny, superbatch, 0)
  _, targets = tiny.teacher.apply(tiny.teacher_variables, x)
  (_, irs), _ = forward(tiny.student, tiny.student_variables, x, True)
  np.testing.assert_allclose(
    metrics['ir/blocks_2'][0], np.square(irs[3] - targets[3]).mean(), rtol=1e-5
  )


@pytest.mark.slow
def test_the_teacher_gives_way_over_a_phase(tiny, superbatch):
  """The first step is LIT's, and the last compares the student's own pass."""
  plan = make_plan(tiny)._replace(steps=8)
  program = one_member.train_program(plan, jax.jit)

  def errors(objective, step):
    start = begin(tiny).replace(step=jnp.int32(step))
    _, metrics = run(tiny, program, start, only(superbatch, 0), objective)
    return np.array([metrics[f'ir/blocks_{i}'][0] for i in range(3)])

  annealed = LIT.replace(anneal_input=True)
  for step, objective in ((0, LIT), (7, LIT.replace(teacher_input=False))):
    wanted = errors(objective, step)
    np.testing.assert_allclose(errors(annealed, step), wanted, rtol=1e-5)
    half = errors(annealed, 4)
    assert half[0] > 0 and (abs(half - wanted)[1:] > 1e-3 * wanted[1:]).all()


# Ways to run one program.


def test_plain_jit_and_two_devices_agree(tiny, lit, superbatch):
  wanted = run(tiny, lit, begin(tiny), superbatch)
  plain = one_member.train_program(make_plan(tiny))
  mapped = one_member.train_program(
    make_plan(tiny, axis_name=devices.AXIS), devices.map_train
  )
  assert jax.local_device_count() == 2
  cut = devices.shard_superbatch(superbatch)
  assert cut.inputs.shape == (2, 1, C, BATCH // 2, 8, 8, 3)
  over_devices = run(tiny, mapped, begin(tiny), cut)
  # float32 sums in another order, over three steps.
  for found in (run(tiny, plain, begin(tiny), superbatch), over_devices):
    chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batch_norms_of_each_device_alone(tiny, superbatch):
  """A step is then the mean of what each device would have done alone."""
  plain = ImagePreprocess((0.5,) * 3, (0.5,) * 3, crop=False, flip=False)
  changes = {'preprocess': plain, 'axis_name': devices.AXIS}
  one = only(superbatch, 0)
  shared, found = (
    run(
      tiny,
      one_member.train_program(
        make_plan(tiny, **changes, sync_batch_norm=sync), devices.map_train
      ),
      begin(tiny),
      devices.shard_superbatch(one),
    )
    for sync in (True, False)
  )
  alone = one_member.train_program(make_plan(tiny, preprocess=plain))
  halves = [
    run(
      tiny,
      alone,
      begin(tiny),
      one._replace(inputs=one.inputs[:, :, own], labels=one.labels[:, :, own]),
    )
    for own in (slice(BATCH // 2), slice(BATCH // 2, None))
  ]
  wanted = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
  chex.assert_trees_all_close(found[0], wanted[0], rtol=1e-4, atol=1e-6)
  name = 'ir/blocks_1'
  mean = float(wanted[1][name][0])
  assert float(found[1][name][0]) == pytest.approx(mean, rel=1e-5)
  assert abs(float(shared[1][name][0]) / mean - 1) > 1e-3


def test_one_call_of_c_steps_equals_c_calls_of_one(tiny, lit, superbatch):
  whole, metrics = run(tiny, lit, begin(tiny), superbatch)
  assert whole.step == C
  stepwise, rows = begin(tiny), []
  for i in range(C):
    stepwise, row = run(tiny, lit, stepwise, only(superbatch, i))
    rows.append(jax.tree.map(lambda m: m[0], row))
  # One compiled program: every bit.
  chex.assert_trees_all_equal(stepwise, whole)
  chex.assert_trees_all_equal(
    jax.tree.map(lambda *m: jnp.stack(m), *rows), metrics
  )


def test_a_short_call_takes_count_steps(tiny, lit, superbatch):
  _, metrics = run(tiny, lit, begin(tiny), superbatch)
  found, short = run(
    tiny, lit, begin(tiny), superbatch._replace(count=np.int32(2))
  )
  wanted = begin(tiny)
  for i in range(2):
    wanted, _ = run(tiny, lit, wanted, only(superbatch, i))
  assert found.step == 2
  chex.assert_trees_all_equal(found, wanted)
  first = jax.tree.map(lambda m: m[:2], (short, metrics))
  chex.assert_trees_all_equal(*first)


def test_weights_at_call_time_do_not_compile_again(
  tiny, lit, traces, superbatch
):
  found = {}
  for objective in (
    LIT,
    LIT.replace(alpha=0.9),
    LIT.replace(beta=0.1),
    LIT.replace(temperature=1.0),
  ):
    batch = only(superbatch, 0)
    _, metrics = run(tiny, lit, begin(tiny), batch, objective)
    m = {name: float(v[0]) for name, v in metrics.items()}
    kd = objective.alpha * m['hard'] + (1 - objective.alpha) * m['soft']
    ir = sum(m[f'ir/blocks_{i}'] for i in range(3))
    np.testing.assert_allclose(
      m['loss'], objective.beta * kd + (1 - objective.beta) * ir, rtol=1e-5
    )
    found[objective] = m['soft'], m['loss']
  assert len({loss for _, loss in found.values()}) == 4
  # The soft term depends on the temperature alone: two values.
  assert len({soft for soft, _ in found.values()}) == 2
  # Neither did any of the tests before this one compile it again.
  assert len(traces) == 1


def test_a_program_computes_the_terms_of_any_objective(tiny, lit, superbatch):
  program = one_member.train_program(make_plan(tiny), jax.jit)
  one = only(superbatch, 0)
  labels = LIT.replace(alpha=1.0, beta=1.0)
  _, metrics = run(tiny, program, begin(tiny), one, labels)
  assert set(metrics) == {'hard', 'loss', 'accuracy'}
  # The same program, then given more to compute: all of it is.
  found = run(tiny, program, begin(tiny), one, LIT)
  chex.assert_trees_all_equal(found, run(tiny, lit, begin(tiny), one, LIT))


# What does not move.


def test_frozen_parts_do_not_move(tiny, superbatch):
  frozen = ('stem', 'blocks_0')
  # Weight decay and momentum must not reach them either.
  optimizer = optim.optimizer(optim.Sgd(0.9, 0.1), lambda _: 0.1, frozen)
  plan = make_plan(tiny, optimizer, frozen=frozen)
  start = begin(tiny, optimizer)
  program = one_member.train_program(plan, jax.jit)
  after, metrics = run(tiny, program, start, superbatch)
  for part in PARTS:
    for collection in ('params', 'batch_stats'):
      old = start.student.variables[collection].get(part)
      new = after.student.variables[collection].get(part)
      if part in frozen:
        chex.assert_trees_all_equal(new, old)
      elif old is not None:
        same = jax.tree.map(lambda a, b: bool((a == b).any()), old, new)
        assert not any(jax.tree.leaves(same)), (collection, part)
  # They run in evaluation mode.
  x, labels = inputs(tiny, superbatch, 0)
  (p, _), _ = forward(
    tiny.student, tiny.student_variables, x, ('blocks_1', 'blocks_2')
  )
  odds = jax.nn.log_softmax(p)[jnp.arange(BATCH), labels]
  np.testing.assert_allclose(metrics['hard'][0], -odds.mean(), rtol=1e-5)


def test_scratch_needs_no_teacher(tiny, superbatch):
  scratch = objectives.scratch()
  program = one_member.train_program(make_plan(tiny, teacher=None), jax.jit)
  after, metrics = program(begin(tiny), None, superbatch, scratch, KEY)
  assert set(metrics) == {'hard', 'loss', 'accuracy'}
  chex.assert_trees_all_equal(metrics['loss'], metrics['hard'])
  assert after.step == C
  x, labels = inputs(tiny, superbatch, 0)
  (p, _), _ = forward(tiny.student, tiny.student_variables, x, True)
  odds = jax.nn.log_softmax(p)[jnp.arange(BATCH), labels]
  np.testing.assert_allclose(metrics['loss'][0], -odds.mean(), rtol=1e-5)


def test_no_gradient_reaches_the_teacher(tiny, superbatch):
  program = one_member.train_program(make_plan(tiny))
  # A number known beforehand: only such a loop can be differentiated.
  one = superbatch._replace(
    inputs=superbatch.inputs[:, :1], labels=superbatch.labels[:, :1], count=1
  )

  @jax.jit
  @jax.grad
  def gradient(teacher):
    return program(begin(tiny), teacher, one, LIT, KEY)[1]['loss'][0]

  found = gradient(tiny.teacher_variables)
  chex.assert_trees_all_equal(
    found, jax.tree.map(jnp.zeros_like, tiny.teacher_variables)
  )


def test_the_teacher_runs_in_evaluation_mode(tiny, lit, superbatch):
  # Other running statistics of the teacher, another loss.
  other = tiny.teacher_variables | {
    'batch_stats': jax.tree.map(
      lambda s: s + 1, tiny.teacher_variables['batch_stats']
    )
  }
  _, metrics = run(tiny, lit, begin(tiny), superbatch)
  _, changed = lit(begin(tiny), other, superbatch, LIT, KEY)
  for name in ('soft', 'ir/blocks_0', 'ir/blocks_1', 'ir/blocks_2'):
    assert abs(changed[name][0] / metrics[name][0] - 1) > 1e-3
  chex.assert_trees_all_equal(changed['hard'][0], metrics['hard'][0])


@pytest.mark.parametrize('piece', [6, 4, 5])
def test_the_teacher_in_pieces(tiny, superbatch, piece, monkeypatch):
  """Also where pieces are no batches, or do not divide the images."""
  plan = make_plan(tiny)

  def targets():
    def run(variables, images):
      return steps.teacher_outputs(plan, LIT, variables, images)

    return jax.jit(run)(tiny.teacher_variables, superbatch.inputs[0])

  whole = targets()
  chex.assert_tree_shape_prefix(whole, (C, BATCH))
  monkeypatch.setattr(steps, '_PIECE', piece)
  chex.assert_trees_all_close(targets(), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('batches, pieces', [(1, 3), (2, 3), (3, 1), (9, 1)])
def test_the_teachers_activations_are_bounded(
  tiny, superbatch, batches, pieces, monkeypatch
):
  # The largest IR has 8 x 8 x 4 numbers of 4 bytes, of which 4 live at once;
  # two of three batches leave no even pieces.
  monkeypatch.setattr(steps, '_BYTES', batches * BATCH * 4 * 8 * 8 * 4 * 4)
  plan = make_plan(tiny)
  seen = []
  monkeypatch.setattr(
    steps, 'infer', lambda net, v, x: seen.append(len(x)) or infer(net, v, x)
  )

  def run(variables, images):
    return steps.teacher_outputs(plan, LIT, variables, images)

  arguments = tiny.teacher_variables, superbatch.inputs[0]
  with layers.plain_forms():
    found = jax.jit(run)(*arguments)
  assert seen == [C // pieces * BATCH]
  wanted = jax.jit(lambda *a: run(*a))(*arguments)
  chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('follow', ['student', 'both'])
def test_running_statistics(tiny, superbatch, follow):
  objective = LIT.replace(running_statistics=follow)
  program = one_member.train_program(make_plan(tiny), jax.jit)
  one = only(superbatch, 0)
  after, _ = run(tiny, program, begin(tiny), one, objective)
  x, _ = inputs(tiny, superbatch, 0)
  _, targets = tiny.teacher.apply(tiny.teacher_variables, x)
  params = tiny.student_variables['params']
  _, wanted = forward(tiny.student, tiny.student_variables, x, True)
  if follow == 'both':
    # A second time, from where the own pass left them.
    for i in (1, 2):
      _, new = tiny.student.apply(
        {'params': params, 'batch_stats': wanted},
        targets[i],
        i,
        True,
        mutable=['batch_stats'],
        method='block',
      )
      part = f'blocks_{i}'
      wanted = wanted | {part: new['batch_stats'][part]}
  chex.assert_trees_all_close(
    after.student.batch_stats, wanted, rtol=1e-5, atol=1e-6
  )


# Precision.

# Mantissas, the leading one included.
BITS = {'bf16': 8, 'fp16': 11}


def lowered(tiny, policy, wrap=jax.jit, **changes):
  teacher, student = tiny.networks(precision.policy(policy).dtype)
  plan = make_plan(tiny, teacher=teacher, student=student, **changes)
  return one_member.train_program(plan, wrap)


def scaled(start, scale):
  """The state under another loss scale."""
  own = start.student.loss_scale.replace(scale=jnp.float32(scale))
  student = start.student.replace(loss_scale=own)
  return start.replace(learners={'student': student})


def updates(start, after):
  """What a step added to each leaf, by its name."""
  added = jax.tree.map(
    lambda new, old: np.float64(new) - np.float64(old),
    after.student.variables,
    start.student.variables,
  )
  flat = jax.tree_util.tree_leaves_with_path(added)
  return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def far_from(wanted, found, bound):
  """The leaves further than `bound` from the wanted ones, relatively."""
  assert wanted.keys() == found.keys()
  distances = {
    name: np.linalg.norm(found[name] - value) / np.linalg.norm(value)
    for name, value in wanted.items()
  }
  return {name: d for name, d in distances.items() if not d < bound}


@pytest.fixture(scope='module')
def wide(tiny):
  """A step of float32 on many examples: the batch, the update, the loss."""
  batch = tiny.superbatch(1, 64)
  program = one_member.train_program(make_plan(tiny), jax.jit)
  after, metrics = run(tiny, program, begin(tiny), batch)
  return batch, updates(begin(tiny), after), metrics['loss'][0]


@pytest.mark.parametrize('policy', ['bf16', 'fp16'])
def test_updates_are_those_of_float32(tiny, wide, policy):
  batch, wanted, exact = wide
  start = begin(tiny, policy=policy)
  if policy == 'fp16':
    start = scaled(start, 2.0**7)
  after, metrics = run(tiny, lowered(tiny, policy), start, batch)
  chex.assert_trees_all_equal_dtypes(after.variables, start.variables)
  assert (after.step, after.skipped) == (1, 0)
  found, rounding = updates(start, after), 2.0 ** -BITS[policy]
  # An input of a ReLU that is about as small as its rounding may change its
  # sign, with which a whole term of the gradients comes or goes. These are one
  # in 1 / rounding; their norm goes by the root, and there are four layers.
  assert not far_from(wanted, found, 2 * rounding**0.5)
  # Half the gradient would be far off.
  half = {name: value / 2 for name, value in found.items()}
  assert far_from(wanted, half, 2 * rounding**0.5).keys() == wanted.keys()
  # A mean over many examples of what is rounded in some ten places.
  loss = metrics['loss'][0]
  np.testing.assert_allclose(loss, exact, rtol=rounding)
  # Another number it is: the networks do compute in fewer bits.
  assert abs(loss / exact - 1) > 1e-6


def test_float16_skips_steps_that_overflow(tiny, superbatch):
  program = lowered(tiny, 'fp16')
  one = only(superbatch, 0)
  start = begin(tiny, policy='fp16')
  # Beyond float16's largest number, 65504, times any gradient here.
  skipped, metrics = run(tiny, program, scaled(start, 2.0**40), one)
  chex.assert_trees_all_equal(skipped.student.params, start.student.params)
  chex.assert_trees_all_equal(
    skipped.student.opt_state, start.student.opt_state
  )
  assert (skipped.step, skipped.skipped) == (1, 1)
  assert skipped.student.loss_scale.scale == 2.0**39
  assert (metrics['skipped'][0], metrics['loss_scale'][0]) == (1, 2.0**39)
  # The loss itself is computed and finite.
  assert bool(jnp.isfinite(metrics['loss'][0]))

  good, metrics = run(tiny, program, scaled(start, 2.0**7), one)
  assert (good.step, good.skipped, metrics['skipped'][0]) == (1, 0, 0)
  assert good.student.loss_scale.scale == 2.0**7
  for name, update in updates(start, good).items():
    assert update.any(), name


def test_what_is_frozen_skips_no_step(tiny):
  """Its gradient may overflow, for nobody uses it."""
  frozen = ('stem',)
  optimizer = optim.optimizer(optim.Sgd(), lambda step: 0.05, frozen)
  start = scaled(begin(tiny, optimizer, 'fp16'), 1.0)

  def loss(params):
    stem, head = (
      sum(leaf.sum() for leaf in jax.tree.leaves(params[part]))
      for part in ('stem', 'head')
    )
    huge = jnp.float32(3e38)
    return head + stem * huge * huge, (start.student.batch_stats, {})

  def after(**changes):
    plan = make_plan(tiny, optimizer, **changes)
    return steps.update(plan, start, loss)[0]

  assert int(after().skipped) == 1
  found = after(frozen=frozen)
  assert int(found.skipped) == 0
  old, new = start.student.params, found.student.params
  chex.assert_trees_all_equal(new['stem'], old['stem'])
  for before, now in zip(
    *map(jax.tree.leaves, (old['head'], new['head'])), strict=True
  ):
    assert not np.array_equal(before, now)


def finite_by_device(tiny, plan, start):
  """(batch, scale) → whether each device's own gradient is, before any mean."""

  def own(inputs, labels, scale):
    superbatch = Superbatch(inputs[0], labels[0], np.int32(1))
    with shared_statistics(devices.AXIS):
      images, y, targets = jax.tree.map(
        lambda leaf: leaf[0],
        plan.task.prepare(
          plan, LIT, tiny.teacher_variables, superbatch, start.step, KEY
        ),
      )

      def loss(params):
        variables = start.student.variables | {'params': params}
        x = plan.preprocess.normalize(images)
        found, _ = objectives.lit_loss(
          LIT, plan.student, variables, x, y, targets
        )
        return scale * found

      gradient = jax.grad(loss)(start.student.params)
    return jnp.isfinite(optax.tree.norm(gradient, ord=jnp.inf))

  mapped = jax.pmap(own, axis_name=devices.AXIS, in_axes=(0, 0, None))
  return lambda batch, scale: mapped(batch.inputs, batch.labels, scale).tolist()


def on_device(array, i):
  """What the i-th device holds of a replicated array."""
  (shard,) = [
    own.data
    for own in array.addressable_shards
    if own.device == jax.local_devices()[i]
  ]
  return np.asarray(shard)


@pytest.mark.slow
def test_float16_overflow_on_one_device_skips_the_step_on_both(tiny):
  # The gradient of the stem's kernel sums inputs, which here reach 255 in the
  # images of one device, and 1 in the other's: it is a hundred times larger on
  # the one. Batch norm undoes a kernel 64 times smaller, and makes its
  # gradient 64 times larger, so that no other overflows before it.
  raw = ImagePreprocess((0.0,) * 3, (1 / 255,) * 3, crop=False, flip=False)
  params = tiny.student_variables['params']
  kernel = params['stem']['Conv_0']['kernel'] / 64
  stem = params['stem'] | {'Conv_0': {'kernel': kernel}}
  start = state.begin_phase(
    {
      state.STUDENT: tiny.student_variables
      | {'params': params | {'stem': stem}}
    },
    {state.STUDENT: OPTIMIZER},
    precision.policy('fp16'),
  )
  # At this scale 1.4 times the largest float16, and at its half 0.7 times.
  scale = 3400.0
  start, halved = scaled(start, scale), scaled(start, scale / 2)
  outputs = []

  def wrap(program):
    mapped = devices.map_train(program)

    def run(*args):
      outputs.append(mapped(*args))
      return outputs[-1]

    return run

  changes = {'preprocess': raw, 'axis_name': devices.AXIS}
  program = lowered(tiny, 'fp16', wrap, **changes)
  teacher, student = tiny.networks(jnp.float16)
  finite = finite_by_device(
    tiny, make_plan(tiny, teacher=teacher, student=student, **changes), start
  )
  for bright in (0, 1):
    images, labels, _ = tiny.superbatch(1, 8)
    images[:, :, np.arange(8) // 4 != bright] %= 2
    # The same batch twice.
    twice = np.repeat(images, 2, 1), np.repeat(labels, 2, 1)
    one = devices.shard_superbatch(Superbatch(*twice, np.int32(1)))
    assert finite(one, scale) == [bright == 1, bright == 0]
    assert finite(one, scale / 2) == [True, True]

    skipped, metrics = run(tiny, program, start, one)
    assert (skipped.step, skipped.skipped) == (1, 1)
    assert skipped.student.loss_scale.scale == scale / 2
    assert (metrics['skipped'][0], metrics['loss_scale'][0]) == (1, scale / 2)
    chex.assert_trees_all_equal(skipped.student, halved.student)
    # The second step is taken, as if it were the first at that scale.
    two = one._replace(count=np.int32(2))
    both, metrics = run(tiny, program, start, two)
    np.testing.assert_array_equal(metrics['skipped'], [1, 0])
    np.testing.assert_array_equal(metrics['loss_scale'], [scale / 2] * 2)
    assert (both.step, both.skipped) == (2, 1)
    later = halved.replace(step=jnp.int32(1))
    wanted, _ = run(tiny, program, later, one)
    chex.assert_trees_all_equal(both.student, wanted.student)
    for name, update in updates(start, both).items():
      assert update.any(), name
  # Both devices hold the same, also what the program takes from one alone.
  for output in outputs:
    for leaf in jax.tree.leaves(output):
      np.testing.assert_array_equal(on_device(leaf, 0), on_device(leaf, 1))


# Evaluation.


def padded(tiny, count=6):
  """Six examples as two batches of four, the last two of them padding."""
  (images,), (labels,), _ = tiny.superbatch(2, 4, seed=3)
  valid = (np.arange(8) < count).astype(np.float32).reshape(2, 4)
  return images, labels, valid


def total(rows):
  return jax.tree.map(lambda *x: np.sum(x, 0), *rows)


def test_answers_by_hand(tiny):
  images, labels, _ = padded(tiny)
  rows, y = images.reshape(8, 8, 8, 3), labels.reshape(8)
  program = jax.jit(classify.answers_program(tiny.student, tiny.preprocess))
  found = program(tiny.student_variables, rows, y)
  # Neither cropped nor mirrored, and with running statistics.
  logits, _ = tiny.student.apply(
    tiny.student_variables, tiny.preprocess.normalize(jnp.asarray(rows))
  )
  odds = np.exp(np.asarray(logits, np.float64))
  odds /= odds.sum(1, keepdims=True)
  assert set(found) == {'loss', 'class', 'probability'}
  np.testing.assert_array_equal(found['class'], odds.argmax(1))
  np.testing.assert_allclose(found['probability'], odds.max(1), rtol=1e-5)
  wanted = -np.log(odds[np.arange(8), y])
  np.testing.assert_allclose(found['loss'], wanted, rtol=1e-5)


def test_confusion_by_hand(tiny):
  # The head's bias makes class 3 the answer to everything.
  params = tiny.student_variables['params']
  bias = params['head']['dense']['bias'].at[3].set(1e6)
  head = {'dense': params['head']['dense'] | {'bias': bias}}
  variables = tiny.student_variables | {'params': params | {'head': head}}
  images, _, _ = padded(tiny)
  # Three examples on two devices: the fourth is padding, and counts nowhere.
  split = Split(images[0][:3], np.array([3, 3, 0], np.int32))
  task = classify.Classify(5)
  evaluate = task.evaluator(tiny.student, tiny.preprocess, split)
  found = evaluate({'student': devices.replicate(variables)})
  # Right, right and wrong.
  wanted = np.zeros((5, 5))
  wanted[3, 3], wanted[0, 3] = 2, 1
  np.testing.assert_array_equal(found.pictures['confusion'], wanted)
  np.testing.assert_array_equal(found.answers.classes, [3, 3, 3])
  np.testing.assert_array_equal(found.answers.probabilities, [1, 1, 1])


def ir_errors_of(tiny):
  return evaluation.ir_error_program(
    tiny.teacher, tiny.preprocess, tiny.student, tiny.preprocess
  )


def test_ir_error(tiny):
  images, _, valid = padded(tiny)
  program = jax.jit(ir_errors_of(tiny))
  found = total(
    program(tiny.teacher_variables, tiny.student_variables, *batch)
    for batch in zip(images, [None] * 2, valid, strict=True)
  )
  x = tiny.preprocess.normalize(jnp.asarray(images.reshape(8, 8, 8, 3)[:6]))
  _, targets = tiny.teacher.apply(tiny.teacher_variables, x)
  _, own = tiny.student.apply(tiny.student_variables, x)
  wanted = {n: [] for n in ('teacher_input', 'own_input', 'sum', 'square')}
  for i in range(4):
    target = np.asarray(targets[i], np.float64)
    values = {
      'own_input': (np.asarray(own[i]) - target) ** 2,
      'sum': target,
      'square': target**2,
    }
    if i:  # a block's
      fed = tiny.student.apply(
        tiny.student_variables, targets[i - 1], i - 1, method='block'
      )
      values['teacher_input'] = (np.asarray(fed) - target) ** 2
    # Summed over examples, a mean over everything else.
    for name, value in values.items():
      wanted[name].append(value.sum() / target[0].size)
  assert set(found) == {*wanted, 'examples'}
  assert found['examples'] == 6
  for name, values in wanted.items():
    np.testing.assert_allclose(found[name], values, rtol=1e-4)
  # Even the first block has two inputs: the teacher's stem's, and its own's.
  assert (found['teacher_input'] != found['own_input'][1:]).all()


def test_ir_error_over_two_devices(tiny):
  images, _, valid = padded(tiny)
  program = ir_errors_of(tiny)
  two = evaluation.over_devices(program)
  variables = tiny.teacher_variables, tiny.student_variables
  inputs, cut = devices.shard((images[1], valid[1]))
  chex.assert_trees_all_close(
    two(variables, (inputs, None), cut),
    jax.jit(program)(*variables, images[1], None, valid[1]),
    rtol=1e-5,
  )


# Golden numbers.

# Printed by this very program when the tests above passed.
GOLDEN = {
  'accuracy': [0.0, 0.25, 0.0],
  'hard': [1.46566, 1.69731, 1.62796],
  'soft': [14.5004, 14.4873, 14.5118],
  'ir/blocks_0': [1.07675, 0.917703, 1.08468],
  'ir/blocks_1': [0.593266, 0.573028, 0.57728],
  'ir/blocks_2': [0.401051, 0.384443, 0.412051],
  'loss': [7.18241, 7.14026, 7.2176],
}


def test_golden_numbers(tiny, lit, superbatch):
  _, metrics = run(tiny, lit, begin(tiny), superbatch)
  assert set(metrics) == set(GOLDEN)
  for name, wanted in GOLDEN.items():
    np.testing.assert_allclose(
      metrics[name],
      wanted,
      rtol=1e-4,
      err_msg=(
        f'{name} of three steps is not what it was. If this change is not '
        'meant to alter what training computes, it has a fault. Put the new '
        'numbers here only with a change that means to (initial values, '
        'random draws, losses, the optimiser), after the tests above pass, '
        'and say so in its description.'
      ),
    )
