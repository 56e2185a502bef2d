"""What peers say is cut, shown as it is, counted rather than repeated, and of one conversation."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.exchange.agents_on_graph import GraphAgent, agents_on_graph
from tests.exchange.threads import peers_file, together

import dimat
from dimat.agent.agent import _graph, _matrix
from dimat.agent.membership import _AGREED, _COMMON, _earliest
from dimat.errors import MOST_SHOWN, StructureError, shown
from dimat.exchange import Message, Traffic
from dimat.exchange.handshake import check_terms
from dimat.exchange.incidents import Incident, Rows
from dimat.exchange.network.link import Link, _text
from dimat.exchange.wire import Kind
from dimat.exchange.wire import said as frame
from dimat.experiment.config.config import RunConfig
from dimat.experiment.record import incident_log
from dimat.experiment.record.incident_log import IncidentLog
from dimat.experiment.record.run_folder import RunFolder
from dimat.state import check_same_structure
from dimat.topology import Topology

PAIR: nx.Graph[int] = nx.Graph([(0, 1)])
RED = "\x1b[31m\x07\r\n\u202e\ud800"
LONG = RED * 20_000


def fit_to_be_shown(text: str) -> bool:
    return len(text) <= MOST_SHOWN and text.isprintable() and bool(text.encode())


# --- text ---------------------------------------------------------------------------------------


@given(st.text(), st.integers(1, 40))
def test_what_is_shown_is_short_and_printable_and_is_shown_as_it_is_from_then_on(
    text: str, most: int
) -> None:
    found = shown(text, most)
    assert len(found) <= most
    assert found.isprintable()
    found.encode()
    assert shown(found, most) == found
    if text.isprintable() and len(text) <= most:
        assert found == text


@pytest.mark.parametrize("value", [{"a": LONG}, [[[[[[LONG]]]]]], [LONG] * 1000, LONG, 10**4000])
def test_whatever_json_is_said_is_shown_in_500_characters(value: object) -> None:
    assert fit_to_be_shown(shown(value))


def test_settings_that_differ_are_named_whatever_else_a_peer_says() -> None:
    theirs = {"rounds": "30", "model": LONG, **{f"a{k}{RED}": LONG for k in range(100)}}
    with pytest.raises(StructureError) as found:
        check_terms({"rounds": "20", "model": "mlp"}, theirs, "agent 3")
    assert "'rounds' is 30 there and 20 here" in str(found.value)
    assert fit_to_be_shown(str(found.value).removeprefix("agent 3 has other settings: "))


def test_an_entry_that_is_not_expected_is_named_in_short() -> None:
    with pytest.raises(StructureError) as found:
        check_same_structure({}, {LONG: torch.ones(1)}, "state from agent 3")
    assert fit_to_be_shown(str(found.value))


def test_an_incident_is_fit_to_be_shown_whoever_says_why() -> None:
    assert fit_to_be_shown(Incident(1, "declined", LONG).why)


def test_a_greeting_that_goes_on_for_ever_is_cut_where_it_comes_in() -> None:
    with agents_on_graph(PAIR, terms={0: {"rounds": "2"}, 1: {"rounds": LONG}}) as here:
        refused(here[0], "agent 1 has other settings: 'rounds' is \\x1b[31m")
        refused(here[1], "agent 0 has other settings: 'rounds' is 2 there")


def refused(own: GraphAgent, why: str) -> None:
    """Rounds until the link has seen that settings differ; the greeting is heard once it forms."""
    for _ in range(500):
        own.play()
        if "settings" in own.why(1 - own.agent):
            break
        own.hood.await_neighbors([1 - own.agent], 0.02)
    found = own.why(1 - own.agent)
    assert found.startswith(why)
    assert fit_to_be_shown(found)


def test_a_refusal_is_cut_at_both_ends() -> None:
    def refuse(j: int, message: Message) -> None:
        raise StructureError(LONG)

    with agents_on_graph(PAIR) as here:
        here[0].admit = refuse
        together([here[0].play, here[1].play])
        assert (here[0].last, here[1].last) == ({1: "refused"}, {0: "declined"})
        assert fit_to_be_shown(here[0].why(1))
        assert fit_to_be_shown(here[1].why(0))


def test_a_refusal_that_was_not_cut_by_who_says_it_is_cut_by_who_hears_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    post = Link.post

    def long(link: Link, own: Any, epoch: int | None = None) -> None:
        long_one = frame(Kind.REFUSE, own.sender, own.to, LONG)
        post(link, long_one if own.kind is Kind.ACCEPT and link.us == 0 else own, epoch)

    monkeypatch.setattr(Link, "post", long)
    with agents_on_graph(PAIR) as here:
        together([here[0].play, here[1].play])
        assert here[1].last == {0: "declined"}
        assert fit_to_be_shown(here[1].why(0))
        here.clear()  # one end counted what the other one was told to be refused


def test_who_listens_only_is_not_refused_for_what_it_says_and_so_can_hear() -> None:
    """What it has is not mixed, whatever it is: that it is far out is why it listens."""

    def refuse(j: int, message: Message) -> None:
        raise StructureError("out of proportion")

    with agents_on_graph(PAIR) as here:
        here[1].hood.quiet = True
        here[0].admit = refuse
        together([here[0].play, here[1].play])
        assert (here[0].last, here[1].last) == ({1: "quiet"}, {})
        assert here[1].heard == [{0: (0,)}]
        here.clear()


def test_why_a_link_broke_is_fit_to_be_shown_in_any_error_that_says_so() -> None:
    assert fit_to_be_shown(_text(RuntimeError(LONG)))


def test_what_a_neighbor_calls_itself_is_kept_and_said_back_in_short() -> None:
    with agents_on_graph(PAIR) as here:
        link = here[0].link(1)
        link.greeting = {**link.greeting, "generation": LONG}
        account = here[0].hood._greeting(1)
        assert len(account["with"]) <= 64
        here.clear()


# --- rows of incidents --------------------------------------------------------------------------

incidents = st.builds(Incident, st.integers(1, 2), st.sampled_from(["lost", "quiet"]), st.just("x"))


@given(st.lists(st.sets(incidents), max_size=40), st.integers(0, 40))
def test_all_that_happened_is_told_in_rows_even_if_the_agent_starts_again(
    rounds: list[set[Incident]], stop: int
) -> None:
    rows, told = Rows(), []
    for number, incidents in enumerate(rounds):
        if number == stop:
            kept, rows = rows.kept(), Rows()
            rows.restore(kept)
        told += rows.add(number, incidents)
    told += rows.end()
    happened = {(k, own) for k, incidents in enumerate(rounds) for own in incidents}
    assert {(k, x.incident) for x in told for k in range(x.since, x.last + 1)} == happened
    ends = {(x.incident, x.since): x for x in told}
    assert sum(x.times for x in ends.values()) == len(happened)


def test_a_million_equal_incidents_are_a_few_lines() -> None:
    rows, own = Rows(), Incident(1, "lost", "not connected yet")
    told = [row for number in range(1000) for row in rows.add(number + 1, [own])]
    assert [row.times for row in told] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert told[0].line == {"round": 1, "agent": 1, "what": "lost", "why": "not connected yet"}
    assert told[2].line["since"] == 1
    assert told[2].line["times"] == told[2].line["round"] == 4
    assert str(told[2]) == "agent 1 lost: not connected yet (4 times since round 1)"
    [over] = rows.add(1001, [])
    assert over.times == 1000
    assert over.line["over"] is True
    assert str(over) == "agent 1 no longer lost: not connected yet (1000 times in rounds 1 to 1000)"


def test_who_is_lost_for_another_reason_is_not_over() -> None:
    rows = Rows()
    for number in (1, 2, 3):
        rows.add(number, [Incident(1, "lost", "silent")])
    row, new = rows.add(4, [Incident(1, "lost", "cannot be reached")])
    assert str(row) == "agent 1 lost: silent (3 times since round 1)"
    assert "over" not in row.line
    assert str(new) == "agent 1 lost: cannot be reached"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", RunConfig(), "wa")


def test_the_file_of_incidents_ends_somewhere_and_the_counts_go_on(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_log, "MOST_BYTES", 20_000)
    notes: list[str] = []
    log = IncidentLog(folder, notes.append)
    for number in range(300):  # no two are equal
        log.add(number, [Incident(j, "declined", f"{number} {LONG}") for j in (1, 2)])
    log.end(300)
    assert log.counts == {j: Counter(declined=300) for j in (1, 2)}
    lines = [*folder.lines("incidents")]
    assert [line["what"] for line in lines[-2:]] == ["declined", "full"]
    assert folder.sizes()["incidents.jsonl"] < 22_000
    assert sum(map(len, notes)) < 22_000
    assert notes[-1].endswith("not told")
    assert all(note.isprintable() for note in notes)


def test_the_counts_are_those_of_all_incidents_through_a_restart(folder: RunFolder) -> None:
    own, other = Incident(1, "lost", "x"), Incident(1, "quiet", "y")
    log = IncidentLog(folder, lambda note: None)
    for number in range(1, 8):
        log.add(number, [own])
    kept, sizes = log.kept(), folder.sizes()
    log.add(8, [own, other])  # it is killed
    folder.rewind(sizes)
    again = IncidentLog(folder, lambda note: None)
    again.restore(kept)
    for number in range(8, 12):
        again.add(number, [own])
    again.end(11)
    assert again.counts == {1: Counter(lost=11)}
    assert [(x["round"], x.get("times", 1)) for x in folder.lines("incidents")] == [
        (1, 1),
        (2, 2),
        (4, 4),
        (8, 8),
        (11, 11),
    ]


def test_a_checkpoint_from_before_there_were_counts_has_those_of_the_file(
    folder: RunFolder,
) -> None:
    for number in (1, 2):
        folder.append({"round": number, "agent": 3, "what": "lost", "why": "x"}, "incidents")
    log = IncidentLog(folder, lambda note: None)
    log.restore(None)
    assert log.counts == {3: Counter(lost=2)}


def test_an_agent_in_ones_own_loop_does_not_repeat_itself_either(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = torch.nn.Linear(2, 2)
    with (
        dimat.Agent(
            model,
            None,
            topology="full",
            calibration=[torch.zeros(2, 2)],
            method="wa",
            id=0,
            agents=2,
            peers=peers_file(tmp_path, 2),
            insecure=True,
            timeout_s=0.01,
        ) as own,
        caplog.at_level(logging.WARNING, "dimat"),
    ):
        found = [own.exchange() for _ in range(8)]
    assert all(x.incidents == (Incident(1, "lost", "not connected yet"),) for x in found)
    told = [x for x in caplog.messages if "lost" in x]
    assert [x.split(":")[0] for x in told] == ["round 1", "round 2", "round 4", "round 8"]


# --- kinds of conversations ---------------------------------------------------------------------


def talk(own: GraphAgent, number: int, about: str) -> int:
    """A talk that finds the least of numbers, about something."""
    mine = _earliest(own.near, number, 1)
    return own.hood.run({own.agent: mine}, {own.agent: Traffic()}, about)[own.agent]


def whats(own: GraphAgent) -> dict[int, tuple[str, str]]:
    return {x.agent: (x.what, x.why) for x in own.hood.incidents}


@pytest.mark.parametrize("about", [_AGREED, "a merge", LONG])
def test_what_is_said_in_one_conversation_is_never_taken_for_another(about: str) -> None:
    """Both are at step 0, and say what the other one would understand."""
    with agents_on_graph(PAIR) as here:
        found = together([lambda: talk(here[0], 9, _COMMON), lambda: talk(here[1], 3, about)])
        assert found == [9, 3]
        assert {what for own in here.values() for what, _ in whats(own).values()} <= {
            "refused",
            "declined",
        }
        why = next(why for _, why in whats(here[0]).values())
        assert fit_to_be_shown(why)
        together([lambda: talk(here[0], 9, _COMMON), lambda: talk(here[1], 3, _COMMON)])
        assert talk_is_one(here[0], here[1])
        here.clear()


def talk_is_one(first: GraphAgent, second: GraphAgent) -> bool:
    """Whether both are in one conversation again, after a round at most that does not count."""
    for _ in range(2):
        found = together([lambda: talk(first, 9, _COMMON), lambda: talk(second, 3, _COMMON)])
        if found == [3, 3]:
            return True
    return False


# --- the handshake ------------------------------------------------------------------------------


def terms(folder: Path, topology: str, agents: int) -> dict[str, str]:
    with dimat.Agent(
        torch.nn.Linear(2, 2),
        None,
        topology=dimat.build_topology(topology, agents),
        calibration=[torch.zeros(2, 2)],
        method="wa",
        id=0,
        agents=agents,
        peers=peers_file(folder, agents, f"{agents}"),
        insecure=True,
    ) as own:
        return own._handshake()


def test_a_handshake_does_not_grow_with_the_graph(tmp_path: Path) -> None:
    small, large = terms(tmp_path, "ring", 4), terms(tmp_path, "ring", 2500)
    assert sum(map(len, large.values())) <= sum(map(len, small.values())) + 10
    dense = dimat.build_topology("full", 300)
    assert len(_graph(dense)) <= len(small["graph"]) + 10
    assert len(_matrix(dense)) == len(small["mixing matrix"])


def test_graphs_and_matrices_that_differ_are_said_to(tmp_path: Path) -> None:
    with pytest.raises(StructureError) as found:
        check_terms(terms(tmp_path, "ring", 6), terms(tmp_path, "star", 6), "agent 1")
    assert "'graph' is star of 5 edges, digest " in str(found.value)
    assert " there and ring of 6 edges, digest " in str(found.value)
    assert "'mixing matrix' is of digest " in str(found.value)
    check_terms(terms(tmp_path, "ring", 6), terms(tmp_path, "ring", 6), "agent 1")


def test_matrices_that_differ_in_a_weight_are_told_apart() -> None:
    graph = nx.complete_graph(3)
    pi = dimat.build_topology("full", 3).at(0).pi
    other = pi.copy()
    other[0, 0], other[0, 1] = other[0, 0] + 1e-9, other[0, 1] - 1e-9
    assert _matrix(Topology("x", graph, pi)) != _matrix(Topology("x", graph, other))
    assert _matrix(Topology("x", graph, pi)) == _matrix(Topology("y", graph, pi + 1e-16))
