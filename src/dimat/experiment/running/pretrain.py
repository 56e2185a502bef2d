"""Pre-training: every agent alone, from its own init, on its own images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from dimat.errors import Stopped, TrainingError
from dimat.exchange import Talk
from dimat.exchange.collectives import OBSERVER, Collectives, gather, scatter
from dimat.exchange.tree import Tree, as_message, pack, tree_of, unpack
from dimat.experiment.progress import Progress
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.locks import alone
from dimat.experiment.running.time_limit import ENDLESS, TimeLimit
from dimat.experiment.running.vectorized import train_all, trains_at_once
from dimat.experiment.setup import Setup
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

_BETWEEN_S = 20.0  # a killed pre-training loses no more than about this, and an epoch


@dataclass(frozen=True)
class Pretrained:
    """An agent after pre-training (or in it), from where every method sets out.

    Args:
        snapshot: The agent.
        train_loss: Mean training loss of its last epoch; NaN if there was none.
    """

    snapshot: Snapshot
    train_loss: float = float("nan")

    def tree(self) -> Tree:
        """The pre-trained agent as a tree."""
        return {"snapshot": self.snapshot.tree(), "train_loss": self.train_loss}

    @classmethod
    def of_tree(cls, tree: Tree) -> Pretrained:
        """What :meth:`tree` gave."""
        return cls(Snapshot.of_tree(tree["snapshot"]), tree["train_loss"])


@dataclass
class Pretraining:
    """Pre-trains this process's agents, or takes them from where an earlier run left them.

    All processes go through the epochs together, so that agent 0's can keep what there is of all.

    Args:
        setup: What to start from.
        collectives: All agents.
        observer: Told how it goes.
        store: Where it is kept, in agent 0's process.
        time_limit: How long it may take; by the clock of agent 0's process.
    """

    setup: Setup
    collectives: Collectives
    observer: Progress
    store: CheckpointFolder | None
    time_limit: TimeLimit = ENDLESS
    done: dict[int, Pretrained] = field(default_factory=dict)
    agents: Sequence[LocalTrainer] = field(init=False, default=())
    _noted: dict[tuple[int, int], Pretrained] = field(init=False, default_factory=dict)

    def run(self) -> dict[int, Pretrained]:
        """The agents of this process, pre-trained.

        Raises:
            TrainingError: If a loss is not finite.
            Stopped: If time is up, after an epoch of all agents that was kept.
        """
        here, epochs = self.collectives.transport.agents, self.setup.config.pretrain_epochs
        self.observer.stage("pre-training", len(here) * max(epochs, 1))
        with alone(self.store.path) if self.store else nullcontext():
            first = self._take_up()
            self._written = time.monotonic()
            self.agents = [self._agent(i) for i in here]
            reached = self.collectives.run({a.index: self._epochs(a, first) for a in self.agents})
        epoch, up = reached[here[0]]
        if up:
            raise Stopped(f"pre-training, epoch {epoch} of {epochs}")
        return self.done

    def _take_up(self) -> int:
        """Hear from agent 0's process what is kept: the first epoch that is not over."""
        kept = self._kept()
        epochs = [int(own["snapshot"]["counters"]["epochs"]) for own in kept]
        first = min(epochs) if len(epochs) == self.collectives.size else 0
        known = dict(enumerate(kept))
        heard = self.collectives.scatter(
            {i: {"first": first, "kept": known.get(i)} for i in range(self.collectives.size)}
        )
        self.done = {i: Pretrained.of_tree(x["kept"]) for i, x in heard.items() if x["kept"]}
        return int(next(iter(heard.values()))["first"])

    def _kept(self) -> Sequence[Tree]:
        found = self.store.latest(self.observer.note) if self.store else None
        if found is None:
            return []
        return [
            {**own, "snapshot": unpack(own["snapshot"], found.tensors)}
            for own in found.meta["agents"]
        ]

    def _agent(self, index: int) -> LocalTrainer:
        agent = self.setup.new_agent(index, pretraining=True)
        if index in self.done:
            self.done[index].snapshot.restore(agent)
        else:
            self.done[index] = Pretrained(Snapshot.of(agent))
        self.observer.advance(min(agent.epochs, self.setup.config.pretrain_epochs))
        return agent

    def _epochs(self, agent: LocalTrainer, first: int) -> Talk[tuple[int, bool]]:
        """One agent's part: an epoch, and whether it is time to bring together what there is.

        Returns:
            How many epochs are over, and whether that is because time is up.
        """
        epochs = self.setup.config.pretrain_epochs
        for epoch in range(first, epochs):
            if agent.epochs == epoch:  # it may be ahead of others
                self._epoch(agent)
            # Another one may have trained it on by now, with all of its stack.
            own = self._noted.pop((agent.index, epoch + 1), self.done[agent.index])
            due, up = yield from self._due(agent.index, last=epoch + 1 == epochs)
            if due:
                message = as_message(own.tree())
                found = yield from gather(agent.index, self.collectives.size, message)
                self._keep([tree_of(message) for message in found])
            if up:
                return epoch + 1, True
        return epochs, False

    def _epoch(self, agent: LocalTrainer) -> None:
        """One epoch of an agent; where several train at once, of all who are as far as it is."""
        if not trains_at_once(self.setup):
            one_epoch(agent)
            self._note([agent])
            return
        group = [own for own in self.agents if own.epochs == agent.epochs]
        steps = [own.shard.num_batches(own.batch_size) for own in group]
        train_all(self.setup, group, steps, self._note)

    def _note(self, agents: Sequence[LocalTrainer]) -> None:
        """Agents after an epoch."""
        for agent in agents:
            try:
                own = Pretrained(Snapshot.of(agent), agent.loss())
            except TrainingError as error:
                raise TrainingError(f"round 0 (pre-training), {error}") from error
            self.done[agent.index] = self._noted[agent.index, agent.epochs] = own
            self.observer.advance()

    def _due(self, agent: int, *, last: bool) -> Talk[tuple[bool, bool]]:
        """Whether to keep what there is, and to stop, by the clock of agent 0: the others hear.

        It is kept after the last epoch, if the last keeping is long ago, and if time is up.
        """
        size, messages = self.collectives.size, {}
        if self.time_limit.limits:  # it looks at its clock when all have done their epoch
            yield from gather(agent, size, as_message(None))
        if agent == OBSERVER:
            up = self.time_limit.is_up
            due = last or up or time.monotonic() - self._written >= _BETWEEN_S
            messages = dict.fromkeys(range(size), as_message([due, up]))
        due, up = tree_of((yield from scatter(agent, size, messages)))
        return bool(due), bool(up)

    def _keep(self, agents: Sequence[Tree]) -> None:
        """Write what there is of all agents, in agent 0's process."""
        if self.store is None or not agents:
            return
        tensors: dict[str, Tensor] = {}
        packed = [
            {**own, "snapshot": pack(own["snapshot"], str(i), tensors)}
            for i, own in enumerate(agents)
        ]
        epochs = sum(int(own["snapshot"]["counters"]["epochs"]) for own in agents)
        self.store.write(Checkpoint(epochs, {"agents": packed}, tensors))
        self._written = time.monotonic()


def one_epoch(agent: LocalTrainer) -> None:
    """One pass of an agent over its own images, by itself."""
    start = time.perf_counter()
    for _ in range(agent.shard.num_batches(agent.batch_size)):
        agent.update(agent.gradient())
    agent.optimizer.zero_grad(set_to_none=True)  # a model's memory, until the next step
    agent.traffic.busy_s += time.perf_counter() - start
