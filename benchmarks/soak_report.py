"""What a soak came to: printed, and whether it is as it must be."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from benchmarks.soak_intruders import EXPECTED, is_shut_out
from tests.distributed.cluster import Cluster

from dimat.state import State, load_state

UNCOUNTED = ("lost", "refused", "declined", "unconfirmed", "left", "quiet")
FEW = 5  # rounds at the beginning and at the end, in which open files are counted
SLACK = 16  # of open files: a neighbor that calls anew, a file being written
RETURNS = {
    "crash, kill, restart, move": "goes on from its checkpoint",
    "freeze, stop": "was frozen",
    "wipe": "has nothing left",
}


class Blow(Protocol):
    """A fault that struck; see ``benchmarks.soak``."""

    kind: str
    agent: int
    round: int
    before: dict[tuple[int, int], int] | None
    seen: dict[int, int]


class Soak(Protocol):
    """What was kept of a soak; see ``benchmarks.soak``."""

    cluster: Cluster
    used: Counter[tuple[int, int]]
    merged: dict[int, dict[int, float]]
    outcomes: Sequence[tuple[str, Future[str]]]
    files: Mapping[int, Mapping[int, int]]

    @property
    def blows(self) -> Sequence[Blow]: ...


def report(soak: Soak, whole: Path, left: int) -> bool:
    """Print what happened; whether all is as it must be.

    Args:
        soak: All of whose agents have ended.
        whole: The run folder of the same without faults.
        left: Processes that are left over.
    """
    own, blows, used = soak.cluster, soak.blows, soak.used
    all_of = [own.incidents(i, j) for i, j in own.ends()]
    what = Counter(what for each in all_of for _, what, _ in each)
    struck = [blow for blow in blows if blow.before is not None]
    met = Counter((kind, how.result()) for kind, how in soak.outcomes)
    first, last = open_files(soak, range(FEW)), open_files(soak, range(-FEW, 0))
    must = {
        "faults that did not strike": len(blows) - len(struck),
        "edges that were not used again after a fault": len(stuck(struck, used)),
        "exchanges neither counted nor on record": unaccounted(own),
        "states corrupted": corrupted(own, whole),
        "metrics that are not finite": not_finite(own),
        "processes left over": left,
        "intruders that were let in": sum(
            n for (kind, how), n in met.items() if not is_shut_out(kind, how)
        ),
        "kinds of intruders that found no agent": len(
            {*EXPECTED} - {kind for kind, how in met if how in EXPECTED[kind]}
        ),
        "agents with more open files at the end": sum(
            last[i] > first[i] + SLACK for i in range(own.agents)
        ),
    }
    print(f"{own.agents} agents, edges {' '.join(f'{i}-{j}' for i, j in own.edges)}")
    print(f"faults: {len(struck)}: " + counted(Counter(blow.kind for blow in struck)))
    print(f"rounds: {own.settings['rounds']}")
    print(f"exchanges that counted: {sum(used.values())}, each end by itself")
    print(f"not counted, and on record: {counted(what)}")
    print(
        "intruders: " + counted(Counter({f"{kind} ({how})": n for (kind, how), n in met.items()}))
    )
    most = [max(of_each.values()) for of_each in (first, last)]
    print(f"open files of an agent, most: {most[0]} at first, {most[1]} at last")
    mine = accuracy([x for i in range(own.agents) for x in own.lines(i)])
    free = accuracy([json.loads(x) for x in (whole / "metrics.jsonl").read_text().splitlines()])
    print(f"accuracy: {mine:.1f} % right after the last merge; {free:.1f} % without faults")
    print("\n".join(f"{name}: {n}" for name, n in must.items()))
    returns(soak, struck)
    for blow, edge in stuck(struck, used):
        print(f"not used again after {blow.kind} of {blow.agent} in round {blow.round}: {edge}")
    return not any(must.values())


def open_files(soak: Soak, which: range) -> dict[int, int]:
    """The least number of open files of each agent in some of the rounds that were seen."""
    found = {}
    for i, own in soak.files.items():
        rounds = sorted(n for n in own if n > 0)
        found[i] = min(own[rounds[k]] for k in which)
    return found


def stuck(
    struck: Sequence[Blow], used: Mapping[tuple[int, int], int]
) -> list[tuple[Blow, tuple[int, int]]]:
    """Faults, and ends of edges at which no exchange has counted since."""
    return [(b, edge) for b in struck for edge in used if used[edge] <= (b.before or {})[edge]]


def not_finite(own: Cluster) -> int:
    """Evaluations whose loss is no number."""
    return sum(x["test_loss"] is None for i in range(own.agents) for x in own.lines(i))


def accuracy(lines: Sequence[Mapping[str, Any]]) -> float:
    """Mean over agents, right after the last merge of each, in percent."""
    last = {x["agent"]: x["test_accuracy"] for x in lines if x["phase"] == "merged"}
    return 100 * statistics.fmean(last.values())


def returns(soak: Soak, struck: Sequence[Blow]) -> None:
    """Accuracy of who was away, and of its neighbors: before, on return, after the next merge."""
    print("accuracy in %, median: before / right after the first merge on return / after the next")
    for kinds, name in RETURNS.items():
        found = [y for b in struck if b.kind in kinds.split(", ") for y in returned(soak, b)]
        for who, k in (("itself", 0), ("its neighbors", 3)):
            columns = [*zip(*found, strict=True)][k : k + 3]
            middle = " / ".join(f"{100 * statistics.median(own):.1f}" for own in columns)
            lowest = " / ".join(f"{100 * min(own):.1f}" for own in columns)
            print(f"  {name} (n={len(found)}): {who} {middle}, lowest {lowest}")


def returned(soak: Soak, blow: Blow) -> list[list[float]]:
    """The six numbers of one fault; of a neighbor, as it was then: in that round, or last before.

    None if the agent did not merge twice more.
    """
    mine, start = soak.merged[blow.agent], blow.seen[blow.agent]
    numbers = [start, *sorted(n for n in mine if n > start)[:2]]
    near = [soak.merged[j] for i, j in soak.cluster.ends() if i == blow.agent]
    if len(numbers) < 3 or not all(any(n <= start for n in own) for own in (mine, *near)):
        return []
    theirs = [statistics.fmean(at(own, n) for own in near) for n in numbers]
    return [[*(at(mine, n) for n in numbers), *theirs]]


def at(own: Mapping[int, float], number: int) -> float:
    """What was measured in a round, or last before it."""
    return own[max(n for n in own if n <= number)]


def counted(found: Counter[Any]) -> str:
    """What there is of each."""
    return ", ".join(f"{name} {n}" for name, n in sorted(found.items())) or "none"


def unaccounted(cluster: Cluster) -> int:
    """Exchanges of finished rounds that neither counted nor are on record, or both."""
    wrong = 0
    for i in range(cluster.agents):
        failed = {
            (number, j)
            for j in (b for a, b in cluster.ends() if a == i)
            for number, what, _ in cluster.incidents(i, j)
            if what in UNCOUNTED
        }
        before: dict[str, int] = {}
        for line in cluster.lines(i):
            if line["phase"] == "trained":
                for j in (b for a, b in cluster.ends() if a == i and line["round"] > 0):
                    more = line["exchanged"].get(str(j), 0) - before.get(str(j), 0)
                    wrong += more != ((line["round"], j) not in failed)
                before = line["exchanged"]
    return wrong


def corrupted(cluster: Cluster, whole: Path) -> int:
    """Final states that are not finite or not built as those of the fault-free run."""
    return sum(
        broken(cluster.state(i), load_state(state_file(whole, i))) for i in range(cluster.agents)
    )


def broken(found: State, expected: State) -> bool:
    same = {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    return not same or not all(v.isfinite().all() for v in found.values() if v.is_floating_point())


def state_file(folder: Path, i: int) -> Path:
    return folder / "states" / f"agent-{i:03d}.safetensors"
