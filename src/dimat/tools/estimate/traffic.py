"""Bytes that every agent will send, from the method, the graph and the network alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from dimat.exchange.in_process import run_all
from dimat.exchange.precision import narrowed
from dimat.exchange.protocol import Traffic
from dimat.experiment.config.methods import make_method
from dimat.experiment.setup import Setup
from dimat.methods import RoundContext
from dimat.methods.cost import Meeting
from dimat.methods.gauge import GaugeId, encode
from dimat.methods.ordering.pooled import encode_moments, measure_edges
from dimat.methods.ordering.tree import gossip
from dimat.state import num_bytes, state_of
from dimat.symmetry import Analysis
from dimat.tools.estimate.model_cost import ModelFacts, memory_entries
from dimat.tools.estimate.steps import in_steps, rounds_of
from dimat.topology import Topology

_ID = 8 * len(fields(GaugeId))  # what tells whose order a state is in


@dataclass(frozen=True)
class Wire:
    """What travels in a run.

    Args:
        setup: Of the run.
        facts: Of the network.
    """

    setup: Setup
    facts: ModelFacts

    def sent_bytes(self, name: str) -> list[float]:
        """Bytes that each agent will have sent by the end, as ``metrics.jsonl`` counts them.

        Exact but for three things: of a graph that varies at random a sample of times stands for
        all steps, agents that drift are not foreseen, and neither is what is refused.
        """
        method = make_method(self.setup.config, name)
        size = self.setup.config.agents
        if method.exchanges == "never" or size == 1:
            return [0.0] * size
        if method.exchanges == "steps":
            return in_steps(self.setup, self, method)
        found: Sequence[float] = [0.0] * size
        for number, meeting in enumerate(method.meetings(rounds_of(self.setup)), start=1):
            sent = method.sends(self, number - 1, meeting.topology)
            own = self._round(number, meeting) if sent is None else sent
            found = [a + b for a, b in zip(found, own, strict=True)]
        return [*found]

    # --- messages -----------------------------------------------------------------------------

    def _bytes(self, message: Mapping[str, Tensor]) -> int:
        narrow = self.setup.config.exchange.precision == "bfloat16"
        return num_bytes(narrowed(message) if narrow else message)

    @cached_property
    def state(self) -> int:
        """Bytes of a state as it travels."""
        return self._bytes(self.facts.state)

    @cached_property
    def gradient(self) -> int:
        """Bytes of a gradient as it travels."""
        return self._bytes(self.facts.gradient)

    @cached_property
    def memory(self) -> int:
        """Bytes of an optimizer's memory as it travels; 0 if it is not exchanged."""
        own = self.setup.config.optimizer
        entries = memory_entries(own.name, self.facts.gradient) if own.on_merge == "mix" else {}
        return self._bytes(entries)

    @cached_property
    def permutation(self) -> int:
        """Bytes of a permutation of all units."""
        return num_bytes(encode(self.setup.analysis.symmetry.identity()))

    @cached_property
    def moments(self) -> int:
        """Bytes of what is compared on the images of both ends of an edge; never rounded."""
        state = state_of(self.setup.new_model(0))
        data = self.setup.dataset
        images = torch.randn(4, data.in_channels, *data.image_size)
        found = measure_edges(self.setup.analysis, state, {0: state}, [images])
        return num_bytes(encode_moments(found[0]))

    # --- rounds -------------------------------------------------------------------------------

    def _round(self, number: int, meeting: Meeting) -> list[float]:
        """Bytes of every agent in one round: states, memories, and what matching says."""
        topology, agents = meeting.topology, range(self.setup.config.agents)
        if not any(meeting.mixed):
            return [0.0] * len(agents)
        stepped = self.setup.config.pretrain_epochs > 0 or number > 1
        told = self.state + (self.memory if stepped else 0)
        if meeting.ids and meeting.plans is None:
            told += _ID
        own = [float(told * len(topology.listeners(i))) for i in agents]
        if meeting.plans is not None and meeting.ids is not None:
            said = self._gossip(meeting)
            own = [a + said[i] + self._planned(i, meeting) for i, a in enumerate(own)]
        if self.setup.config.matching.statistics == "pooled" and meeting.matches:
            own = [a + n * self.moments for a, n in zip(own, meeting.compared, strict=True)]
        return own

    def _planned(self, agent: int, meeting: Meeting) -> float:
        """Permutations that are told: once down the tree, and in every sweep by who is refined."""
        plan = (meeting.plans or {})[agent]
        if plan is None:
            return 0.0
        times = 1 + (self.setup.config.matching.sweeps if agent in plan.alone else 0)
        return times * len(meeting.topology.neighbors(agent)) * self.permutation

    def _gossip(self, meeting: Meeting) -> list[int]:
        """What it takes to tell all whose order everyone is in: it is said, and counted."""
        ids = meeting.ids or {}
        members = [_listener(i, meeting.topology) for i in range(len(ids))]
        traffic = [Traffic() for _ in members]
        run_all([gossip(me, ids[me.agent]) for me in members], traffic)
        return [own.sent_bytes for own in traffic]


def _listener(agent: int, topology: Topology) -> RoundContext:
    """A member that only gossips: it has no network."""

    def nothing() -> list[Tensor]:
        return []

    return RoundContext(agent, 1, {}, topology, (), _never, nothing)


def _never() -> Analysis:
    raise AssertionError("who gossips looks at no network")
