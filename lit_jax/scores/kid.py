"""The kernel distance between two sets of features (KID).

Bińkowski et al. 2018, section 4: the squared maximum mean discrepancy (Gretton
et al. 2012) under a cubic kernel. Unlike FID its estimate has no bias, so sets
of different sizes may be compared; it may fall below 0.
"""

from typing import NamedTuple

import numpy as np


class Kid(NamedTuple):
  """The estimates of all subsets.

  Attributes:
    mean: of the estimates.
    std: of the estimates (divided by their number, not by one less).
    size: features of each set in an estimate.
  """

  mean: float
  std: float
  size: int


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """(x · y / d + 1)³ of every pair: [n, d] and [m, d] to [n, m]."""
  return (a @ b.T / a.shape[1] + 1) ** 3


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
  """The unbiased squared maximum mean discrepancy of two sets.

  The mean of k(x, x') over pairs within `a`, and within `b`, of two different
  members, less twice the mean over pairs of one member of each (Gretton et al.
  2012, eq. 3).

  Args:
    a: [n, d] float64, n at least 2.
    b: [m, d] float64, m at least 2.
  """
  return float(_within(a) + _within(b) - 2 * kernel(a, b).mean())


def _within(x):
  """The mean over pairs of different members."""
  values, n = kernel(x, x), len(x)
  return (values.sum() - np.trace(values)) / (n * (n - 1))


def kid(
  a: np.ndarray,
  b: np.ndarray,
  subsets: int = 100,
  size: int = 1000,
  seed: int = 0,
) -> Kid:
  """The mean and deviation of the discrepancy over random subsets.

  Args:
    a: features [n, d], of any dtype; all sums are in float64.
    b: features [m, d].
    subsets: how many estimates; each draws anew from both sets.
    size: features of a subset, drawn without repetition; where a set has
      fewer, as many as the smaller set has. `Kid.size` says what it was.
    seed: of the draws.

  Raises:
    ValueError: shapes that do not fit, fewer than two features, or no subset.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
    raise ValueError(f'features of the shapes {a.shape} and {b.shape}')
  size = min(size, len(a), len(b))
  if size < 2 or subsets < 1:
    raise ValueError(f'{subsets} subsets of {size}; at least 1 of 2 is needed')
  rng = np.random.default_rng(seed)
  found = [
    squared_mmd(*(x[rng.choice(len(x), size, replace=False)] for x in (a, b)))
    for _ in range(subsets)
  ]
  return Kid(float(np.mean(found)), float(np.std(found)), size)
