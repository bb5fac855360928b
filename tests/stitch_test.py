"""The teacher with one block of a student's in place of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CLASSES, SHAPE

from lit_jax import BlockNet, blocks
from lit_jax.data.dataset import Split
from lit_jax.tasks import Classify
from lit_jax.training import devices, evaluation, stitch
from lit_jax.training.evaluation import Reader
from lit_jax.training.state import STUDENT
from lit_jax.training.task import Selection


@dataclasses.dataclass(frozen=True)
class ByLoss(Classify):
  """Of whose number less is better."""

  selects = Selection('loss', largest=False)


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (50, *SHAPE), np.uint8)


@pytest.fixture(scope='module')
def trained(tiny, images):
  """The teacher's variables, of which no class is the answer to everything."""
  own = tiny.teacher_variables
  logits, _ = _run(tiny, own, images)
  dense = own['params']['head']['dense']
  dense = dense | {'bias': dense['bias'] - logits.mean(0)}
  return own | {'params': own['params'] | {'head': {'dense': dense}}}


def _run(tiny, variables, images):
  x = tiny.preprocess.normalize(images)
  return jax.jit(tiny.teacher.apply)(variables, x)


@pytest.fixture(scope='module')
def irs(tiny, trained, images):
  return _run(tiny, trained, images)[1]


@pytest.fixture(scope='module')
def teacher(tiny, trained):
  return Reader(tiny.teacher, devices.replicate(trained), tiny.preprocess)


@pytest.fixture(scope='module')
def split(tiny, trained, images):
  """Images of which the teacher knows all but the first five."""
  logits, _ = _run(tiny, trained, images)
  labels = np.array(logits.argmax(-1), np.int32)
  labels[:5] = (labels[:5] + 1) % CLASSES
  return Split(images, labels)


@pytest.fixture(scope='module')
def found(teacher, tiny, split):
  """What each block of the student scores and loses."""
  tried = stitch.evaluator(Classify(CLASSES), teacher, tiny.student, split)
  return tried(devices.replicate(tiny.student_variables))


def test_the_teachers_own_blocks_lose_nothing(teacher, tiny, split):
  tried = stitch.evaluator(Classify(CLASSES), teacher, tiny.teacher, split)
  own = {'score': 0.9, 'lost': 0.0}
  assert tried(teacher.variables) == dict.fromkeys(
    tiny.teacher.block_names, own
  )


def test_scores_are_those_of_the_parts_one_after_another(
  found, tiny, trained, irs, split
):
  assert list(found) == ['blocks_0', 'blocks_1', 'blocks_2']
  for i, own in enumerate(found.values()):
    h = tiny.student.apply(tiny.student_variables, irs[i], i, method='block')
    for name in tiny.teacher.parts[i + 2 :]:
      h = blocks.part_function(tiny.teacher, name)(trained, h)
    score = float((np.asarray(h).argmax(-1) == split.labels).mean())
    # Not the score of anything else.
    assert score < 0.9
    assert own == pytest.approx({'score': score, 'lost': 0.9 - score})


def test_a_block_of_zeros_loses_most(teacher, tiny, split):
  tried = stitch.evaluator(Classify(CLASSES), teacher, tiny.teacher, split)
  params = teacher.variables['params']
  spoilt = params | {
    'blocks_1': jax.tree.map(jnp.zeros_like, params['blocks_1'])
  }
  own = tried(devices.replicate(teacher.variables | {'params': spoilt}))
  lost = [block['lost'] for block in own.values()]
  assert lost[0] == lost[2] == 0
  assert lost[1] > 0.2


def test_less_may_be_better(teacher, tiny, split):
  task = ByLoss(CLASSES)
  evaluate = task.evaluator(tiny.teacher, tiny.preprocess, split)
  whole = evaluate({STUDENT: teacher.variables}).numbers['loss']
  tried = stitch.evaluator(task, teacher, tiny.student, split)
  for own in tried(devices.replicate(tiny.student_variables)).values():
    assert own['lost'] == pytest.approx(own['score'] - whole, rel=1e-5)
    assert own['lost'] > 0


def test_a_module_in_both_networks_has_variables_in_each(tiny, irs):
  first = tiny.student.blocks[0]
  shared = BlockNet(
    tiny.teacher.stem,
    (first, *tiny.teacher.blocks[1:]),
    tiny.teacher.head,
    tiny.teacher.example,
  )
  own = tiny.student_variables
  params = tiny.teacher_variables['params']
  statistics = tiny.teacher_variables['batch_stats']
  twice = jax.tree.map(lambda x: 2 * x, own['params']['blocks_0'])
  theirs = {
    'params': params | {'blocks_0': twice},
    'batch_stats': statistics | {'blocks_0': own['batch_stats']['blocks_0']},
  }
  net = stitch.stitched(shared, tiny.student)
  h = irs[0]
  outputs = [
    net.apply(stitch.stitched_variables(theirs, own, k), h, 0, method='block')
    for k in (0, None, 1)
  ]
  mine = tiny.student.apply(own, h, 0, method='block')
  whole = shared.apply(theirs, h, 0, method='block')
  assert np.abs(mine - whole).max() > 0.1
  for output, wanted in zip(outputs, (mine, whole, whole), strict=True):
    np.testing.assert_array_equal(output, wanted)


def test_networks_of_other_precision(tiny):
  half, _ = tiny.networks(jnp.bfloat16)
  net = stitch.stitched(half, tiny.student)
  variables = stitch.stitched_variables(
    tiny.teacher_variables, tiny.student_variables, 1
  )
  x = jnp.ones((2, *SHAPE))
  _, found = jax.eval_shape(net.apply, variables, x)
  _, wanted = jax.eval_shape(half.apply, tiny.teacher_variables, x)
  assert found == wanted


def test_its_variables_are_those_that_it_asks_for(tiny):
  net = stitch.stitched(tiny.teacher, tiny.student)
  variables = stitch.stitched_variables(
    tiny.teacher_variables, tiny.student_variables, None
  )
  wanted = blocks.shapes(net)
  # Of the student, only the blocks are asked for.
  for tree in variables.values():
    for part in ('stem', 'head'):
      tree[STUDENT] = {k: v for k, v in tree[STUDENT].items() if k != part}
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, wanted)
  assert blocks.cut_shapes(net) == blocks.cut_shapes(tiny.teacher)


def test_a_copied_stem_shifts_no_input(teacher, tiny, split):
  own = tiny.student_variables
  copied = {
    name: own[name] | {'stem': tiny.teacher_variables[name]['stem']}
    for name in own
  }
  shifts = [
    evaluation.ir_errors(
      teacher,
      Reader(tiny.student, devices.replicate(variables), tiny.preprocess),
      split,
    )['stem']['own_input']
    for variables in (copied, own)
  ]
  assert shifts[0] == pytest.approx(0, abs=1e-12)
  assert shifts[1] > 0.1
