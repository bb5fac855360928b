"""Filter pruning: a smaller dense network of a trained one's best filters.

Li et al. 2017, 'Pruning Filters for Efficient ConvNets' (section 3): filters of
small L1 norm are taken away, and with them the channels that they make. In a
residual unit it is the first convolution's filters that can go, for nothing but
the unit's second convolution reads what they make.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lit_jax.errors import UserError


def narrow(
  variables: Mapping[str, Any], inner: Sequence[int]
) -> dict[str, Any]:
  """The variables of a ResNet whose units are narrower within.

  In each unit those filters of `conv1` stay, in their order, whose weights'
  absolute values have the largest sums; of equal ones the first. `norm1` and
  the input channels of `conv2` follow.

  Args:
    variables: 'params' and 'batch_stats' of a network of `models.resnet`.
    inner: filters of the first convolution of each unit, by block.

  Returns:
    NumPy arrays: those of the same network with that `inner`.

  Raises:
    UserError: no such units, another number of blocks, or more filters than
      there are.
  """
  result = jax.device_get(
    {name: dict(tree) for name, tree in variables.items()}
  )
  params, statistics = result['params'], result['batch_stats']
  parts = sorted(part for part in params if part.startswith('blocks_'))
  if len(parts) != len(inner):
    raise UserError(
      f'inner {tuple(inner)} is of {len(inner)} blocks, and the network has '
      f'{len(parts)}'
    )
  for part, count in zip(parts, inner, strict=True):
    units = {}
    for name, unit in params[part].items():
      kept = _kept(f'{part}/{name}', unit, count)
      own = statistics[part][name]
      units[name] = _chosen(unit, own, kept)
    params[part] = {name: unit for name, (unit, _) in units.items()}
    statistics[part] = {name: own for name, (_, own) in units.items()}
  return result


def _kept(where, unit, count):
  """The places of the largest filters, in their order."""
  if not {'conv1', 'norm1', 'conv2'} <= set(unit) or 'conv3' in unit:
    raise UserError(
      f'{where} is no unit of two convolutions, whose filters could be chosen; '
      'take a network of the family resnet'
    )
  kernel = np.asarray(unit['conv1']['kernel'])
  width = kernel.shape[-1]
  if not 1 <= count <= width:
    raise UserError(
      f'{where}: {count} filters of the {width} that there are; set inner to '
      f'1 to {width} there'
    )
  norms = np.abs(kernel).sum((0, 1, 2))
  return np.sort(np.argsort(-norms, kind='stable')[:count])


def _chosen(unit, statistics, kept):
  """A unit's parameters and statistics with those filters alone."""
  conv1, norm1, conv2 = (unit[name] for name in ('conv1', 'norm1', 'conv2'))
  small = {
    'conv1': {'kernel': conv1['kernel'][..., kept]},
    'norm1': {name: values[kept] for name, values in norm1.items()},
    'conv2': {'kernel': conv2['kernel'][:, :, kept]},
  }
  own = {
    'norm1': {name: v[kept] for name, v in statistics['norm1'].items()},
  }
  return unit | small, statistics | own
