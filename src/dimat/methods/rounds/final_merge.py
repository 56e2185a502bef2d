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

    Over a sparse graph one average does not reach everyone; ``final_steps`` of them do. Where
    agents are to exchange before, too, ``dimat`` and ``wa`` have ``final_steps``.

    *Assumes* that models trained apart can still be matched. *Breaks when* shards differ so much
    that they cannot.

    Its parameters are those of ``dimat``, for its one merge: all agents in one order at once.

    References:
        Zhu et al., "On the Surprising Effectiveness of a Single Global Merging in Decentralized
        Learning", ICLR 2026: after sparse gossip.
    """

    gauge: Literal["spread", "tree", "pairwise"] = setting("matching.gauge", "tree")
    merges_once = True

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Nothing, but in the last round."""
        if me.round < me.rounds:
            return (yield from Method.merge(self, me))
        return (yield from super().merge(me))
