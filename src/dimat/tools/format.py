"""Numbers as people read them."""

from __future__ import annotations


def human_bytes(count: int) -> str:
    """Bytes in decimal units.

    >>> human_bytes(999), human_bytes(74_600_000)
    ('999 B', '74.6 MB')
    """
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
