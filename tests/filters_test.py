"""Narrower units: the networks, and the filters that are chosen for them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lit_jax import blocks, models, summary
from lit_jax.errors import UserError
from lit_jax.networks import filters

WIDE = {
  'family': 'resnet',
  'units': [2, 1, 1],
  'classes': 10,
  'input_shape': [8, 8, 3],
}
INNER = [3, 5, 64]
NARROW = WIDE | {'inner': INNER}


def _variables(spec, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32),
    blocks.shapes(models.build(spec)),
  )


def _unit(variables, block=0, unit=0):
  return {
    collection: tree[f'blocks_{block}'][f'units_{unit}']
    for collection, tree in variables.items()
  }


# The networks.


def test_units_are_as_narrow_as_is_said():
  net = models.build(NARROW)
  blocks.check_pair(models.build(WIDE), net)
  params = blocks.shapes(net)['params']
  for i, (own, width) in enumerate(zip(INNER, (16, 32, 64), strict=True)):
    before = 16 if i == 0 else width // 2
    unit = params[f'blocks_{i}']['units_0']
    assert unit['conv1']['kernel'].shape == (3, 3, before, own)
    assert unit['norm1']['scale'].shape == (own,)
    assert unit['conv2']['kernel'].shape == (3, 3, own, width)
  # A unit of 16 at 8x8: 9 x 16 weights a filter, in and out, at 64 places.
  wide, narrow = summary(models.build(WIDE)), summary(net)
  gone = 2 * (16 - 3) * 2 * 9 * 16 * 64 + (32 - 5) * 9 * (16 + 32) * 16
  assert wide.macs - narrow.macs == gone
  assert wide.depth == narrow.depth


def test_the_usual_widths_are_the_usual_network():
  for inner in ([], [16, 32, 64]):
    chex.assert_trees_all_equal(
      blocks.shapes(models.build(WIDE | {'inner': inner})),
      blocks.shapes(models.build(WIDE)),
    )


def test_the_title_has_the_widths():
  spec = {'family': 'resnet', 'depth': 8, 'inner': (8, 16, 32)}
  assert models.title(spec) == 'resnet-8 (inner 8/16/32)'
  assert models.title(spec | {'inner': ()}) == 'resnet-8'


@pytest.mark.parametrize('inner', [[8, 16], [8, 0, 32], [8, 8, 8, 8]])
def test_inner_widths_are_three_and_positive(inner):
  with pytest.raises(UserError, match='give three widths, each positive'):
    models.build(WIDE | {'inner': inner})


def test_resnexts_have_no_inner_widths():
  with pytest.raises(UserError, match="resnext: .*'inner'"):
    models.build(WIDE | {'family': 'resnext', 'inner': INNER})


# The filters.


def test_the_largest_filters_stay_in_their_order():
  variables = _variables(WIDE)
  unit = _unit(variables, 0, 1)
  kernel = unit['params']['conv1']['kernel']
  # Sums of absolute values: 144 times 2, 3 and 3, and at the most 1.5.
  for place, size in ((9, 2.0), (4, -3.0), (12, 3.0)):
    kernel[..., place] = size
  kept = [4, 9, 12]
  found = filters.narrow(variables, INNER)
  chex.assert_trees_all_equal_shapes_and_dtypes(
    found, blocks.shapes(models.build(NARROW))
  )
  own = _unit(found, 0, 1)
  params = own['params']
  np.testing.assert_array_equal(params['conv1']['kernel'], kernel[..., kept])
  np.testing.assert_array_equal(
    params['conv2']['kernel'], unit['params']['conv2']['kernel'][:, :, kept]
  )
  for collection, name in (
    ('params', 'scale'),
    ('params', 'bias'),
    ('batch_stats', 'mean'),
    ('batch_stats', 'var'),
  ):
    np.testing.assert_array_equal(
      own[collection]['norm1'][name], unit[collection]['norm1'][name][kept]
    )
  # What is not within a unit is as it was.
  for part in ('stem', 'head'):
    chex.assert_trees_all_equal(
      found['params'][part], variables['params'][part]
    )
  chex.assert_trees_all_equal(params['norm2'], unit['params']['norm2'])
  # 64 of 64 is the same block.
  chex.assert_trees_all_equal(_unit(found, 2), _unit(variables, 2))


def test_of_equal_filters_the_first_stay():
  variables = jax.tree.map(np.ones_like, _variables(WIDE))
  kernel = _unit(variables)['params']['conv2']['kernel']
  kernel[:] = np.arange(16, dtype=np.float32)[:, None]
  found = _unit(filters.narrow(variables, INNER))
  np.testing.assert_array_equal(
    found['params']['conv2']['kernel'][0, 0, :, 0], [0, 1, 2]
  )


def test_its_argument_stays_as_it_was():
  variables = jax.tree.map(jnp.asarray, _variables(WIDE))
  filters.narrow(variables, INNER)
  chex.assert_trees_all_equal(variables, _variables(WIDE))


@pytest.mark.parametrize('shortcut', ['pad', 'conv'])
def test_the_output_is_the_same_where_the_others_are_zero(shortcut):
  options = {'shortcut': shortcut}
  variables = _variables(WIDE | options)
  rng = np.random.default_rng(1)
  for block, width, own in zip(range(3), (16, 32, 64), INNER, strict=True):
    for unit in variables['params'][f'blocks_{block}'].values():
      gone = rng.permutation(width)[own:]
      unit['conv1']['kernel'][..., gone] = 0
      unit['norm1']['scale'][gone] = 0
      unit['norm1']['bias'][gone] = 0
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
  wide, irs = models.build(WIDE | options).apply(variables, x)
  small = filters.narrow(variables, INNER)
  narrow, own_irs = models.build(NARROW | options).apply(small, x)
  # Sums of the same numbers, which a wider layer takes in another order.
  chex.assert_trees_all_close((narrow, own_irs), (wide, irs), rtol=1e-5)


@pytest.mark.parametrize(
  'spec, inner, words',
  [
    (WIDE, [3, 5], r'inner \(3, 5\) is of 2 blocks, .* has 3'),
    (WIDE, [17, 5, 64], 'blocks_0/units_0: 17 filters of the 16'),
    (NARROW, [3, 6, 64], 'blocks_1/units_0: 6 filters of the 5'),
    (
      {'family': 'resnext', 'depth': 8, 'cardinality': 2},
      [3, 5, 64],
      'no unit of two convolutions',
    ),
  ],
)
def test_filters_that_are_not_there(spec, inner, words):
  variables = jax.tree.map(
    lambda x: np.ones(x.shape, x.dtype), blocks.shapes(models.build(spec))
  )
  with pytest.raises(UserError, match=words):
    filters.narrow(variables, inner)
