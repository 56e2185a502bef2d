"""The parts that several ways of coming into one unit order have in common."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dimat.exchange import Step, Talk
from dimat.exchange.precision import exact, from_exact
from dimat.matching.assignment import Scores, permute_scores
from dimat.matching.fit import fit
from dimat.merging import readout_distance
from dimat.methods.admit import require_inbox
from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.pooled import encode_moments, local_scores, measure_edges, pooled_scores
from dimat.methods.protocol import RoundContext
from dimat.methods.timer import Timer
from dimat.state import State
from dimat.symmetry import Permutation


@dataclass(frozen=True)
class Reordering:
    """The permutations that bring an agent's state and its neighbors' into one unit order.

    Args:
        permutations: By agent, the permutation to apply to its state; one that is missing stays as
            it is.
        gauge: Id of the order that all are in afterwards; None if that is as before.
        similarity: Mean similarity of matched units by group, over the neighbors compared with.
        margin: Median margin of the matches by group, in the mean over those neighbors.
    """

    permutations: Mapping[int, Permutation] = field(default_factory=dict)
    gauge: GaugeId | None = None
    similarity: Mapping[str, float] = field(default_factory=dict)
    margin: Mapping[str, float] = field(default_factory=dict)


def compare(
    me: RoundContext,
    theirs: Mapping[int, State],
    neighbors: Collection[int],
    timer: Timer,
    *,
    pooled: bool,
) -> Talk[dict[int, Scores]]:
    """The scores (their units, our units) of some neighbors, on our images or on both ends'.

    Args:
        me: The agent's context.
        theirs: The states of the neighbors that were heard.
        neighbors: Those to compare with.
        timer: Counts the seconds of computing.
        pooled: Whether both ends of an edge add up their statistics.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    if not neighbors:
        return {}
    with timer:
        others = {j: theirs[j] for j in neighbors}
        moments = measure_edges(me.analysis(), me.state, others, me.batches())
        if not pooled:
            return {j: local_scores(own) for j, own in moments.items()}
    # Both ends have to add up the same numbers: no precision of the link may round them.
    said = {j: exact(encode_moments(own)) for j, own in moments.items()}
    inbox = yield from require_inbox(Step(said, list(others)))
    with timer:
        heard = {j: from_exact(message) for j, message in inbox.items()}
        return {j: pooled_scores(own, heard[j], j, me.agent) for j, own in moments.items()}


def with_quality(
    me: RoundContext,
    scores: Mapping[int, Scores],
    permutations: Mapping[int, Permutation],
    gauge: GaugeId | None,
) -> Reordering:
    """The permutations, with how well the units match after them: by group, mean over neighbors.

    Args:
        me: The agent's context.
        scores: For each neighbor compared with, the scores (their units, our units) before.
        permutations: By agent.
        gauge: Id of the order that all are in afterwards; None if that is as before.
    """
    symmetry = me.analysis().symmetry
    still = symmetry.identity()
    ours = permutations.get(me.agent, still)
    fits = [
        fit(symmetry, permute_scores(symmetry, s, permutations.get(j, still), ours), still)
        for j, s in scores.items()
    ]
    names = fits[0].similarity if fits else {}
    return Reordering(
        permutations,
        gauge,
        similarity={n: statistics.fmean(own.similarity[n] for own in fits) for n in names},
        margin={n: statistics.fmean(own.margin[n] for own in fits) for n in names},
    )


def beats_null(
    me: RoundContext,
    theirs: Mapping[int, State],
    permutations: Mapping[int, Permutation],
    margin: float | None,
) -> bool:
    r"""Whether aligned networks read our units out more alike than networks as they are.

    .. math:: d(P_i\theta_i, P_j\theta_j) < (1 - m)\, d(\theta_i, \theta_j)

    with d the :func:`~dimat.merging.readout_distance` on our images, to neighbors as we mix them,
    and m the margin. Outputs need no alignment, so if units that are matched mean the same, what
    reads them agrees; units that are matched because they happen to vary together on our images are
    read as something else. The null is the units as they are: a random matching, of networks with
    inits of their own.

    Args:
        me: The agent's context.
        theirs: The states that ours is matched to.
        permutations: Of our units and of theirs; one that is missing stays as it is.
        margin: The share by which the distance must go down, in [0, 1); None: it need not.
    """
    if margin is None or not theirs:
        return True

    def distance(moves: Mapping[int, Permutation]) -> float | None:
        own, *others = (
            me.analysis().symmetry.apply(moves[i], state) if i in moves else state
            for i, state in {me.agent: me.state, **theirs}.items()
        )
        weights = [float(me.topology.pi[me.agent, j]) for j in theirs]
        return readout_distance(me.analysis(), own, others, weights, me.batches())

    before, after = distance({}), distance(permutations)
    return before is None or after is None or after < (1 - margin) * before
