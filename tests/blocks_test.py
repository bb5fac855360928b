"""BlockNet, the check of a pair, and the ResNet families' shapes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lit_jax import blocks
from lit_jax.errors import UserError
from lit_jax.models.resnet import resnet, resnext

PARTS = ('stem', 'blocks_0', 'blocks_1', 'blocks_2', 'head')


def image(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.fixture(scope='module')
def x():
  draws = np.random.default_rng(1).normal(size=(4, 8, 8, 3))
  return jnp.asarray(draws, jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(net, variables, x, train=False):
  """Output, IRs and the new statistics."""
  return net.apply(variables, x, train, mutable=['batch_stats'])


# BlockNet.


def test_variables_stand_by_part(tiny):
  net, variables = tiny.student, blocks.shapes(tiny.student)
  assert net.parts == PARTS
  assert net.block_names == PARTS[1:4]
  assert set(variables) == {'params', 'batch_stats'}
  assert set(variables['params']) == set(PARTS)
  # The head has no batch norm.
  assert set(variables['batch_stats']) == set(PARTS[:4])
  for leaf in jax.tree.leaves(variables):
    assert leaf.dtype == jnp.float32


def test_init_has_the_shapes_foretold(tiny):
  # Stem and head alone: drawing initial values takes long to compile.
  student = tiny.student
  net = blocks.BlockNet(student.stem, (), student.head, student.example)
  found = blocks.init(net, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(found, blocks.shapes(net))
  again = blocks.init(net, jax.random.key(0))
  chex.assert_trees_all_equal(found, again)


def test_init_without_batch_norm_has_empty_statistics(tiny):
  net = blocks.BlockNet(tiny.student.head, (), Same(), image(8, 8, 3))
  assert blocks.shapes(net)['batch_stats'] == {}
  assert blocks.init(net, jax.random.key(0))['batch_stats'] == {}


class Same(nn.Module):
  """A part without parameters."""

  def __call__(self, x, train=False):
    del train
    return x


def test_irs(tiny, x):
  (output, irs), _ = run(tiny.student, tiny.student_variables, x)
  # Widths 4, then 4, 6, 8; the last two blocks halve 8x8; five classes.
  shapes = [(8, 8, 4), (8, 8, 4), (4, 4, 6), (2, 2, 8)]
  assert [ir.shape for ir in irs] == [(4, *s) for s in shapes]
  assert output.shape == (4, 5)
  assert blocks.cut_shapes(tiny.student) == dict(
    zip(PARTS, [*shapes, (5,)], strict=True)
  )


@pytest.mark.parametrize('train', [False, True])
def test_a_block_alone_equals_the_block_in_the_whole(tiny, x, train):
  variables = tiny.student_variables
  (_, irs), whole = run(tiny.student, variables, x, train)
  for i in range(3):
    h, alone = tiny.student.apply(
      variables, irs[i], i, train, mutable=['batch_stats'], method='block'
    )
    chex.assert_trees_all_close(h, irs[i + 1], rtol=1e-5, atol=1e-6)
    name = f'blocks_{i}'
    chex.assert_trees_all_close(
      alone['batch_stats'][name], whole['batch_stats'][name], rtol=1e-5
    )


@pytest.mark.parametrize(
  'train', [(), ('blocks_1',), ('stem', 'blocks_2', 'head'), PARTS]
)
def test_only_the_parts_named_are_in_training(tiny, x, train):
  variables = tiny.student_variables
  found, new = run(tiny.student, variables, x, train)
  for part, old in variables['batch_stats'].items():
    same = jax.tree.map(
      lambda a, b: bool((a == b).all()), new['batch_stats'][part], old
    )
    assert set(jax.tree.leaves(same)) == {part not in train}, part
  if train in ((), PARTS):
    wanted, _ = run(tiny.student, variables, x, bool(train))
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_list_of_names_will_do(tiny, x):
  found = tiny.student.apply(
    tiny.student_variables, x, ['stem'], mutable=['batch_stats']
  )
  wanted = run(tiny.student, tiny.student_variables, x, ('stem',))
  chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


# The check of a pair.


def refused(teacher, student, *words):
  with pytest.raises(UserError) as caught:
    blocks.check_pair(teacher, student)
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message


def test_a_fitting_pair(tiny):
  blocks.check_pair(tiny.teacher, tiny.student)


def test_check_pair_names_the_first_block_that_differs(tiny):
  net = tiny.student
  first, second, third = net.blocks
  changed = (first, second.clone(features=7), third.clone(features=9))
  other = blocks.BlockNet(net.stem, changed, net.head, net.example)
  refused(tiny.teacher, other, 'blocks_1', '(4, 4, 6)', '(4, 4, 7)')
  changed = (first, second.clone(stride=1), third)
  other = blocks.BlockNet(net.stem, changed, net.head, net.example)
  refused(tiny.teacher, other, 'blocks_1', '(4, 4, 6)', '(8, 8, 6)')


def test_check_pair_of_another_stem(tiny):
  net = tiny.student
  other = blocks.BlockNet(
    net.stem.clone(features=3), net.blocks, net.head, net.example
  )
  refused(tiny.teacher, other, 'stem', '(8, 8, 4)', '(8, 8, 3)')


def test_check_pair_of_another_number_of_blocks(tiny):
  net = tiny.student
  other = blocks.BlockNet(net.stem, net.blocks[:2], net.head, net.example)
  refused(tiny.teacher, other, '3 blocks', 'student 2')


def test_check_pair_of_another_number_of_classes(tiny):
  net = tiny.student
  other = blocks.BlockNet(
    net.stem, net.blocks, net.head.clone(classes=6), net.example
  )
  refused(tiny.teacher, other, 'head', '(5,)', '(6,)')


def test_check_pair_of_other_inputs(tiny):
  net = tiny.student
  other = blocks.BlockNet(net.stem, net.blocks, net.head, image(8, 8, 1))
  refused(tiny.teacher, other, '(8, 8, 3)', '(8, 8, 1)')


# ResNet and ResNeXt.


def parameters(net):
  return sum(p.size for p in jax.tree.leaves(blocks.shapes(net)['params']))


@pytest.mark.parametrize('depth', [20, 32, 44, 56, 110])
def test_resnet_of_the_papers_depths(depth):
  net = resnet(depth)
  # Of a unit: 2 x 9 w² weights and 4 w of batch norm, less 9 w² / 2 at the
  # first one of half the width; stem 27 x 16 + 32, head 64 x 10 + 10.
  n = (depth - 2) // 6
  wanted = 464 + 650 - 9 * (32**2 + 64**2) // 2
  wanted += n * sum(18 * w * w + 4 * w for w in (16, 32, 64))
  assert parameters(net) == wanted
  assert blocks.cut_shapes(net) == {
    'stem': (32, 32, 16),
    'blocks_0': (32, 32, 16),
    'blocks_1': (16, 16, 32),
    'blocks_2': (8, 8, 64),
    'head': (10,),
  }


def test_resnet_20_has_the_known_number_of_parameters():
  # He et al. give 0.27 million; 269722 is the exact count of option A.
  assert parameters(resnet(20)) == 269_722


@pytest.mark.parametrize(
  'depth', [20, 32, 44, 56, pytest.param(110, marks=pytest.mark.slow)]
)
def test_resnext_of_the_papers_depths(depth):
  net = resnext(depth)
  # Of a unit with inner width d and outer width o = 2 d, 32 groups:
  # o d + 9 d² / 32 + d o weights and 2 (d + d + o) of batch norm. The first
  # reads half of o (the stem's 64 in block 1) and has a 1x1 shortcut.
  n, wanted, before = (depth - 2) // 6, 27 * 64 + 128 + 1024 * 10 + 10, 64
  for d, o in ((128, 256), (256, 512), (512, 1024)):
    unit = 2 * o * d + 9 * d * d // 32 + 2 * (2 * d + o)
    wanted += n * unit + (before - o) * d + before * o + 2 * o
    before = o
  assert parameters(net) == wanted
  if depth == 20:
    # 29 layers in truth: Xie et al.'s ResNeXt-29, 32x4d.
    assert wanted == 4_775_754
  assert blocks.cut_shapes(net) == {
    'stem': (32, 32, 64),
    'blocks_0': (32, 32, 256),
    'blocks_1': (16, 16, 512),
    'blocks_2': (8, 8, 1024),
    'head': (10,),
  }


def test_resnext_basic_units():
  assert blocks.cut_shapes(resnext(8, unit='basic')) == {
    'stem': (32, 32, 64),
    'blocks_0': (32, 32, 64),
    'blocks_1': (16, 16, 128),
    'blocks_2': (8, 8, 256),
    'head': (10,),
  }


@pytest.mark.parametrize('unit', ['bottleneck', 'basic'])
def test_a_student_of_half_the_cardinality_fits(unit):
  teacher = resnext(14, cardinality=32, unit=unit)
  student = resnext(8, cardinality=16, unit=unit)
  blocks.check_pair(teacher, student)
  assert parameters(student) < parameters(resnext(8, unit=unit))


def test_families_do_not_fit():
  refused(resnext(8), resnet(8), 'stem', '(32, 32, 64)', '(32, 32, 16)')


def test_option_b_shortcuts():
  # Two 1x1 convolutions, 16 x 32 and 32 x 64, with their batch norm.
  extra = 16 * 32 + 64 + 32 * 64 + 128
  plain, projected = resnet(20), resnet(20, shortcut='conv')
  assert parameters(projected) - parameters(plain) == extra
  blocks.check_pair(plain, projected)


def test_grey_images_and_many_classes():
  net = resnet(8, classes=100, input_shape=(28, 28, 1))
  assert list(blocks.cut_shapes(net).values()) == [
    (28, 28, 16),
    (28, 28, 16),
    (14, 14, 32),
    (7, 7, 64),
    (100,),
  ]


def test_pad_shortcut_values():
  # With a zero convolution only the shortcut is left of a unit: every second
  # pixel, between zero channels.
  net = resnet(8, input_shape=(8, 8, 3))
  variables = jax.tree.map(lambda s: jnp.zeros(s.shape), blocks.shapes(net))
  h = jnp.arange(8.0 * 8 * 16).reshape(1, 8, 8, 16)
  found = net.apply(variables, h, 1, method='block')
  wanted = np.zeros((1, 4, 4, 32), np.float32)
  wanted[..., 8:24] = h[:, ::2, ::2]
  chex.assert_trees_all_equal(found, jnp.asarray(wanted))


@pytest.mark.parametrize('family', [resnet, resnext])
@pytest.mark.parametrize(
  ('options', 'word'),
  [
    ({'depth': 21}, '21'),
    ({'depth': 2}, '2'),
    ({'depth': -4}, '-4'),
    ({'depth': 8, 'input_shape': (30, 32, 3)}, '30x32'),
    ({'depth': 8, 'input_shape': (32, 30, 3)}, '32x30'),
    ({'depth': 8, 'shortcut': 'zero'}, "'zero'"),
  ],
)
def test_bad_options(family, options, word):
  with pytest.raises(UserError, match=word) as caught:
    family(**options)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('options', 'word'),
  [
    ({'unit': 'wide'}, "'wide'"),
    ({'cardinality': 0}, 'cardinality 0'),
    ({'base_width': -1}, 'base width -1'),
    ({'unit': 'basic', 'cardinality': 24}, '64 .* 24 groups'),
  ],
)
def test_bad_options_of_resnext(options, word):
  with pytest.raises(UserError, match=word) as caught:
    resnext(8, **options)
  assert '\n' not in str(caught.value)
