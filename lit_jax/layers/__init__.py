"""Layers, in forms that are fast on the device at hand."""

from lit_jax.layers.convolution import Conv, block_diagonal, conv
from lit_jax.layers.device import on_cpu, plain_forms
from lit_jax.layers.normalisation import (
  BatchNorm,
  batch_norm,
  shared_statistics,
  unshared_statistics,
)

__all__ = [
  'BatchNorm',
  'Conv',
  'batch_norm',
  'block_diagonal',
  'conv',
  'on_cpu',
  'plain_forms',
  'shared_statistics',
  'unshared_statistics',
]
