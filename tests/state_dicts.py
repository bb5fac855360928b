"""State dicts of ResNets as PyTorch names them, and what these compute.

Needs no PyTorch, and shares nothing with our networks.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax


def norms(name, width):
  """Shapes by name, of a batch norm."""
  kinds = 'weight', 'bias', 'running_mean', 'running_var'
  return {f'{name}.{kind}': (width,) for kind in kinds}


def layout(
  count, shortcut, head='linear', beside='shortcut', width=16, inner=0
):
  """Shapes by name, of a ResNet as those after He et al. have them.

  With an inner width its units are bottlenecks, four times as wide as the stem
  where they end.
  """
  result = {'conv1.weight': (width, 3, 3, 3), **norms('bn1', width)}
  inputs = width
  for block in range(3):
    outputs = width * (4 if inner else 1) * 2**block
    narrow = inner * 2**block
    for i in range(count):
      unit = f'layer{block + 1}.{i}'
      convs = [(outputs, inputs, 3, 3), (outputs, outputs, 3, 3)]
      if inner:
        convs = [(narrow, inputs, 1, 1), (narrow, narrow, 3, 3)]
        convs += [(outputs, narrow, 1, 1)]
      for n, shape in enumerate(convs, start=1):
        result[f'{unit}.conv{n}.weight'] = shape
        result |= norms(f'{unit}.bn{n}', shape[0])
      if inputs != outputs and shortcut == 'B':
        result[f'{unit}.{beside}.0.weight'] = outputs, inputs, 1, 1
        result |= norms(f'{unit}.{beside}.1', outputs)
      inputs = outputs
  return result | {f'{head}.weight': (10, inputs), f'{head}.bias': (10,)}


def state(shapes, seed=0):
  """Arrays of these shapes as after some training: nothing is all 0 or 1."""
  rng = np.random.default_rng(seed)

  def draw(key, shape):
    if len(shape) > 1:
      # Inputs of unit size give outputs of about unit size.
      values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
    else:
      # A norm's weight, whatever it is called, has a `running_var` beside it.
      module, _, leaf = key.rpartition('.')
      of_norm = f'{module}.running_var' in shapes
      middle = of_norm and leaf in ('weight', 'running_var')
      values = middle + rng.uniform(-0.3, 0.3, shape)
    return values.astype(np.float32)

  return {key: draw(key, shape) for key, shape in shapes.items()}


def oracle(arrays, count, padding, x):
  """The logits of that state dict, in NCHW and by lax alone."""

  def norm(name, x):
    deviation = np.sqrt(arrays[f'{name}.running_var'] + 1e-5)
    scale = arrays[f'{name}.weight'] / deviation
    shift = arrays[f'{name}.bias'] - arrays[f'{name}.running_mean'] * scale
    return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

  def conv(name, x, stride=1):
    kernel = arrays[f'{name}.weight']
    pad = kernel.shape[2] // 2
    return lax.conv(jnp.pad(x, _around(pad)), kernel, (stride, stride), 'VALID')

  h = jax.nn.relu(norm('bn1', conv('conv1', x.transpose(0, 3, 1, 2))))
  for block in range(3):
    for i in range(count):
      unit = f'layer{block + 1}.{i}'
      stride = 2 if block and not i else 1
      three = f'{unit}.conv3.weight' in arrays
      strides = (1, stride, 1) if three else (stride, 1)
      y = h
      for n, step in enumerate(strides, start=1):
        y = jax.nn.relu(y) if n > 1 else y
        y = norm(f'{unit}.bn{n}', conv(f'{unit}.conv{n}', y, step))
      if f'{unit}.shortcut.0.weight' in arrays:
        h = norm(f'{unit}.shortcut.1', conv(f'{unit}.shortcut.0', h, stride))
      else:
        missing = y.shape[1] - h.shape[1]
        h = jnp.pad(h[:, :, ::stride, ::stride], _channels(missing, padding))
      h = jax.nn.relu(h + y)
  return (
    h.mean((2, 3)) @ arrays['linear.weight'].T + arrays['linear.bias'][None]
  )


def _around(pad):
  return (0, 0), (0, 0), (pad, pad), (pad, pad)


def _channels(count, padding):
  """As many channels of zeros, on both sides or at the end."""
  below = 0 if padding == 'end' else count // 2
  return (0, 0), (below, count - below), (0, 0), (0, 0)


class Writes:
  """A pickle of it makes a file when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def write(folder, arrays, metadata=None):
  """The path of a `.safetensors` with these arrays; skips without the extra."""
  numpy = pytest.importorskip(
    'safetensors.numpy', reason="needs safetensors: pip install -e '.[gan]'"
  )
  path = folder / 'net.safetensors'
  # It takes the bytes as they lie.
  arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
  numpy.save_file(arrays, path, metadata)
  return path
