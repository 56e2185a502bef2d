"""``dimat merge`` and ``dimat align``: merging checkpoint files, from settings to a report."""
