"""Numbers as text for people."""

from __future__ import annotations

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


def percents(one: Spread | None) -> str:
    """A mean and its standard deviation in percent, as text.

    Args:
        one: Mean and deviation as fractions.

    >>> percents(Spread(3, 0.756, 0.0051)), percents(Spread(1, 0.756, None)), percents(None)
    ('75.6 ± 0.5', '75.6', '–')
    """
    if one is None:
        return NOTHING
    return f"{100 * one.mean:.1f}" + ("" if one.sd is None else f" ± {100 * one.sd:.1f}")


def interval(one: Difference | None) -> str:
    """A difference in percentage points with its confidence interval, as text.

    Args:
        one: The difference as a fraction.

    >>> interval(Difference(3, -0.234, -0.261, -0.207)), interval(None)
    ('-23.4 [-26.1, -20.7]', '–')
    """
    if one is None:
        return NOTHING
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
