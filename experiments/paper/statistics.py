"""What may be concluded from a few runs' scores."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats

# The level of a verdict; two-sided.
LEVEL = 0.05

# Of a distribution that is averaged over.
_QUANTILES = 4096

HELD, CONTRADICTED, NOT_DECIDED = 'held', 'contradicted', 'not decided'


class Summary(NamedTuple):
  """Scores of runs that differ by their seed alone.

  Attributes:
    n: how many.
    mean: of them.
    std: the sample's (n - 1 below the root); None of a single score.
  """

  n: int
  mean: float
  std: float | None


class Comparison(NamedTuple):
  """Two rows, tested.

  Attributes:
    difference: of the means, the first less the second.
    welch: two-sided p of Welch's t-test, which takes no equal variances; None
      where a row has fewer than two scores or neither spreads.
    pooled: p of Student's, which takes them equal; None likewise.
    verdict: whether the first is above the second.
  """

  difference: float
  welch: float | None
  pooled: float | None
  verdict: str


def summary(scores: Sequence[float]) -> Summary:
  """Count, mean and spread of at least one score."""
  std = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
  return Summary(len(scores), float(np.mean(scores)), std)


def compare(better: Sequence[float], than: Sequence[float]) -> Comparison:
  """Tests the claim that one row's scores lie above another's.

  It held or is contradicted where Welch's p is below LEVEL; everything else is
  not decided, which is what few seeds say of small differences.

  Args:
    better: at least one score, the more the better.
    than: those of the other row.
  """
  difference = float(np.mean(better) - np.mean(than))
  welch = _p(better, than, equal_variances=False)
  pooled = _p(better, than, equal_variances=True)
  verdict = NOT_DECIDED
  if welch is not None and welch < LEVEL:
    verdict = HELD if difference > 0 else CONTRADICTED
  return Comparison(difference, welch, pooled, verdict)


def _p(a, b, equal_variances):
  if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
    return None
  tested: Any = stats.ttest_ind(a, b, equal_var=equal_variances)
  return float(tested.pvalue)


def detectable(a: Summary, b: Summary, power: float = 0.8) -> float | None:
  """The difference of means that Welch's test would find this often.

  By the noncentral t distribution, a normal one over a spread that is averaged
  over, with the spreads and counts that were found.

  Args:
    a: a row.
    b: the other one.
    power: the probability of finding it.

  Returns:
    In units of the scores; None where a row has no spread.
  """
  if not (a.std and b.std):
    return None
  parts = [s.std**2 / s.n for s in (a, b) if s.std]
  error = math.sqrt(sum(parts))
  freedom = sum(parts) ** 2 / sum(
    part**2 / (s.n - 1) for part, s in zip(parts, (a, b), strict=True)
  )
  limit = stats.t.ppf(1 - LEVEL / 2, freedom)

  # Quantiles of the spread that a test finds, over the true one. SciPy's
  # noncentral t is NaN at few degrees of freedom.
  chances = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
  spread = np.sqrt(stats.chi2.ppf(chances, freedom) / freedom)

  def found(effect):
    above = stats.norm.sf(limit * spread - effect)
    return float(np.mean(above + stats.norm.cdf(-limit * spread - effect)))

  # A thousand standard errors are always found.
  effect: Any = optimize.brentq(lambda e: found(e) - power, 0.0, 1000.0)
  return error * effect
