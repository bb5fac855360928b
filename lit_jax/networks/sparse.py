"""What a network with zeros takes on the disk: one NumPy file, really written.

In an .npz file, which is not compressed, each kernel stands in the smallest of
three forms. Under its name, such as 'params/stem/conv/kernel', it is dense.
'NAME:bits' is one bit a weight, 1 where it is not zero, as `numpy.packbits`
lays them out, and 'NAME:indices' are the places of those weights; either is
beside 'NAME:values', the weights themselves in their order. Everything that is
no kernel is dense.
"""

import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lit_jax.errors import UserError, first_line
from lit_jax.files import write_bytes

_BITS, _INDICES, _VALUES = ':bits', ':indices', ':values'
# Of a ZIP file without entries.
_EMPTY = 22
_HEADER = 1000  # bytes of an entry beside its array's, at most

Entries = dict[str, np.ndarray]


def is_kernel(path: tuple[Any, ...], leaf: Any) -> bool:
  """Whether a leaf is a layer's weights, and no bias or scale.

  Args:
    path: as `jax.tree_util` gives it; its last key is the leaf's name.
    leaf: anything that has `ndim`.
  """
  return getattr(path[-1], 'key', None) == 'kernel' and leaf.ndim >= 2


def nonzeros(params: Mapping[str, Any]) -> int:
  """How many of all parameters are not zero, biases and scales among them."""
  leaves = jax.tree.leaves(jax.device_get(dict(params)))
  return sum(int(np.count_nonzero(leaf)) for leaf in leaves)


def stored_bytes(variables: Mapping[str, Any]) -> int:
  """Bytes of the file that `write` makes, which is written in memory."""
  return len(_content(variables))


def write(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
  """Writes variables, whole or not at all.

  Args:
    path: of the file, by custom 'NAME.npz'; is made or replaced.
    variables: dictionaries within dictionaries, of arrays of NumPy's dtypes.

  Raises:
    OSError: as `files.write_bytes`.
  """
  write_bytes(path, _content(variables))


def read(
  path: str | os.PathLike[str], template: Mapping[str, Any]
) -> dict[str, Any]:
  """The variables that `write` wrote, bit for bit.

  Args:
    path: of the file.
    template: of the same structure; leaves with a shape and a dtype, such as
      `blocks.shapes` gives.

  Returns:
    NumPy arrays in the template's structure.

  Raises:
    UserError: no such file, a damaged one, or one of another network.
  """
  path = pathlib.Path(path)
  try:
    # Of bytes, for NumPy leaves a damaged file open.
    file = np.lib.npyio.NpzFile(io.BytesIO(path.read_bytes()))
    _check_size(file, template)
    entries = {name: file[name] for name in file.files}
  # NumPy and the readers below it raise errors of every kind.
  except Exception as error:
    raise UserError(
      f'cannot read {path} ({first_line(error)}); write it again'
    ) from None

  def one(path_, leaf):
    name = _name(path_)
    array = _restored(entries, name, leaf)
    found = None if array is None else (array.shape, array.dtype)
    if found != (tuple(leaf.shape), leaf.dtype):
      has = 'lacks' if array is None else 'has another form of'
      raise UserError(
        f'{path} {has} {name}; it is damaged, or of another network'
      )
    return array

  variables = jax.tree_util.tree_map_with_path(one, dict(template))
  if entries:
    raise UserError(
      f'{path} holds {min(entries)} as well, and is of another network'
    )
  return variables


def _check_size(file, template) -> None:
  """Of what is packed, which `write` packs not, a small file can hold much."""
  leaves = jax.tree.leaves(dict(template))
  dense = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
  # Each leaf is stored in its smallest form, of two entries at most.
  most = dense + 2 * _HEADER * (len(leaves) + 1)
  found = sum(member.file_size for member in file.zip.infolist())
  if found > most:
    raise ValueError(f'it holds {found} bytes, and the network {dense}')


def _content(variables) -> bytes:
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(dict(variables)))
  entries: Entries = {}
  for path, leaf in leaves:
    array, name = np.asarray(leaf), _name(path)
    forms = [{name: array}]
    if is_kernel(path, array):
      forms += _sparse(name, array)
    # The first of equal ones, so that a full kernel is dense.
    entries |= min(forms, key=lambda form: len(_zip(form)) - _EMPTY)
  return _zip(entries)


def _name(path):
  return '/'.join(str(part.key) for part in path)


def _zip(entries: Entries) -> bytes:
  file = io.BytesIO()
  np.savez(file, **entries)  # pyright: ignore[reportArgumentType]
  return file.getvalue()


def _sparse(name, array) -> list[Entries]:
  """A kernel's two sparse forms."""
  there = _has_bits(array).reshape(-1)
  values = array.reshape(-1)[there]
  places = np.flatnonzero(there)
  largest = int(places[-1]) if places.size else 0
  indices = places.astype(np.min_scalar_type(largest))
  return [
    {name + _BITS: np.packbits(there), name + _VALUES: values},
    {name + _INDICES: indices, name + _VALUES: values},
  ]


def _has_bits(array):
  """Where any bit is set: -0.0 is equal to zero, and has to come back."""
  raw = np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
  return raw.any(1).reshape(array.shape)


def _restored(entries: Entries, name, leaf) -> np.ndarray | None:
  """A leaf, whose entries are taken out; None where they do not make one."""
  if name in entries:
    return entries.pop(name)
  size = int(np.prod(leaf.shape))
  values = entries.pop(name + _VALUES, None)
  bits = entries.pop(name + _BITS, None)
  indices = entries.pop(name + _INDICES, None)
  if values is None or (bits is None) == (indices is None):
    return None
  if bits is not None:
    if bits.dtype != np.uint8 or bits.size != (size + 7) // 8:
      return None
    indices = np.flatnonzero(np.unpackbits(bits, count=size))
  assert indices is not None
  fits = indices.ndim == 1 and indices.dtype.kind in 'iu'
  if not fits or indices.shape != values.shape or (indices >= size).any():
    return None
  flat = np.zeros(size, values.dtype)
  flat[indices] = values
  return flat.reshape(leaf.shape)
