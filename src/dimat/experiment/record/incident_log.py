"""The log of incidents at one agent: a file of limited length, and counts without limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dimat.exchange.incidents import Incident, IncidentRow, Rows
from dimat.experiment.record.run_folder import RunFolder

MOST_BYTES = 1 << 24
_FULL = "this file is as long as it may be; what follows is counted in summary.json, and not told"


@dataclass
class IncidentLog:
    """Counts of all incidents, and a line and a note for each row of equal ones.

    Lines go to ``incidents.jsonl``. Once that file has 16 MiB, incidents are only counted.

    Args:
        folder: The agent's run folder.
        note: Shows a line of text to the user.
        counts: Number of incidents of each kind, by neighbor.
        event: Called with the kind of an event, and each line as its facts.
    """

    folder: RunFolder
    note: Callable[[str], object]
    counts: dict[int, Counter[str]] = field(default_factory=dict)
    event: Callable[..., object] = lambda kind, **facts: None
    _rows: Rows = field(default_factory=Rows)

    def add(self, number: int, incidents: Sequence[Incident]) -> None:
        """Add the incidents of a round.

        Args:
            number: The round, from 1.
            incidents: The exchanges of the round that did not count.
        """
        for own in incidents:
            self.counts.setdefault(own.agent, Counter())[own.what] += 1
        self._tell(number, self._rows.add(number, incidents))

    def end(self, number: int) -> None:
        """Write the last row of incidents: no more rounds follow.

        Args:
            number: The last round.
        """
        self._tell(number, self._rows.end())

    def kept(self) -> dict[str, Any]:
        """The log as JSON, for a checkpoint."""
        counts = {str(j): dict(own) for j, own in self.counts.items()}
        return {"counts": counts, "rows": self._rows.kept()}

    def restore(self, kept: Mapping[str, Any] | None) -> None:
        """Restore the log from a checkpoint, or from its file.

        Args:
            kept: The value that :meth:`kept` returned; None for checkpoints of older versions,
                which have none: the file is counted instead.
        """
        self.counts = {}
        if kept is None:
            for line in self.folder.lines("incidents"):
                self.counts.setdefault(line["agent"], Counter())[line["what"]] += 1
            return
        self.counts = {int(j): Counter(own) for j, own in kept["counts"].items()}
        self._rows.restore(kept["rows"])

    def _tell(self, number: int, rows: Sequence[IncidentRow]) -> None:
        for row in rows:
            if self._size() >= MOST_BYTES:
                return
            self.folder.append(row.line, "incidents")
            self.event("incident", **row.line)
            self.note(f"round {number:3d}  {row}")
            if self._size() >= MOST_BYTES:
                last = {"round": number, "agent": row.incident.agent, "what": "full", "why": _FULL}
                self.folder.append(last, "incidents")
                self.note(f"round {number:3d}  {self.folder.path / 'incidents.jsonl'}: {_FULL}")

    def _size(self) -> int:
        file = self.folder.path / "incidents.jsonl"
        return file.stat().st_size if file.exists() else 0
