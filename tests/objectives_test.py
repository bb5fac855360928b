"""The objective's checks, its equations and what compiles again."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lit_jax import losses, objectives
from lit_jax.errors import UserError
from lit_jax.objectives import Objective

LIT = Objective(0.25, 0.75, 4.0)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('alpha', -0.1),
    ('alpha', 1.5),
    ('alpha', math.nan),
    ('beta', -1),
    ('beta', 1.01),
    ('beta', math.nan),
    ('temperature', 0.0),
    ('temperature', -2.0),
    ('temperature', math.nan),
    ('ir_loss', 'l3'),
    ('running_statistics', 'teacher'),
  ],
)
def test_check_refuses(name, value):
  with pytest.raises(UserError) as caught:
    objectives.check(dataclasses.replace(LIT, **{name: value}))
  message = str(caught.value)
  assert name in message
  assert str(value) in message
  assert '\n' not in message


@pytest.mark.parametrize('name', ['ir_loss', 'running_statistics'])
def test_check_names_the_choices(name):
  with pytest.raises(UserError) as caught:
    objectives.check(dataclasses.replace(LIT, **{name: 'x'}))
  choices = {
    'ir_loss': ('l2', 'l1', 'smooth_l1'),
    'running_statistics': ('student', 'both'),
  }
  for choice in choices[name]:
    assert choice in str(caught.value)


@pytest.mark.parametrize('alpha', [0, 1])
@pytest.mark.parametrize('beta', [0, 1])
def test_check_accepts_the_ends(alpha, beta):
  objective = Objective(alpha, beta, 0.5)
  assert objectives.check(objective) is objective


def test_annealing_needs_the_teachers_input():
  objective = LIT.replace(anneal_input=True)
  assert objectives.check(objective) is objective
  with pytest.raises(UserError, match='teacher_input is False'):
    objectives.check(objective.replace(teacher_input=False))


def test_equations():
  # Eq. 2: 1/4 x 2 + 3/4 x 4 = 3.5; Eq. 1: 3/4 x 3.5 + 1/4 x 10 = 5.125.
  kd = objectives.kd_loss(LIT, jnp.float32(2), jnp.float32(4))
  chex.assert_trees_all_equal(kd, jnp.float32(3.5))
  total = objectives.total_loss(LIT, kd, jnp.float32(10))
  chex.assert_trees_all_equal(total, jnp.float32(5.125))


@pytest.mark.parametrize(
  ('objective', 'soft', 'irs'),
  [
    (LIT, True, True),
    (objectives.scratch(), False, False),
    # Plain KD; and with α = 1 nothing is left of the teacher.
    (Objective(0.5, 1.0, 4.0), True, False),
    (Objective(1.0, 1.0, 4.0), False, False),
    # IRs alone: with β = 0 the soft labels have no weight.
    (Objective(0.5, 0.0, 4.0), False, True),
    (Objective(1.0, 0.5, 4.0), False, True),
    (Objective(0.5, 0.5, 4.0, blocks=()), True, False),
    (Objective(0.5, 0.0, 4.0, blocks=()), False, False),
    (Objective(0.5, 0.0, 4.0, blocks=(0,)), False, True),
  ],
)
def test_what_is_needed(objective, soft, irs):
  assert objective.computes('soft') == soft
  assert objective.computes('ir') == irs
  assert objective.needs_teacher == (soft or irs)


def test_scratch_is_cross_entropy():
  scratch = objectives.check(objectives.scratch())
  kd = objectives.kd_loss(scratch, jnp.float32(2), 0.0)
  found = objectives.total_loss(scratch, kd, 0.0)
  chex.assert_trees_all_equal(found, jnp.float32(2))


def test_compared():
  assert LIT.compared(3) == (0, 1, 2)
  assert dataclasses.replace(LIT, blocks=()).compared(3) == ()
  assert dataclasses.replace(LIT, blocks=(0, 2)).compared(3) == (0, 2)


@pytest.mark.parametrize(('blocks', 'bad'), [((0, 3), 3), ((-1,), -1)])
def test_compared_refuses_blocks_that_do_not_exist(blocks, bad):
  objective = dataclasses.replace(LIT, blocks=blocks)
  with pytest.raises(UserError, match=f'block {bad}, .* 0 to 2'):
    objective.compared(3)


def test_weights_do_not_compile_again():
  traces = []

  @jax.jit
  def total(objective, hard, soft, ir):
    traces.append(objective.ir_loss)
    kd = objectives.kd_loss(objective, hard, soft)
    return objectives.total_loss(objective, kd, ir) * objective.temperature

  # (1/4 x 2 + 3/4 x 4) x 3/4 + 1/4 x 10 = 5.125, times τ.
  assert total(LIT, 2.0, 4.0, 10.0) == 4 * 5.125
  # The hard term alone, then the soft one alone, then the IR.
  for weights, wanted in (
    ((1.0, 1.0, 1.0), 2),
    ((0.0, 1.0, 3.0), 12),
    ((0.5, 0.0, 1.0), 10),
  ):
    # Of the same terms, though some have no weight.
    objective = Objective(*weights, terms=objectives.TERMS)
    assert total(objective, 2.0, 4.0, 10.0) == wanted
  assert traces == ['l2']
  for changed in (
    dataclasses.replace(LIT, ir_loss='l1'),
    dataclasses.replace(LIT, blocks=(0,)),
    dataclasses.replace(LIT, teacher_input=False),
    dataclasses.replace(LIT, running_statistics='both'),
    LIT.replace(output_loss='l2'),
    # Nothing but the labels is computed.
    LIT.replace(alpha=1.0, beta=1.0),
  ):
    total(changed, 2.0, 4.0, 10.0)
  assert traces == ['l2', 'l1', 'l2', 'l2', 'l2', 'l2', 'l2']


# Terms are never left out silently.


def test_a_changed_weight_cannot_lose_its_term():
  kd = Objective(0.9, 1.0, 6.0)
  assert kd.terms == ('hard', 'soft')
  with pytest.raises(UserError, match="weight to the term 'ir'.*replace"):
    dataclasses.replace(kd, beta=0.5)
  with pytest.raises(UserError, match="weight to the term 'soft'"):
    dataclasses.replace(objectives.scratch(), alpha=0.5)
  with pytest.raises(UserError, match="weight to the term 'hard'"):
    Objective(0.5, 0.5, 2.0, terms=('soft', 'ir'))
  changed = kd.replace(beta=0.5)
  assert changed == Objective(0.9, 0.5, 6.0)
  assert changed.terms == ('hard', 'soft', 'ir')
  assert changed.replace(beta=1.0).terms == ('hard', 'soft')


# lit_loss, on the tiny pair.

BATCH = 6


@dataclasses.dataclass(frozen=True)
class Batch:
  """What `lit_loss` reads beside the objective and the parameters."""

  inputs: jax.Array
  labels: jax.Array
  targets: tuple

  def loss(self, tiny, objective, params, **changes):
    changes = {'labels': self.labels, 'targets': self.targets} | changes
    return objectives.lit_loss(
      objective,
      tiny.student,
      tiny.student_variables | {'params': params},
      self.inputs,
      changes.pop('labels'),
      changes.pop('targets'),
      **changes,
    )


@pytest.fixture(scope='module')
def batch(tiny):
  (images,), (labels,), _ = tiny.superbatch(1, BATCH, seed=4)
  x = tiny.preprocess.normalize(jnp.asarray(images[0]))
  targets = jax.jit(tiny.teacher.apply)(tiny.teacher_variables, x)
  return Batch(x, labels[0], targets)


def _by_hand(tiny, batch, params, alpha, beta, tau, distance, share=1.0):
  """Eq. 1 to 3 in separate passes, sum by sum: the loss, and its parts.

  `share` is the teacher's in the inputs of blocks; 0 are the student's own.
  """
  variables = tiny.student_variables | {'params': params}
  q, (_, *ts) = batch.targets

  def train(*args, **kwargs):
    return tiny.student.apply(
      variables, *args, train=True, mutable=['batch_stats'], **kwargs
    )[0]

  def log_p(z):
    z = z - z.max(1, keepdims=True)
    return z - jnp.log(jnp.exp(z).sum(1, keepdims=True))

  p, _ = train(batch.inputs)
  right = jnp.eye(p.shape[1])[batch.labels]
  hard = -(right * log_p(p)).sum() / BATCH
  q_tau = jnp.exp(log_p(q / tau))
  soft = -(tau**2) * (q_tau * log_p(p / tau)).sum() / BATCH
  _, (_, *own) = train(batch.inputs)
  irs = [own[0]]
  for i in (1, 2):
    given = share * ts[i - 1] + (1 - share) * own[i - 1]
    irs.append(train(given, i, method='block'))
  ir = [distance(s - t).sum() / t.size for s, t in zip(irs, ts, strict=True)]
  parts = {'hard': hard, 'soft': soft}
  parts |= {f'ir/blocks_{i}': value for i, value in enumerate(ir)}
  kd = alpha * hard + (1 - alpha) * soft
  parts['loss'] = beta * kd + (1 - beta) * (ir[0] + ir[1] + ir[2])
  return parts['loss'], parts


def _assert_near(found, wanted, bound):
  """Each leaf, relative to its own norm."""
  chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(found),
    jax.tree.leaves(wanted),
    strict=True,
  )
  for (path, a), b in pairs:
    distance = np.linalg.norm(np.float64(a) - np.float64(b))
    where = jax.tree_util.keystr(path)
    assert distance <= bound * np.linalg.norm(np.float64(b)), where


DISTANCES = {
  'l2': jnp.square,
  'l1': jnp.abs,
  'smooth_l1': lambda d: jnp.where(
    abs(d) < 1, jnp.square(d) / 2, jnp.abs(d) - 0.5
  ),
}


@pytest.mark.parametrize(
  ('ir_loss', 'changes', 'share'),
  [
    ('l2', {}, 1.0),
    ('smooth_l1', {}, 1.0),
    ('l1', {'teacher_input': False}, 0.0),
    # A mixture, whose gradient reaches the blocks before through its own part.
    ('l2', {'anneal_input': True}, 0.3),
  ],
)
def test_lit_loss_is_equation_1_by_hand(tiny, batch, ir_loss, changes, share):
  objective = Objective(0.3, 0.6, 3.0, ir_loss, **changes)
  params = tiny.student_variables['params']

  @jax.jit
  def found(params):
    def loss(params):
      value, (_, terms) = batch.loss(
        tiny, objective, params, teacher_share=jnp.float32(share)
      )
      return value, terms

    return jax.value_and_grad(loss, has_aux=True)(params)

  @jax.jit
  def wanted(params):
    def loss(params):
      return _by_hand(
        tiny, batch, params, 0.3, 0.6, 3.0, DISTANCES[ir_loss], share
      )

    return jax.value_and_grad(loss, has_aux=True)(params)

  ((value, terms), gradient), (by_hand, gradient_by_hand) = (
    found(params), wanted(params)
  )  # fmt: skip
  assert 0 <= terms.pop('accuracy') <= 1
  # Rounding of float32; batch norm's gradient subtracts nearly equal numbers.
  _assert_near((value, terms), by_hand, 1e-5)
  _assert_near(gradient, gradient_by_hand, 1e-4)


def test_lit_loss_in_a_program_of_ones_own(tiny, batch):
  params, traces = tiny.student_variables['params'], []

  @jax.jit
  def given(objective, params):
    traces.append('given')
    return batch.loss(tiny, objective, params)[1][1]

  @jax.jit
  def made(alpha, beta, temperature, params):
    traces.append('made')
    objective = Objective(alpha, beta, temperature)
    assert objective.terms == objectives.TERMS
    return batch.loss(tiny, objective, params)[1][1]

  hand = jax.jit(
    lambda *weights: _by_hand(tiny, batch, params, *weights, jnp.square)[1]
  )
  # The last ones weigh nothing but the labels, and nothing but the IRs.
  every = (0.3, 0.6, 3.0), (0.8, 0.1, 1.5), (1.0, 1.0, 1.0), (0.5, 0.0, 2.0)
  for weights in every:
    wanted = hand(*weights)
    found = made(*weights, params)
    found.pop('accuracy')
    _assert_near(found, wanted, 1e-5)
    found = given(Objective(*weights, terms=objectives.TERMS), params)
    found.pop('accuracy')
    _assert_near(found, wanted, 1e-5)
  assert sorted(traces) == ['given', 'made']


def test_a_program_computes_the_terms_of_any_objective(tiny, batch):
  params = tiny.student_variables['params']

  @jax.jit
  def terms(objective):
    return batch.loss(tiny, objective, params)[1][1]

  hand = jax.jit(
    lambda *weights: _by_hand(tiny, batch, params, *weights, jnp.square)[1]
  )
  irs = {f'ir/blocks_{i}' for i in range(3)}
  for weights, computed in (
    ((1.0, 1.0, 2.0), {'hard'}),
    ((0.7, 1.0, 2.0), {'hard', 'soft'}),
    ((0.7, 0.4, 2.0), {'hard', 'soft', *irs}),
    ((0.0, 0.4, 2.0), {'soft', *irs}),
    ((1.0, 0.4, 2.0), {'hard', *irs}),
    ((0.7, 0.0, 2.0), irs),
  ):
    found, wanted = terms(Objective(*weights)), hand(*weights)
    assert found.keys() == {*computed, 'loss', 'accuracy'}
    found.pop('accuracy')
    _assert_near(found, {name: wanted[name] for name in found}, 1e-5)


@pytest.mark.parametrize(
  'objective',
  [Objective(0.0, 0.5, 4.0), Objective(0.5, 0.0, 4.0)],
  ids=['alpha 0', 'beta 0'],
)
def test_without_labels(tiny, batch, objective):
  params = tiny.student_variables['params']

  def terms(**changes):
    return batch.loss(tiny, objective, params, **changes)[1][1]

  found, wanted = jax.jit(lambda: terms(labels=None))(), jax.jit(terms)()
  assert 'hard' not in found
  assert wanted.keys() - found.keys() == {'accuracy'}
  wanted.pop('accuracy')
  _assert_near(found, wanted, 1e-6)


def test_outputs_that_are_no_logits(tiny, batch):
  objective = Objective(0.3, 0.6, 3.0, blocks=(0,), output_loss='l2')
  params = tiny.student_variables['params']
  wished = np.random.default_rng(1).normal(size=(BATCH, 5)).astype(np.float32)
  _, (_, terms) = jax.jit(
    lambda: batch.loss(tiny, objective, params, labels=wished)
  )()
  (output, irs), _ = tiny.student.apply(
    tiny.student_variables, batch.inputs, train=True, mutable=['batch_stats']
  )
  q, targets = batch.targets
  hard = np.square(output - wished).mean()
  soft = np.square(output - q).mean()
  ir = np.square(irs[1] - targets[1]).mean()
  assert terms.keys() == {'hard', 'soft', 'ir/blocks_0', 'loss'}
  total = 0.6 * (0.3 * hard + 0.7 * soft) + 0.4 * ir
  wanted = {'hard': hard, 'soft': soft, 'ir/blocks_0': ir, 'loss': total}
  for name, value in wanted.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-5)


@pytest.mark.parametrize('output_loss', ['kd', 'l2'])
def test_no_gradient_reaches_the_teachers_outputs(tiny, batch, output_loss):
  objective = Objective(0.0, 0.5, 3.0, output_loss=output_loss)
  params = tiny.student_variables['params']

  @jax.jit
  @jax.grad
  def gradient(targets):
    return batch.loss(tiny, objective, params, labels=None, targets=targets)[0]

  found = gradient(batch.targets)
  chex.assert_trees_all_equal(
    found, jax.tree.map(jnp.zeros_like, batch.targets)
  )


@pytest.mark.parametrize(
  ('block', 'fed', 'reached'),
  [
    (0, True, {'stem', 'blocks_0'}),
    (2, True, {'blocks_2'}),
    (1, False, {'stem', 'blocks_0', 'blocks_1'}),
  ],
)
def test_an_ir_loss_moves_its_own_block(tiny, batch, block, fed, reached):
  objective = Objective(1.0, 0.0, 1.0, blocks=(block,), teacher_input=fed)

  @jax.jit
  @jax.grad
  def gradient(params):
    return batch.loss(tiny, objective, params, labels=None)[0]

  found = gradient(tiny.student_variables['params'])
  for part, tree in found.items():
    largest = optax.tree.norm(tree, ord=np.inf)
    assert (largest > 0) == (part in reached), part


@pytest.mark.parametrize(
  ('objective', 'calls'),
  [
    (objectives.scratch(), {'hard': 1}),
    (Objective(0.5, 1.0, 4.0), {'hard': 1, 'soft': 1}),
    (Objective(0.0, 1.0, 4.0), {'soft': 1}),
    # Block 1 stands in the student's own pass; the others run once more.
    (Objective(1.0, 0.5, 4.0), {'hard': 1, 'ir': 3, 'block': 2}),
    (Objective(0.5, 0.0, 4.0), {'ir': 3, 'block': 2}),
    (Objective(0.5, 0.0, 4.0, blocks=(0, 2)), {'ir': 2, 'block': 1}),
    (Objective(0.5, 0.0, 4.0, teacher_input=False), {'ir': 3}),
    (LIT, {'hard': 1, 'soft': 1, 'ir': 3, 'block': 2}),
  ],
)
def test_what_is_left_out_is_not_computed(
  tiny, batch, objective, calls, monkeypatch
):
  counts = dict.fromkeys(('hard', 'soft', 'ir', 'block'), 0)

  def counted(name, function):
    def count(*args, **kwargs):
      counts[name] += 1
      return function(*args, **kwargs)

    return count

  for name, attribute in (('hard', 'cross_entropy'), ('soft', 'distillation')):
    function = getattr(losses, attribute)
    monkeypatch.setattr(losses, attribute, counted(name, function))
  monkeypatch.setitem(losses.IR_LOSSES, 'l2', counted('ir', losses.l2))
  apply = type(tiny.student).apply

  def applied(net, *args, **kwargs):
    counts['block'] += kwargs.get('method') == 'block'
    return apply(net, *args, **kwargs)

  monkeypatch.setattr(type(tiny.student), 'apply', applied)
  params = tiny.student_variables['params']
  targets = batch.targets if objective.needs_teacher else None
  labels = batch.labels if objective.computes('hard') else None
  _, (_, terms) = jax.eval_shape(
    lambda: batch.loss(tiny, objective, params, labels=labels, targets=targets)
  )
  assert {name: n for name, n in counts.items() if n} == calls
  assert ('hard' in terms) == ('hard' in calls)
  assert ('soft' in terms) == ('soft' in calls)
  assert sum(name.startswith('ir/') for name in terms) == calls.get('ir', 0)


def test_an_objective_without_weight_is_refused():
  with pytest.raises(UserError, match='give weight to nothing'):
    objectives.check(Objective(0.5, 0.0, 4.0, blocks=()))


def test_an_objective_is_a_pytree_that_takes_any_leaves():
  plain = Objective(1, 1, 1)
  axes = jax.tree.map(lambda _: 0, plain)
  assert (axes.alpha, axes.beta, axes.terms) == (0, 0, ('hard',))
  # Integers are floats, so that both compile once.
  assert plain == Objective(1.0, 1.0, 1.0)
  assert all(isinstance(leaf, float) for leaf in jax.tree.leaves(plain))


def test_a_network_without_batch_norm_has_a_lit_loss(tiny):
  net = tiny.student.clone(blocks=(Half(), Half()), stem=Half(), head=Half())
  x = jnp.ones((2, 8, 8, 3))
  loss, (statistics, terms) = objectives.lit_loss(
    LIT.replace(output_loss='l2'), net, {'params': {}}, x, x, net.apply({}, x)
  )
  assert statistics == {}
  # Of the teacher's output and IRs there is no error; x halves four times.
  wanted = LIT.beta * LIT.alpha * (1 - 1 / 16) ** 2
  assert float(loss) == pytest.approx(wanted, rel=1e-6)
  assert float(terms['ir/blocks_1']) == 0


class Half(nn.Module):
  @nn.compact
  def __call__(self, h, train=False):
    return h / 2
