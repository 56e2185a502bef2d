"""``swarm``: agents meet in pairs, at random, every few steps."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.methods.admit import require_inbox, validate_structure
from dimat.methods.pairs import pairs
from dimat.methods.protocol import Method, Need, StepContext, setting


@dataclass(frozen=True)
class Swarm(Method):
    r"""Pairs of agents that meet take the mean of both; the others go on training.

    .. math::
        \theta_i, \theta_j \leftarrow \tfrac12(\theta_i + \theta_j) \quad
        \text{for the pairs } (i, j) \text{ of a random matching, after } H \text{ local steps}

    All agents draw the same matching of the graph from the seed and the step.

    *Assumes* edges that carry both ways, units in one order. *Breaks when* H is large and shards
    differ: pairs agree with each other, but news crosses the graph slowly. This is the synchronous
    form: in the paper agents meet without waiting for each other.

    Args:
        quiet_steps: Steps without a meeting between two with one, H - 1 >= 0.
        seed: Of the matchings.

    References:
        Nadiradze et al., "Asynchronous Decentralized SGD with Quantized and Local Updates",
        NeurIPS 2021 (SwarmSGD).
    """

    quiet_steps: int = setting("consensus.quiet_steps", 4)
    seed: int = setting("seed", 0)
    exchanges = "steps"
    in_pairs = True

    @property
    def needs(self) -> frozenset[Need]:
        """Pairs."""
        return frozenset({"two-way"})

    @property
    def period(self) -> int:
        """The steps from one meeting to the next."""
        return self.quiet_steps + 1

    def step(self, me: StepContext) -> Talk[None]:
        """A local step; then perhaps a meeting."""
        time = me.steps
        topology = me.topology
        me.update(me.gradient())
        if (time + 1) % self.period:
            return
        partner = pairs(topology, self.seed, time).get(me.index)
        if partner is None:
            return
        ours = me.state()
        met = Step({partner: ours}, [partner], validate_structure(ours, "state"))
        inbox = yield from require_inbox(met)
        me.load(mix([ours, inbox[partner]], [0.5, 0.5]))
