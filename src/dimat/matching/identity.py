"""Matching by ``identity``: units stay in place, the control that shows what matching is worth."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.matching.fit import Matching, matching_of
from dimat.matching.protocol import Problem


@dataclass(frozen=True)
class IdentityMatcher:
    """The matcher that permutes nothing.

    *Assumes* that all states keep their units in one order: one shared init, or aligned already.
    *Breaks when* they were trained from different inits.
    """

    needs_batches: bool = False

    def match(self, problem: Problem) -> list[Matching]:
        """The identity for every state."""
        still = problem.analysis.symmetry.identity()
        return [matching_of(still) for _ in problem.states]
