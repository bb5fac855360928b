"""The Fréchet distance between two sets of features (FID).

Heusel et al. 2017, eq. 6: the features of each set are taken for a Gaussian,
and the distance is that of Fréchet (Dowson & Landau 1982) between the two. The
features of FID are the 2048 of InceptionV3 (lit_jax/models/inception.py).
"""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
  """What FID needs to know of a set of features, whatever its size.

  Attributes:
    count: how many there are.
    mean: [d] float64.
    scatter: [d, d] float64, the sum over all features of (x - mean)(x - mean)ᵀ.
  """

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @property
  def covariance(self) -> np.ndarray:
    """The unbiased one (divided by count - 1), [d, d] float64.

    Raises:
      ValueError: fewer than two features have none.
    """
    if self.count < 2:
      raise ValueError(
        f'the covariance of {self.count} features; at least 2 are needed'
      )
    return self.scatter / (self.count - 1)


def moments(features: np.ndarray) -> Moments:
  """The moments of a set of features, or of a part of it (`merge`).

  Args:
    features: [n, d], n at least 1, of any dtype; the sums are in float64.

  Raises:
    ValueError: another shape, or numbers that are not finite.
  """
  x = np.asarray(features, np.float64)
  if x.ndim != 2 or not x.size:
    raise ValueError(f'features of shape {x.shape}, not [n, d]')
  if not np.isfinite(x).all():
    raise ValueError('features that are not finite')
  mean = x.mean(0)
  x = x - mean
  return Moments(len(x), mean, x.T @ x)


def merge(first: Moments, *others: Moments) -> Moments:
  """The moments of several parts together, as if they were one set.

  The parts are centred on means of their own (Chan et al. 1979), for a
  difference of great sums would lose digits. A long stream needs no more than
  its moments so far: `total = merge(total, moments(batch))`.

  Args:
    first: of a part.
    others: of more parts, in any order.

  Raises:
    ValueError: features of other sizes.
  """
  total = first
  for part in others:
    if part.mean.shape != total.mean.shape:
      raise ValueError(
        f'features of {len(part.mean)} numbers among those of {len(total.mean)}'
      )
    count = total.count + part.count
    step = part.mean - total.mean
    weight = total.count * part.count / count
    total = Moments(
      count,
      total.mean + step * (part.count / count),
      total.scatter + part.scatter + weight * np.outer(step, step),
    )
  return total


def fid(a: Moments, b: Moments) -> float:
  """The Fréchet distance of two sets by their moments; see `frechet`."""
  return frechet(a.mean, a.covariance, b.mean, b.covariance)


def frechet(
  mean_a: np.ndarray,
  covariance_a: np.ndarray,
  mean_b: np.ndarray,
  covariance_b: np.ndarray,
) -> float:
  """|μ_a - μ_b|² + Tr Σ_a + Tr Σ_b - 2 Tr (Σ_a Σ_b)^½, at least 0.

  With Σ = F Fᵀ for both, the last trace is the sum of the singular values of
  F_aᵀ F_b: their squares are the eigenvalues of Σ_a Σ_b, zeros aside. Unlike
  roots of eigenvalues that rounding has moved from 0 to 1e-16, singular values
  are as exact for covariances of less than full rank, such as those of fewer
  images than dimensions.

  Args:
    mean_a: [d].
    covariance_a: [d, d], symmetric and without negative eigenvalues.
    mean_b: [d].
    covariance_b: [d, d], likewise.

  Raises:
    ValueError: shapes that do not fit together.
  """
  mean_a, covariance_a, mean_b, covariance_b = (
    np.asarray(x, np.float64)
    for x in (mean_a, covariance_a, mean_b, covariance_b)
  )
  shapes = [np.shape(x) for x in (mean_a, covariance_a, mean_b, covariance_b)]
  d = np.size(mean_a)
  if shapes != [(d,), (d, d)] * 2:
    raise ValueError(f'means and covariances of the shapes {shapes}')
  overlap = _factor(covariance_a).T @ _factor(covariance_b)
  shared = np.linalg.svd(overlap, compute_uv=False).sum() if overlap.size else 0
  distance = (
    np.square(mean_a - mean_b).sum()
    + np.trace(covariance_a)
    + np.trace(covariance_b)
    - 2 * shared
  )
  return max(float(distance), 0.0)


def _factor(covariance):
  """F [d, rank] with F Fᵀ the covariance."""
  values, vectors = np.linalg.eigh(covariance)
  # What rounding makes of an eigenvalue 0 is of this size.
  least = np.abs(values).max() * len(values) * np.finfo(np.float64).eps
  kept = values > least
  return vectors[:, kept] * np.sqrt(values[kept])


def warning(count: int, dimensions: int = 2048) -> str:
  """What to say beside an FID of few images; '' where there are enough.

  Args:
    count: images of the smaller set.
    dimensions: of the features.
  """
  if count > dimensions:
    return ''
  return (
    f'FID of {count:,} images in {dimensions:,} dimensions: their covariance '
    'is singular and the FID is biased upwards; compare it only with FIDs of '
    'as many images'
  )
