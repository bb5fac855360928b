"""InceptionV3's published weights, and what it says of many images.

The weights do not come with this package, nor are they fetched: the user names
a file. Those of FID are `pt_inception-2015-12-05-6726825d.pth`, a release of
the project pytorch-fid.
"""

import functools
import hashlib
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lit_jax.errors import UserError
from lit_jax.models.inception import (
  CLASSES,
  SIZE,
  InceptionV3,
  Outputs,
  prepare,
)
from lit_jax.networks import foreign

PUBLISHED = 'pt_inception-2015-12-05-6726825d.pth'
"""The file of FID's weights, in the releases of pytorch-fid on GitHub."""
_FIX = f"give FID's weights, {PUBLISHED} of the releases of pytorch-fid"
# PyTorch's names of what a module holds: Flax's collection and name, and the
# order of the axes in Flax.
_LEAVES = {
  'conv.weight': ('params', 'conv/kernel', (2, 3, 1, 0)),
  'bn.weight': ('params', 'bn/scale', (0,)),
  'bn.bias': ('params', 'bn/bias', (0,)),
  'bn.running_mean': ('batch_stats', 'bn/mean', (0,)),
  'bn.running_var': ('batch_stats', 'bn/var', (0,)),
  'fc.weight': ('params', 'fc/kernel', (1, 0)),
  'fc.bias': ('params', 'fc/bias', (0,)),
}


@functools.cache
def _keys() -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]:
  """PyTorch's keys: the path in Flax, the order of axes, PyTorch's shape."""
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
  tree = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
  shapes: dict[str, Any] = dict(traverse_util.flatten_dict(tree, sep='/'))
  keys = {}
  for leaf, (collection, name, order) in _LEAVES.items():
    for path, array in shapes.items():
      if not path.startswith(f'{collection}/') or not path.endswith(f'/{name}'):
        continue
      place = path.removeprefix(f'{collection}/').removesuffix(name)
      shape = tuple(array.shape[axis] for axis in np.argsort(order))
      keys[place.replace('/', '.') + leaf] = (path, order, shape)
  return keys


def load(path: str | os.PathLike[str], sha256: str = '') -> dict[str, Any]:
  """Reads the network's weights.

  A name that ends in eight hexadecimal digits, as the published one does, is
  taken for the beginning of the file's SHA-256, and is held to it.

  Args:
    path: `.pth` or `.pt`, a state dict that `torch.save` wrote (needs the extra
      `torch`; nothing in the file is executed), or `.safetensors` (needs the
      extra `gan`). The keys are those of PyTorch, with a `module.` before each
      or within a `state_dict` as well.
    sha256: of the file, in hexadecimal, or eight or more of its first digits;
      '' asks for none.

  Returns:
    Variables of `InceptionV3`: 'params' and 'batch_stats', float32.

  Raises:
    UserError: no such file, an extra is missing, another checksum, a damaged
      file, another network, or weights that are not finite.
  """
  path = pathlib.Path(path)
  content = foreign.content(path, 'weights of Inception', _FIX)
  _check_digest(path, content, sha256)
  found = foreign.parsed(path, content, _FIX)
  inner = found.get('state_dict') if isinstance(found, Mapping) else None
  found = inner if isinstance(inner, Mapping) else found
  return _variables(path, foreign.state(path, found, ('module.',), _FIX))


def _check_digest(path, content, wanted):
  wanted = wanted.lower()
  if wanted and not re.fullmatch('[0-9a-f]{8,64}', wanted):
    raise UserError(
      f'sha256 {wanted!r} of {path.name} is not 8 to 64 hexadecimal digits; '
      f'copy what sha256sum prints of the right file'
    )
  said = re.search('-([0-9a-f]{8})$', path.stem)
  digest = hashlib.sha256(content).hexdigest()
  for source, prefix in (
    ('was asked for', wanted),
    ('is in its name', said[1] if said else ''),
  ):
    if not digest.startswith(prefix):
      raise UserError(
        f'{path}: its SHA-256 is {digest[: len(prefix)]}…, and {prefix} '
        f'{source}: it is damaged or another file; download it again'
      )


def _variables(path, state):
  wanted = _keys()
  _check_layout(path, state, wanted)
  flat = {}
  for key, (place, order, shape) in wanted.items():
    array = foreign.array(state[key])
    if array is None or array.shape != shape:
      raise UserError(
        f'{path}: {key} is {foreign.described(state[key])}, not floating-point '
        f'{list(shape)}; {_FIX}'
      )
    foreign.check_values(path, key, array, _FIX)
    flat[place] = jnp.asarray(array.transpose(order))
  return traverse_util.unflatten_dict(flat, sep='/')


def _check_layout(path, state, wanted):
  """UserError unless the keys are those that are wanted."""
  if any(key.startswith('AuxLogits.') for key in state):
    bias = state.get('fc.bias')
    classes = 'no' if bias is None else math.prod(bias.shape)
    raise UserError(
      f"{path}: holds torchvision's Inception of ImageNet (AuxLogits, "
      f'{classes} classes), not that of FID ({CLASSES} classes), whose scores '
      f'are others; {_FIX}'
    )
  faults = []
  for fault, keys in (
    ('lacks', wanted.keys() - state.keys()),
    ('has the unknown', state.keys() - wanted.keys()),
  ):
    if keys:
      faults.append(f'{fault} {foreign.named(keys)}')
  if faults:
    raise UserError(
      f'{path}: is of another network: it {", and ".join(faults)}; {_FIX}'
    )


_prepare = jax.jit(prepare)
_apply = jax.jit(InceptionV3().apply)


def outputs(variables: Mapping[str, Any], images: Any) -> Outputs:
  """What the network says of one batch, which it reads at once.

  Args:
    variables: `load`'s.
    images: [n, h, w, 3], uint8 or floating-point from 0 to 1, of any size. Each
      new n is a new compilation, of a second or more.

  Returns:
    Features [n, 2048], logits [n, 1008], and these without bias; float32.

  Raises:
    UserError: arrays that are no such images.
  """
  _check(images)
  return _apply(variables, _prepare(images))


def stream(
  variables: Mapping[str, Any],
  images: Iterable[np.ndarray],
  batch: int = 32,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Features and probabilities of many images, a batch at a time.

  Args:
    variables: `load`'s.
    images: arrays [n, h, w, 3], uint8 or floating-point from 0 to 1; any n, and
      each may be of another size.
    batch: images that the network reads at once; it is compiled for that many,
      and the last ones are filled up with black images.

  Yields:
    Features [n, 2048] and probabilities [n, 1008] (the softmax of the logits
    without bias, which the inception score takes), float32, in order; n is at
    most `batch`.

  Raises:
    UserError: no positive batch, or arrays that are no such images.
  """
  if batch < 1:
    raise UserError(f'a batch of {batch} images; give at least 1')
  for chunk in _rebatched(images, batch):
    count = len(chunk)
    if count < batch:
      filler = np.zeros((batch - count, *chunk.shape[1:]), chunk.dtype)
      chunk = np.concatenate([chunk, filler])
    found = outputs(variables, chunk)
    probabilities = jax.nn.softmax(found.unbiased)
    yield np.asarray(found.pool)[:count], np.asarray(probabilities)[:count]


def read(
  variables: Mapping[str, Any],
  images: Iterable[np.ndarray],
  batch: int = 32,
) -> tuple[np.ndarray, np.ndarray]:
  """`stream`'s features [N, 2048] and probabilities [N, 1008] of all images.

  They take 12 kB an image.

  Args:
    variables: `load`'s.
    images: as for `stream`.
    batch: images that the network reads at once.

  Raises:
    UserError: as `stream`, or no image at all.
  """
  parts = list(stream(variables, images, batch))
  if not parts:
    raise UserError('there are no images to score; give at least one')
  features, probabilities = zip(*parts, strict=True)
  return np.concatenate(features), np.concatenate(probabilities)


def _check(images):
  shape, dtype = np.shape(images), getattr(images, 'dtype', None)
  known = dtype is not None and (
    dtype == np.uint8 or jnp.issubdtype(dtype, jnp.floating)
  )
  if len(shape) != 4 or shape[3] != 3 or 0 in shape or not known:
    raise UserError(
      f'images of shape {shape} and dtype {dtype} cannot be scored; give '
      '[n, height, width, 3], uint8 or floating-point from 0 to 1'
    )


def _rebatched(images, batch):
  """Arrays of `batch` images; fewer before a new size and at the end."""
  held: list[np.ndarray] = []
  for array in images:
    array = np.asarray(array)
    _check(array)
    if held and (held[0].shape[1:], held[0].dtype) != (
      array.shape[1:],
      array.dtype,
    ):
      yield np.concatenate(held)
      held = []
    held.append(array)
    if sum(map(len, held)) < batch:
      continue
    whole = np.concatenate(held)
    last = len(whole) - len(whole) % batch
    yield from np.split(whole[:last], last // batch)
    held = [whole[last:]] if last < len(whole) else []
  if held:
    yield np.concatenate(held)
