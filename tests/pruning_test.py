"""Pruning by hand, and zeros that stay whatever the optimiser does."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lit_jax import layers
from lit_jax.errors import UserError
from lit_jax.objectives import scratch
from lit_jax.training import (
  optim,
  packing,
  population,
  precision,
  pruning,
  state,
)

RULES = {'sgd': optim.Sgd(0.9, 1e-1), 'adam': optim.Adam()}
RATE = 0.05


def params():
  """Two kernels of six weights and one of four, and what is no kernel."""
  return {
    'stem': {'kernel': jnp.array([[0.5, -4.0, 1.0], [-0.1, 2.0, 3.0]])},
    'blocks_0': {
      'conv': {'kernel': jnp.array([[6.0, -7.0], [0.2, 0.3]])},
      'norm': {'scale': jnp.array([0.01, 1.0]), 'bias': jnp.zeros(2)},
    },
    'head': {
      'kernel': jnp.array([[9.0, 8.0, -0.4], [5.0, 0.6, 7.0]]),
      'bias': jnp.array([0.001, 0.0, 2.0]),
    },
  }


def kernels(tree):
  return (
    np.asarray(tree['stem']['kernel']),
    np.asarray(tree['blocks_0']['conv']['kernel']),
    np.asarray(tree['head']['kernel']),
  )


def zeros(tree):
  return [int((kernel == 0).sum()) for kernel in kernels(tree)]


# What is pruned.


def test_one_threshold_over_all_kernels():
  # 0.375 of 16 are 6: 0.1, 0.2, 0.3, 0.4, 0.5 and 0.6.
  found = pruning.prune(params(), 0.375)
  stem, block, head = kernels(found)
  np.testing.assert_array_equal(stem, np.float32([[0, -4, 1], [0, 2, 3]]))
  np.testing.assert_array_equal(block, np.float32([[6, -7], [0, 0]]))
  np.testing.assert_array_equal(head, np.float32([[9, 8, 0], [5, 0, 7]]))
  # The smallest numbers of all, which are no kernels', stay.
  before = params()
  chex.assert_trees_all_equal(
    (found['blocks_0']['norm'], found['head']['bias']),
    (before['blocks_0']['norm'], before['head']['bias']),
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(found, before)


def test_the_same_share_of_each_kernel():
  # Half of 6, of 4 and of 6.
  stem, block, head = kernels(pruning.prune(params(), 0.5, 'layer'))
  np.testing.assert_array_equal(stem, np.float32([[0, -4, 0], [0, 2, 3]]))
  np.testing.assert_array_equal(block, np.float32([[6, -7], [0, 0]]))
  np.testing.assert_array_equal(head, np.float32([[9, 8, 0], [0, 0, 7]]))


@pytest.mark.parametrize(
  'sparsity, count', [(0.0, 0), (0.3, 5), (0.9, 14), (0.99, 16)]
)
def test_the_count_is_exact_where_all_are_equal(sparsity, count):
  tree = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), params())
  found = pruning.prune(tree, sparsity)
  assert sum(zeros(found)) == count
  # The first ones go first, in the order of the parts' names.
  order = np.concatenate([k.reshape(-1) for k in (
    kernels(found)[1], kernels(found)[2], kernels(found)[0]
  )])  # fmt: skip
  np.testing.assert_array_equal(order == 0, np.arange(16) < count)


def test_zeros_go_first():
  once = pruning.prune(params(), 0.375)
  chex.assert_trees_all_equal(pruning.prune(once, 0.375), once)
  # A smaller share brings nothing back, and a larger one adds to them.
  chex.assert_trees_all_equal(pruning.prune(once, 0.25), once)
  more = pruning.prune(once, 0.5)
  assert sum(zeros(more)) == 8
  for before, after in zip(kernels(once), kernels(more), strict=True):
    assert (after[before == 0] == 0).all()


@pytest.mark.parametrize('scope', pruning.SCOPES)
def test_frozen_parts_are_left_out(scope):
  found = pruning.prune(params(), 0.5, scope, ('stem', 'head'))
  # Half of the four that learn.
  assert zeros(found) == [0, 2, 0]
  everything = ('stem', 'blocks_0', 'head')
  found = pruning.prune(params(), 0.5, scope, everything)
  chex.assert_trees_all_equal(found, params())


@pytest.mark.parametrize('sparsity', [-0.1, 1.0, 1.5, float('nan')])
def test_shares_that_do_not_exist(sparsity):
  with pytest.raises(UserError, match='at least 0 and less than 1'):
    pruning.prune(params(), sparsity)


def test_scopes_that_do_not_exist():
  with pytest.raises(UserError, match="prune_by 'all'.* global, layer"):
    pruning.prune(params(), 0.5, 'all')


# What the optimiser does.


def _trained(optimizer, tree, steps=20):
  """After steps of gradients that pull every number towards 0.9."""
  own = optimizer.init(tree)

  @jax.jit
  def step(tree, own):
    gradients = jax.tree.map(lambda x: x - 0.9, tree)
    updates, own = optimizer.update(gradients, own, tree)
    return optax.apply_updates(tree, updates), own

  for _ in range(steps):
    tree, own = step(tree, own)
  return tree, own


@pytest.mark.parametrize('rule', RULES)
def test_zeros_stay_zero(rule):
  start = pruning.prune(params(), 0.375)
  optimizer = optim.optimizer(RULES[rule], lambda _: RATE, keeps_zeros=True)
  found, _ = _trained(optimizer, start)
  for before, after in zip(kernels(start), kernels(found), strict=True):
    np.testing.assert_array_equal(after == 0, before == 0)
    # Exactly zero, and no -0.0 either.
    assert not np.signbit(after[before == 0]).any()
    assert (after[before != 0] != before[before != 0]).all()
  # A bias of zero is no pruned weight.
  assert float(found['head']['bias'][1]) > 0.1
  dense, _ = _trained(optim.optimizer(RULES[rule], lambda _: RATE), start)
  assert zeros(dense) == [0, 0, 0]


@pytest.mark.parametrize('rule', RULES)
def test_weights_that_are_left_learn_as_without_pruning(rule):
  start = pruning.prune(params(), 0.375)
  masked, plain = (
    _trained(
      optim.optimizer(RULES[rule], lambda _: RATE, keeps_zeros=keeps), start
    )[0]
    for keeps in (True, False)
  )
  for kept, wanted in zip(kernels(masked), kernels(plain), strict=True):
    np.testing.assert_allclose(kept[kept != 0], wanted[kept != 0], rtol=1e-5)


def test_masks_are_of_the_kernels_that_learn():
  start = pruning.prune(params(), 0.375)
  optimizer = optim.optimizer(
    RULES['sgd'], lambda _: RATE, ('stem',), keeps_zeros=True
  )
  own = optimizer.init(start)
  masks = [leaf for leaf in jax.tree.leaves(own) if leaf.dtype == bool]
  assert [mask.shape for mask in masks] == [(2, 2), (2, 3)]
  _, block, head = kernels(start)
  np.testing.assert_array_equal(masks[0], block != 0)
  np.testing.assert_array_equal(masks[1], head != 0)
  found, _ = _trained(optimizer, start)
  chex.assert_trees_all_equal(found['stem'], start['stem'])
  assert zeros(found)[1:] == zeros(start)[1:]


def test_without_zeros_to_keep_there_is_no_mask():
  own = optim.optimizer(RULES['sgd'], lambda _: RATE).init(params())
  assert not [leaf for leaf in jax.tree.leaves(own) if leaf.dtype == bool]


def test_the_momentum_of_a_zero_is_zero():
  start = pruning.prune(params(), 0.375)
  rule = RULES['sgd'].rule(lambda _: RATE)
  _, own = _trained(pruning.keep_zeros(rule), start)
  trace = own.inner[1][0].trace
  for kernel, momentum in zip(kernels(start), kernels(trace), strict=True):
    np.testing.assert_array_equal(momentum == 0, kernel == 0)


# Programs of the engine.

C, BATCH, MEMBERS = 2, 4, 2


def _optimizer():
  return optim.optimizer(RULES['sgd'], lambda _: 0.05, keeps_zeros=True)


def _begin(tiny, members, policy='fp32'):
  """Stacked states of members with other values, and other shares of zeros."""
  states = []
  for member in range(members):
    variables = jax.tree.map(
      lambda x, member=member: x * (1 + 0.1 * member), tiny.student_variables
    )
    own = pruning.prune(variables['params'], (member + 1) / 4)
    states.append(
      state.begin_phase(
        {state.STUDENT: variables | {'params': own}},
        {state.STUDENT: _optimizer()},
        precision.policy(policy),
      )
    )
  return population.stack(states)


def _masks(states):
  return [
    mask for mask in jax.tree.leaves(states.student.opt_state)
    if mask.dtype == bool
  ]  # fmt: skip


def _member_zeros(states):
  """Where each kernel's weights are zero, [members, …]."""
  leaves = jax.tree_util.tree_leaves_with_path(states.student.params)
  return [
    np.asarray(leaf) == 0 for path, leaf in leaves if path[-1].key == 'kernel'
  ]


def _assert_kept(first, last):
  """The same zeros, which the masks tell; all else has moved."""
  before, after = _member_zeros(first), _member_zeros(last)
  assert len(before) == len(_masks(last))
  for old, new, mask in zip(before, after, _masks(last), strict=True):
    np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(mask, ~old)
  shares = sum(x.reshape(len(x), -1).sum(1) for x in after)
  assert len(set(shares.tolist())) == len(shares)
  moved = [
    np.asarray(a != b) for a, b in zip(
      jax.tree.leaves(first.student.params),
      jax.tree.leaves(last.student.params),
      strict=True,
    )
  ]  # fmt: skip
  assert all(x.any() for x in moved)


@pytest.mark.parametrize(
  'form', ['one by one', pytest.param('all at once', marks=pytest.mark.slow)]
)
def test_every_member_keeps_its_own_zeros(tiny, form, monkeypatch):
  monkeypatch.setattr(population, 'on_cpu', lambda: form == 'one by one')
  plan = tiny.plan(_optimizer(), teacher=None)
  program = jax.jit(population.train_program(plan, MEMBERS))
  first = _begin(tiny, MEMBERS)
  last, _ = program(
    first,
    None,
    tiny.superbatch(C, BATCH),
    population.stack([scratch(), scratch()]),
    population.stack([jax.random.key(1)]),
  )
  _assert_kept(first, last)


def test_a_packed_state_keeps_its_zeros(tiny):
  first = _begin(tiny, 1)
  with layers.plain_forms():
    packed = packing.pack(first)
    chex.assert_trees_all_equal(packing.unpacked(packed), first)
    plan = tiny.plan(_optimizer(), teacher=None)
    last, _ = jax.jit(population.train_program(plan))(
      packed,
      None,
      tiny.superbatch(C, BATCH),
      population.stack([scratch()]),
      population.stack([jax.random.key(1)]),
    )
    assert isinstance(last, packing.Packed)
  _assert_kept(first, packing.unpacked(last))


def test_a_skipped_step_keeps_zeros_and_masks(tiny):
  _, student = tiny.networks(jnp.float16)
  plan = tiny.plan(_optimizer(), teacher=None, student=student)
  program = functools.partial(
    jax.jit(population.train_program(plan)),
    teacher=None,
    superbatch=tiny.superbatch(1, BATCH),
    objectives=population.stack([scratch()]),
    keys=population.stack([jax.random.key(1)]),
  )
  first = _begin(tiny, 1, 'fp16')
  own = first.student
  # So large a scale overflows.
  scale = own.loss_scale.replace(scale=np.full(1, 2.0**40, np.float32))
  learners = {state.STUDENT: own.replace(loss_scale=scale)}
  skipped, _ = program(first.replace(learners=learners))
  assert int(skipped.skipped[0]) == 1
  chex.assert_trees_all_equal(skipped.student.params, own.params)
  chex.assert_trees_all_equal(skipped.student.opt_state, own.opt_state)
  last, _ = program(first)
  assert int(last.skipped[0]) == 0
  _assert_kept(first, last)
