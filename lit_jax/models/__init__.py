"""Networks by family: functions that return a BlockNet."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError, choose
from lit_jax.models import resnet, vdcnn

FAMILIES = {
  'resnet': resnet.resnet,
  'resnext': resnet.resnext,
  'vdcnn': vdcnn.vdcnn,
}


def build(
  spec: Mapping[str, Any],
  dtype: Any = jnp.float32,
  axis_name: str | None = None,
) -> BlockNet:
  """The network of a specification.

  Args:
    spec: 'family' (a key of FAMILIES) and that function's options.
    dtype: of the computation.
    axis_name: mapped axis over which batch statistics are shared.

  Raises:
    UserError: an unknown family or option.
  """
  options = dict(spec)
  family = choose('model', options.pop('family'), FAMILIES)
  function = FAMILIES[family]
  options |= {'dtype': dtype, 'axis_name': axis_name}
  try:
    inspect.signature(function).bind(**options)
  except TypeError as error:
    raise UserError(f'model {family}: {error}') from None
  return function(**options)


def title(spec: Mapping[str, Any]) -> str:
  """The name in tables, such as 'resnet-20' or 'resnext-20 (32x4d)'."""
  units = spec.get('units')
  size = '/'.join(map(str, units)) if units else spec.get('depth', '')
  name = f'{spec["family"]}-{size}'
  if 'cardinality' in spec:
    name += f' ({spec["cardinality"]}x{spec["base_width"]}d)'
  return name
