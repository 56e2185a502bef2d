"""``dimat report``: folders of runs and comparisons as a page of plots and tables.

:mod:`.read` turns folders into values, :mod:`.compared` groups them, :mod:`.figures` turns them
into figures, :mod:`.page` into HTML; only :mod:`.read` and :mod:`.write` touch the disk.
"""
