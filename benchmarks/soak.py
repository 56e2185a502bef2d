"""Six agents over a random graph, and faults without end: what is lost, and what is not.

.venv/bin/python -m benchmarks.soak            # the table in docs/reliability.md, about 5 minutes
.venv/bin/python -m benchmarks.soak --short    # each kind of fault once, about a minute

Half of the faults strike from within, by plan (``dimat agent --faults``), half from outside at any
moment. It fails unless each one struck, every edge was used again at both ends after each, every
exchange of every round either counted or is on record, and nothing is corrupt or left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import networkx as nx
from tests.distributed.cluster import Cluster
from tests.distributed.nursery import Nursery, ended

from dimat.experiment.faults import Fault, Faults
from dimat.experiment.record import RunFolder
from dimat.state import State, load_state

INSIDE = ("crash", "freeze", "delay", "cut", "corrupt", "poison", "misshape", "inflate")
OUTSIDE = ("kill", "stop", "restart", "wipe", "store")
AGENTS, TIMEOUT_S, ROUND_S = 6, 2.0, 0.3
FIRST, LAST = 5, 20  # rounds without faults at the beginning and at the end
UNCOUNTED = ("lost", "refused", "declined", "unconfirmed", "left", "quiet")


@dataclass
class Blow:
    """A fault, and how far every edge was when it was seen to strike."""

    kind: str
    agent: int
    round: int
    neighbor: int | None = None
    before: dict[tuple[int, int], int] | None = None

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
    used: Counter[tuple[int, int]] = field(default_factory=Counter)
    last: dict[tuple[int, int], int] = field(default_factory=dict)
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    away: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)
    restarts: int = 0

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
        far = max(self.cluster.round(i) for i in range(AGENTS))
        for blow in self.blows:
            if not inside(blow) and blow.before is None and blow.round <= far:
                self.strike(blow)

    def count(self) -> None:
        """How often every edge was used so far, at each end; who comes back may count from less."""
        for i, j in edges(self.cluster):
            now = self.cluster.exchanged(i, j)
            self.used[i, j] += max(0, now - self.last.get((i, j), 0))
            self.last[i, j] = now

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
                blow.before = dict(self.used)

    def strike(self, blow: Blow) -> None:
        """A fault from outside, as soon as it can be one."""
        own, i = self.cluster, blow.agent
        if blow.kind == "store":
            if own.store is None:
                return
            own.kill_store()
            self.wait(self.random.uniform(1.0, 4.0), own.open)
        elif i in self.away | self.frozen or own.processes[i].poll() is not None:
            return
        elif blow.kind == "stop":
            own.send(i, signal.SIGSTOP)
            self.thaw_later(i, self.random.uniform(0.5, 3 * TIMEOUT_S))
        elif blow.kind == "restart":
            own.send(i, signal.SIGTERM)
            assert ended(own.processes[i], 20) in (130, 0), own.tail(i)
            self.bring_back(i)
        else:
            own.send(i, signal.SIGKILL)
            if blow.kind == "wipe":
                self.notice(i)
                struck = [Fault(**x) for x in own.lines(i, "faults")]
                own.plan = Faults([x for x in own.plan.planned if x not in struck])
                shutil.rmtree(own.path(i))
            self.bring_back(i)
        blow.before = dict(self.used)

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


def edges(cluster: Cluster) -> Iterator[tuple[int, int]]:
    """All edges, from either end."""
    for i, j in cluster.edges:
        yield from ((i, j), (j, i))


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
    kinds = [(*INSIDE, *OUTSIDE)[k % len(INSIDE + OUTSIDE)] for k in range(number)]
    chance.shuffle(kinds)
    found = []
    for k, kind in enumerate(kinds):
        i, j = chance.choice(links)
        i, j = (i, j) if chance.random() < 0.5 else (j, i)
        at = FIRST + k * (rounds - FIRST - LAST) // number
        found.append(Blow(kind, i, at, j if kind in INSIDE[3:] else None))
    return found


def unaccounted(cluster: Cluster) -> int:
    """Exchanges of finished rounds that neither counted nor are on record, or both."""
    wrong = 0
    for i in range(AGENTS):
        failed = {
            (x["round"], x["agent"])
            for x in cluster.lines(i, "incidents")
            if x["what"] in UNCOUNTED
        }
        before: dict[str, int] = {}
        for line in cluster.lines(i):
            if line["phase"] == "trained":
                for j in (b for a, b in edges(cluster) if a == i and line["round"] > 0):
                    more = line["exchanged"].get(str(j), 0) - before.get(str(j), 0)
                    wrong += more != ((line["round"], j) not in failed)
                before = line["exchanged"]
    return wrong


def corrupted(cluster: Cluster, whole: Path) -> int:
    """Final states that are not finite or not built as those of the fault-free run."""
    return sum(broken(cluster.state(i), load_state(state_file(whole, i))) for i in range(AGENTS))


def broken(found: State, expected: State) -> bool:
    same = {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    return not same or not all(v.isfinite().all() for v in found.values() if v.is_floating_point())


def state_file(folder: Path, i: int) -> Path:
    return folder / "states" / f"agent-{i:03d}.safetensors"


def accuracy(lines: list[dict[str, object]]) -> float:
    """Mean over agents, right after the last merge of each, in percent."""
    last = {x["agent"]: x["test_accuracy"] for x in lines if x["phase"] == "merged"}
    return 100 * statistics.fmean(float(str(x)) for x in last.values())


def report(soak: Soak, whole: Path, left: int, seconds: float) -> bool:
    """Print what happened; whether all is as it must be."""
    own = soak.cluster
    lines = [line for i in range(AGENTS) for line in own.lines(i)]
    what = Counter(x["what"] for i in range(AGENTS) for x in own.lines(i, "incidents"))
    struck = [blow for blow in soak.blows if blow.before is not None]
    stuck = [
        (blow.kind, blow.round, edge)
        for blow in struck
        for edge in edges(own)
        if soak.used[edge] <= (blow.before or {}).get(edge, 0)
    ]
    must = {
        "faults that did not strike": len(soak.blows) - len(struck),
        "edges that were not used again after a fault": len(stuck),
        "exchanges neither counted nor on record": unaccounted(own),
        "states corrupted": corrupted(own, whole),
        "metrics that are not finite": sum(x["test_loss"] is None for x in lines),
        "processes left over": left,
    }
    free = accuracy(RunFolder(whole, None).lines())  # type: ignore[arg-type]
    print(f"{AGENTS} agents, edges {' '.join(f'{i}-{j}' for i, j in own.edges)}, {seconds:.0f} s")
    print(f"faults: {len(struck)}: " + counted(Counter(blow.kind for blow in struck)))
    print(f"rounds: {soak.rounds}; starts of a process again: {soak.restarts}")
    print(f"exchanges that counted: {sum(soak.used.values())} ends of edges")
    print(f"not counted, and on record: {counted(what)}")
    print(
        f"accuracy: {accuracy(lines):.1f} % right after the last merge; {free:.1f} % without faults"
    )
    print("\n".join(f"{name}: {n}" for name, n in must.items()))
    if stuck:
        print(json.dumps(stuck))
    return not any(must.values())


def counted(found: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(found.items())) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="each kind of fault once")
    parser.add_argument("--minutes", type=float, default=8.0, help="given up after")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to leave all; nowhere if not given")
    options = parser.parse_args()
    number, rounds = (13, 55) if options.short else (65, 240)
    chance, start = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, closing(Nursery()) as nursery:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        links = graph(chance)
        own = Cluster(folder, nursery, links, rounds=rounds, exchange__timeout_s=TIMEOUT_S)
        with closing(own):
            own.delay(ROUND_S)
            soak = Soak(own, rounds, blows(chance, links, number, rounds), chance)
            soak.run(60 * options.minutes)
            left = sum(p.poll() is None for p in own.processes.values())
            assert own.store
            os.kill(own.store.pid, signal.SIGTERM)
            left += ended(own.store, 10) is None
            seconds = time.monotonic() - start
            return 0 if report(soak, own.reference(), left, seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
