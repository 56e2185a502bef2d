"""Faults at chosen agents in chosen rounds: rehearsals of what will happen one day.

Each strikes once, and is written down before it does: a process that was killed and comes back is
not killed again by the same one.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from dimat.errors import ConfigError, writing
from dimat.exchange.network.buffers import Pool
from dimat.exchange.network.neighborhood import Neighborhood, Tamper
from dimat.exchange.network.wire import pack, unpack
from dimat.experiment.record.lines import read_lines

Kind = Literal["crash", "freeze", "delay", "cut", "corrupt", "poison", "misshape", "inflate"]
_MOST_S = 10**6
_SPOILS = ("corrupt", "poison", "misshape", "inflate")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        agent: Whom it strikes, when a round's exchange begins.
        round: In which round.
        kind: crash (SIGKILL), freeze (SIGSTOP, until someone sends SIGCONT), delay (sleep), cut
            (the edge to a neighbor breaks), or what a neighbor is sent is spoilt: corrupt (changed
            bytes), poison (NaN), misshape (a header of other shapes), inflate (of a huge size).
        neighbor: The other end, for those that need one.
        seconds: Of a delay.
    """

    agent: int
    round: int
    kind: Kind
    neighbor: int | None = None
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether its numbers are some: a plan that was read can hold anything."""
        whole = (self.agent, self.round, 0 if self.neighbor is None else self.neighbor)
        return (
            all(type(number) is int and number >= 0 for number in whole)
            and type(self.seconds) in (int, float)
            and 0 <= self.seconds <= _MOST_S
        )


@dataclass(frozen=True)
class Faults:
    """A plan of faults; each method returns a longer one.

    >>> plan = Faults().crash(agent=2, round=3).delay(agent=0, round=1, seconds=0.5)
    >>> [(fault.kind, fault.agent) for fault in plan.planned]
    [('crash', 2), ('delay', 0)]
    """

    planned: Sequence[Fault] = ()

    def crash(self, *, agent: int, round: int) -> Faults:
        """The process is killed."""
        return self.add(Fault(agent, round, "crash"))

    def freeze(self, *, agent: int, round: int) -> Faults:
        """The process stops, until it is continued from outside."""
        return self.add(Fault(agent, round, "freeze"))

    def delay(self, *, agent: int, round: int, seconds: float) -> Faults:
        """It answers late."""
        return self.add(Fault(agent, round, "delay", seconds=seconds))

    def cut(self, *, agent: int, round: int, neighbor: int) -> Faults:
        """An edge breaks."""
        return self.add(Fault(agent, round, "cut", neighbor))

    def spoil(self, kind: Kind, *, agent: int, round: int, neighbor: int) -> Faults:
        """What it sends to a neighbor in one round is corrupt, poison, misshape or inflate."""
        return self.add(Fault(agent, round, kind, neighbor))

    def add(self, fault: Fault) -> Faults:
        """One more."""
        return Faults([*self.planned, fault])

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps([asdict(fault) for fault in self.planned]), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Faults:
        """Read what :meth:`save` wrote.

        Raises:
            ConfigError: If it is something else.
        """
        try:
            found = [Fault(**own) for own in json.loads(path.read_text("utf-8"))]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"setting 'faults': {path} is no plan of faults: {error}") from error
        for fault in found:
            if fault.kind not in get_args(Kind):
                raise ConfigError(
                    f"setting 'faults': '{fault.kind}' must be one of {', '.join(get_args(Kind))}"
                )
            if not fault.is_sound:
                raise ConfigError(
                    f"setting 'faults': {fault} must have numbers of agents and of a round, >= 0, "
                    f"and seconds in [0, {_MOST_S:,}]"
                )
        return cls(found)


class Rehearsal:
    """Strikes one agent with what is planned for it.

    Args:
        faults: All that is planned.
        agent: Its number.
        log: File of the faults that have struck, a JSON line each.
        hood: Its neighbors.
    """

    def __init__(self, faults: Faults, agent: int, log: Path, hood: Neighborhood) -> None:
        self._log, self._hood = log, hood
        struck = [Fault(**line) for line in (read_lines(log) if log.exists() else [])]
        mine = [fault for fault in faults.planned if fault.agent == agent]
        self._left = [fault for fault in mine if fault not in struck]

    def strike(self, number: int) -> None:
        """All that is due in a round, or was while the agent was away; of delays the longest."""
        due = [fault for fault in self._left if fault.round <= number]
        late_s = max((fault.seconds for fault in due if fault.kind == "delay"), default=0.0)
        for fault in due:
            if fault.kind in _SPOILS and fault.neighbor is not None:
                if fault.neighbor in self._hood.tamper:
                    continue  # another one waits for something to be sent: this one's turn is later
                self._hood.tamper[fault.neighbor] = self._spoiler(fault)
            else:
                self._write_down(fault)  # a spoilt message is, once it was sent
            self._left.remove(fault)
            self._happen(fault)
        time.sleep(late_s)

    def _happen(self, fault: Fault) -> None:
        if fault.kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == "cut" and fault.neighbor is not None:
            self._hood.cut(fault.neighbor)

    def _spoiler(self, fault: Fault) -> Tamper:
        def spoil(header: bytes, payload: torch.Tensor) -> tuple[bytes, torch.Tensor]:
            self._write_down(fault)
            return spoiled(fault.kind, header, payload)

        return spoil

    def _write_down(self, fault: Fault) -> None:
        with writing(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(fault)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def spoiled(kind: Kind, header: bytes, payload: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """A message as a broken or a hostile sender would have sent it."""
    said, payload = json.loads(header), payload.clone()
    if kind == "corrupt":
        payload[len(payload) // 2] ^= 255
    elif kind == "misshape":
        said["entries"][0][2] = [3, *said["entries"][0][2]]
    elif kind == "inflate":
        said["entries"][0][2:] = [1 << 40], [1]
    else:
        message = {k: v.clone() for k, v in unpack(header, payload).items()}
        next(v for v in message.values() if v.is_floating_point()).view(-1)[0] = float("nan")
        return pack(message, said["said"], Pool(0))
    return json.dumps(said).encode(), payload
