"""Networks by family: functions that return a BlockNet."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError, imported, reason, shown
from lit_jax.models import resnet, stargan, vdcnn

FAMILIES = {
  'resnet': resnet.resnet,
  'resnext': resnet.resnext,
  'stargan': stargan.stargan,
  'vdcnn': vdcnn.vdcnn,
}

Spec = Mapping[str, Any]


def build(spec: Spec | BlockNet, dtype: Any = jnp.float32) -> BlockNet:
  """The network of a specification; one that is built already, as it is.

  Args:
    spec: 'family' and that function's options. A family is a key of FAMILIES,
      or the import path of a function of the user's own,
      'my_package.nets:plain'.
    dtype: of the computation, for functions that take one.

  Raises:
    UserError: an unknown family or option, or none; or whatever the function
      raises, in a line.
  """
  if isinstance(spec, BlockNet):
    return spec
  options = dict(spec)
  family = options.pop('family', None)
  if not isinstance(family, str):
    raise UserError(
      f'a network of the family {shown(family)}; name one of '
      f'{", ".join(FAMILIES)}'
    )
  function = imported('model', family, FAMILIES)
  parameters = inspect.signature(function).parameters
  if 'dtype' in parameters:
    options['dtype'] = dtype
  try:
    inspect.signature(function).bind(**options)
  except TypeError as error:
    raise UserError(f'model {family}: {error}') from None
  try:
    net = function(**options)
  except UserError:
    raise
  except Exception as error:  # A function of one's own may raise anything.
    raise UserError(f'model {family}: {reason(error)}') from error
  if not isinstance(net, BlockNet):
    raise UserError(
      f'model {family}: it returns a {type(net).__name__}, not a BlockNet'
    )
  return net


def title(spec: Spec | BlockNet) -> str:
  """The name in tables, such as 'resnet-20' or 'resnext-20 (32x4d)'."""
  if isinstance(spec, BlockNet):
    return 'own'
  size = _joined(spec.get('units')) or spec.get('depth', '')
  # Of an import path, the function.
  name = spec['family'].rpartition(':')[2]
  name += f'-{size}' if size else ''
  if 'cardinality' in spec and 'base_width' in spec:
    name += f' ({spec["cardinality"]}x{spec["base_width"]}d)'
  if inner := _joined(spec.get('inner')):
    name += f' (inner {inner})'
  return name


def _joined(numbers):
  """Of each block, where that is what they are in a family of one's own."""
  return (
    '/'.join(map(str, numbers)) if isinstance(numbers, list | tuple) else ''
  )
