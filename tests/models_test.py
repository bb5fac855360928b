"""Networks by specification, and students compressed in some blocks only."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax import blocks, layers, models, summary
from lit_jax.errors import UserError
from lit_jax.objectives import Objective
from lit_jax.runs import phases

COMMON = {'family': 'resnet', 'classes': 10, 'input_shape': [8, 8, 3]}
TEACHER = COMMON | {'depth': 14}  # two units a block


def _student(units):
  return models.build(COMMON | {'units': units})


def _copying(*parts):
  phase = phases.Phase('lit', Objective(0.95, 0.75, 6.0), 1, 0.1, copy=parts)
  return phases.Method('lit', (phase,))


def test_units_of_each_block():
  net = _student([2, 1, 3])
  blocks.check_pair(models.build(TEACHER), net)
  params = blocks.shapes(net)['params']
  counts = [len(params[name]) for name in net.block_names]
  assert counts == [2, 1, 3]


def test_equal_units_are_the_depth():
  deep, same = models.build(TEACHER), _student([2, 2, 2])
  assert jax.tree.structure(blocks.shapes(deep)) == jax.tree.structure(
    blocks.shapes(same)
  )


@pytest.mark.parametrize(
  'family', ['resnet', pytest.param('resnext', marks=pytest.mark.slow)]
)
def test_the_loop_over_equal_units_is_the_units_one_by_one(family):
  net = models.build(COMMON | {'family': family, 'units': [4, 3, 1]})
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: jnp.asarray(rng.uniform(0.05, 0.1, leaf.shape), leaf.dtype),
    blocks.shapes(net),
  )
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
  _, irs = net.apply(variables, x)

  def one_by_one(variables, h, i):
    block = net.blocks[i]
    for j in range(block.count):
      unit = block.unit(stride=block.stride if j == 0 else 1)
      name = (f'blocks_{i}', f'units_{j}')
      own = {c: tree[name[0]][name[1]] for c, tree in variables.items()}
      h = unit.apply(own, h)
    return h

  def looped(variables, h, i):
    return net.apply(variables, h, i, method='block')

  # Two of the blocks have a loop, and none in the network as defined.
  assert str(jax.make_jaxpr(net.apply)(variables, x)).count('scan[') == 2
  with layers.plain_forms():
    assert 'scan[' not in str(jax.make_jaxpr(net.apply)(variables, x))

  for i in range(3):
    h = one_by_one(variables, irs[i], i)
    chex.assert_trees_all_close(irs[i + 1], h, rtol=1e-5)

  def gradient(function):
    return jax.grad(
      lambda variables, h: function(variables, h, 0).mean(), (0, 1)
    )(variables, irs[0])

  chex.assert_trees_all_close(
    gradient(looped), gradient(one_by_one), rtol=1e-4, atol=1e-9
  )


@pytest.mark.parametrize('units', [[2, 1], [2, 0, 1], [1, 1, 1, 1]])
def test_units_are_three_and_positive(units):
  with pytest.raises(UserError, match='give three, each positive'):
    _student(units)


def test_a_block_of_the_teacher_can_be_copied_where_it_is_equal():
  teacher, student = models.build(TEACHER), _student([2, 1, 1])
  phases.check_copies(_copying('stem', 'blocks_0'), teacher, student)
  with pytest.raises(UserError, match="lit/lit: cannot copy 'blocks_1'"):
    phases.check_copies(_copying('blocks_1'), teacher, student)


def test_an_option_of_another_family_is_refused():
  with pytest.raises(UserError, match='resnet.*cardinality'):
    models.build(TEACHER | {'cardinality': 32})


@pytest.mark.parametrize(
  'spec, title',
  [
    ({'family': 'resnet', 'depth': 20}, 'resnet-20'),
    ({'family': 'resnet', 'units': [18, 3, 3]}, 'resnet-18/3/3'),
    (
      {'family': 'resnext', 'depth': 20, 'cardinality': 16, 'base_width': 4},
      'resnext-20 (16x4d)',
    ),
  ],
)
def test_title(spec, title):
  assert models.title(spec) == title


# VDCNN.

TEXT = {'family': 'vdcnn', 'classes': 5, 'input_shape': [1014]}


# Convolutions and parameters of Conneau et al. 2017 (table 2, and the dense
# layers of 4096 x 2048, 2048 x 2048 and 2048 x classes with biases), and MACs
# of the convolutions at 1014, 507, 254 and 127 places and of the dense layers.
@pytest.mark.parametrize('depth, units', [
  (9, (1, 1, 1, 1)), (17, (2, 2, 2, 2)), (29, (5, 5, 2, 2)),
  (49, (8, 8, 5, 3)),
])  # fmt: skip
def test_vdcnn_is_as_deep_and_large_as_published(depth, units):
  found = summary(models.build(TEXT | {'depth': depth}))
  assert 1 + 2 * sum(units) == depth
  assert found.depth == depth + 3
  parameters, macs, before = 70 * 16 + 3 * 16 * 64, 1014 * 3 * 16 * 64, 64
  lengths = (1014, 507, 254, 127)
  for count, width, length in zip(
    units, (64, 128, 256, 512), lengths, strict=True
  ):
    weights = 3 * before * width + (2 * count - 1) * 3 * width * width
    parameters += weights + 2 * count * 2 * width
    macs += weights * length
    before = width
  dense = 4096 * 2048 + 2048 * 2048 + 2048 * 5
  assert found.parameters == parameters + dense + 2048 + 2048 + 5
  assert found.macs == macs + dense


@pytest.mark.parametrize('options', [
  {}, {'downsample': 'conv'}, {'downsample': 'k_max'}, {'shortcut': True},
])  # fmt: skip
def test_vdcnns_of_any_depth_fit_each_other(options):
  teacher, student = (
    models.build(TEXT | options | {'depth': depth}) for depth in (29, 9)
  )
  blocks.check_pair(teacher, student)
  assert list(blocks.cut_shapes(student).values()) == [
    (1, 1014, 64), (1, 1014, 64), (1, 507, 128), (1, 254, 256), (1, 127, 512),
    (5,),
  ]  # fmt: skip


def test_padding_has_no_vector():
  """The stem's output is 0 where all three characters are padding."""
  small = {'widths': [4, 4, 4, 4], 'k': 2, 'hidden': 4, 'input_shape': [32]}
  net = models.build(TEXT | small | {'depth': 9})
  variables = jax.tree.map(
    lambda x: jnp.ones(x.shape, x.dtype), blocks.shapes(net)
  )
  ids = jnp.zeros((1, 32), jnp.uint8).at[0, :5].set(7)
  _, irs = net.apply(variables, ids)
  stem = np.asarray(irs[0][0, 0])
  assert (stem[:6] != 0).any(1).all()
  np.testing.assert_array_equal(stem[6:], 0)


def test_vdcnn_in_bfloat16_is_close_to_float32():
  small = {'widths': [32, 32, 32, 32], 'k': 2, 'hidden': 8, 'input_shape': [32]}
  spec = TEXT | small | {'depth': 9}
  wide, short = models.build(spec), models.build(spec, jnp.bfloat16)
  variables = blocks.shapes(wide)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) / 8, jnp.float32), variables
  )
  ids = rng.integers(0, 71, (8, 32), np.uint8)

  def block_and_gradient(net):
    # Before any choice of largest values, which jumps.
    def loss(params):
      own = variables | {'params': params}
      (logits, irs), _ = net.apply(own, ids, True, mutable=['batch_stats'])
      assert irs[1].dtype == net.stem.dtype and logits.dtype == jnp.float32
      return (irs[1].astype(jnp.float32) ** 2).mean(), irs[1]

    gradients, block = jax.jit(jax.grad(loss, has_aux=True))(
      variables['params']
    )
    return block, gradients['blocks_0']['units_0']['conv1']['kernel']

  for found, wanted in zip(
    block_and_gradient(short), block_and_gradient(wide), strict=True
  ):
    # Eight bits of mantissa through three layers and back.
    error = np.linalg.norm(np.asarray(found, np.float32) - np.asarray(wanted))
    assert 0 < error < 0.05 * np.linalg.norm(np.asarray(wanted))


@pytest.mark.parametrize('options, words', [
  ({'depth': 10}, 'depth 10 does not exist; take one of 9, 17, 29, 49'),
  ({'units': [1, 1, 1]}, 'units .* give four'),
  ({'widths': [64, 128, 256]}, 'widths .* give four'),
  ({'downsample': 'mean'}, "'mean'; choose one of max_pool, conv, k_max"),
  ({'k': 0}, 'k 0, .* must be positive'),
  ({'input_shape': [56]}, '56 characters are 7 places .* the 8 largest'),
])  # fmt: skip
def test_vdcnns_that_do_not_exist(options, words):
  with pytest.raises(UserError, match=words):
    models.build(TEXT | {'depth': 9} | options)


def test_texts_and_images_do_not_fit():
  text = models.build(TEXT | {'depth': 9})
  with pytest.raises(UserError, match=r'\(1014,\) uint8 and \(8, 8, 3\)'):
    blocks.check_pair(text, models.build(TEACHER))


def test_families_read_texts_or_images():
  with pytest.raises(UserError, match=r'read images, .* shape \(1014,\)'):
    models.build(TEACHER | {'input_shape': [1014]})
  with pytest.raises(UserError, match=r'reads texts, .* shape \(8, 8, 3\)'):
    models.build(TEXT | {'depth': 9, 'input_shape': [8, 8, 3]})
