"""What one agent by itself refuses, before it looks for others or writes anything."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.exchange.threads import HOST, LONG_S, peers_file, together

import dimat
from dimat.cli import main
from dimat.errors import ConfigError, DimatError, TopologyError
from dimat.experiment.config.config import (
    ExchangeConfig,
    MatchingConfig,
    RunConfig,
    TopologyConfig,
)
from dimat.experiment.progress import Silent
from dimat.experiment.single_agent import rounds
from dimat.experiment.single_agent.run import AgentSite, run_agent
from dimat.tools.report.write import report

SMALL = RunConfig(agents=4, rounds=2, pretrain_epochs=0, local_steps=1, controls=(), threads=1)


@pytest.mark.parametrize(
    ("config", "agent", "kind", "message"),
    [
        (SMALL, 4, ConfigError, "setting 'id' is 4: must be in 0 … 3"),
        (SMALL, -1, ConfigError, "setting 'id' is -1"),
        (replace(SMALL, method="cdsgd"), 0, ConfigError, "'cdsgd', which needs every message"),
        (replace(SMALL, method="fedavg"), 0, ConfigError, "torchrun runs the others"),
        (
            replace(SMALL, matching=MatchingConfig(gauge="tree")),
            0,
            ConfigError,
            "setting 'method' is 'dimat'",
        ),
        (
            replace(SMALL, topology=TopologyConfig("one-peer-exponential")),
            0,
            TopologyError,
            "'one-peer-exponential' varies from round to round",
        ),
        (
            replace(SMALL, topology=TopologyConfig("ring", dropout=0.5)),
            0,
            TopologyError,
            "varies from round to round.*use a fixed graph here",
        ),
    ],
)
def test_what_agents_that_may_miss_each_other_cannot_do_is_refused(
    tmp_path: Path, config: RunConfig, agent: int, kind: type[DimatError], message: str
) -> None:
    out, site = tmp_path / "out", AgentSite(peers_file(tmp_path, 4), insecure=True)
    with pytest.raises(kind, match=message):
        run_agent(replace(config, out=str(out)), agent, site)
    assert not out.exists()


def test_an_address_that_is_not_of_this_machine_is_refused(tmp_path: Path) -> None:
    peers = peers_file(tmp_path, SMALL.agents)
    site = AgentSite(
        peers, listen="192.0.2.1:7400", trusted_network=True
    )  # of no machine, by RFC 5737
    config = replace(SMALL, out=str(tmp_path / "out"))
    with pytest.raises(
        ConfigError, match=r"192\.0\.2\.1:7400 cannot be listened on: it is no address of"
    ):
        run_agent(config, 0, site)


def test_a_port_that_is_taken_is_said_to_be(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as other:
        taken = f"{HOST}:{other.getsockname()[1]}"
        site = AgentSite(peers_file(tmp_path, SMALL.agents), listen=taken, insecure=True)
        with pytest.raises(ConfigError, match=f"{taken} cannot be listened on: the port is taken"):
            run_agent(replace(SMALL, out=str(tmp_path / "out")), 0, site)
    folder = tmp_path / "out/agent-000"  # which is one of an agent from the first
    with pytest.raises(ConfigError, match="is of one agent"):
        dimat.resume(folder)
    with pytest.raises(ConfigError, match=r"exists: use another, .*overwrite=True\)$"):
        dimat.run(replace(SMALL, out=str(folder)))
    nowhere = AgentSite(
        peers_file(tmp_path, 4), listen="no.such.host.invalid:1", trusted_network=True
    )
    with pytest.raises(ConfigError, match="it is no address of this machine"):
        run_agent(replace(SMALL, out=str(tmp_path / "other")), 0, nowhere)


def test_what_protected_the_connections_is_on_record_however_often_it_changed(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    soon = ExchangeConfig(timeout_s=0.01)  # nobody else ever comes
    config = replace(SMALL, agents=2, rounds=1, out=str(out), exchange=soon)
    peers, folder = peers_file(tmp_path, 2), out / "agent-000"
    ways = [{"insecure": True}, {"trusted_network": True}, {"insecure": True}]
    for way, last in zip(ways, ("plaintext, loopback", *["trusted network"] * 2), strict=True):
        run_agent(config, 0, AgentSite(peers, **way))
        for name in ("environment", "summary"):
            found = json.loads((folder / f"{name}.json").read_text())["connections"]
            assert found.endswith(last)
    assert found == "plaintext, loopback; plaintext, trusted network"
    recorded = (folder / "classes.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in recorded] == [0, 1]
    assert [*json.loads((folder / "confusion.json").read_text())] == ["round", "trained"]

    report([str(folder)], tmp_path / "report")
    assert found in (tmp_path / "report" / "index.html").read_text()


def test_an_agent_that_met_nobody_fails_and_its_folder_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    peers_file(tmp_path, 2)
    quick = ["--agents=2", "--rounds=2", "--pretrain_epochs=0", "--local_steps=1", "--threads=1"]
    command = ["agent", *quick, "--id=1", "--peers=peers.yaml", "--insecure", "--out=own"]
    assert main([*command, "--exchange.timeout_s=0.01"]) == 1
    folder = Path("own/agent-001")
    said = f"agent 1 merged with nobody in 2 rounds, it has only trained: {folder}/incidents.jsonl"
    assert said in capsys.readouterr().err
    assert (folder / "summary.json").exists()
    assert json.loads((folder / "chosen.json").read_text())["matching.gauge"] == "spread"
    for other in ("resume", "finish"):
        assert main([other, str(folder)]) == 2
        assert f"{folder} is of one agent, which the 'dimat agent' command" in (
            capsys.readouterr().err
        )
    assert main([*command, "--exchange.timeout_s=0.01", "--method=local", "--overwrite"]) == 0
    once = ["--exchange.timeout_s=0.01", "--method=final-merge", "--overwrite"]
    assert main([*command, *once]) == 1  # in the first of two rounds there was nobody to miss
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["exchanged"] == {}
    assert json.loads((folder / "chosen.json").read_text())["matching.gauge"] == "pairwise"


def test_what_keeps_a_neighbor_away_is_said_while_it_is_waited_for(tmp_path: Path) -> None:
    class Enough(Exception):
        """It was said, so nobody waits any longer."""

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)
            if "has other settings: 'batch_size' is " in text:
                both.wait(LONG_S)  # whoever ends sooner is not seen by the other
                raise Enough

    notes: list[str] = []
    both = threading.Barrier(2)
    peers, patient = peers_file(tmp_path, 2), ExchangeConfig(timeout_s=LONG_S)
    config = replace(SMALL, agents=2, rounds=1, exchange=patient, out=str(tmp_path / "out"))

    def run(agent: int) -> None:
        own = replace(config, batch_size=16 + agent)
        with pytest.raises(Enough):
            run_agent(own, agent, AgentSite(peers, insecure=True), Told())

    together([lambda i=i: run(i) for i in range(2)], LONG_S)  # type: ignore[misc]
    said = sorted(text for text in notes if "other settings" in text)
    assert [text[:7] for text in said] == ["agent 0", "agent 1"]
    assert all(text.count("agent ") == 1 for text in said)


def test_each_reason_that_keeps_a_neighbor_away_is_said_once() -> None:
    """However often it is waited for; who is only away is named as waited for."""

    class Waits:
        def await_neighbors(self, others: Any, wait_s: float, heed: Any) -> list[int]:
            for why in ({1: away, 2: "no certificate"}, {1: "agent 1 left", 2: "no certificate"}):
                heed(why)
            heed({})
            return []

    notes: list[str] = []
    away = next(iter(rounds._JUST_AWAY))
    progress = SimpleNamespace(note=notes.append)
    run: Any = SimpleNamespace(progress=progress, neighborhood=Waits(), _said=set(), _away={})
    for _ in range(2):
        rounds.SingleAgentRun._await(run, [1, 2], 5.0)
    waited = "waiting up to 5 s for agents 1, 2"
    assert notes == [waited, "agent 2: no certificate", "agent 1 left", waited]
    rounds.SingleAgentRun._await(run, [1, 2], 5.0, quietly=True)
    assert len(notes) == 4
    assert run._away == {}
