"""What did not count at one agent: a file that ends somewhere, and counts that go on."""

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
    """Counts all incidents, and tells of each row of equal ones in ``incidents.jsonl`` and notes.

    Once the file has 16 MiB, neither is told any more.

    Args:
        folder: The agent's.
        note: Shows a line to the user.
        counts: How often each thing happened, by neighbor.
    """

    folder: RunFolder
    note: Callable[[str], object]
    counts: dict[int, Counter[str]] = field(default_factory=dict)
    _rows: Rows = field(default_factory=Rows)

    def add(self, number: int, incidents: Sequence[Incident]) -> None:
        """What did not count in a round."""
        for own in incidents:
            self.counts.setdefault(own.agent, Counter())[own.what] += 1
        self._tell(number, self._rows.add(number, incidents))

    def end(self, number: int) -> None:
        """No more rounds follow."""
        self._tell(number, self._rows.end())

    def kept(self) -> dict[str, Any]:
        """The log as JSON, for a checkpoint."""
        counts = {str(j): dict(own) for j, own in self.counts.items()}
        return {"counts": counts, "rows": self._rows.kept()}

    def restore(self, kept: Mapping[str, Any] | None) -> None:
        """Go on from what :meth:`kept` gave; from the file, if the checkpoint is an older one."""
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
            self.note(f"round {number:3d}  {row}")
            if self._size() >= MOST_BYTES:
                last = {"round": number, "agent": row.incident.agent, "what": "full", "why": _FULL}
                self.folder.append(last, "incidents")
                self.note(f"round {number:3d}  {self.folder.path / 'incidents.jsonl'}: {_FULL}")

    def _size(self) -> int:
        file = self.folder.path / "incidents.jsonl"
        return file.stat().st_size if file.exists() else 0
