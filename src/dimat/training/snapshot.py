"""Snapshots of agents: all that changes in an agent, as a tree of tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dimat.errors import StructureError
from dimat.exchange.tree import Tree, copied
from dimat.methods.gauge import GaugeId
from dimat.state import State, clone
from dimat.training.average import WeightAverage
from dimat.training.trainer import LocalTrainer


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of all that changes in an agent; a run makes its shard and settings again.

    Args:
        state: The agent's state.
        optimizer: ``state_dict`` of the optimizer.
        schedule: ``state_dict`` of the learning rate schedule.
        counters: Training steps, epochs, bytes sent and received, and busy seconds so far.
        gauge: Id of the unit order that the state is in; the agent's own order if None.
        kept: States that the method keeps from round to round, by name.
        hidden: Buffers of the model that are in no state (not persistent), by name.
        average: The moving average of the weights, as a tree; empty if there is none.
    """

    state: State
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    counters: dict[str, float]
    gauge: GaugeId | None = None
    kept: Mapping[str, State] = field(default_factory=dict)
    hidden: State = field(default_factory=dict)
    average: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, agent: LocalTrainer) -> Snapshot:
        """The snapshot of an agent; everything is copied."""
        traffic = agent.traffic
        return cls(
            agent.state(),
            copied(agent.optimizer.state_dict()),
            # without the rule itself, a function, which the run makes again
            {k: v for k, v in agent.schedule.state_dict().items() if k != "lr_lambdas"},
            {
                "steps": agent.steps,
                "epochs": agent.epochs,
                "sent_bytes": traffic.sent_bytes,
                "received_bytes": traffic.received_bytes,
                "busy_s": traffic.busy_s,
            },
            agent.gauge,
            {name: clone(own) for name, own in agent.kept.items()},
            clone(_hidden(agent.model)),
            copied(agent.average.tree()) if agent.average else {},
        )

    def restore(self, agent: LocalTrainer, *, new_shard: bool = False) -> None:
        """Restore the snapshot into a new agent of the same settings.

        Args:
            agent: The new agent; changed in place.
            new_shard: Whether the agent's shard is another one: its count of steps then starts
                at 0.
        """
        agent.load(self.state)
        agent.optimizer.load_state_dict(copied(self.optimizer))
        agent.schedule.load_state_dict({**self.schedule, "lr_lambdas": [None]})
        for name, value in _hidden(agent.model).items():
            value.copy_(self.hidden[name])
        count = self.counters
        agent.average = None
        if self.average:
            there = {
                key: own.clone().to(agent.device) for key, own in self.average["state"].items()
            }
            agent.average = WeightAverage(there, int(self.average["steps"]))
        agent.steps = 0 if new_shard else int(count["steps"])
        agent.epochs = int(count["epochs"])
        agent.gauge = self.gauge
        agent.kept = {
            name: {key: value.clone().to(agent.device) for key, value in own.items()}
            for name, own in self.kept.items()
        }
        agent.traffic.sent_bytes = int(count["sent_bytes"])
        agent.traffic.received_bytes = int(count["received_bytes"])
        agent.traffic.busy_s = count["busy_s"]

    def tree(self) -> Tree:
        """The snapshot as dicts, lists, numbers and tensors, which are not copied."""
        return {
            "state": self.state,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "counters": self.counters,
            "gauge": self.gauge and self.gauge.parts,
            "kept": self.kept,
            "hidden": self.hidden,
            **({"average": self.average} if self.average else {}),
        }

    @classmethod
    def of_tree(cls, tree: Tree) -> Snapshot:
        """The snapshot of a tree that :meth:`tree` returned.

        Args:
            tree: The snapshot as dicts, lists, numbers and tensors.

        Raises:
            StructureError: If the tree is not that of a snapshot.
        """
        try:
            gauge = GaugeId(*tree["gauge"]) if tree["gauge"] else None
            return cls(**{**tree, "gauge": gauge})
        except (KeyError, TypeError, ValueError) as error:
            raise StructureError(f"no snapshot of an agent: {error!r}") from error


def _hidden(model: nn.Module) -> State:
    """Buffers of a model that are in no state, by name."""
    seen = model.state_dict()
    return {name: value for name, value in model.named_buffers() if name not in seen}
