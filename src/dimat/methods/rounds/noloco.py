"""``noloco``: an outer momentum step at every agent, toward the mean of a random pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.methods.admit import require_inbox, validate_structure
from dimat.methods.messages import distance
from dimat.methods.pairs import pairs
from dimat.methods.protocol import Method, Need, RoundContext, RoundResult, setting
from dimat.state import State


@dataclass(frozen=True)
class NoLoCo(Method):
    r"""DiLoCo without a sum over all: outer states of their own, drawn together pair by pair.

    .. math::
        v_i \leftarrow \mu v_i + \eta\Bigl(\tfrac12(\theta_i + \theta_j) - \phi_i\Bigr), \qquad
        \phi_i \leftarrow \phi_i + v_i, \qquad \theta_i \leftarrow \phi_i \quad
        \text{for the pairs } (i, j) \text{ of a random matching}

    Here :math:`\phi_i` is the agent's outer state, from which it set out, and :math:`\theta_i`
    where local training has led it. The paper's step is :math:`v_i \leftarrow \mu v_i + \eta
    \operatorname{mean}(\theta - \phi) + \gamma (\operatorname{mean}(\phi) - \phi_i)`, means over
    the pair; with :math:`\gamma = \eta`, as in the authors' code, it is the one above, and outer
    states need not travel.

    All agents draw the same matching of the graph from the seed and the round. Who has no partner
    trains on, and its next outer step covers both rounds. The first outer state is the mean of the
    pair as it comes from pre-training. Running statistics are averaged.

    *Assumes* edges that carry both ways, units in one order, and the same number of local steps
    everywhere. *Breaks when* :math:`\mu` is near 1, so it is not that of ``diloco``: among 32
    agents who may all meet, and do not train, disagreement shrinks to .83 a round with
    :math:`\mu` = .5, and grows to 1.04 with .9 (:math:`\eta` = .7); on a star, of which one edge is
    used in a round; or, as ``diloco``, when agents start from different inits.

    Args:
        lr: Outer learning rate :math:`\eta` > 0.
        momentum: Outer momentum :math:`\mu`, in [0, 1).
        seed: Of the matchings.

    References:
        Kolehmainen et al., "NoLoCo: No-all-reduce Low Communication Training Method for Large
        Models", arXiv 2506.10911, 2025; github.com/jkolehm/noloco, sparse_optimizer_c.py.
    """

    lr: float = setting("outer.lr", 0.7)
    momentum: float = 0.5
    seed: int = setting("seed", 0)
    exchanges = "rounds"
    in_pairs = True
    keeps = 2

    @property
    def needs(self) -> frozenset[Need]:
        """Pairs."""
        return frozenset({"two-way"})

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """The mean of a pair, and the outer step toward it."""
        partner = pairs(me.topology, self.seed, me.round).get(me.agent)
        if partner is None:
            yield Step()
            return RoundResult(me.state, kept=me.kept or _set_out(me, me.state))
        admit = validate_structure(me.state, "state")
        inbox = yield from require_inbox(Step({partner: me.state}, [partner], admit))
        theirs = dict(inbox[partner])
        mean = mix([me.state, theirs], [0.5, 0.5])
        kept = self._outer_step(mean, me.kept) if me.kept else _set_out(me, mean)
        apart = distance(me.state, theirs, me.parameters)
        return RoundResult({**mean, **kept["outer"]}, disagreement=apart, kept=kept)

    def _outer_step(self, mean: State, kept: Mapping[str, State]) -> dict[str, State]:
        """The outer state and its velocity after a step toward the pair's mean."""
        outer, velocity = kept["outer"], kept["velocity"]
        velocity = {
            key: self.momentum * v + self.lr * (mean[key] - outer[key])
            for key, v in velocity.items()
        }
        outer = {key: value + velocity[key] for key, value in outer.items()}
        return {"outer": outer, "velocity": velocity}


def _set_out(me: RoundContext, state: State) -> dict[str, State]:
    """A first outer state, at rest."""
    outer = {key: state[key] for key in me.parameters}
    return {"outer": outer, "velocity": {k: v.new_zeros(v.shape) for k, v in outer.items()}}
