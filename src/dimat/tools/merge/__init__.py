"""``dimat merge`` and ``dimat align``: the work on checkpoint files, from settings to a report."""
