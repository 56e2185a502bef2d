"""Pre-training: every agent trains alone, from its own init, on its own images."""

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

_BETWEEN_S = 20.0  # seconds between checkpoints: a kill loses this and an epoch, at most


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained agent (or one in pre-training), which every method starts from.

    Args:
        snapshot: The snapshot of the agent.
        train_loss: Mean training loss of the agent's last epoch; NaN if there was none.
    """

    snapshot: Snapshot
    train_loss: float = float("nan")

    def tree(self) -> Tree:
        """The pre-trained agent as a tree."""
        return {"snapshot": self.snapshot.tree(), "train_loss": self.train_loss}

    @classmethod
    def of_tree(cls, tree: Tree) -> Pretrained:
        """The pre-trained agent of a tree.

        Args:
            tree: The value that :meth:`tree` returned.
        """
        return cls(Snapshot.of_tree(tree["snapshot"]), tree["train_loss"])


@dataclass
class Pretraining:
    """The pre-training of this process's agents, resumed from its last checkpoint.

    All processes go through the epochs together, so that agent 0's can write checkpoints of all
    agents.

    Args:
        setup: Data, models and settings.
        collectives: Gathers values from the agents of all processes.
        progress: Receives the progress of the pre-training.
        store: Folder of the checkpoints; None but in agent 0's process.
        time_limit: Wall time of the run, by the clock of agent 0's process.
        done: The latest snapshot of each agent of this process.
    """

    setup: Setup
    collectives: Collectives
    progress: Progress
    store: CheckpointFolder | None
    time_limit: TimeLimit = ENDLESS
    done: dict[int, Pretrained] = field(default_factory=dict)
    agents: Sequence[LocalTrainer] = field(init=False, default=())
    _noted: dict[tuple[int, int], Pretrained] = field(init=False, default_factory=dict)

    def run(self) -> dict[int, Pretrained]:
        """Pre-train the agents of this process.

        Returns:
            The pre-trained agents, by number.

        Raises:
            TrainingError: If a loss is not finite.
            Stopped: If time is up, after a checkpoint of all agents.
        """
        here, epochs = self.collectives.transport.agents, self.setup.config.pretrain_epochs
        self.progress.stage("pre-training", len(here) * max(epochs, 1))
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
        """Receive the last checkpoint from agent 0's process; returns the first epoch to train."""
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
        """The agents of the last checkpoint; none if there is none."""
        found = self.store.latest(self.progress.note) if self.store else None
        if found is None:
            return []
        return [
            {**own, "snapshot": unpack(own["snapshot"], found.tensors)}
            for own in found.meta["agents"]
        ]

    def _agent(self, index: int) -> LocalTrainer:
        """An agent as in the last checkpoint, or a new one."""
        agent = self.setup.new_agent(index, pretraining=True)
        if index in self.done:
            self.done[index].snapshot.restore(agent)
        else:
            self.done[index] = Pretrained(Snapshot.of(agent))
        self.progress.advance(min(agent.epochs, self.setup.config.pretrain_epochs))
        return agent

    def _epochs(self, agent: LocalTrainer, first: int) -> Talk[tuple[int, bool]]:
        """Train one agent epoch by epoch, with checkpoints of all agents when they are due.

        Returns:
            Number of epochs done, and whether training stopped because time is up.
        """
        epochs = self.setup.config.pretrain_epochs
        for epoch in range(first, epochs):
            if agent.epochs == epoch:  # else it was trained ahead in a stack
                self._epoch(agent)
            # By now the stack of another agent may have trained it further than this epoch.
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
        """Train an agent for an epoch; with stacks, all agents that have done as many epochs."""
        if not trains_at_once(self.setup):
            one_epoch(agent)
            self._note([agent])
            return
        group = [own for own in self.agents if own.epochs == agent.epochs]
        steps = [own.shard.num_batches(own.batch_size) for own in group]
        train_all(self.setup, group, steps, self._note)

    def _note(self, agents: Sequence[LocalTrainer]) -> None:
        """Record the snapshots of agents after an epoch."""
        for agent in agents:
            try:
                own = Pretrained(Snapshot.of(agent), agent.loss())
            except TrainingError as error:
                raise TrainingError(f"round 0 (pre-training), {error}") from error
            self.done[agent.index] = self._noted[agent.index, agent.epochs] = own
            self.progress.advance()

    def _due(self, agent: int, *, last: bool) -> Talk[tuple[bool, bool]]:
        """Whether to write a checkpoint and whether to stop; agent 0 decides, the others receive.

        A checkpoint is due after the last epoch, some time after the last one, and when time is up.
        """
        size, messages = self.collectives.size, {}
        if self.time_limit.limits:  # agent 0 reads its clock when all have done their epoch
            yield from gather(agent, size, as_message(None))
        if agent == OBSERVER:
            up = self.time_limit.is_up
            due = last or up or time.monotonic() - self._written >= _BETWEEN_S
            messages = dict.fromkeys(range(size), as_message([due, up]))
        due, up = tree_of((yield from scatter(agent, size, messages)))
        return bool(due), bool(up)

    def _keep(self, agents: Sequence[Tree]) -> None:
        """Write a checkpoint of all agents, in agent 0's process."""
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
    """Train an agent for one pass over its own images.

    Args:
        agent: The agent; changed in place.
    """
    start = time.perf_counter()
    for _ in range(agent.shard.num_batches(agent.batch_size)):
        agent.update(agent.gradient())
        agent.note_step()
    agent.traffic.busy_s += time.perf_counter() - start
