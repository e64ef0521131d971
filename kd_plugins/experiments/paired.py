"""Paired differences: what a few of them say of their mean, and how many more would say it.

The paired t test, its power, and Holm's correction for several comparisons.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

#: What a comparison may come to.
GO, NO_GO, INCONCLUSIVE = 'GO', 'NO-GO', 'INCONCLUSIVE'
#: How often a verdict that there is no reason for may be given; the power that is asked for.
ALPHA, POWER = 0.05, 0.8
#: More pairs than these nobody trains.
MOST_PAIRS = 1000
#: Below this, in points, differences are the same number: what rounding leaves of a float32.
SAME = 1e-5


@dataclass(frozen=True)
class Comparison:
    """What paired differences say of their mean.

    Args:
        differences: One for each pair.
        mean: Their mean.
        deviation: Their sample deviation; None of a single one.
        low, high: The confidence interval of the mean by Student's t; None where
            there is none, see :func:`compare`.
        p: The probability of a mean at least as far from ``worth`` if the true one
            were ``worth``, on both sides; None where there is no interval.
    """

    differences: tuple[float, ...]
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    p: float | None

    @property
    def identical(self) -> bool:
        """Whether there are several, and all of them are the same number."""
        return self.deviation is not None and self.deviation < SAME


def compare(differences: Sequence[float], worth: float = 0.0, alpha: float = ALPHA) -> Comparison:
    """Test whether the true mean of paired differences is another than ``worth``.

    There is neither interval nor p of a single difference, nor of several that are
    all the same number: accuracies are counts of pictures, so a few of them may agree
    by chance, and a deviation of 0 would make any difference certain.

    Args:
        differences: One for each pair, at least one.
        worth: The mean to tell them from.
        alpha: One minus the confidence of the interval, between 0 and 1.

    Raises:
        ValueError: If there is no difference, or one that is not finite.
    """
    if len(differences) == 0 or not all(map(math.isfinite, differences)):
        raise ValueError(
            f'differences={list(differences)!r} is not one or more finite numbers: give the '
            'difference of every pair.'
        )
    n, mean = len(differences), statistics.fmean(differences)
    if n == 1:
        return Comparison(tuple(differences), mean, None, None, None, None)
    deviation = statistics.stdev(differences)
    if deviation < SAME:
        return Comparison(tuple(differences), mean, deviation, None, None, None)
    error = deviation / math.sqrt(n)
    # Student's t, by the functions behind scipy.stats.t, which take a tenth of its time.
    reach = float(special.stdtrit(n - 1, 1 - alpha / 2)) * error
    p = 2 * float(special.stdtr(n - 1, -abs(mean - worth) / error))
    return Comparison(tuple(differences), mean, deviation, mean - reach, mean + reach, p)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p values for several tests at a time, by Holm's step-down correction.

    The probability of one or more wrong rejections among all tests stays below alpha
    where every test with an adjusted p below alpha is rejected, whatever depends on
    what (the configs' pairs share the student alone).

    Args:
        ps: Of each test; None where there was none, which counts as one all the same.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure",
    Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(ps)), key=lambda i: 1.0 if ps[i] is None else float(ps[i]))  # type: ignore[arg-type]
    adjusted: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, i in enumerate(order):
        p = ps[i]
        if p is not None:
            least = max(least, min(1.0, (len(ps) - rank) * p))
            adjusted[i] = least
    return adjusted


def decide(
    comparison: Comparison, p: float | None, worth: float = 0.0, alpha: float = ALPHA
) -> str:
    """Return :data:`GO`, :data:`NO_GO` or :data:`INCONCLUSIVE`.

    GO where the mean is significantly above ``worth``, NO-GO where it is significantly
    below. Where the true mean is ``worth``, either is said with a probability of
    alpha, one half of it each.

    Args:
        comparison: The differences.
        p: Its p, corrected if there are several comparisons.
        worth: As for :func:`compare`.
        alpha: As for :func:`compare`.
    """
    if p is None or p >= alpha:
        return INCONCLUSIVE
    return GO if comparison.mean > worth else NO_GO


def power(effect: float, pairs: int, alpha: float = ALPHA) -> float:
    """Return the probability that a paired t test on both sides finds a difference.

    Args:
        effect: The true mean, from where there is none, in deviations of the
            differences (Cohen's d_z); its sign makes no difference.
        pairs: How many, at least 2.
        alpha: The test's.

    By the noncentral t distribution, as G*Power and R's ``power.t.test(strict=TRUE)``.
    """
    if effect == 0:
        return alpha
    freedom, shift = pairs - 1, abs(effect) * math.sqrt(pairs)
    edge = float(stats.t.ppf(1 - alpha / 2, freedom))
    with np.errstate(all='ignore'):
        below, above = stats.nct.cdf(-edge, freedom, shift), stats.nct.sf(edge, freedom, shift)
    # Far out scipy's series gives no number, where the test finds everything.
    return min(1.0, float(np.nan_to_num(above, nan=1.0) + np.nan_to_num(below, nan=0.0)))


def pairs_needed(effect: float, alpha: float = ALPHA, wanted: float = POWER) -> int | None:
    """Return how many pairs a paired t test needs to find a difference.

    Args:
        effect: As for :func:`power`.
        alpha: The test's.
        wanted: The probability of finding it, above alpha and below 1.

    Returns:
        The fewest pairs; None where :data:`MOST_PAIRS` do not suffice.
    """
    low, high = 2, MOST_PAIRS
    if power(effect, high, alpha) < wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        if power(effect, middle, alpha) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Outlook:
    """How many pairs would settle a comparison, if the true mean is the one seen.

    Args:
        pairs: In all, if the true deviation is the one seen; None where
            :data:`MOST_PAIRS` do not suffice.
        pairs_at_most: In all, if the true deviation is as large as it may well be:
            the upper end of its one-sided 80 % interval.
        detectable: The smallest distance of the true mean from ``worth`` that the
            pairs which there are would find with the wanted power.
    """

    pairs: int | None
    pairs_at_most: int | None
    detectable: float


def outlook(
    comparison: Comparison, worth: float = 0.0, alpha: float = ALPHA, wanted: float = POWER
) -> Outlook | None:
    """Return how many pairs would settle a comparison; None where it has no interval.

    Args:
        comparison: The differences that there are.
        worth: As for :func:`compare`.
        alpha: The test's; for several comparisons the level that is left for each.
        wanted: The power.
    """
    deviation = comparison.deviation
    if deviation is None or comparison.identical:
        return None
    n, distance = len(comparison.differences), comparison.mean - worth
    widest = deviation * math.sqrt((n - 1) / float(stats.chi2.ppf(0.2, n - 1)))
    return Outlook(
        pairs_needed(distance / deviation, alpha, wanted),
        pairs_needed(distance / widest, alpha, wanted),
        deviation * effect_found(n, alpha, wanted),
    )


def effect_found(pairs: int, alpha: float = ALPHA, wanted: float = POWER) -> float:
    """Return the smallest effect, in deviations, that so many pairs find with a power."""
    low, high = 0.0, 1.0
    while power(high, pairs, alpha) < wanted:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, pairs, alpha) < wanted else (low, middle)
    return high
