"""The inception score of a set of images (IS).

Salimans et al. 2016, section 4: high where a classifier is sure of each image,
and takes the images for many different classes. It knows of no real images.
"""

from typing import NamedTuple

import numpy as np

# Rows of float32 softmax sum to 1 much better than that; logits never do.
_TOLERANCE = 1e-3


class InceptionScore(NamedTuple):
  """Over the parts of the set.

  Attributes:
    mean: of the parts' scores.
    std: of the parts' scores (divided by their number, not by one less).
  """

  mean: float
  std: float


def inception_score(
  probabilities: np.ndarray, splits: int = 10, seed: int = 0
) -> InceptionScore:
  """exp of the mean over images of KL(p(y|x) || p(y)), of each part.

  p(y) is the mean over the images of the part. Between 1 and the number of
  classes, and never above the number of a part's images.

  Args:
    probabilities: p(y|x) [n, classes], of any dtype (no logits); the sums are
      in float64.
    splits: how many parts of nearly equal size.
    seed: of the shuffle before the set is parted.

  Raises:
    ValueError: rows that are no probabilities, or fewer images than parts.
  """
  p = np.asarray(probabilities, np.float64)
  if p.ndim != 2 or not 1 <= splits <= len(p):
    raise ValueError(f'probabilities of shape {p.shape} in {splits} parts')
  # Of NaN this is not true either.
  if not (p.min() >= 0 and np.abs(p.sum(1) - 1).max() <= _TOLERANCE):
    raise ValueError('rows that are no probabilities: they do not sum to 1')
  p = p / p.sum(1, keepdims=True)
  order = np.random.default_rng(seed).permutation(len(p))
  scores = [_score(p[rows]) for rows in np.array_split(order, splits)]
  return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(p):
  # 0 log 0 is 0, and a class that has any probability has some in the mean.
  ratio = np.divide(p, p.mean(0), out=np.ones_like(p), where=p > 0)
  return np.exp((p * np.log(ratio)).sum(1).mean())
