"""Fault injection: planned faults at chosen agents in chosen rounds.

Each fault strikes once, and is recorded before it does, so that a process that was killed and comes
back is not killed again by the same fault.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from dimat.errors import ConfigError, writing
from dimat.exchange.network.neighborhood import Neighborhood, Tamper
from dimat.exchange.wire import pack, unpack
from dimat.experiment.record.lines import read_lines

Kind = Literal["crash", "freeze", "delay", "cut", "corrupt", "poison", "misshape", "inflate"]
_MOST_S = 10**6
_SPOILS = ("corrupt", "poison", "misshape", "inflate")


@dataclass(frozen=True)
class Fault:
    """One planned fault.

    Args:
        agent: Number of the agent that the fault strikes.
        round: The round at whose beginning it strikes, from 1.
        kind: crash (SIGKILL), freeze (SIGSTOP, until someone sends SIGCONT), delay (sleep), cut
            (the edge to a neighbor breaks), or a spoilt message to a neighbor: corrupt (changed
            bytes), poison (NaN), misshape (a header of other shapes), inflate (of a huge size).
        neighbor: Number of the neighbor at the other end; None for kinds without one.
        seconds: Length of a delay in seconds.
    """

    agent: int
    round: int
    kind: Kind
    neighbor: int | None = None
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether its numbers are valid: a plan from a file can hold anything."""
        whole = (self.agent, self.round, 0 if self.neighbor is None else self.neighbor)
        return (
            all(type(number) is int and number >= 0 for number in whole)
            and type(self.seconds) in (int, float)
            and 0 <= self.seconds <= _MOST_S
        )


@dataclass(frozen=True)
class Faults:
    """A plan of faults; each method returns a plan with one more.

    >>> plan = Faults().crash(agent=2, round=3).delay(agent=0, round=1, seconds=0.5)
    >>> [(fault.kind, fault.agent) for fault in plan.planned]
    [('crash', 2), ('delay', 0)]
    """

    planned: Sequence[Fault] = ()

    def crash(self, *, agent: int, round: int) -> Faults:
        """Kill the process of an agent."""
        return self.add(Fault(agent, round, "crash"))

    def freeze(self, *, agent: int, round: int) -> Faults:
        """Stop the process of an agent, until it is continued from outside."""
        return self.add(Fault(agent, round, "freeze"))

    def delay(self, *, agent: int, round: int, seconds: float) -> Faults:
        """Delay the answers of an agent."""
        return self.add(Fault(agent, round, "delay", seconds=seconds))

    def cut(self, *, agent: int, round: int, neighbor: int) -> Faults:
        """Break the edge between an agent and a neighbor."""
        return self.add(Fault(agent, round, "cut", neighbor))

    def spoil(self, kind: Kind, *, agent: int, round: int, neighbor: int) -> Faults:
        """Spoil a message of an agent to a neighbor: corrupt, poison, misshape or inflate."""
        return self.add(Fault(agent, round, kind, neighbor))

    def add(self, fault: Fault) -> Faults:
        """The plan with one more fault."""
        return Faults([*self.planned, fault])

    def rehearse(self, agent: int, log: Path, neighborhood: Neighborhood) -> Callable[[int], None]:
        """Prepare the faults of one agent, as ``run_agent`` has it done.

        Args:
            agent: Number of the agent.
            log: File of the faults that have struck, a JSON line each.
            neighborhood: The agent's transport, whose edges and messages faults disturb.

        Returns:
            A function that strikes with all that is due by the round whose number it is given.
        """
        return Rehearsal(self, agent, log, neighborhood).strike

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        path.write_text(json.dumps([asdict(fault) for fault in self.planned]), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Faults:
        """Read a plan that :meth:`save` wrote.

        Args:
            path: The JSON file.

        Raises:
            ConfigError: If the file holds no such plan.
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
    """The faults planned for one agent, which strike as its rounds begin.

    Args:
        faults: The plan for all agents.
        agent: Number of the agent.
        log: File of the faults that have struck, a JSON line each.
        neighborhood: The agent's transport, whose edges and messages faults disturb.
    """

    def __init__(self, faults: Faults, agent: int, log: Path, neighborhood: Neighborhood) -> None:
        self._log, self._neighborhood = log, neighborhood
        struck = [Fault(**line) for line in read_lines(log)] if log.exists() else []
        mine = [fault for fault in faults.planned if fault.agent == agent]
        self._left = [fault for fault in mine if fault not in struck]

    def strike(self, number: int) -> None:
        """Strike with all faults that are due by a round; of several delays with the longest.

        Args:
            number: The round that begins, from 1; the agent may have been away in those before.
        """
        due = [fault for fault in self._left if fault.round <= number]
        late_s = max((fault.seconds for fault in due if fault.kind == "delay"), default=0.0)
        for fault in due:
            if fault.kind in _SPOILS and fault.neighbor is not None:
                if fault.neighbor in self._neighborhood.tamper:
                    continue  # another fault waits for the next message: this one is left for later
                self._neighborhood.tamper[fault.neighbor] = self._spoiler(fault)
            else:
                self._record(fault)  # a spoilt message is recorded when it is sent
            self._left.remove(fault)
            self._inject(fault)
        time.sleep(late_s)

    def _inject(self, fault: Fault) -> None:
        if fault.kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == "cut" and fault.neighbor is not None:
            self._neighborhood.cut(fault.neighbor)

    def _spoiler(self, fault: Fault) -> Tamper:
        def spoil(header: bytes, payload: torch.Tensor) -> tuple[bytes, torch.Tensor]:
            self._record(fault)
            return spoiled(fault.kind, header, payload)

        return spoil

    def _record(self, fault: Fault) -> None:
        with writing(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(fault)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def spoiled(kind: Kind, header: bytes, payload: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """A message as a broken or hostile sender would send it.

    Args:
        kind: corrupt, poison, misshape or inflate.
        header: The message's header, JSON as bytes.
        payload: The bytes of its tensors, (n,) uint8; not changed.
    """
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
        return pack(message, said["said"])
    return json.dumps(said).encode(), payload
