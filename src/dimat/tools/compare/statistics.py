"""Means over seeds, and differences of methods that set out from the same agents."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Numbers, one a seed, in short.

    Args:
        n: How many, >= 1.
        mean: Their mean.
        sd: Their sample standard deviation; None if there is one.
    """

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """How much more one method has than another, seed by seed.

    Args:
        n: Number of pairs, >= 2.
        mean: Mean difference.
        low: Lower end of its confidence interval.
        high: Upper end.
    """

    n: int
    mean: float
    low: float
    high: float


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are there; None if none is.

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
        ours: A value a seed; None where there is none.
        theirs: Those of the other method, of the same seeds in the same order.
        confidence: In (0, 1).

    Returns:
        None if fewer than two seeds have both.
    """
    pairs = zip(ours, theirs, strict=True)
    differences = spread([a - b for a, b in pairs if a is not None and b is not None])
    if differences is None or differences.sd is None:
        return None
    n, mean = differences.n, differences.mean
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * differences.sd / math.sqrt(n)
    return Difference(n, mean, mean - half, mean + half)
