"""What an administrator changes while an agent runs: no mistake makes it plaintext, or blind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.exchange.threads import LISTEN, closing, until

from dimat.errors import ConfigError
from dimat.exchange.network import endpoint as endpoint_module
from dimat.exchange.network.link import Rules
from dimat.exchange.network.peers import PeersFile
from dimat.exchange.network.site import AgentSite

US = f"1: {{address: '{LISTEN}'}}\n"


def test_insecure_stays_on_this_machine_though_the_file_of_addresses_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "_RETRY_S", 0.1)
    path = tmp_path / "peers.yaml"
    path.write_text("0: {address: '127.0.0.1:1'}\n" + US)
    hood = AgentSite(path, insecure=True).neighborhood(1, [0], Rules())
    with closing([hood]):
        link = hood._endpoint.to(0)
        until(lambda: link.why != "not connected yet")
        path.write_text("0: {address: '192.0.2.1:7400'}\n" + US)  # of nobody
        until(lambda: "192.0.2.1:7400 is not this machine" in link.why)


@pytest.mark.parametrize("half", ["0: !!bool x", "0: !!int ''", "0: {}\n0: {}", "0: !!timestamp x"])
def test_a_half_edited_file_ends_no_thread_and_what_was_read_before_holds(
    tmp_path: Path, half: str
) -> None:
    path = tmp_path / "peers.yaml"
    path.write_text("0: {address: '127.0.0.1:1'}\n" + US)
    hood = AgentSite(path, insecure=True).neighborhood(1, [0], Rules())
    with closing([hood]):
        hood.await_neighbors([0], 0)
        path.write_text(half)
        peers = hood._endpoint._addresses
        assert isinstance(peers, PeersFile)
        assert peers.of(0) == "127.0.0.1:1"
        assert "no YAML" in peers.problem
        assert all(x.is_alive() for x in hood._endpoint._threads)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0: {}\n1: {}\n", "agents 0 and 1 are neighbors, and neither has an address"),
        ("0: {address: '127.0.0.1:7400'}\n", "lacks agent 1, which is a neighbor of agent 0"),
        ("1: {address: '127.0.0.1:7400'}\n", "lacks agent 0, which is this one"),
    ],
)
def test_neighbors_of_whom_nobody_can_dial_are_said_at_the_start(
    tmp_path: Path, text: str, rule: str
) -> None:
    peers = tmp_path / "peers.yaml"
    peers.write_text(text)
    with pytest.raises(ConfigError, match=rule):
        AgentSite(peers, insecure=True).neighborhood(0, [1])
