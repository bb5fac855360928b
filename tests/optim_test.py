"""Schedules and the optimiser by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lit_jax import blocks
from lit_jax.errors import UserError
from lit_jax.training import optim

# Frozen and learning parts of shapes that tell them apart.
PARAMS = {
  'stem': {'w': jnp.ones((7,))},
  'blocks_0': {'a': {'w': jnp.ones((5,))}, 'b': {'w': jnp.ones((3,))}},
  'head': {'w': jnp.ones((2,))},
}


def sgd(rate, momentum, weight_decay, frozen=()):
  return optim.optimizer(optim.Sgd(momentum, weight_decay), rate, frozen)


def rates(schedule, *steps):
  return np.array([schedule(s) for s in steps])


def test_steps_schedule():
  schedule = optim.schedule('steps', 0.1, 10, 4, milestones=(2, 3))
  # Epochs 0 and 1 at 0.1; epoch 2 begins at step 20, epoch 3 at step 30.
  np.testing.assert_allclose(
    rates(schedule, 0, 19, 20, 29, 30, 39),
    [0.1, 0.1, 0.01, 0.01, 0.001, 0.001],
    rtol=1e-5,
  )


def test_steps_schedule_of_another_decay():
  schedule = optim.schedule('steps', 0.8, 5, 2, milestones=(1,), decay=0.5)
  np.testing.assert_allclose(rates(schedule, 4, 5), [0.8, 0.4], rtol=1e-6)


def test_cosine_schedule():
  schedule = optim.schedule('cosine', 0.2, 10, 4)
  # 0.1 (1 + cos(π s / 40)): cos is 1, √½, 0 and -1.
  np.testing.assert_allclose(
    rates(schedule, 0, 10, 20, 40),
    [0.2, 0.1 * (1 + np.sqrt(0.5)), 0.1, 0],
    rtol=1e-5,
    atol=1e-8,
  )


def test_warm_up_before_steps():
  schedule = optim.schedule(
    'steps', 0.1, 10, 4, milestones=(2,), warmup_epochs=0.5
  )
  # From 0 in five equal rises; the milestone stays at step 20.
  np.testing.assert_allclose(
    rates(schedule, 0, 1, 4, 5, 19, 20),
    [0, 0.02, 0.08, 0.1, 0.1, 0.01],
    rtol=1e-5,
  )


def test_warm_up_before_cosine():
  schedule = optim.schedule('cosine', 0.2, 10, 4, warmup_epochs=2)
  # The cosine takes the 20 steps that are left and still ends at step 40.
  np.testing.assert_allclose(
    rates(schedule, 0, 10, 20, 30, 40),
    [0, 0.1, 0.2, 0.1, 0],
    rtol=1e-5,
    atol=1e-8,
  )


@pytest.mark.parametrize('warmup', [0.0, 1.0])
def test_linear_schedule_falls_to_zero_after_its_milestone(warmup):
  rate = optim.schedule(
    'linear', 0.1, 10, 4, milestones=(2,), warmup_epochs=warmup
  )
  found = [float(rate(step)) for step in (10, 20, 30, 39, 40)]
  np.testing.assert_allclose(found, [0.1, 0.1, 0.05, 0.005, 0], atol=1e-7)
  assert float(rate(5)) == pytest.approx(0.05 if warmup else 0.1)


def test_schedule_refuses_other_kinds():
  with pytest.raises(UserError, match=r"'poly'.*steps, cosine, linear"):
    optim.schedule('poly', 0.1, 10, 4)


def test_labels_cover_every_parameter(tiny):
  params = blocks.shapes(tiny.student)['params']
  found = optim.labels(params, ('stem', 'blocks_1'))
  chex.assert_trees_all_equal_structs(found, params)
  by_part = {p: set(jax.tree.leaves(found[p])) for p in found}
  assert by_part == {
    'stem': {'frozen'},
    'blocks_0': {'learns'},
    'blocks_1': {'frozen'},
    'blocks_2': {'learns'},
    'head': {'learns'},
  }


def test_labels_refuse_unknown_parts():
  with pytest.raises(UserError, match=r"'blocks_9'.*blocks_0, head, stem"):
    optim.labels(PARAMS, ('blocks_9',))
  with pytest.raises(UserError, match='blocks_9'):
    sgd(lambda _: 0.1, 0.9, 0.0, ('blocks_9',)).init(PARAMS)


def test_weight_decay_enters_the_momentum_like_pytorch():
  optimizer = sgd(lambda _: 0.1, 0.9, 0.1)
  params = {'head': {'w': jnp.array([1.0])}}
  grads = {'head': {'w': jnp.array([0.5])}}
  state = optimizer.init(params)
  # Gradient 0.5 + 0.1 x 1 = 0.6, momentum 0.6: 1 - 0.06 = 0.94. Then
  # 0.5 + 0.094 = 0.594, momentum 0.54 + 0.594 = 1.134: 0.94 - 0.1134.
  for wanted in (0.94, 0.8266):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(
      params, {'head': {'w': jnp.array([wanted])}}, rtol=1e-6
    )


def test_the_schedule_counts_steps():
  optimizer = sgd(lambda step: 1.0 + step, 0.0, 0.0)
  params, grads = {'head': jnp.array(0.0)}, {'head': jnp.array(1.0)}
  state, found = optimizer.init(params), []
  for _ in range(3):
    updates, state = optimizer.update(grads, state, params)
    found.append(float(updates['head']))
  assert found == [-1, -2, -3]


def test_frozen_parts_stay_and_have_no_state():
  optimizer = sgd(lambda _: 0.1, 0.9, 0.1, ('stem', 'blocks_0'))
  state = optimizer.init(PARAMS)
  sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert sizes == [2]  # the head's momentum
  grads = jax.tree.map(lambda p: 10 * p, PARAMS)
  updates, _ = optimizer.update(grads, state, PARAMS)
  after = optax.apply_updates(PARAMS, updates)
  for part in ('stem', 'blocks_0'):
    chex.assert_trees_all_equal(after[part], PARAMS[part])
  # 1 - 0.1 x (10 + 0.1 x 1).
  chex.assert_trees_all_close(
    after['head'], {'w': jnp.full(2, -0.01)}, atol=1e-6
  )


def test_without_frozen_parts_all_have_momentum():
  state = sgd(lambda _: 0.1, 0.9, 0.1).init(PARAMS)
  sizes = sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
  assert sizes == [2, 3, 5, 7]


def test_adam_by_hand():
  optimizer = optim.optimizer(optim.Adam(0.5, 0.75), lambda _: 0.1, ('stem',))
  params = {'stem': jnp.array([1.0]), 'head': jnp.array([1.0])}
  state = optimizer.init(params)
  # Gradient 2: moments 1 and 1; corrected by 1 - .5 and 1 - .75 they are 2 and
  # 4, and the step is .1 x 2 / (2 + 1e-8).
  grads = {'stem': jnp.array([2.0]), 'head': jnp.array([2.0])}
  updates, state = optimizer.update(grads, state, params)
  chex.assert_trees_all_close(updates['head'], jnp.array([-0.1]), rtol=1e-6)
  # Gradient -1 next: moments 0 and 1, so that it does not move.
  grads = {'stem': jnp.array([2.0]), 'head': jnp.array([-1.0])}
  updates, _ = optimizer.update(grads, state, params)
  chex.assert_trees_all_close(updates['head'], jnp.array([0.0]), atol=1e-7)
  chex.assert_trees_all_equal(updates['stem'], jnp.array([0.0]))
