"""The setup of a run: partitioned data, graph, and new agents."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from dimat.compat import lacks_bfloat16
from dimat.data import (
    OWN,
    Dataset,
    Partition,
    Rows,
    Shard,
    are_skewed,
    hold_out,
    load_dataset,
    own_images,
    partition,
    tensor_of,
)
from dimat.data.dataset import Part, Tell
from dimat.data.partition import check_batches
from dimat.errors import ConfigError, DataError, ModelError, StructureError
from dimat.experiment.config.config import OptimizerConfig, RunConfig, TopologyConfig
from dimat.experiment.config.places import AGENT
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.validate import ONLY_APART
from dimat.experiment.given import NOTHING, Given, check_there
from dimat.experiment.given.model import Build
from dimat.experiment.network import build_network
from dimat.experiment.progress import Progress, Silent, reading
from dimat.experiment.sources import (
    class_labels,
    label_distribution,
    load_each,
    load_source,
    source_options,
    target_notes,
    task_of,
    thinned,
)
from dimat.experiment.unread import unread
from dimat.losses import NOT_TRUE_WEIGHT, LocalLoss, loss_of_counts
from dimat.methods import Method, check_combiner
from dimat.metric import Metric
from dimat.models import build_for_input, check_outputs
from dimat.state import check_same_structure, tensors_of
from dimat.symmetry import Analysis, Symmetry, analyze, given_analysis
from dimat.tasks import TASKS, Task
from dimat.tasks.checks import check_functions
from dimat.topology import Network, build_topology
from dimat.training.exchanged import check_moves, frozen_digest, frozen_entries, trained_keys
from dimat.training.trainer import LocalTrainer, MergeSettings

SLOW_BFLOAT16 = (
    "ATTENTION: precision is bfloat16, for which this CPU has no instructions: steps of "
    "convolutional networks take ten times as long as with precision float32"
)


@dataclass(frozen=True)
class Setup:
    """The settings, data, graph and model that all methods of a run share.

    Args:
        config: Settings of the run, with what ``merging.combine`` auto means of these data.
        dataset: All samples; agents train on their shards, and are tested on the test samples.
        parts: Partition of the training images among the agents.
        topology: Graph and mixing matrix at every time.
        held: Validation images among those of ``parts``; None: a share of each agent's own.
        symmetry: The symmetry of the model, given by hand; None to find it.
        owner: The agent whose own data these are; ``parts`` has its images only, and what depends
            on those of another agent is refused. None: the data of all agents.
        tested: The data set whose test images agents are tested on; None: ``dataset``.
        build: Builds a model, where the caller has given one; None: by the name in the settings.
        exact_stack: Number of agents that train at once where the settings do not say, since a
            trial has shown that they come to the bits that they would have come to one after
            another (``running/vectorized.py``); 0: none has.
    """

    config: RunConfig
    dataset: Dataset
    parts: Partition
    topology: Network
    held: Partition | None = None
    symmetry: Symmetry | None = None
    owner: int | None = None
    tested: Dataset | None = None
    build: Build | None = None
    exact_stack: int = 0

    @cached_property
    def task(self) -> Task:
        """The task that the agents learn."""
        return task_of(self.config)

    @property
    def metric(self) -> Metric:
        """The main metric of the task."""
        return self.task.metrics[0]

    @cached_property
    def num_outputs(self) -> int:
        """Width of the models' outputs."""
        return self.dataset.num_outputs(self.task)

    @property
    def _has_places(self) -> bool:
        """Whether every place of an input has an output: a token, or a pixel."""
        return len(self.task.output_shape(self.two_targets, self.num_outputs)) > 2

    @cached_property
    def two_targets(self) -> Tensor:
        """Targets of a batch of two, for the shape of outputs: those of the first sample twice."""
        return tensor_of(self.dataset.train_y[:1]).repeat_interleave(2, 0)

    @cached_property
    def labels(self) -> Tensor:
        """The class of every training sample; one and the same where there are none."""
        return class_labels(self.dataset, self.task)

    @cached_property
    def held_out(self) -> Partition:
        """The validation images of every agent, which it does not train on."""
        if self.held is not None:
            return self.held
        labels, config = self.labels, self.config
        size, share = config.batch_size, config.data.validation
        return hold_out(self.parts, labels, share, batch_size=size, seed=config.seed)

    @cached_property
    def analysis(self) -> Analysis:
        """The symmetry of the model, found once; or the one given by hand, proved by execution."""
        model = self.new_model(0)
        example, frozen = self.dataset.example(2), frozen_entries(model, self.exchanged)
        if self.symmetry is not None:
            check_moves(self.symmetry, frozen)
            return given_analysis(self.symmetry, model, (example,))
        return analyze(model, (example,), constants=dict(model.named_buffers()), frozen=frozen)

    @cached_property
    def exchanged(self) -> frozenset[str] | None:
        """State keys of what agents exchange; None: all."""
        if self.config.exchange.what == "all":
            return None
        return trained_keys(self.new_model(0), (self.dataset.example(2),))

    @cached_property
    def frozen_digest(self) -> str | None:
        """Digest of what agents do not exchange, and must have alike; None if they exchange all."""
        if self.exchanged is None:
            return None
        return frozen_digest(self.new_model(0), self.exchanged)

    def check_exchange(self, name: str, method: Method) -> None:
        """Refuse a method that cannot combine the entries that agents exchange.

        Args:
            name: Registry name of the method.
            method: The method.

        Raises:
            ConfigError: If so.
        """
        part = self.exchanged is not None
        if part and method.exchanges == "steps":
            rule = f"all with method '{name}', which exchanges while it trains: or use dimat or wa"
            raise broken_rule("exchange.what", "trainable", rule)
        if part or method.combiner != "average":  # which takes all there is
            keys = self.exchanged or tensors_of(self.new_model(0).state_dict()).keys()
            check_combiner(name, method, keys, part=part)

    def _check_frozen(self, agent: int, model: nn.Module) -> None:
        """Refuse an agent whose model has other frozen entries than that of agent 0.

        Raises:
            ModelError: If so.
        """
        if self.exchanged is None or frozen_digest(model, self.exchanged) == self.frozen_digest:
            return
        raise ModelError(
            f"agents 0 and {agent} have different frozen entries (their bases differ), and "
            "'exchange.what' is 'trainable', which never sends them: make the base alike, by a "
            "factory that loads it or by --init shared, or use --exchange.what all"
        )

    @cached_property
    def test(self) -> tuple[Rows, Rows]:
        """Test inputs on the device, as models get them, and their targets.

        Of an agent with its own data, and no other test set, these are :attr:`own_test`.
        """
        if self.tested is None and self.owner is not None:
            return self.own_test
        data = self.tested or self.dataset
        return self._whole(data.test_x, data.test_y)

    def _whole(self, inputs: Rows, targets: Rows) -> tuple[Rows, Rows]:
        images, device = self.dataset.images, self.config.device
        return Shard.whole(inputs, targets, device, images=images)

    @cached_property
    def own_test(self) -> tuple[Rows, Rows]:
        """The test images of an agent with its own data; its validation images if it has none."""
        data = self.dataset
        if len(data.test_y):
            return self._whole(data.test_x, data.test_y)
        (held,) = self.held_out.rounds
        return self._whole(data.train_x[held], data.train_y[held])

    def new_model(self, agent: int) -> nn.Module:
        """A freshly initialized model, the same at every call.

        Args:
            agent: Number of the agent; with ``init`` shared all agents get the same model.

        Raises:
            ModelError: If it is of another architecture than the first that was made of agent 0.
        """
        model = self._built(agent)
        try:
            own = tensors_of(model.state_dict())
            check_same_structure(self._structure, own, f"that of agent {agent}")
        except StructureError as error:
            raise ModelError(
                f"model '{self.config.model}': {error}; all agents need one architecture, which "
                "every call of a factory must make"
            ) from None
        return model

    @cached_property
    def _structure(self) -> Mapping[str, Tensor]:
        """The entries of agent 0's model, of which names, shapes and types count."""
        return {k: x.to("meta") for k, x in tensors_of(self._built(0).state_dict()).items()}

    def _built(self, agent: int) -> nn.Module:
        config = self.config
        number = 0 if config.init == "shared" else agent
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed seeds every device, and takes 80 us even if there is only the CPU
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
            )
            return build_for_input(
                config.model,
                (1, *self.dataset.input_shape),
                self.num_outputs,
                num_tokens=self.dataset.num_tokens,
                padding=self.dataset.padding,
                places=self._has_places,
                width=config.width,
                shortcut=config.shortcut,
                norm=config.norm,
                build=self.build,
            )

    def shard(self, agent: int, *, pretraining: bool) -> Shard:
        """The shard of one agent.

        Args:
            agent: Number of the agent.
            pretraining: Whether it is the shard of pre-training, or that of the rounds.
        """
        data = self.dataset
        place = self._place(agent)
        mine, held = (
            (own.pretrain if pretraining else own.rounds)[place]
            for own in (self.parts, self.held_out)
        )
        mask = torch.from_numpy(np.isin(mine, held))
        inputs, targets = data.train_x[mine], data.train_y[mine]
        device = self.config.device
        return Shard(inputs, targets, held=mask, device=device, images=data.images)

    def _place(self, agent: int) -> int:
        """The place of an agent in the lists of a partition.

        Raises:
            DataError: If its images are at another site.
        """
        if self.owner is None:
            return agent
        if agent != self.owner:
            raise self._elsewhere(f"agent {agent}")
        return 0

    def _elsewhere(self, who: str) -> DataError:
        return DataError(
            f"what depends on the images of {who} is not known here: setting 'data.split' is "
            f"'{OWN}', and these are the images of agent {self.owner} only"
        )

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
        model = self.new_model(agent)
        self._check_frozen(agent, model)
        model = model.to(config.device)
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
            clip_norm=config.optimizer.clip_norm,
            accumulate=config.optimizer.accumulate,
            ema=config.optimizer.ema,
            local_loss=self._local_loss(shard, pretraining=pretraining),
            distill=self.distill(pretraining=pretraining),
            task=self.task,
        )

    def _local_loss(self, shard: Shard, *, pretraining: bool) -> LocalLoss:
        """The loss of an agent that trains on a shard; auto looks at the shards of all."""
        if not self.task.has_classes:
            return LocalLoss(base=self.task.loss)
        logits = self.logits(pretraining=pretraining)
        counted = loss_of_counts(shard.class_counts(self.num_outputs), logits)
        smoothing = self.config.loss.label_smoothing
        return replace(counted, base=self.task.loss, smoothing=smoothing)

    def logits(self, *, pretraining: bool) -> Literal["plain", "own-classes", "adjusted"]:
        """What class shares do to the softmax; auto depends on how much shards differ."""
        logits = self.config.loss.logits
        if logits == "auto":
            return "adjusted" if self._skewed[pretraining] else "plain"
        return logits

    def distill(self, *, pretraining: bool) -> float:
        """The weight of not-true distillation: none in pre-training, as nobody has merged."""
        weight = self.config.loss.distill
        if pretraining or weight == 0 or not self.task.has_classes:
            return 0.0
        if weight is None:
            return NOT_TRUE_WEIGHT if self._skewed[pretraining] else 0.0
        return weight

    @cached_property
    def _skewed(self) -> Mapping[bool, bool]:
        """Whether the shards of pre-training (True) and of the rounds differ in their classes.

        Agents with data of their own cannot know, and take it that they do. Where there are no
        classes they do not.
        """
        if not self.task.has_classes:
            return {True: False, False: False}
        if self.config.data.split == OWN and self.config.agents > 1:
            return {True: True, False: True}
        both = ((True, self.parts.pretrain), (False, self.parts.rounds))
        return {own: are_skewed(parts, self.labels) for own, parts in both}

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
            exchanged=self.exchanged,
        )

    def _schedule(
        self, agent: int, optimizer: torch.optim.Optimizer, *, together: bool
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """The schedule of the learning rate over the whole run, pre-training included."""
        warm = self.config.optimizer.warmup_steps

        def rise(step: int) -> float:
            return min(1.0, (step + 1) / (warm + 1))

        if self.config.optimizer.schedule == "constant":
            return torch.optim.lr_scheduler.LambdaLR(optimizer, rise)
        steps = self.round_steps(agent, together=together)
        total = self.pretrain_steps(agent, together=together) + self.config.rounds * steps
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: (
                rise(step) * 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))
            ),
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
        return self.config.pretrain_epochs * self._epoch_batches(agent, True, together)

    def round_steps(self, agent: int, *, together: bool = False) -> int:
        """Training steps of a round.

        Args:
            agent: Number of the agent.
            together: Whether the method exchanges in steps: all take those of the mean agent.
        """
        config = self.config
        if config.local_steps is not None:
            return config.local_steps
        return config.local_epochs * self._epoch_batches(agent, False, together)

    def _epoch_batches(self, agent: int, pretraining: bool, together: bool) -> int:
        """Batches of an epoch of an agent, or of the mean agent."""
        own, mean = self._batches[pretraining]
        if together and self.owner is not None:
            raise self._elsewhere("all agents")
        return mean if together else own[self._place(agent)]

    def pooled(self) -> Setup:
        """The setup of one agent that trains on the training images of all agents."""
        if self.owner is not None:
            raise self._elsewhere("all agents")
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
        return replace(
            self,
            config=alone,
            parts=parts,
            topology=build_topology("ring", 1),
            held=held,
            symmetry=None,
        )

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
    config: RunConfig,
    progress: Progress | None = None,
    dataset: Dataset | None = None,
    *,
    agent: int | None = None,
    given: Given = NOTHING,
) -> Setup:
    """Load and partition the data, build graph and model, and check them; nothing is trained.

    Args:
        config: Every setting.
        progress: Receives the number of samples read; nobody if None.
        dataset: Data in place of ``config.data.source``; None to load them.
        agent: The agent that alone is run here, whose own the data are with ``data.split`` own.
        given: Data and model that the caller has as objects.

    Raises:
        ConfigError: If the data are one agent's own, and it is not said whose.
        DataError, ModelError, TopologyError: If data, model or graph cannot be used.
    """
    asked, owner = config, agent if config.data.split == OWN else None
    progress = progress or Silent()
    tell, task = reading(progress), task_of(config)
    check_there(config, given)
    dataset, parts = given.dataset if dataset is None else dataset, given.parts
    others = config.data.test_source is not None or owner is not None
    needs: tuple[Part, ...] = ("train",) if others else ("train", "test")
    if dataset is not None:
        if config.data.classes:
            dataset = dataset.with_classes(config.data.classes, dataset.name)
        dataset = thinned(dataset, config, task) if parts is None else dataset
    elif owner is None and AGENT in config.data.source:
        dataset, parts = load_each(config, tell)
    else:
        dataset = load_source(config, tell, needs, owner)
    if config.data.split == OWN and owner is None and parts is None:
        raise ConfigError(f"setting 'data.split' is '{OWN}': {ONLY_APART}")
    _check_augment(config, dataset)
    tested = _common_test(config, dataset, tell)
    labels = class_labels(dataset, task)
    if parts is not None:
        check_batches(parts.rounds, config.data.split, config.batch_size)
    elif owner is None:
        parts = partition(
            config.data.split,
            labels,
            config.agents,
            seed=config.seed,
            alpha=config.data.alpha,
            batch_size=config.batch_size,
        )
    else:
        parts = own_images(labels, owner, batch_size=config.batch_size)
    shard_sizes = None if owner is not None else [len(part) for part in parts.rounds]
    topology = build_network(config.topology, config.agents, shard_sizes)
    if config.merging.combine == "auto":
        skewed = config.data.split == OWN or are_skewed(
            parts.rounds, label_distribution(dataset, task)
        )
        skewed &= config.exchange.robust == "none"  # fits trust what they are told
        skewed &= not config.matching.continuous  # statistics do not follow matrices
        skewed &= config.exchange.what == "all"  # and they fit layers that may be frozen
        combine = "gram" if skewed else "average"
        config = replace(config, merging=replace(config.merging, combine=combine))
    setup = Setup(config, dataset, parts, topology, owner=owner, tested=tested, build=given.build)
    if owner is not None and not len(setup.test[1]):
        raise DataError(
            f"agent {owner} has nothing to be tested on: {config.data.source} has no test images, "
            "and none is held out; add some, or give data.test_source, or a data.validation that "
            "leaves a full batch to train on"
        )
    expected = task.output_shape(setup.two_targets, setup.num_outputs)
    rule = "its output width must be the number of classes"
    if not task.has_classes:
        rule = f"as task '{config.task}' has them"
    model = setup.new_model(0)
    check_outputs(config.model, model, dataset.example(2), expected, rule)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"model '{config.model}' has no parameter that requires a gradient, so nothing of it "
            "could be trained: leave one at least unfrozen; checkpoints are merged by dimat.merge"
        )
    check_functions(task, config.task, setup.two_targets, expected)
    for note in target_notes(task, dataset.train_y, own=owner is not None):
        progress.note(note)
    for note in unread(asked, apart=agent is not None):
        progress.note(note)
    if config.precision == "bfloat16" and config.device == "cpu" and lacks_bfloat16():
        progress.note(SLOW_BFLOAT16)
    return setup


def _check_augment(config: RunConfig, dataset: Dataset) -> None:
    """Refuse augmentation of what is no image, or of images whose targets would have to follow.

    Raises:
        ConfigError: With the reason.
    """
    places = dataset.train_y.dim() > 2
    if config.data.augment and (places or not dataset.images):
        why = "targets have places, which would not follow" if places else "inputs are no images"
        raise ConfigError(f"setting 'data.augment' is true: must be false where {why}")


def _common_test(config: RunConfig, dataset: Dataset, tell: Tell) -> Dataset | None:
    """The data set whose test images replace those of the agents' source; None if it is that."""
    source = config.data.test_source
    if source is None:
        return None
    task = TASKS[config.task]
    tested = load_dataset(
        source,
        tell,
        task=task,
        classes=dataset.class_names if task.has_classes else (),
        needs=("test",),
        options=replace(
            source_options(config),
            test_share=1.0,
            categories=tuple(own for own in dataset.columns if "=" in own),
        ),
    )
    if input_shape(tested) != input_shape(dataset):
        what, axes = (
            ("images", "height x width x channels") if dataset.images else ("inputs", "all")
        )
        raise DataError(
            f"{what} of data.test_source {source} are {input_shape(tested)}, and those of "
            f"data.source {config.data.source} {input_shape(dataset)}: {axes} must be the same"
        )
    if tested.columns != dataset.columns:
        raise DataError(
            f"data.test_source {source} has the columns {', '.join(tested.columns)}, and "
            f"data.source {', '.join(dataset.columns)}: they must be alike, in one order"
        )
    if not task.has_classes:
        dataset.check_alike(task, tested, source)
    return tested


def input_shape(dataset: Dataset) -> str:
    """Height, width and channels of a data set's images, or the axes of other inputs, in words."""
    return " x ".join(map(str, dataset.train_x.shape[1:]))


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
