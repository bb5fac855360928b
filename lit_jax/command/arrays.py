"""Examples in .npz files: a data set of the user's own."""

import pathlib
from typing import Any

import numpy as np

from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.images import checks
from lit_jax.data.preprocess import usual
from lit_jax.errors import UserError, reason, shown

_INPUTS, _LABELS, _NAMES = 'inputs', 'labels', 'class_names'


def read(train: pathlib.Path, test: pathlib.Path) -> Dataset:
  """The data set of two files.

  Args:
    train: `inputs` [N, …], `labels` integers [N], and maybe `class_names`.
    test: the same without names.

  Returns:
    Float64 inputs have become float32. There are as many classes as names, or
    else as the greatest training label tells of.

  Raises:
    UserError: a file cannot be read, or an array is missing or of another kind.
  """
  arrays = _arrays(train)
  names = _class_names(train, arrays)
  splits = {
    'train': _split(train, arrays),
    'test': _split(test, _arrays(test)),
  }
  classes = len(names) or int(splits['train'].labels.max()) + 1
  preprocess = usual(splits['train'].inputs)
  return Dataset('own', splits, classes, preprocess, names)


def facts(dataset: Dataset) -> dict[str, Any]:
  """What the data say of networks that are to read them."""
  shape = dataset.splits['train'].inputs.shape[1:]
  return {'classes': dataset.classes, 'input_shape': list(shape)}


def _arrays(path) -> dict[str, np.ndarray]:
  path = path.expanduser()
  checks.check_is_file(str(path), 'give an .npz file')
  try:
    with path.open('rb') as file, np.load(file) as found:
      names = [n for n in (_INPUTS, _LABELS, _NAMES) if n in found]
      arrays = {name: found[name] for name in names}
  # NumPy and the readers below it raise errors of every kind.
  except Exception as error:
    raise UserError(
      f'{path} cannot be read ({reason(error)}); give an .npz file that '
      'numpy.savez has written, without objects'
    ) from None
  for name in (_INPUTS, _LABELS):
    if name not in arrays:
      raise UserError(
        f'{path} has no array {name!r}; save it by numpy.savez(FILE, '
        'inputs=…, labels=…)'
      )
  return arrays


def _split(path, arrays) -> Split:
  inputs, labels = arrays[_INPUTS], arrays[_LABELS]
  if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
    raise UserError(
      f'{path}: labels are {labels.dtype} {labels.shape}; give one integer for '
      'each input'
    )
  if inputs.ndim < 1 or not 0 < len(labels) == len(inputs):
    raise UserError(
      f'{path}: inputs {inputs.shape} and labels {labels.shape}; give one '
      'label for each of at least one input'
    )
  if inputs.dtype == np.float64:
    inputs = inputs.astype(np.float32)
  return Split(inputs, labels)


def _class_names(path, arrays) -> tuple[str, ...]:
  names = arrays.get(_NAMES, np.zeros(0, str))
  if names.dtype.kind != 'U' or names.ndim != 1:
    raise UserError(
      f'{path}: class_names are {names.dtype} {names.shape}; give texts, one a '
      'class'
    )
  found = tuple(map(str, names))
  if len(set(found)) < len(found):
    raise UserError(f'{path}: class_names {shown(found)} name one class twice')
  return found
