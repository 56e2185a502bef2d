"""Counts of what a method does: training, matching, recalibration and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dimat.experiment.config.methods import make_method
from dimat.experiment.setup import Setup
from dimat.merging import COMBINERS
from dimat.methods import Method
from dimat.tools.estimate.dry_run import DryRun, Stage, rehearse


@dataclass(frozen=True)
class Counts:
    """Counts of a method after pre-training, summed over agents and rounds.

    Args:
        steps: Training steps.
        gradients: Gradients at other agents' networks.
        merges: Times that an agent takes over what a merge gave it.
        mixed: States of neighbors that are mixed in, in rounds.
        compared: States of neighbors that an agent compares its units with.
        comparing: Times that an agent compares its units with any.
        recalibrated: Times that running statistics are computed anew.
        evaluated: Times that an agent is evaluated.
        looked_at: Times that an observer looks at an agent.
        kept: Times that an agent is written into a checkpoint.
    """

    steps: float = 0
    gradients: float = 0
    merges: float = 0
    mixed: float = 0
    compared: float = 0
    comparing: float = 0
    recalibrated: float = 0
    evaluated: float = 0
    looked_at: float = 0
    kept: float = 0


@dataclass(frozen=True)
class Work:
    """The work of one method in a run.

    Args:
        setup: Setup of the method: of one agent, if its scope is pooled.
        name: Registry name of the method.
        shards: Numbers of training and of validation images of each agent, in the rounds.
        stage: The networks of its dry run.
    """

    setup: Setup
    name: str
    shards: Sequence[tuple[int, int]]
    stage: Stage

    @cached_property
    def method(self) -> Method:
        """The method, as the run makes it."""
        return make_method(self.setup.config, self.name)

    @property
    def agents(self) -> int:
        """Number of agents."""
        return self.setup.config.agents

    @property
    def together(self) -> bool:
        """Whether agents step alike, as they exchange in steps."""
        return self.method.exchanges == "steps"

    @cached_property
    def round_steps(self) -> list[int]:
        """The steps of each agent in a round."""
        return [self.setup.round_steps(i, together=self.together) for i in range(self.agents)]

    @cached_property
    def measured(self) -> list[int]:
        """The rounds that are evaluated."""
        own = self.setup.config
        return [r for r in range(1, own.rounds + 1) if r % own.eval_every == 0 or r == own.rounds]

    @cached_property
    def dry_run(self) -> DryRun:
        """The dry run of the method."""
        return rehearse(self.stage, self.setup, self.name)

    @cached_property
    def counts(self) -> Counts:
        """Counts of the whole run."""
        config, n, played = self.setup.config, self.agents, self.dry_run
        own = config.checkpoint.every
        every = 1 if own is None else own  # at most: of short rounds not every one is kept
        kept = n * ((config.rounds - 1) // every) if every and config.rounds else 0
        trained = n * (1 + len(self.measured))
        common = {"steps": float(config.rounds * sum(self.round_steps)), "kept": kept}
        if self.together:
            looked = n * len(self.measured) if n > 1 else 0
            anew = n * config.rounds if n > 1 and self._recalibrates else 0
            crossed = played.sum(lambda own: own.answers)
            seen = {"recalibrated": anew, "looked_at": looked}
            return Counts(evaluated=trained, gradients=crossed, **seen, **common)
        met = [r for r in self.measured if played.seen and played.at(r - 1).merged]
        return Counts(
            merges=n * config.rounds,
            mixed=played.sum(lambda own: sum(own.mixed)),
            compared=played.sum(lambda own: sum(own.compared)),
            comparing=played.sum(lambda own: sum(count > 0 for count in own.compared)),
            recalibrated=played.sum(lambda own: own.recalibrated) * self._recalibrates,
            evaluated=trained + n * len(met),
            looked_at=n * len(met),
            **common,
        )

    @property
    def _recalibrates(self) -> bool:
        return bool({"all", self.name} & set(self.setup.config.recalibration.methods))

    @property
    def neighbors(self) -> float:
        """Mean number of neighbors of an agent."""
        topology = self.setup.topology.at(0)
        return sum(len(topology.neighbors(i)) for i in range(self.agents)) / self.agents

    def flops(self) -> dict[str, float]:
        """FLOP of all agents after pre-training, by purpose.

        Of matching, the forward passes are counted; of regression, about as many again.
        """
        config, own, facts = self.setup.config, self.counts, self.stage.facts
        train, held = (sum(part[k] for part in self.shards) / self.agents for k in (0, 1))
        seen = min(config.matching.images, train)
        runs = own.compared + own.comparing * self.method.own_passes
        runs *= self.method.needs_graph
        if COMBINERS[self.method.combiner].needs_batches:
            runs += own.mixed + 2 * own.merges
        forward = facts.forward_flops
        evaluated = len(self.setup.dataset.test_y) + held
        anew = min(config.recalibration.images, train) * facts.has_running_statistics
        distilled = bool(self.setup.distill(pretraining=False))
        a_step = facts.training_flops + distilled * forward
        return {
            "training": (own.steps + own.gradients) * config.batch_size * a_step,
            "evaluation": own.evaluated * evaluated * forward,
            "matching": runs * seen * forward,
            "recalibration": own.recalibrated * anew * forward,
        }


def shards_of(setup: Setup) -> list[tuple[int, int]]:
    """Numbers of training and of validation images of each agent, in the rounds."""
    parts = setup.parts.rounds
    trained = [len(setup.shard(i, pretraining=False)) for i in range(len(parts))]
    return [(own, len(part) - own) for own, part in zip(trained, parts, strict=True)]


def pretraining_steps(setup: Setup) -> list[int]:
    """The steps of each agent before the first round."""
    return [setup.pretrain_steps(i) for i in range(setup.config.agents)]
