"""What several seeds gave, as a table shows it."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], digits: int) -> str:
  """'12.2 ± 0.1': the mean, and the standard deviation of two values or more.

  Args:
    values: at least one.
    digits: after the point.
  """
  text = f'{statistics.mean(values):.{digits}f}'
  if len(values) > 1:
    text += f' ± {statistics.stdev(values):.{digits}f}'
  return text
