"""Numbers as text for people."""

from __future__ import annotations

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
