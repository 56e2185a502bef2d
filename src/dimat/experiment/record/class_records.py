"""The records of classes: ``classes.jsonl`` and ``confusion.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from dimat.exchange.tree import Tree
from dimat.experiment.record.run_folder import RunFolder


@dataclass
class ClassRecords:
    """The writer of recall by class, and of the confusion of classes in the last round.

    Args:
        folder: Run folder of the method.
    """

    folder: RunFolder
    _confusion: dict[str, object] = field(init=False, default_factory=dict)

    def write(self, number: int, phase: str, agents: Mapping[int, Tree | None]) -> None:
        """Write a line for each agent, and the counts of all of them if there are any.

        Args:
            number: The round.
            phase: merged or trained.
            agents: Recall and counts by agent; None where a task has no classes.
        """
        found = {agent: own for agent, own in agents.items() if own is not None}
        for agent, own in found.items():
            line = {"round": number, "agent": agent, "phase": phase, "recall": own["recall"]}
            self.folder.append(line, "classes")
        counts = [own["counts"] for own in found.values() if own["counts"] is not None]
        if counts:
            self._confusion |= {"round": number, phase: reduce(add, counts).tolist()}
            self.folder.write_json("confusion", self._confusion)
