"""``dimat agent --check``: what it finds, and that whoever runs is not disturbed by it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.exchange import hostile
from tests.exchange.agents_on_graph import agents_on_graph, edges_used, joined, play, settle
from tests.exchange.threads import LISTEN, LONG_S, SOON_S, closing, peers_file, together, until
from tests.identity.making import DAY, RUN, Made, make, make_ca, names, place

from dimat.cli import main
from dimat.errors import ConfigError
from dimat.exchange.network import link as link_module
from dimat.exchange.network.endpoint import MOST_PROBE, Endpoint
from dimat.exchange.network.link import Link, Rules, Status
from dimat.exchange.network.peers import FixedAddresses, PeersFile
from dimat.exchange.network.rpc import grpc
from dimat.exchange.network.security import Security
from dimat.experiment.config.config import ExchangeConfig, RunConfig, TopologyConfig
from dimat.experiment.single_agent import check as check_module
from dimat.experiment.single_agent import rounds as rounds_module
from dimat.experiment.single_agent.run import AgentSite, Finding, check_agent, run_agent

CONFIG = RunConfig(
    agents=3,
    rounds=2,
    method="wa",
    controls=(),
    width=0.25,
    topology=TopologyConfig("ring"),
    exchange=ExchangeConfig(timeout_s=LONG_S),
)
ALONE = RunConfig(agents=2, method="wa", controls=(), exchange=ExchangeConfig(timeout_s=0.01))


@pytest.fixture(scope="module")
def ca() -> Made:
    return make_ca()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # by default run folders are here


def certified(folder: Path, ca: Made, agent: int, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return place(folder / f"{agent}", make(ca, alternative=names(agent), **more), ca)


def by_name(found: list[Finding]) -> dict[str, tuple[str, str]]:
    return {own.what: (own.grade, own.found) for own in found}


def test_neighbors_that_all_check_find_each_other_well(tmp_path: Path, ca: Made) -> None:
    peers = peers_file(tmp_path, 3)
    sites = [AgentSite(peers, certified(tmp_path, ca, i)) for i in range(3)]
    found = together([lambda i=i: check_agent(CONFIG, i, sites[i]) for i in range(3)])  # type: ignore[misc]
    for i, own in enumerate(found):
        assert [(x.what, x.found) for x in own if x.grade == "mend"] == []
        here = by_name(own)
        assert here["certificate"][1].startswith(f"agent {i} of run hospitals, valid until ")
        assert here["certificate"][0] == "note"  # of one day
        for j in {0, 1, 2} - {i}:
            assert here[f"agent {j}: connection"] == ("ok", "there is one; it checks too")
            assert here[f"agent {j}: settings"][0] == here[f"agent {j}: clock"][0] == "ok"
            assert re.match(r"[\d.e+]+ MB/s to it: ", here[f"agent {j}: bandwidth"][1])
        assert re.match(r"2 messages of [\d.e-]+ MB, .* s to send them", here["a round"][1])
    assert {x.name for x in tmp_path.iterdir()} == {"peers.yaml", "0", "1", "2"}  # nothing written


def test_settings_and_clocks_that_differ_are_named_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = peers_file(tmp_path, 3)
    other = RunConfig(**{**vars(CONFIG), "rounds": 3})
    site = AgentSite(peers, insecure=True)
    found = together(
        [
            lambda: check_agent(CONFIG, 0, site),
            lambda: check_agent(CONFIG, 1, site),
            lambda: check_agent(other, 2, site),
        ]
    )
    for i, theirs, ours in ((0, 3, 2), (1, 3, 2), (2, 2, 3)):
        here = by_name(found[i])
        j = 2 if i != 2 else 0
        assert here[f"agent {j}: settings"] == (
            "mend",
            f"agent {j} has other settings: 'rounds' is {theirs} there and {ours} here: "
            "make them alike",
        )
    assert by_name(found[0])["agent 1: settings"][0] == "ok"

    monkeypatch.setattr(link_module.time, "time", lambda: 1e9 + 3600.0)  # when a greeting arrives
    check = check_module._Meeting(Endpoint(0, FixedAddresses(), None, Security()), {}, 1, 1)  # type: ignore[arg-type]
    for theirs, grade, told in (
        (1e9, "mend", "is 3600 s behind ours"),
        (1e9 + 7200, "mend", "is 3600 s ahead of ours"),
        (1e9 + 3590, "ok", "is ours to a minute"),
        ("noon", "note", "it does not say"),
    ):
        own = check._clock("agent 1", {"time": theirs, "arrived": link_module.time.time()})
        assert (own.grade, own.found[: len(told)]) == (grade, told)


@pytest.mark.parametrize(
    ("text", "site", "what", "told"),
    [
        ("0: {}\n1: {}\n", {}, "peers.yaml", "neither has an address"),
        ("0: {address: '127.0.0.1:0'}\n", {}, "peers.yaml", "lacks agent 1"),
        (None, {"certificates": Path("none")}, "certificate", "none/key.pem"),
        (None, {"listen": "127.0.0.1:0"}, "agent 1: connection", "it did not dial us in 0.01 s"),
        (None, {"id": 1}, "agent 0: connection", "none to 127."),
        (None, {"listen": "192.0.2.1:7400", "trusted_network": True}, "address", "cannot be"),
    ],
)
def test_what_is_amiss_is_said_with_what_to_mend(
    tmp_path: Path, text: str | None, site: dict[str, Any], what: str, told: str
) -> None:
    peers = peers_file(tmp_path, 2)
    if text is not None:
        peers.write_text(text)
    agent = site.pop("id", 0)
    ways = {"certificates", "trusted_network"} & {*site}
    found = check_agent(
        ALONE, agent, AgentSite(peers, **({} if ways else {"insecure": True}), **site)
    )
    amiss = {own.what: own.found for own in found if own.grade == "mend"}
    assert [*amiss] == [what]
    assert told in amiss[what]


def test_without_a_word_on_protection_the_row_of_the_certificate_says_so(tmp_path: Path) -> None:
    peers = peers_file(tmp_path, 2)
    (_, certificate, *_) = check_agent(ALONE, 0, AgentSite(peers))
    assert (certificate.what, certificate.grade) == ("certificate", "mend")
    assert certificate.found.startswith("nothing says how to protect what agents say")
    for way in ("insecure", "trusted_network"):
        found = by_name(check_agent(ALONE, 0, AgentSite(peers, **{way: True})))
        kind = "loopback" if way == "insecure" else "trusted network"
        assert found["certificate"] == ("note", f"none: plaintext, {kind}")


def test_what_the_start_would_make_of_the_run_folder_is_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = AgentSite(peers_file(tmp_path, 2), insecure=True)
    config = replace(ALONE, rounds=1, pretrain_epochs=0, local_steps=1, out=str(tmp_path / "out"))
    path = tmp_path / "out" / "agent-000"

    def said(config: RunConfig) -> tuple[str, str]:
        return by_name(check_agent(config, 0, site))["run folder"]

    assert said(config) == ("ok", f"{path}: the run begins there")
    assert not path.exists()
    path.mkdir(parents=True)
    (path / "thesis.txt").touch()
    assert said(config)[0] == "mend"
    (path / "thesis.txt").unlink()
    run_agent(config, 0, site)
    left = sorted(path.rglob("*"))
    assert said(config) == ("ok", f"{path}: the run in it goes on from round 1")
    grade, told = said(replace(config, seed=7))
    assert (grade, "was begun with 'seed' 0, not 7" in told) == ("mend", True)
    assert said(replace(config, seed=7, overwrite=True))[0] == "ok"
    with monkeypatch.context() as patch:
        patch.setattr(rounds_module, "handshake", lambda setup, matches: {"data": "other"})
        grade, told = said(config)
        assert (grade, "of other settings or other data" in told) == ("mend", True)
    for checkpoint in (path / "checkpoints").glob("*/meta.json"):
        checkpoint.write_text("{}")
    grade, told = said(config)
    assert (grade, "begins again; checkpoint" in told) == ("note", True)
    assert sorted(path.rglob("*")) == left


def test_who_is_there_already_is_not_waited_for_and_not_to_be_started(tmp_path: Path) -> None:
    peers = peers_file(tmp_path, 2)
    book, rules = PeersFile(peers), Rules(timeout_s=LONG_S)
    one, two = (Endpoint(i, book, book.of(i), Security(), rules) for i in (0, 1))
    links = one.to(1), two.to(0)
    with closing([one, two]):
        until(lambda: all(link.status is Status.UP for link in links))
        config = replace(ALONE, exchange=ExchangeConfig(timeout_s=LONG_S))
        site = AgentSite(peers, insecure=True, listen=LISTEN)
        (found,) = together([lambda: by_name(check_agent(config, 1, site))], SOON_S)
        why = "agent 1 is here already: two processes claim its number, stop one"
        assert found["agent 0: connection"] == ("mend", f"it refuses us: twice: {why}")


def test_a_neighbor_whose_certificate_is_refused_is_not_to_be_started(
    tmp_path: Path, ca: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = peers_file(tmp_path, 2)
    book = PeersFile(peers)
    made = make(ca, alternative=names(0), since=-2 * DAY, until=-DAY)
    late = Security(RUN, hostile.own(tmp_path / "0", made, ca))
    site = AgentSite(peers, certified(tmp_path / "ours", ca, 1))

    def waits(self: object, links: dict[int, Link], found: object, end: float) -> list[int]:
        until(lambda: links[0].why != "not connected yet")  # whatever time is over
        return []

    monkeypatch.setattr(check_module._Meeting, "_next", waits)
    with closing([Endpoint(0, book, book.of(0), late)]):
        found = by_name(check_agent(ALONE, 1, site))
    why = "its certificate is refused: it, or its CA's, has expired"
    assert found["agent 0: connection"] == ("mend", f"none to {book.of(0)}: {why}")


def test_a_wrong_certificate_is_said_whatever_is_wrong_with_the_run_folder(
    tmp_path: Path, ca: Made
) -> None:
    (tmp_path / "out" / "agent-000").mkdir(parents=True)
    (tmp_path / "out" / "agent-000" / "thesis.txt").touch()
    config, peers = replace(ALONE, out=str(tmp_path / "out")), peers_file(tmp_path, 2)
    sent = certified(tmp_path, ca, 0)
    (sent / "key.pem").unlink()
    told = "/0/key.pem is missing: what the CA sends has no key; put certificate.pem and ca.pem"
    with pytest.raises(ConfigError, match=told):
        run_agent(config, 0, AgentSite(peers, sent))
    with pytest.raises(ConfigError, match="key.pem is missing: 'dimat certificates request"):
        run_agent(config, 0, AgentSite(peers, tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"setting 'peers': .*none.yaml cannot be read"):
        run_agent(config, 0, AgentSite(tmp_path / "none.yaml", insecure=True))
    with pytest.raises(ConfigError, match="setting 'out': .* exists"):
        run_agent(config, 0, AgentSite(peers, insecure=True))


def test_a_certificate_that_ends_soon_is_noted(tmp_path: Path, ca: Made) -> None:
    peers = peers_file(tmp_path, 2)
    for days, grade in ((29, "note"), (32, "ok")):
        folder = certified(tmp_path / f"{days}", ca, 0, until=days * DAY)
        found = by_name(check_agent(ALONE, 0, AgentSite(peers, folder)))
        assert found["certificate"][0] == grade


def test_the_command_prints_a_row_for_each_and_ends_with_1_if_one_is_to_be_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    peers_file(tmp_path, 2)
    words = ["agent", "--id=0", "--peers=peers.yaml", "--insecure", "--check", "--method=wa"]
    words += ["--agents=2", "--exchange.timeout_s=0.01", "--out=out"]
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert max(map(len, out.splitlines())) <= columns
        assert re.search(r"^ *MEND +agent 1: connection +it did not dial us", out, re.MULTILINE)
        assert "agent 0 could not run as it should; mend: agent 1: connection" in err
    assert not (tmp_path / "out").exists()


# --- who runs -----------------------------------------------------------------------------------


def endpoint(agent: int, place: FixedAddresses, **rules: Any) -> Endpoint:
    own = Endpoint(agent, place, LISTEN, Security(), Rules(timeout_s=LONG_S, **rules))
    place[agent] = str(own.address)
    return own


@pytest.mark.parametrize("checks", [0, 1])
def test_for_one_that_runs_no_edge_to_one_that_checks_has_formed(checks: int) -> None:
    """Whichever of the two dials."""
    place = FixedAddresses()
    one, two = (endpoint(i, place, check=i == checks) for i in range(2))
    here, there = one.to(1), two.to(0)
    checking, running = (here, there) if checks == 0 else (there, here)
    with closing([one, two]):
        until(lambda: checking.greeting)
        until(lambda: running.why == "one of the two only checks its connections")
        assert (running.status, running.epoch, running.greeting) == (Status.DOWN, 0, {})
        assert (checking.status, checking.epoch) == (Status.DOWN, 0)
        assert checking.greeting["check"] is False


def test_one_that_checks_beside_the_one_that_runs_under_its_number_is_refused() -> None:
    place = FixedAddresses()
    one, two = endpoint(0, place), endpoint(1, place)
    here, there = one.to(1), two.to(0)
    until(lambda: here.status is there.status is Status.UP)
    rules = Rules(timeout_s=LONG_S, check=True)
    again = Endpoint(1, FixedAddresses(place), None, Security(), rules)
    alarms = list[str]()
    again.event = lambda kind, **facts: alarms.append(facts["why"]) if kind == "alarm" else None
    third = again.to(0)
    with closing([one, two, again]):
        until(lambda: third.why.startswith("it refuses us: twice: "))
        until(lambda: alarms)  # at once: nobody is lost before LONG_S
        told = "agent 1 is here already: two processes claim its number, stop one"
        assert alarms == [f"agent 0 refuses us: twice: {told}"]
        assert here.status is there.status is Status.UP
        assert here.epoch == there.epoch == 1


def test_only_neighbors_measure_and_only_in_small_pieces() -> None:
    place, security = FixedAddresses(), Security()
    own = endpoint(0, place)
    own.to(1)
    channel = security.channel(0, place[0])
    with closing([own, channel]):
        for us, size, code in (
            (1, MOST_PROBE, None),
            (1, MOST_PROBE + 1, grpc.StatusCode.INVALID_ARGUMENT),
            (2, MOST_PROBE, None),  # of others nothing is taken
            (None, MOST_PROBE, None),
            (None, 0, None),
        ):
            _, claim = security.claim(us, 0, "a test")
            call: Any = channel.unary_unary("/dimat.Agent/Status")
            done = call.future(bytes(size), timeout=SOON_S, metadata=claim)
            assert done.exception() is None if code is None else done.code() is code
        assert own.probed == {1: 1}


def test_who_exchanges_goes_on_without_one_that_checks_and_takes_it_in_when_it_runs() -> None:
    place = FixedAddresses()
    with agents_on_graph(absent=[3], place=place) as here:
        play(here)
        own = endpoint(3, place, check=True)
        link = own.to(2)
        with closing([own]):
            until(lambda: link.greeting)
            play(here)
            assert edges_used(here) == {(0, 1), (0, 2), (1, 2)}
            assert {i: x.last for i, x in here.items()} == {0: {}, 1: {}, 2: {3: "lost"}}
            assert link.status is Status.DOWN
        here[3] = settle(3, place)
        joined(here)
        play(here)
        assert edges_used(here) == {(0, 1), (0, 2), (1, 2), (2, 3)}
