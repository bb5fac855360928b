"""A state packed for accelerators, and the steps that it takes there."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax import layers, objectives, passes
from lit_jax.objectives import Objective
from lit_jax.training import (
  devices,
  optim,
  packing,
  population,
  precision,
  state,
  steps,
)

C, BATCH = 3, 8
KEY = jax.random.key(42)
LIT = Objective(0.3, 0.6, 3.0)
RULES = {'sgd': optim.Sgd(0.9, 1e-3), 'adam': optim.Adam(epsilon=1e-3)}


def optimizer(rule='sgd', frozen=()):
  return optim.optimizer(RULES[rule], lambda step: 0.05 / (1 + step), frozen)


def begin(tiny, rule='sgd', policy='fp32', members=1, frozen=()):
  own = state.begin_phase(
    {state.STUDENT: tiny.student_variables},
    {state.STUDENT: optimizer(rule, frozen)},
    precision.policy(policy),
  )
  return population.stack(
    [
      jax.tree.map(lambda x, m=m: x + m if x.ndim else x, own)
      for m in range(members)
    ]
  )


@pytest.mark.parametrize(
  'rule, policy, members, frozen',
  [
    ('sgd', 'fp32', 1, ()),
    ('adam', 'fp16', 3, ()),
    ('sgd', 'bf16', 2, ('stem', 'head')),
  ],
)
def test_unpack_is_the_inverse(tiny, rule, policy, members, frozen):
  start = begin(tiny, rule, policy, members, frozen)
  with layers.plain_forms():
    packed = packing.pack(start)
  count = len(jax.tree.leaves(start))
  assert len(jax.tree.leaves(packed)) < count / 3
  assert {v.shape[0] for v in packed.vectors} == {members}
  assert packed.step.shape == (members,)
  back = packing.unpacked(packed)
  chex.assert_trees_all_equal_shapes_and_dtypes(back, start)
  chex.assert_trees_all_equal(back, start)
  again = packing.repack(back, packed)
  chex.assert_trees_all_equal(again, packed)


def test_on_a_cpu_nothing_is_packed(tiny):
  start = begin(tiny)
  assert packing.pack(start) is start
  assert packing.unpack(start) is start
  assert packing.repack(start, start) is start


def test_kernels_stand_as_cudnn_reads_them(tiny):
  start = begin(tiny)
  kernel = start.student.params['stem']['Conv_0']['kernel'][0]
  with layers.plain_forms():
    vectors = packing.pack(start).vectors
  wanted = np.transpose(kernel, (3, 0, 1, 2)).reshape(-1)
  found = [
    v
    for vector in vectors
    if vector.shape[-1] >= wanted.size
    for v in np.lib.stride_tricks.sliding_window_view(vector[0], wanted.size)
  ]
  assert any(np.array_equal(v, wanted) for v in found)


# Steps in the forms for accelerators, all of them at once: a packed state, a
# folded teacher, norms with their ReLU, and both batches of a block in one.


def accelerated(tiny, plan, start, superbatch, wrap=jax.jit):
  """The state and the metrics after a call; in the CPU's own layout."""
  with layers.plain_forms():
    ready = steps.ready_teacher(plan, tiny.teacher_variables)
    program = wrap(population.train_program(plan))
    packed, metrics = program(
      packing.pack(start),
      ready,
      superbatch,
      population.stack([LIT]),
      population.stack([KEY]),
    )
  assert isinstance(packed, packing.Packed)
  return packing.unpacked(packed), metrics


def plain(tiny, plan, start, superbatch):
  program = jax.jit(population.train_program(plan))
  return program(
    start,
    tiny.teacher_variables,
    superbatch,
    population.stack([LIT]),
    population.stack([KEY]),
  )


@pytest.fixture
def merged(monkeypatch):
  """Grows with every pass that is traced as one."""
  found, own = [], passes._in_one

  def counting(*args):
    found.append(args)
    return own(*args)

  monkeypatch.setattr(passes, '_in_one', counting)
  return found


@pytest.mark.slow
@pytest.mark.parametrize('devices_', [1, 2])
def test_steps_are_those_of_the_plain_forms(tiny, merged, devices_):
  plan = tiny.plan(optimizer())
  superbatch = tiny.superbatch(C, BATCH)
  wanted = plain(tiny, plan, begin(tiny), superbatch)
  assert not merged
  wrap = jax.jit
  if devices_ == 2:
    plan = plan._replace(axis_name=devices.AXIS)
    wrap, superbatch = devices.map_train, devices.shard_superbatch(superbatch)
  found = accelerated(tiny, plan, begin(tiny), superbatch, wrap)
  assert merged
  chex.assert_trees_all_equal_shapes_and_dtypes(found, wanted)
  chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_float16_skips_the_same_steps(tiny, merged):
  teacher, student = tiny.networks(jnp.float16)
  plan = tiny.plan(optimizer(), teacher=teacher, student=student)
  start, superbatch = begin(tiny, policy='fp16'), tiny.superbatch(C, BATCH)
  # Beyond float16's largest number; halved after every step.
  own = start.student.loss_scale.replace(scale=np.float32([2.0**40]))
  start = start.replace(
    learners={'student': start.student.replace(loss_scale=own)}
  )
  after, metrics = accelerated(tiny, plan, start, superbatch)
  assert merged
  wanted, own_metrics = plain(tiny, plan, start, superbatch)
  for found in (after, wanted):
    assert (found.step, found.skipped) == (C, C)
    assert found.student.loss_scale.scale == 2.0 ** (40 - C)
    chex.assert_trees_all_equal(found.student.params, start.student.params)
  np.testing.assert_array_equal(metrics['skipped'], own_metrics['skipped'])
  np.testing.assert_allclose(metrics['loss'], own_metrics['loss'], rtol=5e-3)


@pytest.mark.slow
def test_whose_statistics_follow_whom(tiny, merged):
  plan = tiny.plan(optimizer())
  superbatch = tiny.superbatch(1, BATCH)
  found = []
  for follow in objectives.RUNNING_STATISTICS:
    own = LIT.replace(running_statistics=follow)
    with layers.plain_forms():
      program = jax.jit(population.train_program(plan))
      after, _ = program(
        begin(tiny),
        tiny.teacher_variables,
        superbatch,
        population.stack([own]),
        population.stack([KEY]),
      )
    found.append(after.student.batch_stats)
  student, both = found
  chex.assert_trees_all_equal(student['blocks_0'], both['blocks_0'])
  for name in ('blocks_1', 'blocks_2'):
    for a, b in zip(
      *map(jax.tree.leaves, (student[name], both[name])), strict=True
    ):
      assert float(abs(a - b).max()) > 1e-4, name
