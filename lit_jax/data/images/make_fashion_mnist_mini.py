"""Makes the embedded cut of Fashion-MNIST, the same bytes on every run.

The bytes also depend on the zlib that packs them; the arrays never do.
"""

import argparse
import os
import sys
import zipfile

import numpy as np

from lit_jax.data.dataset import Dataset
from lit_jax.data.images import sources
from lit_jax.errors import UserError

SEED = 0
PER_CLASS = {'train': 200, 'test': 100}
PATH = os.path.join(os.path.dirname(__file__), 'fashion_mnist_mini.npz')
# The earliest date that a zip file can hold, in place of the time of the run.
_DATE = (1980, 1, 1, 0, 0, 0)


def pick(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
  """Draws the same number of examples of every class.

  Args:
    labels: integers [N].
    per_class: how many examples to draw of each class.
    seed: which ones.

  Returns:
    Rising row numbers, int64 [per_class * classes].

  Raises:
    ValueError: a class has fewer examples than that.
  """
  rng = np.random.RandomState(seed)  # its stream never changes
  rows = []
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    if len(members) < per_class:
      raise ValueError(f'class {label} has {len(members)} examples only')
    rows.append(rng.permutation(members)[:per_class])
  return np.sort(np.concatenate(rows))


def cut(dataset: Dataset) -> dict[str, np.ndarray]:
  """Cuts the full data set down.

  Args:
    dataset: the full Fashion-MNIST.

  Returns:
    uint8 arrays: train_images [2000, 28, 28, 1], train_labels [2000],
    test_images [1000, 28, 28, 1], test_labels [1000].
  """
  arrays = {}
  for split, per_class in PER_CLASS.items():
    images, labels = dataset.splits[split]
    rows = pick(labels, per_class, SEED)
    arrays[f'{split}_images'] = images[rows]
    arrays[f'{split}_labels'] = labels[rows].astype(np.uint8)
  return arrays


def write(path: str, arrays: dict[str, np.ndarray]) -> None:
  """Writes a compressed npz file that holds no trace of when it was made.

  Args:
    path: the file to write, replaced where it exists.
    arrays: what to store, by name.

  Raises:
    OSError: the file cannot be written.
  """
  with zipfile.ZipFile(path, 'w') as archive:
    for name, array in arrays.items():
      member = zipfile.ZipInfo(f'{name}.npy', _DATE)
      member.compress_type = zipfile.ZIP_DEFLATED
      member.create_system = 3  # or it would say which system made the file
      with archive.open(member, 'w') as f:
        np.lib.format.write_array(f, np.ascontiguousarray(array))


def main() -> int:
  """Runs the command line; returns its exit code, 2 for bad input."""
  parser = argparse.ArgumentParser(
    description='Makes the embedded cut of Fashion-MNIST.'
  )
  parser.add_argument('--data_dir', default='', help='the full data set')
  parser.add_argument('--out', default=PATH, help='the file to write')
  args = parser.parse_args()
  try:
    arrays = cut(sources.load('fashion_mnist', args.data_dir))
    write(args.out, arrays)
  except (UserError, OSError) as e:
    print(e, file=sys.stderr)
    return 2
  print(f'{args.out}: {os.path.getsize(args.out)} bytes')
  return 0


if __name__ == '__main__':
  sys.exit(main())
