"""One agent's part of a round beside its method's: what it brings along, what it takes over."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from dimat.errors import StructureError, TrainingError
from dimat.experiment.setup import Setup
from dimat.merging import permute_optimizer, recalibrate, reset_optimizer
from dimat.merging.optimizer import load_memory, memory_of
from dimat.methods import RoundContext, RoundResult
from dimat.state import check_finite, tensors_of
from dimat.training.trainer import MATCH, RECALIBRATE, LocalTrainer, parameter_names


@dataclass(frozen=True)
class Part:
    """What every agent does around the merge of a method.

    Args:
        setup: What all methods have in common.
        name: Of the method.
    """

    setup: Setup
    name: str

    def member(self, agent: LocalTrainer, number: int) -> RoundContext:
        """What an agent knows when a round begins.

        Raises:
            TrainingError: If its state is not finite.
        """
        try:
            check_finite(tensors_of(agent.model.state_dict()), f"agent {agent.index}")
        except StructureError as error:
            raise TrainingError(
                f"{self.name}, round {number}, before the merge: {error}; training diverges"
            ) from error
        config = self.setup.config
        mixes = config.optimizer.on_merge == "mix"
        return RoundContext(
            agent=agent.index,
            round=number,
            state=agent.state(),
            topology=self.setup.topology.at(number - 1),
            parameters=parameter_names(agent.model),
            analysis=lambda: self.setup.analysis,
            batches=lambda: _calibration(agent, MATCH, number, config.matching.images),
            gauge=agent.gauge,
            memory=memory_of(agent.optimizer, agent.model) if mixes else {},
            rounds=config.rounds,
            images=len(agent.shard),
            kept=agent.kept,
        )

    def take_over(
        self, agent: LocalTrainer, result: RoundResult, number: int
    ) -> dict[str, float | None]:
        """Load the merged state, carry the optimizer along, recalibrate; what that cost."""
        start = time.perf_counter()
        agent.load(result.state)
        agent.gauge = result.gauge or agent.gauge
        agent.kept = {name: dict(own) for name, own in result.kept.items()}
        self._carry_optimizer(agent, result)
        agent.traffic.busy_s += time.perf_counter() - start
        if result.disagreement is not None and not result.calibrated:
            self.recalibrate(agent, number)
        spent = time.perf_counter() - start
        return {
            "disagreement": result.disagreement,
            "drift": result.drift,
            "match_s": result.match_s,
            "merge_s": result.merge_s + spent,
        }

    def _carry_optimizer(self, agent: LocalTrainer, result: RoundResult) -> None:
        """Mixed, moved as the agent's units are, or forgotten."""
        if result.disagreement is not None and self.setup.config.optimizer.on_merge == "reset":
            reset_optimizer(agent.optimizer)
        elif result.memory is not None:
            load_memory(agent.optimizer, agent.model, result.memory)
        elif result.permutation is not None:
            symmetry, p = self.setup.analysis.symmetry, result.permutation
            permute_optimizer(agent.optimizer, agent.model, lambda e: symmetry.apply(p, e))

    def recalibrate(self, agent: LocalTrainer, number: int) -> float:
        """BatchNorm statistics of an averaged model, from the agent's own images, if asked for.

        A step of the round, whether that is measured or not: the next merge matches units by what
        these statistics make of them, and mixes them.

        Returns:
            Seconds that it took; the agent was busy for as long.
        """
        own, start = self.setup.config.recalibration, time.perf_counter()
        if {"all", self.name} & set(own.methods):
            images = _calibration(agent, RECALIBRATE, number, own.images)
            with agent.autocast():  # as it is evaluated
                recalibrate(agent.model, images)
        spent = time.perf_counter() - start
        agent.traffic.busy_s += spent
        return spent


def _calibration(agent: LocalTrainer, purpose: int, number: int, images: int) -> list[Tensor]:
    return list(agent.calibration(purpose, number, images))
