"""What watches an agent: metrics that Prometheus reads, and a line of JSON for each event."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from tests.exchange.threads import LONG_S, SOON_S, closing, peers_file, randrange, together, until
from tests.identity.making import RUN, make, make_ca, names, place, revoked

from dimat.errors import ConfigError
from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.link import Rules, Status
from dimat.exchange.network.metrics import serve_metrics
from dimat.exchange.network.peers import PeersFile
from dimat.exchange.network.security import Security
from dimat.experiment.config.config import DataConfig, ExchangeConfig, RunConfig, TopologyConfig
from dimat.experiment.handshake import handshake
from dimat.experiment.progress import Silent
from dimat.experiment.record import events as events_module
from dimat.experiment.record.events import EventLog
from dimat.experiment.setup import make_setup
from dimat.experiment.single_agent.rounds import SingleAgentRun
from dimat.experiment.single_agent.run import AgentSite, run_agent
from dimat.identity import Identity

CONFIG = RunConfig(
    agents=2,
    rounds=2,
    pretrain_epochs=0,
    local_steps=1,
    method="wa",
    controls=(),
    threads=1,
    width=0.25,
    data=DataConfig(train_images=300),
    topology=TopologyConfig("full"),
    exchange=ExchangeConfig(timeout_s=LONG_S),
)
STATUS = {
    "round": 3,
    "accuracy": None,
    "sent_bytes": 10,
    "neighbors": {"1": {"link": "up", "why": ""}, "2": {"link": "left", "why": "x"}},
    "exchanged": {"1": 3},
    "incidents": {"2": {"lost": 2, "refused": 1}},
    "refused": {"wrong-ca": 4},
    "certificate_until": 1.5e9,
}


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=SOON_S) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(x) for name, x in (y.rsplit(" ", 1) for y in lines if y[0] != "#")}


def test_what_the_status_says_is_what_prometheus_reads_and_nothing_else() -> None:
    address = f"127.{randrange(1, 255)}.{randrange(1, 255)}.{randrange(1, 255)}:7480"
    end = serve_metrics(address, lambda: STATUS)
    try:
        assert scrape(address) == {
            "dimat_round": 3,
            "dimat_sent_bytes_total": 10,
            "dimat_certificate_expiry_timestamp_seconds": 1.5e9,
            'dimat_neighbor_up{neighbor="1"}': 1,
            'dimat_neighbor_up{neighbor="2"}': 0,
            'dimat_exchanges_total{neighbor="1"}': 3,
            'dimat_incidents_total{neighbor="2",what="lost"}': 2,
            'dimat_incidents_total{neighbor="2",what="refused"}': 1,
            'dimat_refused_calls_total{cause="wrong-ca"}': 4,
        }
        with pytest.raises(ConfigError, match="'metrics': .* cannot be listened on"):
            serve_metrics(address, lambda: STATUS)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", 7480), SOON_S).close()
    finally:
        end()
    with pytest.raises(OSError, match="refused"):
        scrape(address)


@pytest.mark.parametrize("address", ["192.0.2.1:7480", "x", ":7480"])
def test_an_address_that_is_none_of_here_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="'metrics'"):
        serve_metrics(address, lambda: STATUS)


def test_an_agent_tells_what_happens_as_it_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = AgentSite(peers_file(tmp_path, 2), insecure=True)
    address = f"127.{randrange(1, 255)}.{randrange(1, 255)}.{randrange(1, 255)}:7480"
    seen: list[dict[str, float]] = []
    finish = SingleAgentRun._keep

    def watched(self: SingleAgentRun, agent: object) -> None:
        if self.index == 0:
            seen.append(scrape(address))
        finish(self, agent)  # type: ignore[arg-type]

    monkeypatch.setattr(SingleAgentRun, "_keep", watched)

    def run(agent: int) -> Callable[[], object]:
        config = replace(CONFIG, out=str(tmp_path / "out"))
        own = {"metrics": address} if agent == 0 else {}
        events = str(tmp_path / f"{agent}.jsonl")
        return lambda: run_agent(config, agent, site, events=events, **own)

    together([run(0), run(1)])
    assert [x["dimat_round"] for x in seen] == [0, 1, 2]
    assert seen[-1]["dimat_rounds"] == 2
    assert seen[-1]['dimat_exchanges_total{neighbor="1"}'] == 2
    assert 0 <= seen[-1]["dimat_accuracy"] <= 1
    assert seen[-1]["dimat_sent_bytes_total"] > 0
    for agent in (0, 1):
        text = (tmp_path / f"{agent}.jsonl").read_text()
        found = [json.loads(line) for line in text.splitlines()]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", x["time"]) for x in found)
        assert [x["time"] for x in found] == sorted(x["time"] for x in found)
        rounds = [(x["event"], x["round"]) for x in found if "accuracy" in x]
        each = [("merged", 1), ("trained", 1), ("merged", 2), ("trained", 2)]
        assert rounds == [("trained", 0), *each]
        links = [x["link"] for x in found if x["event"] == "neighbor" and x["agent"] == 1 - agent]
        assert links[0] == "up"


def test_a_refusal_is_said_to_the_user_at_once_and_is_an_event(tmp_path: Path) -> None:
    """As an agent waits for its neighbors: what waits for nobody ends the test."""
    ca, peers, refused = make_ca(), PeersFile(peers_file(tmp_path, 2)), threading.Event()
    at = [place(tmp_path / f"{i}", make(ca, alternative=names(i)), ca) for i in range(2)]
    serial = x509.load_pem_x509_certificate((at[0] / "certificate.pem").read_bytes()).serial_number
    (at[1] / "revoked.pem").write_bytes(revoked(ca, 1, serial))
    notes = list[str]()

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)
            if text.startswith("ATTENTION"):
                refused.set()

    config = replace(CONFIG, rounds=1, out=str(tmp_path / "out"))
    terms = handshake(make_setup(config, Silent(), agent=1), matches=False)

    def other() -> None:
        security = Security(RUN, Identity.load(at[1], RUN, 1))
        own = Endpoint(1, peers, peers.agents[1], security, Rules(terms, LONG_S))
        link = own.to(0)
        with closing([own]):
            assert refused.wait(SOON_S)
            (at[1] / "revoked.pem").write_bytes(revoked(ca, 2))
            until(lambda: link.status is Status.UP)

    events = str(tmp_path / "events.jsonl")
    site = AgentSite(peers.path, at[0])
    together([lambda: run_agent(config, 0, site, Notes(), events=events), other])
    said = f"agent 1 refuses us: revoked: your certificate, serial {serial:x}, was revoked on "
    assert any(note.startswith(f"ATTENTION: {said}") for note in notes)
    found = [json.loads(line) for line in Path(events).read_text().splitlines()]
    assert [x["why"][: len(said)] for x in found if x["event"] == "alarm"] == [said]


def test_a_file_of_events_ends_with_a_line_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "MOST_BYTES", 300)
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        log = EventLog(str(path))
        for k in range(50):
            log("trained", round=k, accuracy=float("nan"))
        log.close()
        log("trained", round=99)
    lines = [json.loads(x) for x in path.read_text().splitlines()]
    assert [x["event"] for x in lines].count("full") <= 2
    assert lines[-1]["event"] == "full"
    assert path.stat().st_size < 500
    assert lines[0] == {"time": lines[0]["time"], "event": "trained", "round": 0, "accuracy": None}


def test_events_go_to_standard_output_too(capsys: pytest.CaptureFixture[str]) -> None:
    log = EventLog("-")
    log("neighbor", agent=1, link="up", why="")
    log.close()
    assert json.loads(capsys.readouterr().out)["link"] == "up"
    print("still open")


def test_whoever_reads_no_events_holds_up_nobody_and_is_told_how_many_were_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = os.pipe()
    with open(write, "w") as stalled, open(read) as reader:  # closed first: whoever hangs ends
        monkeypatch.setattr(sys, "stdout", stalled)
        log = EventLog("-")
        together([lambda: [log("trained", round=k, why="x" * 200) for k in range(2000)]], SOON_S)
        log("incident", why="x" * (1 << 17))  # more than a pipe may hold
        first = json.loads(reader.readline())
        assert first["round"] == 0
        seen, last = 1, first["round"]
        os.set_blocking(read, False)
        for line in reader:
            last, seen = json.loads(line)["round"], seen + 1
        log("merged", round=9)
        lost, merged = (json.loads(line) for line in reader)
        assert last == seen - 1 < 1999  # a row without a gap
        assert (lost["event"], lost["times"]) == ("lost", 2000 - seen + 1)
        assert (merged["event"], merged["round"]) == ("merged", 9)


def test_what_cannot_be_written_is_said_at_once_and_later_ends_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'events': .* cannot be written"):
        EventLog(str(tmp_path / "none" / "events.jsonl"))
    if Path("/dev/full").exists():
        log = EventLog("/dev/full")
        log("trained", round=1)
        log("trained", round=2)
        log.close()
