"""Memory that a run will take in one process: what is kept for every agent, and once."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from dimat.experiment.running.vectorized import stack_size
from dimat.experiment.setup import Setup
from dimat.methods import METHODS
from dimat.state import num_bytes
from dimat.tools.estimate.model_cost import ModelFacts, memory_entries

_PIXEL_BYTES = 4  # of an image that is normalized


@dataclass(frozen=True)
class Memory:
    """Bytes at the fullest moment, by what they are for.

    Args:
        agent: Of every agent.
        shared: Kept once, whatever the number of agents.
        agents: How many live in the process.
    """

    agent: dict[str, float]
    shared: dict[str, float]
    agents: int

    @property
    def per_agent(self) -> float:
        """Bytes of one agent alone."""
        return sum(self.agent.values())

    @property
    def total(self) -> float:
        """Bytes of all agents in one process, without those of Python and PyTorch."""
        return self.agents * self.per_agent + sum(self.shared.values())


def memory_of_run(setup: Setup, facts: ModelFacts, names: Collection[str]) -> Memory:
    """Memory of the hungriest of some methods.

    Args:
        setup: Of the run.
        facts: Of its network.
        names: Of the methods.
    """
    config, data = setup.config, setup.dataset
    remembered = num_bytes(memory_entries(config.optimizer.name, facts.gradient))
    image = math.prod(data.train_x.shape[1:])
    stored = data.train_x.element_size() * image
    seen = _PIXEL_BYTES if data.images else data.train_x.element_size()
    agent = {
        "model": float(facts.state_bytes),
        "optimizer": float(remembered),
        "copies": max(_copies(setup, facts, remembered, name) for name in names),
        "images": stored * len(data.train_y) / config.agents,
    }
    distilled = bool(setup.distill(pretraining=False)) * facts.state_bytes
    if distilled:
        agent["distilled"] = float(distilled)  # the network that a round's training began with
    if config.optimizer.ema is not None:
        agent["averaged"] = float(facts.state_bytes)
    narrow = 0.5 if config.precision == "bfloat16" else 1.0
    methods = [METHODS[name] for name in names]
    at_once = min(stack_size(setup), config.agents)
    stacked = at_once * (facts.state_bytes + remembered + distilled) if at_once > 1 else 0
    moved = any(own.matches for own in methods) * config.agents * facts.state_bytes
    shared = {
        "data": float(stored * (len(data.train_y) + len(data.test_y))),
        "test images": float(seen * image * len(data.test_y)),
        "gradients": float(at_once * facts.gradient_bytes),  # of whoever trains
        "a training step": at_once * narrow * config.batch_size * facts.activation_bytes,
        # all states in one order, and their mean in double precision
        "an observer": moved + 2.0 * facts.gradient_bytes,
    }
    if stacked:
        shared["agents at once"] = float(stacked)
    return Memory(agent, shared, config.agents)


def _copies(setup: Setup, facts: ModelFacts, remembered: int, name: str) -> float:
    """Bytes of an agent: as pre-trained, as last measured, and what a round makes of it.

    As pre-trained it is kept with its optimizer: every method sets out from there. In a merge there
    is its state before and after; a checkpoint is a copy of all that it is.
    """
    pretrained = measured = facts.state_bytes
    method = METHODS[name]
    merging = {"never": 0, "steps": 1, "rounds": 2}[method.exchanges] * facts.state_bytes
    tracked = method.keeps * facts.gradient_bytes
    keeping = facts.state_bytes + remembered + tracked if setup.config.checkpoint.every != 0 else 0
    return float(pretrained + remembered + measured + tracked + max(merging, keeping))
