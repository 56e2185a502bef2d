"""What did not count, and how much of it is told: equal incidents are one row, not many lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dimat.errors import shown


@dataclass(frozen=True)
class Incident:
    """An exchange that did not count, or counted on one side only.

    Args:
        agent: The neighbor.
        what: lost (nothing came), refused (what came was not let in), declined (it did not let in
            what we said), unconfirmed (it may have used what we said), one-sided (it did), left (it
            said goodbye), or quiet (it listens, and is not to be mixed yet).
        why: In words; what of them is the neighbor's is cut, and fit to be shown.
    """

    agent: int
    what: str
    why: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "why", shown(self.why))

    @property
    def uncounted(self) -> bool:
        """Whether there was no exchange; one-sided is what came out of an earlier one."""
        return self.what != "one-sided"


@dataclass(frozen=True)
class IncidentRow:
    """Equal incidents in rounds that follow each other.

    Args:
        incident: What each of them is.
        since: The first round.
        last: The last one so far.
        times: How many.
    """

    incident: Incident
    since: int
    last: int
    times: int = 1

    @property
    def line(self) -> dict[str, Any]:
        """The row as JSON; a row of one is its incident and its round."""
        more = {} if self.times == 1 else {"since": self.since, "times": self.times}
        return {"round": self.last, **more, **asdict(self.incident)}

    def __str__(self) -> str:
        own = self.incident
        more = "" if self.times == 1 else f" ({self.times} times since round {self.since})"
        return f"agent {own.agent} {own.what}: {own.why}{more}"


class Rows:
    """The rows that have not ended, and what of them is to be told.

    A row is told when it begins, whenever it is twice as long, and when it is over: about the
    logarithm of its length, and in the end all of it.
    """

    def __init__(self) -> None:
        self._open: Mapping[Incident, IncidentRow] = {}

    def add(self, number: int, incidents: Iterable[Incident]) -> list[IncidentRow]:
        """What is to be told after a round."""
        now = {own: self._longer(own, number) for own in incidents}
        over = [row for own, row in self._open.items() if own not in now and not _doubled(row)]
        self._open = now
        return [*over, *(row for row in now.values() if _doubled(row))]

    def end(self) -> list[IncidentRow]:
        """What is left to be told, as no more rounds follow."""
        return self.add(0, [])

    def kept(self) -> list[Any]:
        """The incidents as JSON, for a checkpoint."""
        return [row.line | {"since": row.since, "times": row.times} for row in self._open.values()]

    def restore(self, kept: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what :meth:`kept` gave."""
        rows = [
            IncidentRow(
                Incident(x["agent"], x["what"], x["why"]), x["since"], x["round"], x["times"]
            )
            for x in kept
        ]
        self._open = {row.incident: row for row in rows}

    def _longer(self, own: Incident, number: int) -> IncidentRow:
        row = self._open.get(own)
        if row is None:
            return IncidentRow(own, number, number)
        return replace(row, last=number, times=row.times + 1)


def _doubled(row: IncidentRow) -> bool:
    return row.times.bit_count() == 1
