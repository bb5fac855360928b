"""Networks by family: functions that return a BlockNet."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError, reason
from lit_jax.models import resnet, vdcnn

FAMILIES = {
  'resnet': resnet.resnet,
  'resnext': resnet.resnext,
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
    UserError: an unknown family or option.
  """
  if isinstance(spec, BlockNet):
    return spec
  options = dict(spec)
  family = options.pop('family')
  function = _function(family)
  parameters = inspect.signature(function).parameters
  if 'dtype' in parameters:
    options['dtype'] = dtype
  try:
    inspect.signature(function).bind(**options)
  except TypeError as error:
    raise UserError(f'model {family}: {error}') from None
  net = function(**options)
  if not isinstance(net, BlockNet):
    raise UserError(
      f'model {family}: it returns a {type(net).__name__}, not a BlockNet'
    )
  return net


def _function(family: str) -> Callable[..., Any]:
  module, colon, name = family.partition(':')
  if not colon:
    if family in FAMILIES:
      return FAMILIES[family]
    raise UserError(
      f'unknown model {family!r}; choose one of {", ".join(FAMILIES)}, or the '
      "import path of a function of your own, as 'my_package.nets:plain'"
    )
  try:
    function = getattr(importlib.import_module(module), name)
  except Exception as error:  # The user's module may raise anything.
    raise UserError(
      f'model {family!r} cannot be imported ({reason(error)}); name a module '
      "on the Python path and a function in it, as 'my_package.nets:plain'"
    ) from error
  if not callable(function):
    raise UserError(f'model {family!r} is no function')
  return function


def title(spec: Spec | BlockNet) -> str:
  """The name in tables, such as 'resnet-20' or 'resnext-20 (32x4d)'."""
  if isinstance(spec, BlockNet):
    return 'own'
  units = spec.get('units')
  size = '/'.join(map(str, units)) if units else spec.get('depth', '')
  # Of an import path, the function.
  name = spec['family'].rpartition(':')[2]
  name += f'-{size}' if size else ''
  if 'cardinality' in spec:
    name += f' ({spec["cardinality"]}x{spec["base_width"]}d)'
  return name
