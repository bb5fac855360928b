"""Files of weights that PyTorch or others wrote: arrays by name, no code.

A pickle of foreign origin is read by `torch.load(…, weights_only=True)` alone,
which executes nothing of it. Which network the arrays are of is the caller's
matter (`inception.py`, `pytorch.py`).
"""

import io
import os
import pathlib
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lit_jax.errors import UserError, first_line, reason, require, shortened
from lit_jax.files import parse_json

TORCH, SAFETENSORS = ('.pth', '.pt'), '.safetensors'
# Counts the batches of training, which evaluation does not need.
IGNORED = '.num_batches_tracked'
_NAMED = 3  # Keys that a message names, of however many.
_KEY = 80  # characters of a key in a message


def content(path: str | os.PathLike[str], what: str, fix: str) -> bytes:
  """The bytes of a file, of a kind that can be read here.

  Args:
    path: `.pth` or `.pt`, which `torch.save` wrote (needs the extra `torch`),
      or `.safetensors` (needs the extra `gan`).
    what: the weights in words, for messages, such as 'weights of Inception'.
    fix: what to do where they are none, for messages.

  Raises:
    UserError: another kind of file, an extra is missing, or it is unreadable.
  """
  path = pathlib.Path(path)
  if path.suffix not in (*TORCH, SAFETENSORS):
    raise UserError(
      f'{path}: {what} are read from {", ".join((*TORCH, SAFETENSORS))}; {fix}'
    )
  if path.suffix == SAFETENSORS:
    require(f'{path.suffix} {what}', 'gan', 'safetensors')
  else:
    require(f'{path.suffix} {what}', 'torch', 'torch')
  try:
    return path.read_bytes()
  except OSError as error:
    raise UserError(
      f'{path}: {what} cannot be read ({reason(error)}); {fix}'
    ) from None


def parsed(path: pathlib.Path, content: bytes, fix: str) -> Any:
  """What a file holds: a mapping of arrays where it is one of weights.

  Args:
    path: says which kind of file it is.
    content: its bytes.
    fix: what to do where it holds no weights, for messages.

  Returns:
    Whatever was saved, of PyTorch's tensors or NumPy's arrays.

  Raises:
    UserError: a damaged file, or one that holds more than weights.
  """
  if path.suffix == SAFETENSORS:
    return _of_safetensors(path, content, fix)
  return _of_torch(path, content, fix)


def _of_torch(path, content, fix):
  import torch  # pyright: ignore[reportMissingImports]

  try:
    return torch.load(io.BytesIO(content), 'cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    # Its text says how to execute the file, and is of many lines.
    if 'GLOBAL' in str(error):
      raise UserError(
        f'{path}: holds Python objects, which reading would execute, and not '
        'weights alone; save them by torch.save(net.state_dict(), PATH), or '
        f'{fix}'
      ) from None
    raise _damaged(path, 'it is no pickle of weights') from None
  except Exception as error:  # PyTorch raises many kinds for a damaged file.
    if 'TorchScript' in str(error):
      raise UserError(
        f'{path}: is a TorchScript archive, which is a program and not weights '
        f'alone; {fix}'
      ) from None
    raise _damaged(path, first_line(error)) from None


def _of_safetensors(path, content, fix):
  from safetensors import numpy  # pyright: ignore[reportMissingImports]

  try:
    return numpy.load(content)
  except KeyError as error:
    raise UserError(
      f'{path}: holds numbers of the kind {error}, which NumPy lacks; save '
      f'them as float32, or {fix}'
    ) from None
  except Exception as error:  # Its own kind, for a damaged file.
    raise _damaged(path, first_line(error)) from None


def _damaged(path, why):
  return UserError(
    f'{path}: is damaged, or no {path.suffix} file ({why}); '
    'download or copy it again'
  )


def metadata(content: bytes) -> dict[str, str]:
  """The texts beside the arrays of a `.safetensors` that `parsed` has read."""
  # A file begins with its header's length in 8 bytes, and the header, in JSON.
  header = parse_json(content[8 : 8 + int.from_bytes(content[:8], 'little')])
  return dict(header.get('__metadata__') or {})


def state(
  path: pathlib.Path, found: Any, prefixes: Iterable[str], fix: str
) -> dict[str, Any]:
  """The arrays by name, without what is tolerated around them.

  Args:
    path: for messages.
    found: by name.
    prefixes: each is removed, again and again, where all names have it.
    fix: what to do where these are no arrays by name, for messages.

  Raises:
    UserError: no arrays by name.
  """
  if not is_state(found):
    raise UserError(
      f'{path}: holds a {type(found).__name__} that is no state dict, arrays '
      f'by their names; {fix}'
    )
  while prefix := next((p for p in prefixes if _all_begin(found, p)), ''):
    found = {key.removeprefix(prefix): value for key, value in found.items()}
  return {
    key: value for key, value in found.items() if not key.endswith(IGNORED)
  }


def _all_begin(found, prefix):
  return all(key.startswith(prefix) for key in found)


def is_state(found: Any) -> bool:
  """Whether these are arrays by name, one at least."""
  return (
    isinstance(found, Mapping)
    and bool(found)
    and all(isinstance(key, str) for key in found)
    and all(hasattr(value, 'shape') for value in found.values())
  )


def array(value: Any) -> np.ndarray | None:
  """As float32, or None of what has no floating-point numbers.

  Args:
    value: a tensor of PyTorch, or an array of NumPy.
  """
  if not isinstance(value, np.ndarray):
    # Sparse or quantized tensors, or those without numbers, are no weights.
    if (
      not value.is_floating_point()
      or 'strided' not in str(value.layout)
      or value.device.type != 'cpu'
    ):
      return None
    value = value.detach().float().numpy()
  if not jnp.issubdtype(value.dtype, jnp.floating):
    return None
  return value.astype(np.float32)


def check_values(
  path: pathlib.Path, key: str, array: np.ndarray, fix: str
) -> None:
  """Raises UserError, which ends with `fix`, where an array cannot be right."""
  if not np.isfinite(array).all():
    raise UserError(f'{path}: {key} holds NaN or infinity; {fix}')
  if key.endswith('running_var') and array.min() < 0:
    raise UserError(f'{path}: {key} holds variances below 0; {fix}')


def described(value: Any) -> str:
  """An array's dtype and shape, for messages."""
  return f'{str(value.dtype).removeprefix("torch.")} {list(value.shape)}'


def named(keys: Iterable[str]) -> str:
  """The first keys in order, and how many more there are, for messages."""
  known = sorted(keys)
  more = f' and {len(known) - _NAMED} more' if len(known) > _NAMED else ''
  return ', '.join(shortened(key, _KEY) for key in known[:_NAMED]) + more
