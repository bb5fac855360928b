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
  if std and np.ptp(scores) == 0:
    # Of equal numbers, whose mean was rounded.
    std = 0.0
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


def compare_equal(
  a: Sequence[float], b: Sequence[float], margin: float
) -> Comparison:
  """Tests the claim that two rows' scores do not differ.

  It held where the difference of means lies within the margin, by Welch's test
  of either bound (Schuirmann 1987); it is contradicted where they differ by
  Welch's two-sided test. That a difference was not found shows nothing.

  Args:
    a: scores.
    b: those of the other row.
    margin: a difference that nobody minds; 0 where none is known.
  """
  tested = compare(a, b)
  error = _error(a, b) if min(len(a), len(b)) > 1 else None
  held = (
    error is not None
    and _below(abs(tested.difference) - margin, *error) < LEVEL
  )
  different = tested.welch is not None and tested.welch < LEVEL
  verdict = CONTRADICTED if different and not held else NOT_DECIDED
  return tested._replace(verdict=HELD if held else verdict)


def compare_no_loss(
  a: Sequence[float], b: Sequence[float], margin: float
) -> Comparison:
  """Tests the claim that one row's scores are not worse than another's.

  It held where they are above it, or below by less than the margin; it is
  contradicted where they are below. A row of one score, such as that of a
  teacher, is taken as it is, without a spread.

  Args:
    a: scores, the more the better.
    b: those of the other row.
    margin: a loss that nobody minds.
  """
  difference = float(np.mean(a) - np.mean(b))
  error = _error(a, b) if len(a) > 1 else None
  verdict, two_sided = NOT_DECIDED, None
  if error is not None:
    two_sided = float(2 * stats.t.sf(abs(difference) / error[0], error[1]))
    if _below(-difference - margin, *error) < LEVEL:
      verdict = HELD
    elif difference < 0 and two_sided < LEVEL:
      verdict = CONTRADICTED
  pooled = _p(a, b, equal_variances=True)
  return Comparison(difference, two_sided, pooled, verdict)


def _error(a, b):
  """The difference's standard error and Welch's degrees of freedom.

  None where no row spreads. A row of one score adds nothing to either.
  """
  parts = [
    (float(np.var(row, ddof=1)) / len(row), len(row) - 1)
    for row in (a, b)
    if len(row) > 1
  ]
  variance = sum(part for part, _ in parts)
  if not variance:
    return None
  freedom = variance**2 / sum(part**2 / own for part, own in parts)
  return math.sqrt(variance), freedom


def _below(distance, error, freedom):
  """One-sided p that a difference is below a bound that it is so far from."""
  return float(stats.t.cdf(distance / error, freedom))


def _p(a, b, equal_variances):
  if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
    return None
  # `ttest_ind` of the scores themselves warns where one row does not spread.
  (n, mean, std), (m, other, spread) = summary(a), summary(b)
  tested: Any = stats.ttest_ind_from_stats(
    mean, std, n, other, spread, m, equal_var=equal_variances
  )
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
