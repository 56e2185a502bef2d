"""``final-merge``: train alone all the way, merge once at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dimat.exchange import Talk
from dimat.methods.protocol import Method, RoundContext, RoundResult, setting
from dimat.methods.rounds.dimat import Dimat


@dataclass(frozen=True)
class FinalMerge(Dimat):
    r"""Local training until the last round, which begins with one aligned merge.

    .. math::
        \theta_i^{t+1} = \theta_i^t + \Delta(g_i), \quad t < T; \qquad
        \theta_i \leftarrow \pi_{ii}\theta_i^T + \sum_j \pi_{ij} P_{ij}\theta_j^T

    *Assumes* that models trained apart can still be matched. *Breaks when* shards differ so much
    that they cannot, or when one merge over a sparse graph does not reach everyone.

    Its parameters are those of ``dimat``, for its one merge: all agents in one order at once.

    References:
        "A single merging suffices: recovering server-based learning performance in decentralized
        learning", arXiv 2507.06542.
    """

    gauge: Literal["spread", "tree", "pairwise"] = setting("matching.gauge", "tree")
    merges_once = True

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Nothing, but in the last round."""
        if me.round < me.rounds:
            return (yield from Method.merge(self, me))
        return (yield from super().merge(me))
