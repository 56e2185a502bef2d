"""``dimat status``: what an observer is told of all agents, and of those that do not answer."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from rich.console import Console
from tests.exchange import hostile
from tests.exchange.threads import LONG_S, SOON_S, closing, peers_file, together, until
from tests.identity.making import DAY, RUN, Made, make, make_ca, names, place, revoked

from dimat.cli import main
from dimat.cli.agents import status_table
from dimat.errors import DimatError
from dimat.exchange import Step, Traffic
from dimat.exchange.incidents import Incident
from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.link import Rules
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.exchange.network.peers import PeersFile
from dimat.exchange.network.security import Security
from dimat.exchange.network.site import AgentSite
from dimat.exchange.network.status import Answer, read_status

HOSTILE = "\x1b[2J" + "x" * 900
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def ca() -> Made:
    return make_ca()


@pytest.fixture
def ask(
    tmp_path: Path,
    ca: Made,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Ask:
    """Runs ``dimat status`` as an observer: exit code, output and errors."""
    observer = place(tmp_path / "observer", make(ca, alternative=names(None)), ca)

    def run(
        peers: Path, *words: str, columns: int = 120, certificates: Path = observer
    ) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        own = [] if "--insecure" in words else ["--certificates", str(certificates)]
        code = main(["status", str(peers), *own, "--timeout", f"{SOON_S}", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def pair(tmp_path: Path, ca: Made) -> Iterator[list[Neighborhood]]:
    """Agents 0 and 1 of a run, which are neighbors."""
    peers = peers_file(tmp_path, 2)
    hoods = []
    for i in range(2):
        folder = place(tmp_path / f"{i}", make(ca, alternative=names(i)), ca)
        site = AgentSite(peers, folder)
        hoods.append(site.neighborhood(i, [1 - i], Rules(timeout_s=LONG_S), patience_s=LONG_S))
    with closing(hoods):
        together([lambda i=i: hoods[i].await_neighbors([1 - i], SOON_S) for i in range(2)])  # type: ignore[misc]
        yield hoods


def lines(out: str) -> dict[int, dict[str, Any]]:
    return {x["agent"]: x for x in map(json.loads, out.splitlines())}


def test_an_observer_is_told_what_each_agent_says_of_itself(
    tmp_path: Path, ask: Ask, pair: list[Neighborhood]
) -> None:
    pair[0].report.tell(round=12, rounds=20, accuracy=0.9123, standing="current")
    pair[0].report.note(12, [1], [])
    pair[1].report.tell(round=3, rounds=20, accuracy=None, standing="stale")
    pair[1].report.note(3, [0], [Incident(0, "refused", "too\x1b[31m large")])
    code, out, err = ask(tmp_path / "peers.yaml", "--json")
    assert (code, err) == (0, "")
    found = {agent: own["status"] for agent, own in lines(out).items()}
    assert found[0].items() >= {"run": RUN, "round": 12, "accuracy": 0.9123, "heard": [1]}.items()
    assert found[0]["connections"] == "mutual TLS 1.3"
    assert found[0]["certificate_until"] > found[0]["time"] >= found[0]["since"]
    assert found[0]["peers"] == found[1]["peers"] == PeersFile(tmp_path / "peers.yaml").digest
    assert found[0]["neighbors"] == {"1": {"link": "up", "why": ""}}
    assert found[0]["exchanged"] == {"1": 1}
    assert found[1]["exchanged"] == {}
    assert found[1]["incidents"] == {"0": {"refused": 1}}
    assert found[1]["incident"]["why"] == r"too\x1b[31m large"

    for columns in (80, 120):
        code, out, _ = ask(tmp_path / "peers.yaml", columns=columns)
        assert code == 0
        assert max(map(len, out.splitlines())) <= columns
        text = " ".join(out.split())
        assert f"Run {RUN} · 2 of 2 agents answer" in text
        assert "12/20 91.2 current 1/1" in text
        assert "3/20 – stale 0/1" in text
        assert r"in round 3, agent 0 refused: too\x1b[31m large" in text


def test_agents_that_do_not_answer_are_rows_with_the_reason_and_the_exit_code_is_1(
    tmp_path: Path, ask: Ask, pair: list[Neighborhood], ca: Made
) -> None:
    known = PeersFile(tmp_path / "peers.yaml").agents
    elsewhere = str(known[0]).replace(":", ":0")  # the same, in other words
    addresses = {0: known[0], 1: known[1], 2: elsewhere, 3: "127.0.0.1:1", 4: "none.invalid:7400"}
    peers = tmp_path / "more.yaml"
    text = "".join(f"{i}: {{address: '{own}'}}\n" for i, own in addresses.items())
    peers.write_text(f"{text}5: {{}}\n")
    code, out, err = ask(peers, "--json")
    assert code == 1
    assert "3 of 6 agents do not answer: 2, 3, 4" in err
    whys = {agent: own["why"] for agent, own in lines(out).items()}
    assert whys == {
        0: "",
        1: "",
        2: "its certificate is refused: of another agent or run",
        3: "nobody listens there",
        4: "its host is not known here",
        5: "it has no address: it only dials",
    }
    for columns in (80, 120):
        _, out, _ = ask(peers, columns=columns)
        assert max(map(len, out.splitlines())) <= columns
        assert {*["nobody", "listens", "certificate", "dials"]} <= {*out.split()}

    stranger = make_ca()
    folder = place(tmp_path / "wrong", make(stranger, alternative=names(None)), stranger)
    code, out, _ = ask(tmp_path / "peers.yaml", "--json", certificates=folder)
    assert code == 1
    assert {own["why"] for own in lines(out).values()} == {
        "its certificate is refused: of a CA that is not in our ca.pem"
    }
    code, out, _ = ask(tmp_path / "peers.yaml", "--json", "--insecure", "--name", RUN)
    assert code == 1
    assert all("it closed the connection" in own["why"] for own in lines(out).values())


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_cuts_nothing_and_keeps_every_number_whole(columns: int) -> None:
    host = "a-host.department.hospital-of-a-long-name.example.org:7400"
    said = {"round": 1234, "rounds": 10000, "accuracy": 1.0, "standing": "current"}
    said |= {"heard": [*range(12)], "neighbors": {str(j): {} for j in range(100)}, "since": 1e9}
    why = "no answer to what we said: " + " ".join(f"word{k}" for k in range(30))
    answers = [
        Answer(999, host, said),
        Answer(
            7, "127.0.0.1:7407", {"incident": {"round": 9, "agent": 3, "what": "x", "why": why}}
        ),
        Answer(8, "127.0.0.1:7408", None, why),
        Answer(9, None, None, "it has no address: it only dials"),
    ]
    console = Console(width=columns, record=True, file=io.StringIO())
    console.print(status_table("hospitals", answers))
    out = console.export_text()
    assert max(map(len, out.splitlines())) <= columns
    assert "…" not in out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["999"])
    assert row.split()[:7] == ["999", "1234/10000", "100.0", "current", "12/100", "Sep", "09"]
    assert host in "".join(out.split())  # folded where it must be
    text = " ".join(out.split())
    assert f"7 in round 9, agent 3 x: {why}" in text
    assert f"8 no answer: {why}" in text
    assert "none: it only dials" in text


@pytest.mark.parametrize(
    ("since", "until_", "why"),
    [
        (-2 * DAY, -DAY, "it, or its CA's, has expired"),
        (DAY, 2 * DAY, "not valid yet, by our clock"),
    ],
)
def test_a_certificate_out_of_its_dates_is_told_from_one_of_another_ca(
    tmp_path: Path, ask: Ask, ca: Made, since: Any, until_: Any, why: str
) -> None:
    made = make(ca, alternative=names(0), since=since, until=until_)
    identity = hostile.own(tmp_path / "0", made, ca)
    peers = peers_file(tmp_path, 1)
    endpoint = Endpoint(0, PeersFile(peers), PeersFile(peers).agents[0], Security(RUN, identity))
    with closing([endpoint]):
        code, out, _ = ask(peers, "--json")
    assert code == 1
    assert lines(out)[0]["why"] == f"its certificate is refused: {why}"


def test_an_agent_asks_with_its_own_certificate_too(
    tmp_path: Path, ask: Ask, pair: list[Neighborhood]
) -> None:
    code, out, _ = ask(tmp_path / "peers.yaml", "--json", certificates=tmp_path / "1")
    assert code == 0
    assert all(own["status"] for own in lines(out).values())


def test_an_agent_whose_certificate_was_revoked_is_not_believed(
    tmp_path: Path, ask: Ask, pair: list[Neighborhood], ca: Made
) -> None:
    """TLS takes its certificate: what it says is refused by the list of the one who asks."""
    serial = x509.load_pem_x509_certificate((tmp_path / "1" / "certificate.pem").read_bytes())
    lists = revoked(ca, 1, serial.serial_number)
    (tmp_path / "observer" / "revoked.pem").write_bytes(lists)
    code, out, _ = ask(tmp_path / "peers.yaml", "--json")
    assert code == 1
    assert lines(out)[0]["status"]
    assert lines(out)[1]["status"] is None
    assert "was revoked" in lines(out)[1]["why"]


def test_who_listens_and_says_nothing_has_so_many_seconds(tmp_path: Path, ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peers = tmp_path / "peers.yaml"
        peers.write_text(f"7: {{address: '127.0.0.1:{server.getsockname()[1]}'}}\n")
        code, out, err = ask(peers, "--json", "--timeout", "0.2")
    assert code == 1
    assert lines(out)[7]["why"] == "no answer within 0.2 s"
    assert "1 of 1 agents do not answer: 7" in err


def test_what_protects_the_question_has_to_be_said(tmp_path: Path) -> None:
    peers = peers_file(tmp_path, 2)
    assert main(["status", str(peers)]) == 2
    peers.write_text("0: {address: '192.0.2.1:7400'}\n")
    assert main(["status", str(peers), "--insecure"]) == 2
    assert main(["status", str(peers), "--insecure", "--timeout", "0"]) == 2
    assert main(["status", str(tmp_path / "none.yaml"), "--insecure"]) == 2


@pytest.mark.parametrize("answer", [b"", b"[1]", b"[" * 9999, b"\xff", b'{"round": 1'])
def test_what_is_no_status_is_refused(answer: bytes) -> None:
    with pytest.raises(DimatError, match="what it answers is no status"):
        read_status(answer)


def test_whatever_an_agent_says_is_cut_and_fit_to_be_shown(
    tmp_path: Path, ask: Ask, pair: list[Neighborhood]
) -> None:
    for work in (
        {"round": HOSTILE, "rounds": [HOSTILE], "accuracy": float("nan"), "standing": HOSTILE},
        {"round": 1e400, "accuracy": {"a": [[[[[HOSTILE]]]]]}, "standing": "[bold]", "heard": 3},
        {"since": -1e300, "incident": [1], "neighbors": HOSTILE, "heard": [HOSTILE]},
        {"since": 1e300, "incident": {"round": HOSTILE, HOSTILE: {}}, "check": 1},
    ):
        pair[1].report.work = work
        code, out, _ = ask(tmp_path / "peers.yaml")
        assert code == 0
        assert "\x1b" not in out
        assert max(map(len, out.splitlines())) <= 120
        code, out, _ = ask(tmp_path / "peers.yaml", "--json")
        assert "x" * 501 not in out


def test_what_comes_of_a_talk_is_not_in_the_way_of_the_status(pair: list[Neighborhood]) -> None:
    def talk(own: Neighborhood, them: int) -> object:
        def steps() -> Any:
            inbox = yield Step({them: {}}, [them])
            assert them in inbox

        own.run({1 - them: steps()}, {1 - them: Traffic()})
        return own.status["neighbors"]

    found = together([lambda: talk(pair[0], 1), lambda: talk(pair[1], 0)])
    assert found == [{"1": {"link": "up", "why": ""}}, {"0": {"link": "up", "why": ""}}]
    pair[0].close()
    until(lambda: pair[1].status["neighbors"]["0"]["link"] == "left")
