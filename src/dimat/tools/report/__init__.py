"""``dimat report``: folders of runs and comparisons as a page of plots and tables.

:mod:`dimat.tools.records` turns folders into values, :mod:`.compared` groups them,
:mod:`.figures` turns them into figures, :mod:`.page` fills the ``templates`` with them, and
:mod:`.write` writes the page beside its ``assets``.
"""
