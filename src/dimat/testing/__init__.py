"""The laws that registered things keep (methods, graphs, matchers, …), and planned faults.

Each check takes a thing as its registry does, and raises ``AssertionError`` naming the law that is
broken. No test framework is needed: call a check in a test of your own package. :class:`Faults` is
a plan by which ``dimat agent`` rehearses what may go wrong.
"""

from __future__ import annotations

from dimat.testing.combiners import check_combiner
from dimat.testing.faults import Faults
from dimat.testing.matchers import check_matcher
from dimat.testing.methods import check_method
from dimat.testing.sources import check_source
from dimat.testing.splits import check_split
from dimat.testing.tasks import check_task
from dimat.testing.topologies import check_topology

__all__ = [
    "Faults",
    "check_combiner",
    "check_matcher",
    "check_method",
    "check_source",
    "check_split",
    "check_task",
    "check_topology",
]
