"""How many of a batch are taken at once."""

import math


def examples_a_piece(shape: tuple[int, ...], pixels: int) -> int:
  """The fewest that divide a batch and have so many pixels; at most all.

  Args:
    shape: of the batch, [n, h, w, c].
    pixels: wanted in a piece.
  """
  n, height, width, _ = shape
  least = min(n, math.ceil(pixels / (height * width)))
  return next(size for size in range(least, n + 1) if n % size == 0)


def largest_divisor(n: int, most: int) -> int:
  """The largest divisor of n that is not above `most`; both at least 1."""
  return max(k for k in range(1, min(n, most) + 1) if n % k == 0)
