"""Networks by family: functions that return a BlockNet."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from lit_jax.blocks import BlockNet
from lit_jax.errors import UserError
from lit_jax.models import resnet

FAMILIES = {'resnet': resnet.resnet, 'resnext': resnet.resnext}


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
  family = options.pop('family')
  if family not in FAMILIES:
    raise UserError(
      f'unknown model {family!r}; choose one of {", ".join(FAMILIES)}'
    )
  return FAMILIES[family](**options, dtype=dtype, axis_name=axis_name)


def title(spec: Mapping[str, Any]) -> str:
  """The name in tables, such as 'resnet-20'."""
  return f'{spec["family"]}-{spec["depth"]}'
