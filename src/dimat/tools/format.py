"""Numbers as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dimat.metric import Metric
    from dimat.tools.statistics import Difference, Spread

NOTHING = "–"


def human_bytes(count: float | None) -> str:
    """Bytes in decimal units, as text; a dash if not known.

    Args:
        count: Number of bytes, or None.

    >>> human_bytes(999), human_bytes(74_600_000), human_bytes(None)
    ('999 B', '74.6 MB', '–')
    """
    if count is None:
        return NOTHING
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def human_seconds(seconds: float | None) -> str:
    """A duration as text; a dash if not known.

    Args:
        seconds: The duration in seconds, >= 0, or None.

    >>> human_seconds(0.1234), human_seconds(75), human_seconds(7300)
    ('0.123 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60} s" if minutes < 60 else _hours(minutes)


def _hours(minutes: int) -> str:
    return f"{minutes // 60} h {minutes % 60} min"


def decimal(value: float | None) -> str:
    """A number with three decimals, or two digits and an exponent from 1,000 on; a dash for None.

    Args:
        value: The number, or None.

    >>> decimal(0.5), decimal(-999.9), decimal(1.23e9), decimal(None)
    ('0.500', '-999.900', '1.2e+09', '–')
    """
    if value is None:
        return NOTHING
    return f"{value:.1e}" if abs(value) >= 1000 else f"{value:.3f}"


def spread_text(one: Spread | None, metric: Metric) -> str:
    """A mean and its standard deviation, in percent if the metric is, as text.

    Args:
        one: Mean and deviation.
        metric: The metric.

    >>> from dimat.metric import Metric
    >>> from dimat.tools.statistics import Spread
    >>> percent = Metric("accuracy", percent=True)
    >>> spread_text(Spread(3, 0.756, 0.0051), percent), spread_text(None, percent)
    ('75.6 ± 0.5', '–')
    >>> spread_text(Spread(1, 0.756, None), Metric("mse"))
    '0.756'
    """
    if one is None:
        return NOTHING
    return metric.show(one.mean) + ("" if one.sd is None else f" ± {metric.show(one.sd)}")


def interval(one: Difference | None, metric: Metric) -> str:
    """A difference with its confidence interval, in percentage points or as it is, as text.

    Args:
        one: The difference.
        metric: The metric.

    >>> from dimat.metric import Metric
    >>> from dimat.tools.statistics import Difference
    >>> interval(Difference(3, -0.234, -0.261, -0.207), Metric("accuracy", percent=True))
    '-23.4 [-26.1, -20.7]'
    >>> interval(Difference(3, -0.234, -0.261, -0.2071), Metric("mse"))
    '-0.234 [-0.261, -0.207]'
    """
    if one is None:
        return NOTHING
    scale, form = (100, "+.1f") if metric.percent else (1, "+.3g")
    mean, low, high = (format(scale * x, form) for x in (one.mean, one.low, one.high))
    return f"{mean} [{low}, {high}]"
