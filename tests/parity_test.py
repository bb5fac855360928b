"""ResNet, ResNeXt, VDCNN and the LIT loss against numbers from PyTorch.

The reference (fixtures/parity.npz, made by fixtures/make_torch_fixtures.py) is
in float64, so what is seen here is the rounding of this side's float32: 6e-8 a
sum, about 1e-6 of a tensor's scale after the layers of a network, and twice
that in gradients, where batch norm subtracts nearly equal numbers. The
tolerances are relative to the scale of each tensor and leave a factor of ten
for sums in another order on other machines. Real mistakes are far outside: an
unbiased variance alone is off by 3 % in the last block.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import one_member
import optax
import pytest
from fixtures import weights
from flax import traverse_util

from lit_jax import blocks, models
from lit_jax.data.feed import Superbatch
from lit_jax.data.preprocess import ImagePreprocess, TextPreprocess
from lit_jax.objectives import Objective, scratch
from lit_jax.tasks import Classify
from lit_jax.training import optim, precision, state, task

FORWARD = 1e-5
BACKWARD = 2e-5
# Steps move weights of order 1 by about 1e-2; their rounding counts for more.
MOVED = 1e-4
# Most of the time goes into compilation; these programs run but once.
COMPILER = {'xla_backend_optimization_level': 0}
FROZEN = ('stem', 'head')
IMAGES = ImagePreprocess(weights.MEAN, weights.STD, crop=False, flip=False)


@pytest.fixture(autouse=True)
def _full_float32():
  # Some accelerators multiply float32 with shorter mantissas unless told.
  with jax.default_matmul_precision('highest'):
    yield


@functools.cache
def _stored():
  path = pathlib.Path(__file__).parent / 'fixtures' / 'parity.npz'
  with np.load(path) as f:
    return dict(f)


def _seed(case):
  return int(_stored()[f'{case}/seed'])


def _network(name):
  shape = weights.TEXT_SHAPE if weights.is_text(name) else weights.IMAGE_SHAPE
  fitting = {'classes': weights.CLASSES, 'input_shape': shape}
  return models.build(weights.NETWORKS[name] | fitting)


def _preprocess(name):
  return TextPreprocess() if weights.is_text(name) else IMAGES


def _variables(net, seed, role=weights.STUDENT):
  shapes = {
    path: leaf.shape for path, leaf in _flat(blocks.shapes(net)).items()
  }
  arrays = weights.draw(shapes, seed, role)
  return traverse_util.unflatten_dict(
    {path: jnp.asarray(array) for path, array in arrays.items()}, sep='/'
  )


def _flat(tree: Any) -> dict[str, Any]:
  return dict(traverse_util.flatten_dict(tree, sep='/'))


def _superbatch(name, count=1):
  """Of a network that has a seed, a LIT case, or the case 'sgd'."""
  inputs, labels = weights.examples(name, _seed(name), count)
  # Of one order.
  return Superbatch(inputs[None], labels[None], np.array(count, np.int32))


def _jit(function):
  return jax.jit(function, compiler_options=COMPILER)


def _outputs(logits, irs):
  return {'logits': logits} | {f'irs_{i}': ir for i, ir in enumerate(irs)}


def _deviations(prefix, found):
  """Deviation of each of the arrays found, by its whole stored name.

  What is stored and was not found, or the other way round, is infinitely far.
  """
  found = {f'{prefix}/{path}': array for path, array in found.items()}
  names = {name for name in _stored() if name.startswith(f'{prefix}/')}
  return {
    name: weights.deviation(name, found[name], _stored()[name])
    if name in found and name in names
    else float('inf')
    for name in names | found.keys()
  }


def _assert_close(prefix, found, tolerance):
  deviations = _deviations(prefix, found)
  far = {n: d for n, d in deviations.items() if not d < tolerance}
  assert deviations
  assert not far


class _Kept(NamedTuple):
  """Optimiser state that is the last gradient."""

  gradient: optax.Updates


def _keep_gradient():
  """Passes updates on unchanged; unlike a difference of weights, exact."""

  def update(updates, state, params=None):
    del state, params
    return updates, _Kept(updates)

  def init(params):
    return _Kept(jax.tree.map(jnp.zeros_like, params))

  return optax.GradientTransformation(init, update)


def _train(plan, variables, teacher, superbatch, objective):
  """The real train program; returns the new state and the metrics."""
  program = one_member.train_program(plan, _jit)
  start = state.begin_phase(
    {state.STUDENT: variables}, plan.optimizers, precision.policy('fp32')
  )
  return program(start, teacher, superbatch, objective, jax.random.key(0))


def _plan(name, teacher, student, optimizer, frozen=()):
  preprocess = _preprocess(name)
  return task.Plan(
    Classify(weights.CLASSES), teacher, student, {state.STUDENT: optimizer},
    frozen, preprocess, preprocess,
  )  # fmt: skip


def _sgd(rate, momentum=0.0, weight_decay=0.0, frozen=()):
  return optim.optimizer(
    optim.Sgd(momentum, weight_decay), optax.constant_schedule(rate), frozen
  )


# Variants of networks that are compared besides.
ALIKE_BUT_SLOW = 'vdcnn9_k_max', 'vdcnn9_conv', 'resnext8_16', 'resnext8_32'


def _each(names, slow):
  return [
    pytest.param(name, marks=pytest.mark.slow if name in slow else ())
    for name in names
  ]


@pytest.mark.parametrize('name', weights.PLAIN)
def test_logits_and_irs_are_those_of_pytorch(name):
  net, seed = _network(name), _seed(name)
  variables = _variables(net, seed)
  x = _preprocess(name).normalize(_superbatch(name).inputs[0, 0])
  found = _jit(net.apply)(variables, x)
  _assert_close(f'{name}/eval', _outputs(*found), FORWARD)


@pytest.mark.parametrize('name', _each(weights.PLAIN, slow=ALIKE_BUT_SLOW))
def test_training_step_is_that_of_pytorch(name):
  net, seed = _network(name), _seed(name)
  variables, superbatch = _variables(net, seed), _superbatch(name)

  @_jit
  def run(variables, inputs):
    x = _preprocess(name).normalize(inputs)
    return net.apply(variables, x, train=True, mutable=['batch_stats'])[0]

  outputs = _outputs(*run(variables, superbatch.inputs[0, 0]))
  plan = _plan(name, None, net, _keep_gradient())
  after, metrics = _train(plan, variables, None, superbatch, scratch())
  found = outputs | {'loss': metrics['loss'][0]}
  _assert_close(f'{name}/train', found, FORWARD)
  _assert_close(f'{name}/statistics', _flat(after.student.batch_stats), FORWARD)
  gradient = _flat(after.student.opt_state.gradient)
  _assert_close(f'{name}/gradients', gradient, BACKWARD)


def _lit_setting(case, **options):
  """Plan, objective, the student's and the teacher's variables of a case."""
  teacher_name, student_name, ir_loss = weights.LIT[case]
  teacher, student = _network(teacher_name), _network(student_name)
  teacher_variables = _variables(teacher, _seed(case), weights.TEACHER)
  variables = state.copy_parts(
    teacher_variables, _variables(student, _seed(case)), FROZEN
  )
  objective = Objective(
    weights.ALPHA, weights.BETA, weights.TEMPERATURE, ir_loss, **options
  )
  optimizer = optax.chain(_keep_gradient(), _sgd(1.0, frozen=FROZEN))
  plan = _plan(case, teacher, student, optimizer, FROZEN)
  return plan, objective, variables, teacher_variables


def _blocks_only(tree):
  return {
    path: leaf
    for path, leaf in _flat(tree).items()
    if path.startswith('blocks_')
  }


@pytest.mark.parametrize(
  'case', _each(weights.LIT, slow=['lit_vdcnn', 'lit_resnext'])
)
def test_lit_step_is_that_of_pytorch(case):
  plan, objective, variables, teacher = _lit_setting(case)
  superbatch = _superbatch(case)
  after, metrics = _train(plan, variables, teacher, superbatch, objective)
  found = {name: values[0] for name, values in metrics.items()}
  _assert_close(f'{case}/metrics', found, FORWARD)
  gradient = _blocks_only(after.student.opt_state[0].gradient)
  _assert_close(f'{case}/gradients', gradient, BACKWARD)
  statistics = _flat(after.student.batch_stats)
  _assert_close(f'{case}/statistics_student', statistics, FORWARD)
  # A step of rate 1 moves the blocks by their gradient and nothing else.
  for path, old in _flat(variables['params']).items():
    step = gradient[path] if path.startswith('blocks_') else 0 * old
    assert np.array_equal(_flat(after.student.params)[path], old - step), path
  for path, old in _flat(variables['batch_stats'].get('stem', {})).items():
    new = _flat(after.student.batch_stats['stem'])[path]
    assert np.array_equal(new, old), path


@pytest.mark.parametrize('case', _each(weights.LIT, slow=['lit_resnext']))
def test_lit_step_in_the_forms_of_accelerators(case, accelerator_forms):
  test_lit_step_is_that_of_pytorch(case)


def test_statistics_of_both_passes_are_those_of_pytorch():
  case = 'lit_resnet'
  plan, objective, variables, teacher = _lit_setting(
    case, running_statistics='both'
  )
  after, _ = _train(plan, variables, teacher, _superbatch(case), objective)
  statistics = _flat(after.student.batch_stats)
  _assert_close(f'{case}/statistics_both', statistics, FORWARD)
  far = _deviations(f'{case}/statistics_student', statistics)
  assert max(far.values()) > 100 * FORWARD


def test_sgd_steps_are_those_of_pytorch():
  net, seed = _network(weights.SGD_NETWORK), _seed('sgd')
  variables = _variables(net, seed)
  optimizer = _sgd(
    weights.LEARNING_RATE, weights.MOMENTUM, weights.WEIGHT_DECAY
  )
  superbatch = _superbatch('sgd', weights.SGD_STEPS)
  plan = _plan('sgd', None, net, optimizer)
  after, metrics = _train(plan, variables, None, superbatch, scratch())
  moved = jax.tree.map(
    lambda new, old: np.float64(new) - np.float64(old),
    after.student.params,
    variables['params'],
  )
  _assert_close('sgd/moved', _flat(moved), MOVED)
  _assert_close('sgd/statistics', _flat(after.student.batch_stats), FORWARD)
  _assert_close('sgd/losses', {'each': metrics['loss']}, FORWARD)


def test_one_wrong_weight_is_noticed():
  name = 'resnet8_pad'
  net, seed = _network(name), _seed(name)
  x = IMAGES.normalize(_superbatch(name).inputs[0, 0])
  variables = _flat(_variables(net, seed))
  kernel = 'params/blocks_1/units_0/conv2/kernel'
  # One in 9216 numbers, off by a tenth of the kernel's deviation.
  nudge = 0.1 * variables[kernel].std()
  variables[kernel] = variables[kernel].at[1, 2, 3, 4].add(nudge)
  wrong = traverse_util.unflatten_dict(variables, sep='/')
  deviations = _deviations(f'{name}/eval', _outputs(*_jit(net.apply)(wrong, x)))
  before, after = ('irs_0', 'irs_1'), ('irs_2', 'irs_3', 'logits')
  for output in before:
    assert deviations[f'{name}/eval/{output}'] < FORWARD
  for output in after:
    assert deviations[f'{name}/eval/{output}'] > 3 * FORWARD


def test_wrong_lit_inputs_are_noticed():
  case = 'lit_resnet'
  plan, objective, variables, teacher = _lit_setting(case, teacher_input=False)
  after, metrics = _train(
    plan, variables, teacher, _superbatch(case), objective
  )
  found = {name: values[0] for name, values in metrics.items()}
  deviations = _deviations(f'{case}/metrics', found)
  assert deviations[f'{case}/metrics/hard'] < FORWARD
  assert deviations[f'{case}/metrics/ir/blocks_0'] < FORWARD
  assert deviations[f'{case}/metrics/ir/blocks_1'] > 100 * FORWARD
  gradient = _blocks_only(after.student.opt_state[0].gradient)
  far = _deviations(f'{case}/gradients', gradient)
  assert min(far.values()) > BACKWARD


def test_digest_notices_changes_that_keep_the_norm():
  array = np.random.default_rng(0).normal(size=(4, 6, 6, 8))
  expected = weights.digest('some', array)
  assert weights.deviation('some', array, expected) < 1e-12
  swapped = array.swapaxes(1, 2)
  mixed = array[[1, 0, 2, 3]]
  for other in (swapped, mixed, array[..., ::-1], array[:3], -array):
    assert weights.deviation('some', other, expected) > 1e-2
  nudged = array.copy()
  nudged[1, 2, 3, 4] += 1e-3 * np.linalg.norm(array)
  assert weights.deviation('some', nudged, expected) > 1e-4
  assert weights.deviation('some', np.nan * array, expected) == np.inf
