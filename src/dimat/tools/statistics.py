"""Means over seeds, and paired differences of methods that start from the same agents."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a number over seeds.

    Args:
        n: Number of seeds, >= 1.
        mean: Mean over the seeds.
        sd: Sample standard deviation; None for a single seed.
    """

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """The difference of two methods, paired by seed, with its confidence interval.

    Args:
        n: Number of pairs, >= 2.
        mean: Mean difference.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
    """

    n: int
    mean: float
    low: float
    high: float


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are not None; None without any.

    Args:
        values: A value for each seed, or None.

    >>> spread([1.0, 3.0, None])
    Spread(n=2, mean=2.0, sd=1.4142135623730951)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    sd = statistics.stdev(known) if len(known) > 1 else None
    return Spread(len(known), statistics.fmean(known), sd)


def paired(
    ours: Sequence[float | None], theirs: Sequence[float | None], confidence: float = CONFIDENCE
) -> Difference | None:
    r"""Mean of :math:`d_s = a_s - b_s` over seeds, with Student's interval for paired samples.

    .. math:: \bar d \pm t_{n-1}\,\mathrm{sd}(d)/\sqrt n

    Args:
        ours: A value of one method for each seed, or None.
        theirs: The values of the other method, for the same seeds in the same order.
        confidence: Confidence level of the interval, in (0, 1).

    Returns:
        None if fewer than two seeds have both.
    """
    pairs = zip(ours, theirs, strict=True)
    differences = spread([a - b for a, b in pairs if a is not None and b is not None])
    if differences is None or differences.sd is None:
        return None
    n, mean = differences.n, differences.mean
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * differences.sd / math.sqrt(n)
    return Difference(n, mean, mean - half, mean + half)
