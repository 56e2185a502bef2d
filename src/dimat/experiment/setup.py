"""Everything a run starts from: data dealt out, graph, agents, and their pre-training."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimat.agent import Agent
from dimat.data import Dataset, Partition, Shard, load_dataset, partition, subset
from dimat.data.dataset import Tell
from dimat.errors import TrainingError
from dimat.experiment.config import OptimizerConfig, RunConfig, TopologyConfig
from dimat.experiment.display import Observer, Silent
from dimat.models import build_model, check_output
from dimat.state import State
from dimat.symmetry import Analysis, analyze
from dimat.topology import GraphOptions, Network, build_topology


@dataclass(frozen=True)
class Snapshot:
    """An agent after pre-training, from where every method sets out."""

    state: State
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    epochs: int
    train_loss: float
    train_s: float


@dataclass(frozen=True)
class Setup:
    """What all methods of a run have in common.

    Args:
        config: The settings.
        dataset: All images; agents see their shards, evaluation the test part.
        parts: Which training images are whose.
        topology: Graph and mixing matrix at every time.
    """

    config: RunConfig
    dataset: Dataset
    parts: Partition
    topology: Network

    @cached_property
    def analysis(self) -> Analysis:
        """The symmetry of the model, found once."""
        model = self.new_model(0)
        example = torch.zeros(2, self.dataset.in_channels, *self.dataset.image_size)
        return analyze(model, (example,))

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Normalized test images on the device, and their labels."""
        return Shard.whole(self.dataset.test_x, self.dataset.test_y, device=self.config.device)

    def new_model(self, agent: int) -> nn.Module:
        """A freshly initialized model, the same at every call."""
        config = self.config
        number = 0 if config.init == "shared" else agent
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
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
        """The images of one agent."""
        config, data = self.config, self.dataset
        mine = (self.parts.pretrain if pretraining else self.parts.rounds)[agent]
        return Shard(
            data.train_x[mine],
            data.train_y[mine],
            num_classes=data.num_classes,
            validation=config.data.validation,
            batch_size=config.batch_size,
            seed=config.seed,
            device=config.device,
        )

    def new_agent(self, agent: int) -> Agent:
        """An agent with a new model, before any training."""
        config = self.config
        model = self.new_model(agent).to(config.device)
        if any(p.dim() == 4 for p in model.parameters()):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Agent(
            agent,
            model,
            make_optimizer(config.optimizer, model),
            self.shard(agent, pretraining=True),
            config.seed,
            config.batch_size,
            config.data.augment,
            config.precision,
        )

    def make_schedule(self, agent: Agent) -> torch.optim.lr_scheduler.LRScheduler:
        """Learning rate over the whole run, pre-training included."""
        total = self.pretrain_steps(agent.index) + self.config.rounds * self.round_steps(
            agent.index
        )
        if self.config.optimizer.schedule == "constant":
            return torch.optim.lr_scheduler.LambdaLR(agent.optimizer, lambda step: 1.0)
        return torch.optim.lr_scheduler.CosineAnnealingLR(agent.optimizer, max(total, 1))

    def pretrain_steps(self, agent: int) -> int:
        """Local steps before the first merge."""
        return self.config.pretrain_epochs * self._batches(agent, pretraining=True)

    def round_steps(self, agent: int) -> int:
        """Local steps after every merge."""
        if self.config.local_steps is not None:
            return self.config.local_steps
        return self.config.local_epochs * self._batches(agent, pretraining=False)

    def _batches(self, agent: int, *, pretraining: bool) -> int:
        shard = self.shard(agent, pretraining=pretraining)
        return shard.num_batches(self.config.batch_size)


def make_setup(config: RunConfig, observer: Observer | None = None) -> Setup:
    """Load, deal out and check everything; nothing is written or trained.

    Args:
        config: Every setting.
        observer: Told how many images are read; by default nobody.

    Raises:
        DataError, ModelError, TopologyError: If a part cannot be used.
    """
    dataset = load_dataset(config.data.source, _reading(observer or Silent()))
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
    """The graphs and mixing matrices that the settings describe; see :func:`build_topology`."""
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


def _reading(observer: Observer) -> Tell:
    """Shows how many images are read."""

    def tell(new: int, total: int) -> None:
        if new == 0:
            observer.stage("reading images", total)
        observer.advance(new)

    return tell


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of local training."""
    parameters = list(model.parameters())
    decay = config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, weight_decay=decay)
    if config.name == "msgd":
        return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=decay)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, weight_decay=decay)


def pretrain(setup: Setup, observer: Observer) -> list[Snapshot]:
    """Every agent trains alone, from its own init, on its own images."""
    config = setup.config
    observer.stage("pre-training", config.agents * max(config.pretrain_epochs, 1))
    snapshots = []
    for index in range(config.agents):
        agent = setup.new_agent(index)
        schedule = setup.make_schedule(agent)
        start = time.perf_counter()
        losses = []
        for _ in range(config.pretrain_epochs):
            try:
                losses.append(agent.train(agent.shard.num_batches(config.batch_size), schedule))
            except TrainingError as error:
                raise TrainingError(f"round 0 (pre-training), {error}") from error
            observer.advance()
        snapshots.append(
            Snapshot(
                agent.state(),
                copy.deepcopy(agent.optimizer.state_dict()),
                schedule.state_dict(),
                agent.epochs,
                losses[-1] if losses else float("nan"),
                time.perf_counter() - start,
            )
        )
    return snapshots


def resume(setup: Setup, index: int, snapshot: Snapshot) -> tuple[Agent, Any]:
    """An agent as it was after pre-training, now on the shard of the rounds."""
    agent = setup.new_agent(index)
    schedule = setup.make_schedule(agent)
    agent.load(snapshot.state)
    agent.optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))
    schedule.load_state_dict(snapshot.schedule)
    agent.epochs = snapshot.epochs
    agent.shard = setup.shard(index, pretraining=False)
    return agent, schedule


def parameter_names(model: nn.Module) -> Sequence[str]:
    """State keys that are parameters."""
    return [name for name, _ in model.named_parameters()]
