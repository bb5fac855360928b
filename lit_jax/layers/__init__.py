"""Layers, in forms that are fast on the device at hand."""

from lit_jax.layers.convolution import Conv, block_diagonal, conv
from lit_jax.layers.device import on_cpu, plain_forms
from lit_jax.layers.folding import fold
from lit_jax.layers.normalisation import (
  BatchNorm,
  InstanceNorm,
  batch_norm,
  instance_norm,
  shared_axis,
  shared_statistics,
  two_batches,
  unshared_statistics,
)
from lit_jax.layers.upsampling import UpsampleConv, upsample_conv

__all__ = [
  'BatchNorm',
  'Conv',
  'InstanceNorm',
  'UpsampleConv',
  'batch_norm',
  'block_diagonal',
  'conv',
  'fold',
  'instance_norm',
  'on_cpu',
  'plain_forms',
  'shared_axis',
  'shared_statistics',
  'two_batches',
  'unshared_statistics',
  'upsample_conv',
]
