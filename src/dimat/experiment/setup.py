"""The setup of a run: partitioned data, graph, and new agents."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from dimat.data import (
    Dataset,
    Partition,
    Shard,
    are_skewed,
    hold_out,
    load_dataset,
    partition,
    subset,
)
from dimat.data.dataset import Tell
from dimat.experiment.config.config import OptimizerConfig, RunConfig, TopologyConfig
from dimat.experiment.progress import Progress, Silent
from dimat.losses import LocalLoss, loss_of_counts
from dimat.models import build_model, check_output
from dimat.symmetry import Analysis, Symmetry, analyze, given_analysis
from dimat.topology import GraphOptions, Network, build_topology
from dimat.training.trainer import LocalTrainer, MergeSettings


@dataclass(frozen=True)
class Setup:
    """The settings, data, graph and model that all methods of a run share.

    Args:
        config: Settings of the run, with what ``merging.combine`` auto means of these data.
        dataset: All images; agents train on their shards, and are tested on the test images.
        parts: Partition of the training images among the agents.
        topology: Graph and mixing matrix at every time.
        held: Validation images among those of ``parts``; None: a share of each agent's own.
        symmetry: The symmetry of the model, given by hand; None to find it.
    """

    config: RunConfig
    dataset: Dataset
    parts: Partition
    topology: Network
    held: Partition | None = None
    symmetry: Symmetry | None = None

    @cached_property
    def held_out(self) -> Partition:
        """The validation images of every agent, which it does not train on."""
        if self.held is not None:
            return self.held
        labels, config = self.dataset.train_y, self.config
        size, share = config.batch_size, config.data.validation
        return hold_out(self.parts, labels, share, batch_size=size, seed=config.seed)

    @cached_property
    def analysis(self) -> Analysis:
        """The symmetry of the model, found once; or the one given by hand, proved by execution."""
        model = self.new_model(0)
        example = torch.zeros(2, self.dataset.in_channels, *self.dataset.image_size)
        if self.symmetry is not None:
            return given_analysis(self.symmetry, model, (example,))
        return analyze(model, (example,), constants=dict(model.named_buffers()))

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Normalized test images on the device, and their labels."""
        return Shard.whole(self.dataset.test_x, self.dataset.test_y, device=self.config.device)

    def new_model(self, agent: int) -> nn.Module:
        """A freshly initialized model, the same at every call.

        Args:
            agent: Number of the agent; with ``init`` shared all agents get the same model.
        """
        config = self.config
        number = 0 if config.init == "shared" else agent
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed seeds every device, and takes 80 us even if there is only the CPU
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
            )
            return build_model(
                config.model,
                in_channels=self.dataset.in_channels,
                num_classes=self.dataset.num_classes,
                image_size=self.dataset.image_size,
                width=config.width,
                shortcut=config.shortcut,
                norm=config.norm,
            )

    def shard(self, agent: int, *, pretraining: bool) -> Shard:
        """The shard of one agent.

        Args:
            agent: Number of the agent.
            pretraining: Whether it is the shard of pre-training, or that of the rounds.
        """
        data = self.dataset
        mine, held = (
            (own.pretrain if pretraining else own.rounds)[agent]
            for own in (self.parts, self.held_out)
        )
        mask = torch.from_numpy(np.isin(mine, held))
        return Shard(data.train_x[mine], data.train_y[mine], held=mask, device=self.config.device)

    def new_agent(
        self, agent: int, *, pretraining: bool, together: bool = False, method: str | None = None
    ) -> LocalTrainer:
        """An agent with a new model, before any training.

        Args:
            agent: Number of the agent.
            pretraining: Whether its shard is that of pre-training, or that of the rounds.
            together: Whether the method exchanges in steps, so that all agents take equally many.
            method: Registry name of the method that it merges by; that of the settings if None.
        """
        config = self.config
        model = self.new_model(agent).to(config.device)
        if any(p.dim() == 4 for p in model.parameters()):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(config.optimizer, list(model.parameters()))
        shard = self.shard(agent, pretraining=pretraining)
        return LocalTrainer(
            index=agent,
            model=model,
            optimizer=optimizer,
            schedule=self._schedule(agent, optimizer, together=together),
            shard=shard,
            topology=self.topology.at(0),
            merging=self._merging(method or config.method),
            seed=config.seed,
            batch_size=config.batch_size,
            augment=config.data.augment,
            precision=config.precision,
            local_loss=self._local_loss(shard, pretraining=pretraining),
        )

    def _local_loss(self, shard: Shard, *, pretraining: bool) -> LocalLoss:
        """The loss of an agent that trains on a shard; auto looks at the shards of all."""
        logits, classes = self.config.loss.logits, self.dataset.num_classes
        if logits == "auto":
            logits = "adjusted" if self._skewed[pretraining] else "plain"
        return loss_of_counts(shard.class_counts(classes), logits)

    @cached_property
    def _skewed(self) -> Mapping[bool, bool]:
        """Whether the shards of pre-training (True) and of the rounds differ in their classes."""
        both = ((True, self.parts.pretrain), (False, self.parts.rounds))
        return {own: are_skewed(parts, self.dataset.train_y) for own, parts in both}

    def _merging(self, method: str) -> MergeSettings:
        """The settings of the merges of a method."""
        config, own = self.config, self.config.recalibration
        return MergeSettings(
            method=method,
            topology=self.topology,
            analysis=lambda: self.analysis,
            rounds=config.rounds,
            matching_images=config.matching.images,
            on_merge=config.optimizer.on_merge,
            recalibration_images=own.images if {"all", method} & set(own.methods) else 0,
        )

    def _schedule(
        self, agent: int, optimizer: torch.optim.Optimizer, *, together: bool
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """The schedule of the learning rate over the whole run, pre-training included."""
        if self.config.optimizer.schedule == "constant":
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        steps = self.round_steps(agent, together=together)
        total = self.pretrain_steps(agent, together=together) + self.config.rounds * steps
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))
        )

    def set_out(self, agent: LocalTrainer) -> None:
        """Set an agent's schedule to the end of pre-training, alike for agents that step together.

        Args:
            agent: The agent; changed in place.
        """
        agent.schedule_at(self.pretrain_steps(agent.index, together=True))

    def pretrain_steps(self, agent: int, *, together: bool = False) -> int:
        """Training steps of pre-training.

        Args:
            agent: Number of the agent.
            together: Whether to count the steps of the mean agent instead of its own.
        """
        own, mean = self._batches[True]
        return self.config.pretrain_epochs * (mean if together else own[agent])

    def round_steps(self, agent: int, *, together: bool = False) -> int:
        """Training steps of a round.

        Args:
            agent: Number of the agent.
            together: Whether the method exchanges in steps: all take those of the mean agent.
        """
        config = self.config
        if config.local_steps is not None:
            return config.local_steps
        own, mean = self._batches[False]
        return config.local_epochs * (mean if together else own[agent])

    def pooled(self) -> Setup:
        """The setup of one agent that trains on the training images of all agents."""
        steps = self.config.local_steps  # times the agents: as many images as they see in all
        together = None if steps is None else steps * self.config.agents
        alone = replace(
            self.config, agents=1, topology=TopologyConfig("ring"), local_steps=together
        )
        parts, held = (
            Partition(
                [np.unique(np.concatenate(own.pretrain))], [np.unique(np.concatenate(own.rounds))]
            )
            for own in (self.parts, self.held_out)
        )
        return Setup(alone, self.dataset, parts, build_topology("ring", 1), held)

    @cached_property
    def _batches(self) -> Mapping[bool, tuple[Sequence[int], int]]:
        """Batches of an epoch of each agent and the mean agent, in pre-training (True) or rounds.

        Counted once and without making shards: every agent needs all counts in every round.
        """
        size, held = self.config.batch_size, self.held_out
        found = {}
        for pretraining, parts, less in (
            (True, self.parts.pretrain, held.pretrain),
            (False, self.parts.rounds, held.rounds),
        ):
            images = [len(part) - len(own) for part, own in zip(parts, less, strict=True)]
            own = [count // size for count in images]
            found[pretraining] = own, round(statistics.fmean(own))
        return found


def make_setup(
    config: RunConfig, progress: Progress | None = None, dataset: Dataset | None = None
) -> Setup:
    """Load and partition the data, build graph and model, and check them; nothing is trained.

    Args:
        config: Every setting.
        progress: Receives the number of images read; nobody if None.
        dataset: Data in place of ``config.data.source``; None to load them.

    Raises:
        DataError, ModelError, TopologyError: If data, model or graph cannot be used.
    """
    if dataset is None:
        dataset = load_dataset(config.data.source, _reading(progress or Silent()))
    if config.data.train_images is not None:
        kept = subset(dataset.train_y, config.data.train_images, config.seed)
        dataset = dataset.only(kept)
    parts = partition(
        config.data.split,
        dataset.train_y,
        config.agents,
        seed=config.seed,
        alpha=config.data.alpha,
        batch_size=config.batch_size,
    )
    shard_sizes = [len(part) for part in parts.rounds]
    topology = build_network(config.topology, config.agents, shard_sizes)
    if config.merging.combine == "auto":
        combine = "gram" if are_skewed(parts.rounds, dataset.train_y) else "average"
        config = replace(config, merging=replace(config.merging, combine=combine))
    setup = Setup(config, dataset, parts, topology)
    check_output(
        config.model,
        setup.new_model(0),
        in_channels=dataset.in_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
    )
    return setup


def build_network(
    config: TopologyConfig, agents: int, shard_sizes: Sequence[int] | None = None
) -> Network:
    """The topology that the settings describe; see :func:`build_topology`.

    Args:
        config: Settings of the topology.
        agents: Number of agents, >= 1.
        shard_sizes: Training images of each agent, for mixing by shard size.
    """
    options = GraphOptions(
        config.path, config.directed, config.degree, config.probability, config.seed
    )
    return build_topology(
        config.name,
        agents,
        mixing=config.mixing,
        options=options,
        dropout=config.dropout,
        shard_sizes=shard_sizes,
    )


def _reading(progress: Progress) -> Tell:
    """A function that reports to the progress how many images are read."""

    def tell(new: int, total: int) -> None:
        if new == 0:
            progress.stage("reading images", total)
        progress.advance(new)

    return tell


def make_optimizer(config: OptimizerConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The optimizer of local training.

    Args:
        config: Settings of the optimizer.
        parameters: The parameters to train.
    """
    decay = config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, weight_decay=decay)
    if config.name == "msgd":
        return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=decay)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    # Not fused: its rounding depends on the layout of its memory, and a resumed run would differ
    # (docs/performance.md).
    return kind(parameters, config.lr, weight_decay=decay)
