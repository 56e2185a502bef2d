"""Incidents: exchanges that did not count, told in rows of equal incidents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dimat.errors import shown


@dataclass(frozen=True)
class Incident:
    """An exchange with a neighbor that did not count, or counted on one side only.

    Args:
        agent: Number of the neighbor.
        what: Kind of the incident: lost (no message came), refused (its message was not used),
            declined (it did not use ours), unconfirmed (it may have used ours), one-sided (it did
            use ours, and we did not use its), left (it said goodbye), or quiet (it listens, and is
            not to be mixed yet).
        why: The reason in words; the neighbor's own words are cut, and fit to be shown.
    """

    agent: int
    what: str
    why: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "why", shown(self.why))

    @property
    def uncounted(self) -> bool:
        """Whether there was no exchange: a one-sided one belongs to an earlier exchange."""
        return self.what != "one-sided"


@dataclass(frozen=True)
class IncidentRow:
    """A row of equal incidents in rounds that follow each other.

    Args:
        incident: The incident that repeats.
        since: Number of the first round.
        last: Number of the last round so far.
        times: Number of incidents.
        over: Whether a round followed in which it did not repeat.
    """

    incident: Incident
    since: int
    last: int
    times: int = 1
    over: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """The row as JSON; a row of one incident has that and its round."""
        more = {} if self.times == 1 else {"since": self.since, "times": self.times}
        over = {"over": True} if self.over else {}
        return {"round": self.last, **more, **over, **asdict(self.incident)}

    def __str__(self) -> str:
        own = self.incident
        told = f"{own.what}: {own.why}"
        if self.over:
            rounds = f"{self.times} times in rounds {self.since} to {self.last}"
            return f"agent {own.agent} no longer {told} ({rounds})"
        more = "" if self.times == 1 else f" ({self.times} times since round {self.since})"
        return f"agent {own.agent} {told}{more}"


class Rows:
    """The rows that have not ended, and the schedule by which they are told.

    A row is told when it begins, whenever it is twice as long as when last told, and when it ends:
    about as often as the logarithm of its length.
    """

    def __init__(self) -> None:
        self._open: Mapping[Incident, IncidentRow] = {}

    def add(self, number: int, incidents: Iterable[Incident]) -> list[IncidentRow]:
        """The rows to tell after a round.

        Args:
            number: Number of the round.
            incidents: Incidents of the round.
        """
        now = {own: self._longer(own, number) for own in incidents}
        ended = [row for own, row in self._open.items() if own not in now and not _doubled(row)]
        still = {(own.agent, own.what) for own in now}  # for another reason, perhaps
        over = [
            replace(row, over=(row.incident.agent, row.incident.what) not in still) for row in ended
        ]
        self._open = now
        return [*over, *(row for row in now.values() if _doubled(row))]

    def end(self) -> list[IncidentRow]:
        """The rows that are left to tell when no more rounds follow."""
        return [row for row in self._open.values() if not _doubled(row)]

    def kept(self) -> list[Any]:
        """The open rows as JSON, for a checkpoint."""
        return [row.line | {"since": row.since, "times": row.times} for row in self._open.values()]

    def restore(self, kept: Sequence[Mapping[str, Any]]) -> None:
        """Take over the open rows of a checkpoint.

        Args:
            kept: As :meth:`kept` gave it.
        """
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
