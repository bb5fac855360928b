"""How a student begins: copied parts, and a phase's first state."""

import chex
import jax
import jax.numpy as jnp
import pytest

from lit_jax import blocks
from lit_jax.errors import UserError
from lit_jax.training import optim, precision, state

# The tiny pair's equal parts; its blocks are of different depth.
SAME = ('stem', 'head')


def test_copy_parts_takes_parameters_and_statistics(tiny):
  source, target = tiny.teacher_variables, tiny.student_variables
  found = state.copy_parts(source, target, SAME)
  chex.assert_trees_all_equal_shapes(found, target)
  for part in ('stem', 'head', 'blocks_0', 'blocks_1', 'blocks_2'):
    wanted = source if part in SAME else target
    for collection in ('params', 'batch_stats'):
      # The head has no statistics.
      chex.assert_trees_all_equal(
        found[collection].get(part), wanted[collection].get(part)
      )
  assert 'head' not in found['batch_stats']


def test_copy_parts_leaves_its_arguments_alone(tiny):
  target = {c: dict(tree) for c, tree in tiny.student_variables.items()}
  before = {c: dict(tree) for c, tree in target.items()}
  state.copy_parts(tiny.teacher_variables, target, SAME)
  chex.assert_trees_all_equal(target, before)


@pytest.mark.parametrize(
  ('part', 'words'),
  [
    # The teacher's block has one more layer.
    ('blocks_0', "'blocks_0'.*other layers"),
    ('blocks_7', "'blocks_7'.*blocks_0, blocks_1, blocks_2, head, stem"),
  ],
)
def test_copy_parts_refuses(tiny, part, words):
  with pytest.raises(UserError, match=words):
    state.copy_parts(
      tiny.teacher_variables, tiny.student_variables, ('stem', part)
    )


def test_copy_parts_refuses_another_width(tiny):
  # The same layers, with one more class.
  wide = {c: dict(tree) for c, tree in tiny.teacher_variables.items()}
  wide['params']['head'] = jax.tree.map(
    lambda x: jnp.zeros((*x.shape[:-1], x.shape[-1] + 1)),
    wide['params']['head'],
  )
  with pytest.raises(UserError, match="'head'"):
    state.copy_parts(wide, tiny.student_variables, ('head',))


@pytest.fixture(scope='module')
def short(tiny):
  """Stem and head alone: drawing initial values takes long to compile."""
  net = tiny.student
  return blocks.BlockNet(net.stem, (), net.head, net.example)


def test_copy_parts_into_a_fresh_network(tiny, short):
  fresh = blocks.init(short, jax.random.key(3))
  teacher = tiny.teacher_variables
  copied = state.copy_parts(teacher, fresh, ('stem',))
  chex.assert_trees_all_equal(
    copied,
    {
      'params': fresh['params'] | {'stem': teacher['params']['stem']},
      'batch_stats': {'stem': teacher['batch_stats']['stem']},
    },
  )


def begin(variables, precision_name):
  optimizer = optim.optimizer(optim.Sgd(0.9, 0.0), lambda _: 0.1)
  return state.begin_phase(
    {state.STUDENT: variables},
    {state.STUDENT: optimizer},
    precision.policy(precision_name),
  )


def test_begin_phase_of_several_learners():
  learners = {
    name: {'params': {'w': jnp.full(2, value)}, 'batch_stats': {}}
    for name, value in (('student', 1.0), ('judge', 2.0))
  }
  rates = {'student': lambda _: 0.1, 'judge': lambda _: 0.2}
  found = state.begin_phase(
    learners,
    {name: optim.optimizer(optim.Adam(), rate) for name, rate in rates.items()},
    precision.policy('fp32'),
  )
  chex.assert_trees_all_equal(found.variables, learners)
  assert found.step == 0
  assert found.student is found.learners['student']


@pytest.mark.parametrize('name', ['fp32', 'bf16', 'fp16'])
def test_begin_phase(tiny, name):
  variables = tiny.student_variables
  found = begin(variables, name)
  chex.assert_trees_all_equal(found.variables, {'student': variables})
  chex.assert_trees_all_equal_dtypes(found.variables, {'student': variables})
  assert (found.step, found.skipped) == (0, 0)
  assert found.step.dtype == found.skipped.dtype == jnp.int32
  momenta = [m for m in jax.tree.leaves(found.student.opt_state) if m.ndim]
  assert len(momenta) == len(jax.tree.leaves(variables['params']))
  assert not any(bool(m.any()) for m in momenta)
  if name == 'fp16':
    assert found.student.loss_scale.scale == 2**16
  else:
    assert found.student.loss_scale is None


def test_begin_phase_copies(tiny):
  # A program that donates the state must not destroy what it was made of.
  variables = jax.tree.map(jnp.copy, tiny.student_variables)
  found = begin(variables, 'fp32')
  for leaf in jax.tree.leaves(found.variables):
    leaf.delete()
  chex.assert_trees_all_equal(variables, tiny.student_variables)


def test_precision_refuses_other_names():
  with pytest.raises(UserError, match=r"'fp8'.*fp32, bf16, fp16"):
    precision.policy('fp8')
