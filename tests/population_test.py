"""Students trained together against the same students trained alone."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import one_member
import pytest
from ml_collections import ConfigDict

from experiments import recipes
from experiments.configs import demo
from lit_jax import objectives
from lit_jax.data.feed import Superbatch
from lit_jax.errors import UserError
from lit_jax.objectives import Objective
from lit_jax.training import (
  devices,
  optim,
  population,
  precision,
  state,
  steps,
)

C, BATCH, MEMBERS = 2, 4, 3
OPTIMIZER = optim.optimizer(
  optim.Sgd(0.9, 1e-3), lambda step: 0.05 / (1 + step)
)
# They differ in each of the three, and one has no soft labels.
OBJECTIVES = (
  Objective(0.3, 0.6, 3.0),
  Objective(1.0, 0.9, 3.0),
  Objective(0.3, 0.1, 1.5),
)
# Of float32 sums in another order, over two steps.
close = functools.partial(chex.assert_trees_all_close, rtol=2e-4, atol=2e-6)


def keys():
  return [jax.random.key(number) for number in (42, 43, 44)]


def begin(tiny, policy='fp32'):
  """States of other initial values for every member."""
  states = []
  for member in range(MEMBERS):
    variables = jax.tree.map(
      lambda x, member=member: x * (1 + 0.1 * member), tiny.student_variables
    )
    states.append(
      state.begin_phase(
        {state.STUDENT: variables},
        {state.STUDENT: OPTIMIZER},
        precision.policy(policy),
      )
    )
  return states


def make_plan(tiny, axis_name=None, dtype=jnp.float32):
  teacher, student = tiny.networks(dtype)
  return tiny.plan(
    OPTIMIZER, teacher=teacher, student=student, axis_name=axis_name
  )


# The members' objectives, of one structure.
STACKED = population.stack(population.common_terms(OBJECTIVES))


def alone(tiny, superbatches, member_keys, policy='fp32', **networks):
  """Each member by the plain program."""
  found = []
  for member, own in enumerate(begin(tiny, policy)):
    program = one_member.train_program(make_plan(tiny, **networks), jax.jit)
    found.append(
      program(
        own,
        tiny.teacher_variables,
        superbatches[member],
        OBJECTIVES[member],
        member_keys[member],
      )
    )
  return found


def one_order_each(superbatches):
  return Superbatch(
    np.concatenate([s.inputs for s in superbatches]),
    np.concatenate([s.labels for s in superbatches]),
    superbatches[0].count,
  )


def compare(states, metrics, wanted, close=close):
  for member, (after, values) in enumerate(wanted):
    close(jax.tree.map(lambda x, m=member: x[m], states), after)
    found = {name: metrics[name][:, member] for name in values}
    close(found, values)
  # Not all alike: members were not mixed up.
  assert len({float(m['loss'][0]) for _, m in wanted}) == MEMBERS


@pytest.fixture(
  params=['one by one', pytest.param('all at once', marks=pytest.mark.slow)]
)
def form(request, monkeypatch):
  """How the members run: as on a CPU, and as elsewhere."""
  one_by_one = request.param == 'one by one'
  monkeypatch.setattr(population, 'on_cpu', lambda: one_by_one)
  return request.param


@pytest.mark.slow
def test_members_on_shared_data_are_those_trained_alone(tiny, form):
  superbatch = tiny.superbatch(C, BATCH)
  program = jax.jit(population.train_program(make_plan(tiny), MEMBERS))
  states, metrics = program(
    population.stack(begin(tiny)),
    tiny.teacher_variables,
    superbatch,
    STACKED,
    population.stack(keys()[:1]),
  )
  assert metrics['loss'].shape == (C, MEMBERS)
  wanted = alone(tiny, [superbatch] * MEMBERS, keys()[:1] * MEMBERS)
  compare(states, metrics, wanted)


@pytest.mark.slow
def test_members_on_their_own_data_are_those_trained_alone(tiny, form):
  superbatches = [tiny.superbatch(C, BATCH, seed=s) for s in range(MEMBERS)]
  program = jax.jit(
    population.train_program(make_plan(tiny), MEMBERS, orders=MEMBERS)
  )
  stacked = one_order_each(superbatches)
  states, metrics = program(
    population.stack(begin(tiny)),
    tiny.teacher_variables,
    stacked,
    STACKED,
    population.stack(keys()),
  )
  assert metrics['loss'].shape == (C, MEMBERS)
  compare(states, metrics, alone(tiny, superbatches, keys()))


@pytest.mark.slow
@pytest.mark.parametrize('shared', [True, False])
def test_over_two_devices(tiny, shared, form):
  superbatches = [tiny.superbatch(C, BATCH, seed=s) for s in range(MEMBERS)]
  member_keys = keys()
  if shared:
    superbatches, member_keys = superbatches[:1], member_keys[:1]
  stacked = one_order_each(superbatches)
  plan = make_plan(tiny, devices.AXIS)
  program = devices.map_train(
    population.train_program(plan, MEMBERS, len(superbatches))
  )
  states, metrics = program(
    devices.replicate(population.stack(begin(tiny))),
    devices.replicate(tiny.teacher_variables),
    devices.shard_superbatch(stacked),
    STACKED,
    population.stack(member_keys),
  )
  repeat = MEMBERS if shared else 1
  wanted = alone(tiny, superbatches * repeat, member_keys * repeat)
  compare(states, metrics, wanted)


@pytest.mark.slow
def test_float16_scales_of_each_member(tiny, form):
  superbatch = tiny.superbatch(C, BATCH)
  plan = make_plan(tiny, dtype=jnp.float16)
  program = jax.jit(population.train_program(plan, MEMBERS))
  started = begin(tiny, 'fp16')
  # One that overflows, and must not hold the others up.
  student = started[1].student
  huge = student.loss_scale.replace(scale=jnp.float32(2.0**40))
  student = student.replace(loss_scale=huge)
  started[1] = started[1].replace(learners={'student': student})
  states, metrics = program(
    population.stack(started),
    tiny.teacher_variables,
    superbatch,
    STACKED,
    population.stack(keys()[:1]),
  )
  np.testing.assert_array_equal(states.skipped, [0, C, 0])
  np.testing.assert_array_equal(metrics['skipped'][:, 1], 1)
  moved = [
    float(
      jnp.abs(
        states.student.params['head']['dense']['kernel'][i]
        - start.student.params['head']['dense']['kernel']
      ).max()
    )
    for i, start in enumerate(started)
  ]
  assert moved[1] == 0 and min(moved[0], moved[2]) > 0


@pytest.mark.parametrize('shared, rows', [(True, [C * BATCH]), (False, None)])
def test_the_teacher_runs_once_on_shared_data(tiny, monkeypatch, shared, rows):
  seen = []
  infer = steps.infer

  def counting(net, variables, x):
    seen.append(x.shape[0])
    return infer(net, variables, x)

  monkeypatch.setattr(steps, 'infer', counting)
  plan = make_plan(tiny)
  # Members unrolled, so that each one's pass is seen.
  monkeypatch.setattr(
    population,
    'over_members',
    lambda function: (
      lambda *stacked: jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(
          function(*jax.tree.map(lambda x, i=i: x[i], stacked))
          for i in range(MEMBERS)
        ),
      )
    ),
  )
  orders = 1 if shared else MEMBERS
  jax.eval_shape(
    population.train_program(plan, MEMBERS, orders),
    population.stack(begin(tiny)),
    tiny.teacher_variables,
    one_order_each([tiny.superbatch(C, BATCH)] * orders),
    STACKED,
    population.stack(keys()[:orders]),
  )
  assert seen == (rows or [C * BATCH] * MEMBERS)


def test_a_lone_member_has_an_axis():
  tree = {'a': jnp.arange(3)}
  (found,) = population.unstack(population.stack([tree]), 1)
  assert population.stack([tree])['a'].shape == (1, 3)
  chex.assert_trees_all_equal(found, tree)


def test_unstack_is_the_inverse_of_stack():
  trees = [{'a': jnp.full((2, 3), i)} for i in range(4)]
  chex.assert_trees_all_equal(
    population.unstack(population.stack(trees), 4), tuple(trees)
  )


@pytest.mark.parametrize(
  'pairs, soft, irs',
  [
    ([(0.9, 1.0), (0.9, 0.0)], True, True),
    ([(1.0, 0.5), (0.9, 0.5)], True, True),
    ([(0.9, 1.0), (0.5, 1.0)], True, False),
    ([(1.0, 1.0), (1.0, 1.0)], False, False),
    ([(0.9, 0.0), (0.8, 0.0)], False, True),
  ],
)
def test_common_objective_computes_what_any_member_needs(pairs, soft, irs):
  common = population.common_terms(
    [Objective(alpha, beta, 2.0) for alpha, beta in pairs]
  )
  assert len({own.terms for own in common}) == 1
  assert [(own.alpha, own.beta) for own in common] == pairs
  first = common[0]
  assert (first.computes('soft'), first.computes('ir')) == (soft, irs)


def test_members_cannot_differ_in_what_is_compiled():
  with pytest.raises(UserError, match='α, β and τ alone'):
    population.common_terms(
      [Objective(0.9, 0.5, 2.0), Objective(0.9, 0.5, 2.0, ir_loss='l1')]
    )


def test_a_member_without_a_second_pass_cannot_follow_it():
  both = [
    Objective(0.9, beta, 2.0, running_statistics='both') for beta in (0.5, 1.0)
  ]
  with pytest.raises(UserError, match='beta 1'):
    population.common_terms(both)
  population.common_terms(both[:1] * 2)


# Configurations.


def config(method='lit', data_seed=-1, **lists) -> ConfigDict:
  result = demo.get_config()
  result.method = method
  result.data_seed = data_seed
  result.population.update(lists)
  return result


def members(settings):
  (student,) = recipes.compression(settings).students
  method = student.method
  return method.population


def test_every_combination_is_a_member():
  found = members(config(seed='0,1', beta='0.25,0.5'))
  assert [m.name for m in found] == [
    'lit-seed0-beta0.25',
    'lit-seed0-beta0.5',
    'lit-seed1-beta0.25',
    'lit-seed1-beta0.5',
  ]
  assert [m.seed for m in found] == [0, 0, 1, 1]
  assert [m.objectives[0].beta for m in found] == [0.25, 0.5] * 2
  # Fine-tuning compares no IRs, and keeps its own.
  assert {m.objectives[1].beta for m in found} == {1.0}


def test_alpha_and_temperature_are_of_every_phase_with_soft_labels():
  (found,) = members(config(alpha='0.5', temperature='2'))
  assert found.name == 'lit-alpha0.5-temperature2.0'
  assert {o.alpha for o in found.objectives} == {0.5}
  assert {o.temperature for o in found.objectives} == {2.0}


def test_data_order_is_shared_where_the_configuration_says_so():
  own = members(config(seed='0,1'))
  assert [m.data_seed for m in own] == [0, 1]
  shared = members(config(seed='0,1', data_seed=7))
  assert [m.data_seed for m in shared] == [7, 7]


def test_soft_labels_are_those_under_the_members_beta():
  # The hint's own beta is 0, without soft labels.
  settings = config('fitnets_two_stage', beta='0.5', alpha='0.7')
  (found,) = members(settings)
  assert (found.objectives[0].beta, found.objectives[0].alpha) == (0.5, 0.7)


def test_names_are_exact():
  found = members(config(seed='12345678,12345679', beta='0.1234567'))
  assert [m.name for m in found] == [
    'lit-seed12345678-beta0.1234567',
    'lit-seed12345679-beta0.1234567',
  ]


def test_without_lists_there_is_no_population():
  settings = config()
  assert members(settings) == ()
  assert recipes.row_names(settings) == ('lit',)
  assert recipes.row_names(config(seed='3,4')) == ('lit-seed3', 'lit-seed4')


@pytest.mark.parametrize(
  'lists, words',
  [
    ({'seed': '0,x'}, "population.seed is '0,x'; write numbers"),
    ({'seed': '0,1.5'}, "population.seed is '0,1.5'; write numbers"),
    ({'beta': '0.5,.50'}, "population.beta '0.5,.50' repeats a value"),
    ({'beta': '0.5,'}, 'empty or a repeated name'),
    ({'method': 'kd', 'beta': '0.5,0.6'}, 'members of kd that are alike'),
    ({'method': 'scratch', 'alpha': '0.5,0.6'}, 'of scratch that are alike'),
    ({'alpha': '1,0.5', 'temperature': '2,4', 'method': 'kd'}, 'alike'),
  ],
)
def test_lists_that_make_no_sense(lists, words):
  with pytest.raises(UserError, match=words.replace('.', r'\.')):
    recipes.compression(config(**lists))


def test_objectives_are_data_of_one_structure():
  # So that a population's stacked objective is an argument like one's own.
  stacked = STACKED
  assert isinstance(stacked, objectives.Objective)
  np.testing.assert_allclose(stacked.beta, [0.6, 0.9, 0.1], rtol=1e-6)
