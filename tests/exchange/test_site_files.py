"""What an administrator changes while an agent runs: no mistake makes it plaintext, or blind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography import x509
from tests.exchange.threads import LISTEN, LONG_S, closing, peers_file, together, until
from tests.identity.making import DAY, Made, make, make_ca, names, place, revoked

from dimat.errors import ConfigError
from dimat.exchange.network import endpoint as endpoint_module
from dimat.exchange.network.link import Rules, Status
from dimat.exchange.network.peers import PeersFile
from dimat.exchange.network.site import AgentSite
from dimat.identity import Identity, trust

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


# --- certificates and what stands beside them, while an agent runs -------------------------------


class Site:
    """Agents 0 and 1 with certificates of one CA, which look at their folders all the time.

    Args:
        folder: Where the folders of both are.
        ca: Who certifies them.
    """

    def __init__(self, folder: Path, ca: Made) -> None:
        self.alarms: dict[int, list[str]] = {0: [], 1: []}
        self.at = [folder / f"{i}" for i in range(2)]
        peers = peers_file(folder, 2)
        self.hoods = []
        for i, own in enumerate(self.at):
            if not own.exists():
                place(own, make(ca, alternative=names(i)), ca)
            hood = AgentSite(peers, own).neighborhood(i, [1 - i], Rules(timeout_s=LONG_S))
            hood.tell(
                lambda kind, i=i, **facts: (
                    self.alarms[i].append(facts["why"]) if kind == "alarm" else None
                )
            )
            self.hoods.append(hood)
        self.links = [self.hoods[i]._endpoint.to(1 - i) for i in range(2)]

    def identity(self, agent: int) -> Identity:
        """What an agent goes by now."""
        found = self.hoods[agent]._endpoint.security.identity
        assert found is not None
        return found

    def close(self) -> None:
        together([hood.close for hood in self.hoods])


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_CHECK_S", 0.02)
    monkeypatch.setattr(endpoint_module, "_RETRY_S", 0.1)
    monkeypatch.setattr(Rules, "beat_s", 0.02)


@pytest.mark.usefixtures("watchful")
def test_an_own_certificate_that_has_ended_is_said_at_the_agent_itself_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, make_ca())
    with closing([site]):
        until(lambda: all(link.status is Status.UP for link in site.links))
        real = trust.now
        monkeypatch.setattr(trust, "now", lambda: real() + 2 * DAY)
        ends = "no neighbor talks to us: "
        for i, link in enumerate(site.links):
            until(lambda link=link: link.status is Status.DOWN)
            until(lambda i=i: any(own.startswith(ends) for own in site.alarms[i]))
        monkeypatch.undo()
    for i in range(2):  # its neighbor may have refused it first
        (told,) = (own for own in site.alarms[i] if own.startswith(ends))
        assert re.fullmatch(
            rf"{ends}{site.at[i]}/certificate.pem has expired: it was valid until .* UTC; have a "
            "new one issued by the CA",
            told,
        )


@pytest.mark.usefixtures("watchful")
def test_another_ca_that_ca_pem_names_is_trusted_and_one_no_more_named_is_not(
    tmp_path: Path,
) -> None:
    old, new = make_ca(subject="CN=old"), make_ca(subject="CN=new")
    site = Site(tmp_path, old)
    with closing([site]):
        until(lambda: all(link.status is Status.UP for link in site.links))
        for own in site.at:  # first both are trusted
            (own / "ca.pem").write_bytes(old.pem + new.pem)
        until(lambda: all(site.identity(i).roots == old.pem + new.pem for i in range(2)))
        made = make(new, alternative=names(0))
        (site.at[0] / "key.pem").write_bytes(made.key_pem)
        (site.at[0] / "certificate.pem").write_bytes(made.pem)
        until(lambda: site.identity(0).chain == made.pem)
        site.links[0].reset("for a test")
        until(lambda: all(link.status is Status.UP and link.epoch > 1 for link in site.links))
        (site.at[0] / "ca.pem").write_bytes(new.pem)  # agent 1 has one of the old CA still
        until(lambda: "it refuses us: wrong-ca" in site.links[1].why)
        assert all("wrong-ca" in own for own in site.alarms[1])
        until(lambda: site.links[0].status is Status.DOWN)  # it may try once more in between


@pytest.mark.usefixtures("watchful")
def test_names_yaml_is_read_again_and_what_it_takes_away_is_refused(tmp_path: Path) -> None:
    ca = make_ca()
    text = "a.example: 0\nb.example: 1\n"
    for i, name in enumerate("ab"):
        alternative = [x509.DNSName(f"{name}.example")]
        place(tmp_path / f"{i}", make(ca, alternative=alternative), ca)
        (tmp_path / f"{i}" / "names.yaml").write_text(text)
    site = Site(tmp_path, ca)
    with closing([site]):
        until(lambda: all(link.status is Status.UP for link in site.links))
        (site.at[0] / "names.yaml").write_text("a.example: 0\nc.example: 1\n")
        until(lambda: site.links[0].status is Status.DOWN)
        until(lambda: "it refuses us: other-agent" in site.links[1].why)
        (site.at[0] / "names.yaml").write_text(text)
        until(lambda: all(link.status is Status.UP for link in site.links))


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ca.pem", b"no certificate", "ca.pem"),
        ("certificate.pem", b"", "certificate.pem"),
        ("names.yaml", b"[", "names.yaml is no YAML"),
        ("key.pem", None, "key.pem is missing"),
    ],
)
def test_files_that_cannot_be_used_change_nothing_and_are_said(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    site = Site(tmp_path, make_ca())
    with closing([site]):
        until(lambda: all(link.status is Status.UP for link in site.links))
        before, path = site.identity(0), site.at[0] / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
            path.chmod(0o600)
        until(lambda: site.alarms[0])
        assert site.alarms[0][0].startswith("what was read before stays in use: ")
        assert said in site.alarms[0][0]
        assert site.identity(0) == before
        assert all(link.status is Status.UP for link in site.links)


@pytest.mark.usefixtures("watchful")
def test_lists_of_the_revoked_are_not_forgotten_where_another_ca_is_trusted(
    tmp_path: Path,
) -> None:
    ca = make_ca()
    site = Site(tmp_path, ca)
    with closing([site]):
        until(lambda: all(link.status is Status.UP for link in site.links))
        (site.at[0] / "revoked.pem").write_bytes(revoked(ca, 5))
        until(lambda: site.identity(0)._revoked._numbers)
        (site.at[0] / "revoked.pem").write_bytes(revoked(ca, 4))
        (site.at[0] / "ca.pem").write_bytes(ca.pem + make_ca(subject="CN=new").pem)
        until(lambda: site.alarms[0])
        until(lambda: site.links[0].status is Status.DOWN)
        assert "has number 4, and 5 was there before" in site.links[0].why


def test_two_agents_have_two_addresses(tmp_path: Path) -> None:
    """Of one address only one agent could be there: a line that was copied."""
    path = tmp_path / "peers.yaml"
    path.write_text("0: {address: 'a:1'}\n1: {}\n2: {}\n3: {address: 'a:1'}\n")
    with pytest.raises(ConfigError, match="agents 0 and 3 in .* have one address, a:1: must be an"):
        PeersFile(path)
