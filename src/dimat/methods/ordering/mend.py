"""An agent that has left the order of its neighbors finds back to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.exchange import Step, Talk
from dimat.matching import Problem, Weights
from dimat.merging import mix
from dimat.methods.admit import require_inbox
from dimat.methods.gauge import decode, encode
from dimat.methods.ordering.drift import drift
from dimat.methods.protocol import RoundContext
from dimat.methods.timer import Timer
from dimat.state import State
from dimat.symmetry import Permutation


def mend(
    me: RoundContext, theirs: Mapping[int, State], threshold: float, watch: Timer
) -> Talk[tuple[dict[int, Permutation], float]]:
    """The permutations by which an agent that drifted most among its neighbors comes back.

    Every agent compares itself with the weighted mean of its neighbors. One agent in another order
    spoils the mean of its neighbors too, all of it for one who has no other: so an agent moves only
    if none of its neighbors has drifted more, each counted by the weight of those it is compared
    with. Agents that move at once are no neighbors. Weights are matched, not activations: agents of
    one gauge have them in common, while images of few classes tell units apart badly.

    *Assumes* that those who left their order are no neighbors of each other. *Breaks when* they
    are: of two neighbors one moves a round, and the merge of the other is spoilt until then.

    Returns:
        The permutations of those of us and our neighbors who move, by agent; and our own drift.

    Raises:
        StructureError: If a neighbor's message does not fit.
        TrainingError: If one is lost.
    """
    weights, symmetry = me.weights, me.analysis().symmetry
    with watch:
        mean = mix(list(theirs.values()), [w / sum(weights[1:]) for w in weights[1:]])
        drifted = drift(me.analysis(), me.state, mean)
    evidence = drifted * sum(weights[1:]) if drifted > threshold else 0.0
    claim = {"evidence": torch.tensor([evidence], dtype=torch.float64)}
    inbox = yield from require_inbox(Step(dict.fromkeys(me.neighbors, claim), me.neighbors))
    rivals = [(_evidence(inbox[j], j), j) for j in me.neighbors]
    moves: dict[int, Permutation] = {}
    if evidence > 0 and (evidence, me.agent) > max(rivals):
        with watch:
            moves[me.agent] = _back(me, mean)
    said = encode(moves[me.agent]) if moves else {}
    inbox = yield from require_inbox(Step(dict.fromkeys(me.neighbors, said), me.neighbors))
    moves.update({j: decode(symmetry, message) for j, message in inbox.items() if message})
    return moves, drifted


def _back(me: RoundContext, mean: State) -> Permutation:
    """Our units in the order of the neighbors' mean."""
    problem = Problem(me.analysis(), [mean, me.state], [0.5, 0.5])
    return Weights().match(problem)[1].permutation


def _evidence(message: Mapping[str, Tensor], other: int) -> float:
    value = message.get("evidence")
    if value is None or value.shape != (1,) or not 0 <= float(value) <= 1:
        raise StructureError(
            f"drift from agent {other} does not fit: expected one number in [0, 1]"
        )
    return float(value)
