"""Agents on this machine, each in a process of its own with a certificate, and what they leave."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from safetensors.torch import load_file
from tests import fork_server
from tests.exchange.threads import loopback
from torch import Tensor

from dimat.identity import Authority, request
from dimat.testing.faults import Faults

PAW = ((0, 1), (1, 2), (2, 0), (2, 3))  # degrees 2, 2, 3, 1
SMALL = {
    "rounds": 12,
    "pretrain_epochs": 8,
    "local_steps": 4,
    "optimizer.lr": 0.005,
    "batch_size": 16,
    "threads": 1,
    "width": 0.25,
    "data.train_images": 300,
    "data.split": "iid",
    "matching.images": 100,
    "exchange.timeout_s": 120,  # nobody is lost because the machine is slow
}
FIRST_PORT = 7400
LONG_S = fork_server.LONG_S
PACED = 1000  # rounds that are slowed down; those after them are not
Process = subprocess.Popen[str]
Launch = Callable[[Sequence[str], Path], Process]


def forked(words: Sequence[str], log: Path, network: str = "") -> Process:
    """``dimat WORDS``, with its output added to a file, in a network namespace if named."""
    with log.open("a") as file:
        return fork_server.start(["dimat", *words], stdout=file, stderr=file, network=network)


def from_nothing(words: Sequence[str], log: Path) -> Process:
    """The same, as a user starts it."""
    command = [sys.executable, "-m", "dimat", *words]
    with log.open("a") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, text=True
        )


class Cluster:
    """One run of agents that may be missing, of a CA of its own.

    Args:
        folder: Of all that it writes.
        edges: Of the graph; agents are numbered from 0.
        launch: Starts a process.
        hosts: The address of each agent's host; None: one of this machine that nobody else has.
        settings: Of the run, by name; others are those of ``SMALL``.
    """

    def __init__(
        self,
        folder: Path,
        edges: Sequence[tuple[int, int]] = PAW,
        launch: Launch = forked,
        hosts: Callable[[int], str] | None = None,
        **settings: object,
    ) -> None:
        self.folder, self.launch, self.edges = folder, launch, edges
        self.agents = 1 + max(max(edge) for edge in edges)
        self.settings: dict[str, object] = {**SMALL, **_dotted(settings)}
        self.processes: dict[int, Process] = {}
        self._read: dict[Path, tuple[Any, list[dict[str, Any]]]] = {}
        self.plan = Faults()
        graph = folder / "edges.txt"
        graph.write_text("".join(f"{i} {j}\n" for i, j in edges))
        self._words = ["--agents", str(self.agents), "--topology.name", "edges"]
        self._words += ["--topology.path", str(graph)]
        here = loopback()
        self.addresses = {
            i: f"{hosts(i) if hosts else here}:{FIRST_PORT + i}" for i in range(self.agents)
        }
        self.write_peers()
        self.authority = Authority.create(folder / "ca", "test")
        for i in range(self.agents):
            self.certify(i)

    # --- processes --------------------------------------------------------------------------

    def write_peers(self) -> None:
        """Write the addresses as they are now, at once."""
        path = self.folder / "peers.yaml"
        lines = [f"{i}: {{address: '{own}'}}\n" for i, own in self.addresses.items()]
        path.with_suffix(".new").write_text("".join(lines))
        path.with_suffix(".new").replace(path)

    def move(self, agent: int) -> None:
        """Give an agent another address, for when it is started the next time."""
        host, _, port = self.addresses[agent].rpartition(":")
        self.addresses[agent] = f"{host}:{int(port) + self.agents}"
        self.write_peers()

    def certificates(self, agent: int) -> Path:
        """The folder of an agent's certificate."""
        return self.folder / "certificates" / f"{agent}"

    def certify(self, agent: int, days: int = 365) -> None:
        """Issue a certificate for an agent."""
        folder = self.certificates(agent)
        asked = request(folder, "test", agent, overwrite=True)
        signed = self.authority.sign(asked.public_bytes(Encoding.PEM), agent, days=days)
        (folder / "certificate.pem").write_bytes(signed)
        shutil.copy(self.folder / "ca" / "ca.pem", folder)

    def start(
        self, agent: int, launch: Launch | None = None, *, settings: Mapping[str, object] = {}
    ) -> None:
        """Start an agent, for the first time or again."""
        plan = self.folder / f"faults-{agent}.json"
        Faults([fault for fault in self.plan.planned if fault.agent == agent]).save(plan)
        own = ["agent", "--id", str(agent), "--peers", str(self.folder / "peers.yaml")]
        own += ["--certificates", str(self.certificates(agent))]
        own += ["--faults", str(plan), "--out", str(self.folder / "out")]
        words = [*own, *self._words, *_options({**self.settings, **settings})]
        self.processes[agent] = (launch or self.launch)(words, self.log(agent))

    def start_all(self) -> None:
        """Start all agents."""
        for agent in range(self.agents):
            self.start(agent)

    def delay(self, seconds: float, agents: Collection[int] | None = None) -> None:
        """Make rounds last that long; before agents are started."""
        for agent in range(self.agents) if agents is None else agents:
            for number in range(1, min(PACED, int(str(self.settings["rounds"]))) + 1):
                self.plan = self.plan.delay(agent=agent, round=number, seconds=seconds)

    def send(self, agent: int, number: signal.Signals) -> None:
        """Send a signal to an agent; after SIGKILL, wait until it is gone."""
        self.processes[agent].send_signal(number)
        if number is signal.SIGKILL:
            assert self.processes[agent].wait(LONG_S) == -signal.SIGKILL

    def finish(self, agents: Collection[int] | None = None) -> dict[int, int]:
        """How agents ended, all of which have to."""
        found = {}
        for agent in range(self.agents) if agents is None else agents:
            try:
                found[agent] = self.processes[agent].wait(LONG_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"agent {agent} goes on:\n{self.tail(agent)}") from None
        return found

    def close(self) -> None:
        """Kill all that is left."""
        for process in self.processes.values():
            process.kill()
            process.wait(LONG_S)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something is so."""
        end = time.monotonic() + LONG_S
        while not holds():
            if time.monotonic() > end:
                tails = "\n".join(f"{i}: {self.tail(i)}" for i in self.processes)
                raise AssertionError(f"not within {LONG_S:g} s: {what}\n{tails}")
            time.sleep(0.02)

    def all_at(self, number: int) -> None:
        """Wait until every agent has done a round."""
        everyone = range(self.agents)
        self.until(lambda: min(map(self.round, everyone)) >= number, f"all do round {number}")

    def goes_on(self, agent: int, rounds: int = 2) -> None:
        """Wait until an agent has done some more rounds."""
        end = self.round(agent) + rounds
        self.until(lambda: self.round(agent) >= end, f"agent {agent} goes on")

    def exchange_again(self, i: int, j: int) -> None:
        """Wait until an exchange between two has counted at both, later than now."""
        before = self.exchanged(i, j), self.exchanged(j, i)
        self.until(
            lambda: self.exchanged(i, j) > before[0] and self.exchanged(j, i) > before[1],
            f"{i} and {j} exchange again",
        )

    def are_stopped(self, agents: Collection[int] | None = None) -> None:
        """End all that live, as a service manager does."""
        living = range(self.agents) if agents is None else agents
        for agent in living:
            self.send(agent, signal.SIGTERM)
        assert set(self.finish(living).values()) == {130}
        assert not any("Traceback" in self.log(agent).read_text() for agent in living)

    # --- what they leave ---------------------------------------------------------------------

    def path(self, agent: int) -> Path:
        """The run folder of an agent."""
        return self.folder / "out" / f"agent-{agent:03d}"

    def log(self, agent: int) -> Path:
        """What an agent printed."""
        return self.folder / f"{agent}.log"

    def tail(self, agent: int) -> str:
        """The end of it."""
        return self.log(agent).read_text()[-1500:]

    def lines(self, agent: int, name: str = "metrics") -> list[dict[str, Any]]:
        """The whole lines of a file of lines."""
        file = self.path(agent) / f"{name}.jsonl"
        try:
            found = file.stat()
            if (now := (found.st_mtime_ns, found.st_size)) != self._read.get(file, (None, []))[0]:
                whole = [x for x in file.read_text().splitlines(keepends=True) if x.endswith("\n")]
                self._read[file] = now, [json.loads(x) for x in whole]
        except FileNotFoundError:
            return []
        return list(self._read[file][1])

    def merged(self, agent: int) -> dict[int, dict[str, Any]]:
        """The metrics right after a merge, by round."""
        return {x["round"]: x for x in self.lines(agent) if x["phase"] == "merged"}

    def ends(self) -> list[tuple[int, int]]:
        """All edges, from either end."""
        return [end for i, j in self.edges for end in ((i, j), (j, i))]

    def round(self, agent: int) -> int:
        """The last round whose training an agent has recorded."""
        return max(self.trained(agent), default=-1)

    def trained(self, agent: int) -> list[int]:
        """All rounds whose training it has recorded."""
        return [x["round"] for x in self.lines(agent) if x["phase"] == "trained"]

    def incidents(self, agent: int, neighbor: int) -> list[tuple[int, str, str]]:
        """Round, what and why of all that did not count with a neighbor."""
        found = [x for x in self.lines(agent, "incidents") if x["agent"] == neighbor]
        each = {
            (number, x["what"], x["why"]): None
            for x in found
            for number in range(x.get("since", x["round"]), x["round"] + 1)
        }
        return sorted(each, key=lambda own: own[0])

    def exchanged(self, agent: int, neighbor: int) -> int:
        """How many exchanges with a neighbor counted so far."""
        lines = self.lines(agent)
        return int(lines[-1]["exchanged"].get(str(neighbor), 0)) if lines else 0

    def struck(self, agent: int, kind: str) -> list[int]:
        """Rounds of the faults of a kind that struck an agent."""
        return [x["round"] for x in self.lines(agent, "faults") if x["kind"] == kind]

    def state(self, agent: int) -> dict[str, Tensor]:
        """The final state of an agent."""
        return load_file(self.path(agent) / "states" / f"agent-{agent:03d}.safetensors")

    def reference(self, name: str = "whole", **settings: object) -> Path:
        """``dimat run`` of the same config in one process, ended; its folder."""
        out, own = self.folder / name, {**self.settings, "matching.gauge": "spread", "controls": []}
        words = ["run", *self._words, *_options({**own, **_dotted(settings)}), "--out", str(out)]
        log = self.folder / f"{name}.log"
        assert self.launch(words, log).wait(LONG_S) == 0, log.read_text()
        return out


def _dotted(settings: Mapping[str, object]) -> dict[str, object]:
    """``exchange__timeout_s`` is how Python can write ``exchange.timeout_s``."""
    return {name.replace("__", "."): value for name, value in settings.items()}


def _options(settings: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]
