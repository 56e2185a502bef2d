"""Six agents over a random graph, and faults without end: what is lost, and what is not.

.venv/bin/python -m benchmarks.soak            # the table in docs/reliability.md, about 5 minutes
.venv/bin/python -m benchmarks.soak --short    # each kind of fault once, about a minute

Some of the faults strike from within, by plan (``dimat agent --faults``), some from outside at any
moment, and some are intruders on an agent's port. It fails unless each one struck, every edge was
used again at both ends after each, every exchange of every round either counted or is on record,
every intruder was shut out, and nothing is corrupt, left over, or grows.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import networkx as nx
from benchmarks.soak_intruders import EXPECTED, Intruders
from benchmarks.soak_report import report
from tests.distributed.cluster import LONG_S, Cluster

from dimat.testing.faults import Fault, Faults

INSIDE = ("crash", "freeze", "delay", "cut", "corrupt", "poison", "misshape", "inflate")
OUTSIDE = ("kill", "stop", "restart", "wipe", "move")
INTRUDERS = tuple(EXPECTED)
KINDS = (*INSIDE, *OUTSIDE, *INTRUDERS)
AGENTS, TIMEOUT_S = 6, 2.0
FIRST, LAST = 5, 40  # rounds without faults at the beginning and at the end


@dataclass
class Blow:
    """A fault, and how far every edge was when it was seen to strike."""

    kind: str
    agent: int
    round: int
    neighbor: int | None = None
    before: dict[tuple[int, int], int] | None = None
    seen: dict[int, int] = field(default_factory=dict)  # the last round of each agent then

    def planned(self) -> Fault:
        """As the agent is told of it; slow is longer than the timeout."""
        seconds = 2 * TIMEOUT_S if self.kind == "delay" else 0.0
        return Fault(self.agent, self.round, self.kind, self.neighbor, seconds)  # type: ignore[arg-type]


@dataclass
class Soak:
    """The agents, what is to happen to them, and what has."""

    cluster: Cluster
    rounds: int
    blows: list[Blow]
    random: random.Random
    intruders: Intruders
    used: Counter[tuple[int, int]] = field(default_factory=Counter)
    last: dict[tuple[int, int], int] = field(default_factory=dict)
    merged: dict[int, dict[int, float]] = field(default_factory=dict)  # what is lost later too
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    away: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)
    restarts: int = 0
    outcomes: list[tuple[str, Future[str]]] = field(default_factory=list)  # of intruders
    files: dict[int, dict[int, int]] = field(default_factory=dict)  # least open, by agent and round
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16))

    def run(self, limit_s: float) -> None:
        """Until all agents have ended by themselves."""
        own, end = self.cluster, time.monotonic() + limit_s
        own.plan = Faults([*own.plan.planned, *(b.planned() for b in self.blows if inside(b))])
        own.start_all()
        while self.away or any(p.poll() is None for p in own.processes.values()):
            assert time.monotonic() < end, f"not done after {limit_s:g} s"
            self.look()
            time.sleep(0.1)
        self.look()
        self.pool.shutdown()

    def look(self) -> None:
        """See what has happened, bring back who is down, and strike."""
        self.count()
        now = time.monotonic()
        due = [do for when, do in self.later if when <= now]
        self.later = [(when, do) for when, do in self.later if when > now]
        for do in due:
            do()
        for i in {*range(AGENTS)} - self.away:
            self.see(i)
            self.count_files(i)
        far = max(self.cluster.round(i) for i in range(AGENTS))
        for blow in self.blows:
            if not inside(blow) and blow.before is None and blow.round <= far:
                self.strike(blow)

    def count(self) -> None:
        """How often every edge was used so far, at each end; who comes back may count from less."""
        for i, j in self.cluster.ends():
            now = self.cluster.exchanged(i, j)
            self.used[i, j] += max(0, now - self.last.get((i, j), 0))
            self.last[i, j] = now
        for i in range(AGENTS):
            lines = self.cluster.merged(i)
            self.merged.setdefault(i, {}).update((n, x["test_accuracy"]) for n, x in lines.items())

    def count_files(self, i: int) -> None:
        """How many descriptors an agent has open."""
        now, seen = self.cluster.round(i), self.files.setdefault(i, {})
        try:
            found = len(os.listdir(f"/proc/{self.cluster.processes[i].pid}/fd"))
        except OSError:  # it has just ended
            return
        if found:
            seen[now] = min(found, seen.get(now, found))

    def see(self, i: int) -> None:
        """What has become of an agent."""
        code = self.cluster.processes[i].poll()
        self.notice(i)
        if code == -signal.SIGKILL:
            self.bring_back(i)
        elif code is None and i not in self.frozen and state(self.cluster, i) == "T":
            self.thaw_later(i, self.random.uniform(1.0, 2 * TIMEOUT_S))
        elif code not in (None, 0):
            raise AssertionError(f"agent {i} ended with {code}:\n{self.cluster.tail(i)}")

    def notice(self, i: int) -> None:
        """Which planned faults have struck an agent."""
        struck = [Fault(**line) for line in self.cluster.lines(i, "faults")]
        for blow in self.blows:
            if inside(blow) and blow.before is None and blow.planned() in struck:
                self.struck(blow)

    def struck(self, blow: Blow) -> None:
        """Keep how things are."""
        blow.before = dict(self.used)
        blow.seen = {i: max(own, default=0) for i, own in self.merged.items()}

    def strike(self, blow: Blow) -> None:
        """A fault from outside, as soon as it can be one."""
        own, i = self.cluster, blow.agent
        if i in self.away | self.frozen or own.processes[i].poll() is not None:
            return
        if state(own, i) == "T":
            return
        self.struck(blow)
        if blow.kind in INTRUDERS:
            near = min(j for a, j in own.ends() if a == i)
            strike = self.pool.submit(self.intruders.strike, blow.kind, i, near)
            self.outcomes.append((blow.kind, strike))
        elif blow.kind == "stop":
            own.send(i, signal.SIGSTOP)
            self.thaw_later(i, self.random.uniform(0.5, 3 * TIMEOUT_S))
        elif blow.kind in ("restart", "move"):
            own.send(i, signal.SIGTERM)
            code = own.processes[i].wait(LONG_S)
            if code == -signal.SIGKILL:  # a crash by plan came first: it is restarted another time
                blow.before = None
                return
            # the signal itself, where it comes before the agent has set out
            assert code in (130, 0, -signal.SIGTERM), (
                f"agent {i} was interrupted: {code}\n{own.tail(i)}"
            )
            if blow.kind == "move":
                own.move(i)
            self.bring_back(i)
        else:
            own.send(i, signal.SIGKILL)
            if blow.kind == "wipe":
                self.notice(i)
                struck = [Fault(**x) for x in own.lines(i, "faults")]
                own.plan = Faults([x for x in own.plan.planned if x not in struck])
                shutil.rmtree(own.path(i))
            self.bring_back(i)

    def bring_back(self, i: int) -> None:
        """Start an agent again a little later."""
        self.away.add(i)
        self.restarts += 1

        def start() -> None:
            self.cluster.start(i)
            self.away.discard(i)

        self.wait(self.random.uniform(0.0, 3.0), start)

    def thaw_later(self, i: int, seconds: float) -> None:
        """Let a frozen agent go on a little later."""
        self.frozen.add(i)

        def thaw() -> None:
            self.cluster.send(i, signal.SIGCONT)
            self.frozen.discard(i)

        self.wait(seconds, thaw)

    def wait(self, seconds: float, do: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, do))


def inside(blow: Blow) -> bool:
    """Whether it strikes by plan."""
    return blow.kind in INSIDE


def state(cluster: Cluster, i: int) -> str:
    """What Linux says a process is: T for stopped."""
    return Path(f"/proc/{cluster.processes[i].pid}/stat").read_text().rpartition(")")[2].split()[0]


def graph(chance: random.Random) -> list[tuple[int, int]]:
    """A random graph that is connected and not regular."""
    while True:
        found = nx.gnp_random_graph(AGENTS, 0.45, seed=chance.randrange(1 << 31))
        if nx.is_connected(found) and len({d for _, d in found.degree}) > 1:
            return [(int(i), int(j)) for i, j in found.edges]


def blows(
    chance: random.Random, links: list[tuple[int, int]], number: int, rounds: int
) -> list[Blow]:
    """So many faults, as many of each kind, spread over the rounds."""
    kinds = [KINDS[k % len(KINDS)] for k in range(number)]
    chance.shuffle(kinds)
    found = []
    for k, kind in enumerate(kinds):
        i, j = chance.choice(links)
        i, j = (i, j) if chance.random() < 0.5 else (j, i)
        at = FIRST + k * (rounds - FIRST - LAST) // number
        found.append(Blow(kind, i, at, j if kind in INSIDE[3:] else None))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="each kind of fault once")
    parser.add_argument("--minutes", type=float, default=8.0, help="given up after")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to leave all; nowhere if not given")
    options = parser.parse_args()
    number, rounds, round_s = (20, 95, 0.3) if options.short else (80, 320, 0.5)
    chance, start = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        links = graph(chance)
        own = Cluster(folder, links, rounds=rounds, exchange__timeout_s=TIMEOUT_S)
        with closing(own):
            own.delay(round_s)
            intruders = Intruders(own, folder / "intruders")
            soak = Soak(own, rounds, blows(chance, links, number, rounds), chance, intruders)
            soak.run(60 * options.minutes)
            left = sum(p.poll() is None for p in own.processes.values())
            seconds = time.monotonic() - start
            well = report(soak, own.reference(), left)
            print(f"processes started again: {soak.restarts}; {seconds:.0f} s")
            return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
