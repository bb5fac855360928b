"""ResNets for small images that PyTorch trained, as networks of ours.

NAMES says which module of PyTorch is which part of ours, for the layouts in
use; depth, widths, kind of shortcut and classes are read off the arrays. What
no array says is asked for: the normalisation, and where option A pads.

Nor do arrays say where a network has its strides and poolings, its activation,
and the small number in its batch norms. These are taken to be as in He et al.
2016: a 3x3 stem without pooling, strides in the first 3x3 convolution of the
second and third block, every second pixel in option A, ReLU, 1e-5.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lit_jax import models
from lit_jax.blocks import shapes
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.errors import UserError, choose, reason, shown
from lit_jax.files import read_json
from lit_jax.networks import foreign

Names = tuple[tuple[str, str], ...]

_UNIT = 'blocks_{block}/units_{unit}/'
_STAGE = 'stage_{block+1}.{unit}.'
_NAMED_UNIT = 'stage_{block+1}.stage_{block+1}_bottleneck_{unit}.'
_CV_UNIT = 'features.stage{block+1}.unit{unit+1}.'
NAMES: Names = (
  # torchvision's names, which timm's ResNets and most for CIFAR have as well.
  ('conv1', 'stem/conv'),
  ('bn1', 'stem/norm'),
  ('layer{block+1}.{unit}.conv{n}', _UNIT + 'conv{n}'),
  ('layer{block+1}.{unit}.bn{n}', _UNIT + 'norm{n}'),
  ('layer{block+1}.{unit}.downsample.0', _UNIT + 'shortcut_conv'),
  ('layer{block+1}.{unit}.downsample.1', _UNIT + 'shortcut_norm'),
  ('fc', 'head/dense'),
  # Where those after He et al., and lit-code's, differ from them.
  ('layer{block+1}.{unit}.shortcut.0', _UNIT + 'shortcut_conv'),
  ('layer{block+1}.{unit}.shortcut.1', _UNIT + 'shortcut_norm'),
  ('linear', 'head/dense'),
  # Those after fb.resnet.torch.
  ('conv_1_3x3', 'stem/conv'),
  ('bn_1', 'stem/norm'),
  (_STAGE + 'conv_a', _UNIT + 'conv1'),
  (_STAGE + 'bn_a', _UNIT + 'norm1'),
  (_STAGE + 'conv_b', _UNIT + 'conv2'),
  (_STAGE + 'bn_b', _UNIT + 'norm2'),
  ('classifier', 'head/dense'),
  # ResNeXt's of the same descent.
  (_NAMED_UNIT + 'conv_reduce', _UNIT + 'conv1'),
  (_NAMED_UNIT + 'bn_reduce', _UNIT + 'norm1'),
  (_NAMED_UNIT + 'conv_conv', _UNIT + 'conv2'),
  (_NAMED_UNIT + 'bn', _UNIT + 'norm2'),
  (_NAMED_UNIT + 'conv_expand', _UNIT + 'conv3'),
  (_NAMED_UNIT + 'bn_expand', _UNIT + 'norm3'),
  (_NAMED_UNIT + 'shortcut.shortcut_conv', _UNIT + 'shortcut_conv'),
  (_NAMED_UNIT + 'shortcut.shortcut_bn', _UNIT + 'shortcut_norm'),
  # pytorchcv's.
  ('features.init_block.conv', 'stem/conv'),
  ('features.init_block.bn', 'stem/norm'),
  (_CV_UNIT + 'body.conv{n}.conv', _UNIT + 'conv{n}'),
  (_CV_UNIT + 'body.conv{n}.bn', _UNIT + 'norm{n}'),
  (_CV_UNIT + 'identity_conv.conv', _UNIT + 'shortcut_conv'),
  (_CV_UNIT + 'identity_conv.bn', _UNIT + 'shortcut_norm'),
  ('output', 'head/dense'),
  # Our own names, as the benchmark's peer has them.
  ('stem.conv', 'stem/conv'),
  ('stem.norm', 'stem/norm'),
  ('blocks_{block}.units_{unit}.conv{n}', _UNIT + 'conv{n}'),
  ('blocks_{block}.units_{unit}.norm{n}', _UNIT + 'norm{n}'),
  ('blocks_{block}.units_{unit}.shortcut_conv', _UNIT + 'shortcut_conv'),
  ('blocks_{block}.units_{unit}.shortcut_norm', _UNIT + 'shortcut_norm'),
  ('head.dense', 'head/dense'),
)
"""Pairs of PyTorch's module and our part; the first that fits counts.

`{block}`, `{unit}` and `{n}` stand for a number of a module, `{block+1}` for
one more than our block has.
"""

FAMILIES = ('resnet', 'resnext')
SHORTCUTS = {'A': 'pad', 'B': 'conv'}
"""He et al.'s options: what our families call them."""
PADDINGS = ('both', 'end')
# Where checkpoints keep the arrays, beside the epoch and the optimiser.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model_state', 'model', 'net')
# What DataParallel, torch.compile and Lightning put before every name.
_PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.')
# Buffers of a network that normalises its images itself.
_NORMALISERS = ('', 'normalize.', 'normalizer.')
_HOLE = re.compile(r'\{(\w+)(?:\+(\d+))?\}')
# What a part of ours stores: PyTorch's name, our collection and name, and the
# order of PyTorch's axes in Flax.
_LEAVES: dict[str, dict[str, tuple[str, str, tuple[int, ...]]]] = {
  'conv': {'weight': ('params', 'kernel', (2, 3, 1, 0))},
  'norm': {
    'weight': ('params', 'scale', (0,)),
    'bias': ('params', 'bias', (0,)),
    'running_mean': ('batch_stats', 'mean', (0,)),
    'running_var': ('batch_stats', 'var', (0,)),
  },
  'dense': {
    'weight': ('params', 'kernel', (1, 0)),
    'bias': ('params', 'bias', (0,)),
  },
}
_WHAT = 'weights of PyTorch'
_FIX = (
  "give the state dict of a ResNet for small images, torch.save's .pth or "
  '.safetensors'
)
_BLOCKS = 3
# Normalisations that are told twice may be rounded differently.
_ROUNDING = 6e-4


@dataclasses.dataclass(frozen=True)
class Told:
  """What the user says of a network; None leaves it to the file.

  What the file says as well is only confirmed, and a contradiction refused.

  Attributes:
    depth: layers by name, 6n+2 of blocks of n units.
    units: of each block, where these are not equally many.
    classes: how many.
    shortcut: 'A' (zero channels) or 'B' (convolutions).
    padding: where option A puts the zero channels, which no file says: 'both'
      sides, or the 'end'.
    mean: of each channel in training, in units of 0-1 pixels.
    std: likewise, the deviations.
    size: height and width of the images.
  """

  depth: int | None = None
  units: tuple[int, ...] | None = None
  classes: int | None = None
  shortcut: str | None = None
  padding: str | None = None
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  size: int = 32


class Imported(NamedTuple):
  """A network of ours that was made from foreign weights.

  Attributes:
    spec: what `models.build` makes it from; JSON values.
    preprocess: what it must be fed with.
    variables: 'params' and 'batch_stats', float32.
  """

  spec: dict[str, Any]
  preprocess: ImagePreprocess
  variables: dict[str, Any]


class Checkpoint(NamedTuple):
  """What a file holds.

  Attributes:
    arrays: PyTorch's tensors or NumPy's arrays by PyTorch's names, without a
      prefix that all have, and without counters.
    mean: of each channel; None where the file does not say.
    std: likewise.
  """

  arrays: dict[str, Any]
  mean: tuple[float, ...] | None
  std: tuple[float, ...] | None


class _Leaf(NamedTuple):
  """An array of ours, and where it was found.

  Attributes:
    key: PyTorch's.
    array: float32, its axes in Flax's order.
    order: of PyTorch's axes.
  """

  key: str
  array: np.ndarray
  order: tuple[int, ...]


def load(
  path: str | os.PathLike[str],
  family: str = 'resnet',
  told: Told | None = None,
  names: Names = NAMES,
) -> Imported:
  """Makes a network of ours from a file that PyTorch wrote.

  Args:
    path: as for `read`.
    family: 'resnet' (16 channels wide after the stem), or 'resnext' (64; also
      ResNets of that width, which have a cardinality of 1).
    told: what is known of the network.
    names: which module is which part; a layout of your own goes before NAMES.

  Returns:
    The network, whose logits are PyTorch's up to rounding. Where option A pads
    at the end, the channels of the blocks are in another order.

  Raises:
    UserError: as `read`; keys that are unknown, missing or of other shapes; a
      network that the family does not hold; what is told contradicts the file;
      or no normalisation, or no padding, is known.
  """
  path, told = pathlib.Path(path), told or Told()
  choose('family', family, FAMILIES)
  checkpoint = read(path)
  found = _placed(path, checkpoint.arrays, names)
  spec = _spec(path, found, family, told)
  _check_arrays(path, found, spec, names)
  channels = spec['input_shape'][2]
  preprocess = ImagePreprocess(
    _normalisation(path, 'mean', told.mean, checkpoint.mean, channels),
    _normalisation(path, 'std', told.std, checkpoint.std, channels),
  )
  arrays = {place: leaf.array for place, leaf in found.items()}
  if _padding(path, spec, told) == 'end':
    arrays = _padded_on_both_sides(path, arrays, spec)
  leaves = {place: jnp.asarray(array) for place, array in arrays.items()}
  variables = traverse_util.unflatten_dict(leaves, sep='/')
  return Imported(spec, preprocess, variables)


def read(path: str | os.PathLike[str]) -> Checkpoint:
  """The arrays of a file, and the normalisation where the file says one.

  Args:
    path: `.pth` or `.pt`, a state dict or a checkpoint with one that
      `torch.save` wrote (needs the extra `torch`; nothing in the file is
      executed), or `.safetensors` (needs the extra `gan`). `mean` and `std` of
      the images are taken from the checkpoint, from the metadata of
      `.safetensors`, or from a network that normalises its images itself.

  Raises:
    UserError: no such file, an extra is missing, a damaged file, or no state
      dict.
  """
  path = pathlib.Path(path)
  try:
    content = foreign.content(path, _WHAT, _FIX)
  except UserError as error:
    if isinstance(error.__cause__, ImportError) and path.suffix in (
      foreign.TORCH
    ):
      raise UserError(f'{error}; or give the weights as .safetensors') from None
    raise
  found = foreign.parsed(path, content, _FIX)
  arrays = foreign.state(path, _unwrapped(path, found), _PREFIXES, _FIX)
  beside: list[Mapping[str, Any]] = []
  for prefix in _NORMALISERS:
    keys = {key: f'{prefix}{key}' for key in ('mean', 'std')}
    if all(key in arrays for key in keys.values()):
      beside.append({key: arrays.pop(name) for key, name in keys.items()})
  if path.suffix == foreign.SAFETENSORS:
    beside.append(foreign.metadata(content))
  elif not foreign.is_state(found):
    beside.append(found)
  said = next((one for one in beside if 'mean' in one and 'std' in one), {})
  mean, std = (_numbers(path, key, said.get(key)) for key in ('mean', 'std'))
  return Checkpoint(arrays, mean, std)


def _unwrapped(path, found):
  """The state dict within a checkpoint."""
  if not isinstance(found, Mapping) or foreign.is_state(found):
    return found
  held = [name for name in _WRAPPERS if foreign.is_state(found.get(name))]
  if len(held) > 1:
    raise UserError(
      f'{path}: holds several networks, {", ".join(held)}; save the one that '
      'is meant by torch.save(net.state_dict(), PATH)'
    )
  return found[held[0]] if held else found


def _numbers(path, key, value) -> tuple[float, ...] | None:
  """Of an array, a list, or a text of one."""
  if value is None:
    return None
  if isinstance(value, str):
    value = [part for part in re.split(r'[\s,\[\]()]+', value) if part]
  try:
    return tuple(np.asarray(value, np.float64).reshape(-1).tolist())
  except (TypeError, ValueError, RuntimeError):
    raise UserError(
      f'{path}: says a {key} of {shown(value)}, which are no numbers of '
      'channels; save the state dict alone, and tell mean and std'
    ) from None


# From PyTorch's names to ours, and back.


@functools.cache
def _expression(pattern: str) -> tuple[re.Pattern[str], dict[str, int]]:
  """What a pattern fits, and how far its numbers are from ours."""
  offsets: dict[str, int] = {}
  parts, end = [], 0
  for hole in _HOLE.finditer(pattern):
    name = hole[1]
    parts.append(re.escape(pattern[end : hole.start()]))
    # Five digits and more, or zeros before them, are no numbers of layers.
    group = f'(?P<{name}>0|[1-9][0-9]{{0,3}})'
    parts.append(f'(?P={name})' if name in offsets else group)
    offsets[name] = int(hole[2] or 0)
    end = hole.end()
  return re.compile(''.join([*parts, re.escape(pattern[end:])])), offsets


def _translated(text: str, pattern: str, other: str) -> str | None:
  """A name by the other pattern; None where it does not fit the first."""
  expression, offsets = _expression(pattern)
  match = expression.fullmatch(text)
  if match is None:
    return None
  numbers = {name: int(match[name]) - by for name, by in offsets.items()}
  if min(numbers.values(), default=0) < 0:
    return None
  return _HOLE.sub(
    lambda hole: str(numbers[hole[1]] + int(hole[2] or 0)), other
  )


def _kind(part: str) -> str:
  """What a part of ours is: a key of _LEAVES, or ''."""
  last = part.rpartition('/')[2]
  return next((kind for kind in _LEAVES if kind in last), '')


def checked(names: Any, where: str) -> Names:
  """Pairs of a layout of the user's own.

  Args:
    names: an object of JSON: PyTorch's module, and our part of the network, as
      NAMES has them.
    where: they were read from, for messages.

  Raises:
    UserError: no such pairs.
  """
  pairs = tuple(names.items()) if isinstance(names, Mapping) else ()
  for theirs, ours in pairs:
    known = {hole[1] for hole in _HOLE.finditer(theirs)}
    wanted = (
      {hole[1] for hole in _HOLE.finditer(ours)}
      if isinstance(ours, str)
      else set()
    )
    if not isinstance(ours, str) or not _kind(ours) or wanted != known:
      raise UserError(
        f'{where}: {shown(theirs)} stands for {shown(ours)}; write it as '
        f'{NAMES[2][0]!r}: {NAMES[2][1]!r}, with the same names in brackets'
      )
  if not pairs:
    raise UserError(
      f'{where}: holds no names; write an object of JSON, such as '
      '{"my_stem": "stem/conv", …}'
    )
  return pairs


def read_names(path: str | os.PathLike[str]) -> Names:
  """A layout of the user's own, in a file of JSON, before NAMES.

  Raises:
    UserError: the file cannot be read, or as `checked`.
  """
  try:
    found = read_json(pathlib.Path(path))
  except (OSError, ValueError) as error:
    raise UserError(
      f'{path}: the names cannot be read ({reason(error)}); write an object of '
      'JSON, such as {"my_stem": "stem/conv", …}'
    ) from None
  return checked(found, str(path)) + NAMES


def _place(key: str, names: Names) -> tuple[str, tuple[int, ...]] | None:
  """Where an array of PyTorch's stands with us, and the order of its axes."""
  module, _, leaf = key.rpartition('.')
  for theirs, ours in names:
    part = _translated(module, theirs, ours)
    if part is None:
      continue
    if leaf in (leaves := _LEAVES[_kind(part)]):
      collection, name, order = leaves[leaf]
      return f'{collection}/{part}/{name}', order
  return None


def _key(place: str, names: Names, keys: Iterable[str]) -> str:
  """What PyTorch calls an array of ours, in the layout of the other keys."""
  collection, _, rest = place.partition('/')
  part, _, name = rest.rpartition('/')
  leaf = next(
    theirs
    for theirs, (own, ours, _) in _LEAVES[_kind(part)].items()
    if (own, ours) == (collection, name)
  )
  modules = {key.rpartition('.')[0] for key in keys}
  known = [
    (any(_translated(m, theirs, ours) for m in modules), module)
    for theirs, ours in names
    if (module := _translated(part, ours, theirs)) is not None
  ]
  # Where the very pattern is in use, it is the layout's; else the first.
  first = known[0][1] if known else part
  module = next((module for fits, module in known if fits), first)
  return f'{module}.{leaf}'


def state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The arrays of a ResNet or ResNeXt of ours, as PyTorch has them.

  Args:
    variables: 'params' and 'batch_stats', float32.

  Returns:
    float32 arrays by torchvision's names, their axes in PyTorch's order, each
    with memory of its own that lies in that order.
  """
  result = {}
  leaves: Mapping[str, Any] = traverse_util.flatten_dict(variables, sep='/')
  for place, leaf in leaves.items():
    key = _key(place, NAMES, ())
    at = _place(key, NAMES)
    assert at is not None and at[0] == place, place
    back = np.argsort(at[1])
    result[key] = np.array(np.asarray(leaf).transpose(back), order='C')
  return result


def variables(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The arrays of a file by our names, of a network that the caller knows.

  Args:
    path: as for `read`, with names of NAMES.

  Returns:
    'params' and 'batch_stats', float32; their shapes are not looked at.

  Raises:
    UserError: as `read`; unknown keys, or arrays of other ranks.
  """
  path = pathlib.Path(path)
  found = _placed(path, read(path).arrays, NAMES)
  arrays = {place: leaf.array for place, leaf in found.items()}
  return traverse_util.unflatten_dict(arrays, sep='/')


def _placed(path, arrays, names) -> dict[str, _Leaf]:
  """The arrays by our paths, in Flax's order of axes."""
  places = {key: _place(key, names) for key in sorted(arrays)}
  found: dict[str, _Leaf] = {}
  for key, at in places.items():
    if at is None:
      continue
    place, order = at
    if place in found:
      raise UserError(
        f'{path}: {found[place].key} and {key} are one part of the network, '
        f'{place}; save the state dict of one network'
      )
    array = foreign.array(arrays[key])
    if array is None or array.ndim != len(order):
      raise UserError(
        f'{path}: {foreign.named([key])} is {foreign.described(arrays[key])}, '
        f'not floating-point numbers of {len(order)} axes; {_FIX}'
      )
    found[place] = _Leaf(key, array.transpose(order), order)
  _check_stem(path, found)
  if unknown := [key for key, at in places.items() if at is None]:
    raise UserError(
      f'{path}: has the unknown {foreign.named(unknown)}; say by --names which '
      'part of the network each module is, or give another network'
    )
  return found


# Which network it is.


def _refused(path, why):
  return UserError(
    f'{path}: {why}; a teacher of that kind cannot be imported, so train one '
    'of ours, or give it as a BlockNet of your own'
  )


def _check_stem(path, found):
  """Says of ImageNet's networks what they are, before any key is missed."""
  stem = found.get('params/stem/conv/kernel')
  if stem is not None and stem.array.shape[:2] != (3, 3):
    height, width = stem.array.shape[:2]
    raise _refused(
      path,
      f'its stem {stem.key} is a convolution of {height}x{width}, and that of '
      'our ResNets, which are for small images, is 3x3',
    )


def _units(path, found) -> list[int]:
  """How many units each block has."""
  counts: dict[int, int] = {}
  for place in found:
    at = re.search(r'/blocks_(\d+)/units_(\d+)/', place)
    if at:
      block, unit = int(at[1]), int(at[2])
      counts[block] = max(counts.get(block, 0), unit + 1)
  if len(counts) != _BLOCKS or max(counts) != _BLOCKS - 1:
    have = ', '.join(str(block + 1) for block in sorted(counts)) or 'none'
    raise _refused(
      path,
      f'its blocks are {have}, and our ResNets have three, at full, half and '
      'a quarter of the resolution',
    )
  units = [counts[block] for block in range(_BLOCKS)]
  if sum(units) > len(found):
    raise UserError(
      f'{path}: says {sum(units)} units and holds {len(found)} arrays; {_FIX}'
    )
  return units


def _spec(path, found, family, told) -> dict[str, Any]:
  """The specification, of what the arrays say."""
  units = _units(path, found)
  widths = _widths(path, found, family)
  _check_units(path, units, told)
  shortcut = _shortcut(path, found, told.shortcut)
  spec: dict[str, Any] = {'family': family}
  if len(set(units)) == 1:
    spec['depth'] = 2 * sum(units) + 2
  else:
    spec['units'] = units
  spec['shortcut'] = shortcut
  spec |= widths
  spec['classes'] = _classes(path, found, told.classes)
  stem = found.get('params/stem/conv/kernel')
  channels = 3 if stem is None else stem.array.shape[2]
  spec['input_shape'] = [told.size, told.size, channels]
  return spec


def _check_units(path, units, told):
  said = ','.join(map(str, units))
  depth = 2 * sum(units) + 2
  equal = len(set(units)) == 1
  if told.depth not in (None, depth if equal else None):
    raise _contradicted(
      path, 'depth', told.depth, f'{depth} (its blocks have units {said})'
    )
  if told.units is None and not equal:
    # A part of a file looks the same.
    raise UserError(
      f'{path}: its blocks have units {said}, not equally many; say by '
      f'--units={said} that this is all of it, or give the whole file'
    )
  if told.units not in (None, tuple(units)):
    wanted = ','.join(map(str, told.units))
    raise _contradicted(path, 'units', wanted, said)


def _contradicted(path, what, told, said):
  return UserError(
    f'{path}: {what} told as {told}, and the file says {said}; leave it '
    'out, or give the right file'
  )


def _shortcut(path, found, told) -> str:
  if told is not None:
    choose('shortcut', told, SHORTCUTS)
  own = sorted(
    leaf.key for place, leaf in found.items() if '/shortcut_' in place
  )
  option = 'B' if own else 'A'
  if told not in (None, option):
    said = f'B ({own[0]})' if own else 'A (no shortcut has weights)'
    raise _contradicted(path, 'shortcut', told, said)
  return SHORTCUTS[option]


def _classes(path, found, told) -> int:
  dense = found.get('params/head/dense/kernel')
  if dense is None:
    return told or 1  # What is missing is told of next.
  classes = dense.array.shape[1]
  if told not in (None, classes):
    raise _contradicted(path, 'classes', told, classes)
  return classes


def _widths(path, found, family) -> dict[str, Any]:
  """What a family's options say of widths; refuses what it does not hold."""

  def shape(part):
    leaf = found.get(f'params/{part}/kernel')
    return None if leaf is None else leaf.array.shape

  stem = shape('stem/conv')
  bottleneck = any(place.endswith('/conv3/kernel') for place in found)
  width = {'resnet': 16, 'resnext': 64}[family]
  if stem is not None and stem[3] != width:
    other = {16: 'resnet', 64: 'resnext'}.get(stem[3])
    hint = f' (--family={other} is {stem[3]})' if other else ''
    raise _refused(
      path, f'its stem is {stem[3]} wide, and that of {family} {width}{hint}'
    )
  if family == 'resnet':
    if bottleneck:
      raise _refused(
        path,
        'its units are bottlenecks of three convolutions, and those of resnet '
        'have two',
      )
    return {}
  first, second = (shape(f'blocks_0/units_0/conv{n}') for n in (1, 2))
  if first is None or second is None:
    return {}  # What is missing is told of next.
  if first[3] % second[2]:
    return {}
  return {
    'cardinality': first[3] // second[2],
    'base_width': second[2],
    'unit': 'bottleneck' if bottleneck else 'basic',
  }


def _check_arrays(path, found, spec, names):
  """UserError unless these are all arrays of that network, and sound."""
  title = models.title(spec)
  wanted: dict[str, Any] = dict(
    traverse_util.flatten_dict(shapes(models.build(spec)), sep='/')
  )
  keys = [leaf.key for leaf in found.values()]
  lacking = [_key(place, names, keys) for place in wanted.keys() - found.keys()]
  extra = [found[place].key for place in found.keys() - wanted.keys()]
  faults = [
    f'{fault} {foreign.named(own)}'
    for fault, own in (('lacks', lacking), ('has besides', extra))
    if own
  ]
  if faults:
    raise UserError(
      f'{path}: is read as {title}, and {" and ".join(faults)}; give all '
      'weights of one network'
    )
  for place, leaf in sorted(found.items(), key=lambda item: item[1].key):
    _check_array(path, leaf, wanted[place].shape, title)


def _check_array(path, leaf, shape, title):
  if leaf.array.shape != shape:
    theirs, ours = (
      [own[axis] for axis in np.argsort(leaf.order)]
      for own in (leaf.array.shape, shape)
    )
    raise UserError(
      f'{path}: {leaf.key} has the shape {theirs}, and {title} has {ours} '
      f'there; {_FIX}'
    )
  foreign.check_values(path, leaf.key, leaf.array, _FIX)


# What no array says.


def _normalisation(path, key, told, said, channels) -> tuple[float, ...]:
  if told is None and said is None:
    raise UserError(
      f'{path}: does not say the {key} of the images that it was trained on, '
      f'and a wrong one costs accuracy without a word; give --{key} as in the '
      "training code's Normalize, in units of 0-1 pixels"
    )
  value = said if told is None else told
  if len(value) != channels:
    raise UserError(
      f'{path}: reads images of {channels} channels, and {key} has '
      f'{len(value)} numbers, {shown(value)}; give one a channel'
    )
  lowest = 0.0 if key == 'mean' else 1e-6
  if not all(math.isfinite(v) and lowest <= v <= 1 for v in value):
    raise UserError(
      f'{path}: a {key} of {shown(value)} is not of pixels from 0 to 1; divide '
      'by 255 what is of pixels to 255'
    )
  if said is not None and told is not None:
    near = len(said) == len(told) and np.allclose(said, told, 0, _ROUNDING)
    if not near:
      raise _contradicted(path, key, list(told), list(said))
    value = said
  return tuple(float(v) for v in value)


def _padding(path, spec, told) -> str:
  """Where zero channels are padded: 'both', or 'end'."""
  if told.padding is not None:
    choose('padding', told.padding, PADDINGS)
  if spec['shortcut'] == 'conv':
    if told.padding is not None:
      raise UserError(
        f'{path}: has shortcuts of option B, which pad nothing; leave padding '
        'out, or give the right file'
      )
    return 'both'
  if told.padding is None:
    raise UserError(
      f'{path}: has shortcuts of option A, and does not say where their zero '
      'channels are; give --padding=both where the code is F.pad(…, (0, 0, 0, '
      '0, p, p)), or --padding=end where it is torch.cat((x, zeros), 1)'
    )
  return told.padding


def _padded_on_both_sides(
  path, arrays: Mapping[str, np.ndarray], spec
) -> dict[str, np.ndarray]:
  """The same network with its channels in the order that our padding asks for.

  A block's channels can be in any order, where all that writes or reads them
  agrees: the last convolution and norm of each unit, the first convolution of
  the next, and the head. Ours has the channels of the block before in the
  middle, where theirs has them first.
  """
  last = 3 if spec.get('unit') == 'bottleneck' else 2
  if last == 2 and spec.get('cardinality', 1) > 1:
    raise _refused(
      path,
      'it pads at the end, and the last convolutions of its units are grouped, '
      'so that their channels cannot change places',
    )
  result = dict(arrays)
  order = np.arange(arrays['params/stem/conv/kernel'].shape[3])
  for block in range(_BLOCKS):
    name = f'params/blocks_{block}'
    width = arrays[f'{name}/units_0/norm{last}/scale'].size
    before, order = order, _middle(order, width)
    units = {'/'.join(place.split('/')[:3]) for place in arrays}
    for unit in (unit for unit in units if unit.startswith(f'{name}/')):
      reads = before if unit.endswith('/units_0') else order
      first, final = (f'{unit}/conv{n}/kernel' for n in (1, last))
      result[first] = result[first][:, :, reads]
      result[final] = result[final][..., order]
      for place in _of_norm(f'{unit}/norm{last}'):
        result[place] = result[place][order]
  head = 'params/head/dense/kernel'
  result[head] = result[head][order]
  return result


def _of_norm(part):
  statistics = part.replace('params/', 'batch_stats/', 1)
  return (
    f'{part}/scale', f'{part}/bias', f'{statistics}/mean', f'{statistics}/var',
  )  # fmt: skip


def _middle(before: np.ndarray, width: int) -> np.ndarray:
  """Which of their channels each of ours is, after one more padding.

  Args:
    before: the same of the narrower channels, int [m].
    width: of the wider ones; equal ones are not padded.
  """
  count = len(before)
  below = (width - count) // 2
  zeros = np.arange(count, width)
  return np.concatenate([zeros[:below], before, zeros[below:]])
