"""How far images are from others, pixel by pixel.

Images are uint8, or floating-point numbers from 0 to 1; both are compared as
numbers from 0 to 1 (uint8 divided by 255), in float64.
"""

import numpy as np

CAP = 100.0
"""Decibels that equal images count for in a mean.

Two different uint8 images of fewer than 154,000 values have less: one value
that is off by 1 is 48.1 + 10 log₁₀(values) dB, 95.0 of 128x128 colours.
"""


def l1(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """The mean absolute difference of each pair of images.

  Args:
    images: [n, …], uint8 or floating-point from 0 to 1.
    others: of the same shape; its dtype may be the other one.

  Returns:
    [n] float64, from 0 to 1; times 255 it is in steps of uint8.

  Raises:
    ValueError: other shapes or dtypes.
  """
  return _over_pixels(np.abs(_difference(images, others)))


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """The peak signal-to-noise ratio of each pair of images.

  -10 log₁₀ of the mean squared difference, for a peak of 1.

  Args:
    images: [n, …], uint8 or floating-point from 0 to 1.
    others: of the same shape; its dtype may be the other one.

  Returns:
    [n] float64, in decibels; infinite for equal images (`mean_psnr`).

  Raises:
    ValueError: other shapes or dtypes.
  """
  squares = _over_pixels(np.square(_difference(images, others)))
  with np.errstate(divide='ignore'):
    return -10 * np.log10(squares)


def mean_psnr(decibels: np.ndarray, cap: float = CAP) -> float:
  """The mean over images, each of which counts for at most `cap` decibels.

  One pair of equal images would make a plain mean infinite.

  Args:
    decibels: of each image (`psnr`) [n].
    cap: the most that one counts for.
  """
  return float(np.minimum(np.asarray(decibels, np.float64), cap).mean())


def _difference(images, others):
  images, others = _unit(images), _unit(others)
  if images.shape != others.shape or images.ndim < 2:
    raise ValueError(
      f'images of the shapes {images.shape} and {others.shape}; give two '
      'equal ones, [n, …]'
    )
  return images - others


def _unit(images):
  images = np.asarray(images)
  if images.dtype == np.uint8:
    return images / np.float64(255)
  if not np.issubdtype(images.dtype, np.floating):
    raise ValueError(f'images of {images.dtype}, not uint8 or floating-point')
  return images.astype(np.float64)


def _over_pixels(values):
  return values.reshape(len(values), -1).mean(1)
