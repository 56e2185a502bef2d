"""A consortium that has a CA of its own: ``names.yaml`` says whose certificate is whose."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from tests.identity.making import RUN, Made, make, make_ca, names, place, revoked

from dimat.errors import ConfigError
from dimat.identity import Identity, Refused

URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
NAMES = """
CN=node three,O=St. Mary: 3
Node2.hospital.org: 2
node3.hospital.org: 3
https://hospital.org/four: 4
ops.hospital.org: observer
"""


@pytest.fixture(scope="session")
def ca() -> Made:
    return make_ca(subject="CN=Consortium CA")


def bearing(ca: Made, *alternative: x509.GeneralName, subject: str = "CN=any") -> bytes:
    return make(ca, subject=subject, alternative=alternative).pem


@pytest.fixture
def own(tmp_path: Path, ca: Made) -> Identity:
    place(tmp_path, make(ca, alternative=[DNS("node2.hospital.org")]), ca)
    (tmp_path / "names.yaml").write_text(NAMES)
    return Identity.load(tmp_path, RUN, 2)


def test_agents_are_known_by_subject_or_alternative_name(own: Identity, ca: Made) -> None:
    assert (own.run, own.agent) == (RUN, 2)
    own.check_peer(bearing(ca, DNS("node3.hospital.org"), DNS("www.hospital.org")), 3)
    own.check_peer(bearing(ca, DNS("NODE3.hospital.org")), 3)
    own.check_peer(bearing(ca, DNS("x.org"), subject="CN=node three,O=St. Mary"), 3)
    own.check_peer(bearing(ca, URI("https://hospital.org/four")), 4)
    assert own.role_of(bearing(ca, DNS("ops.hospital.org"))) == (RUN, None)
    both = bearing(ca, DNS("node3.hospital.org"), subject="CN=node three,O=St. Mary")
    assert own.role_of(both) == (RUN, 3)


@pytest.mark.parametrize(
    ("alternative", "subject"),
    [
        ([DNS("node4.hospital.org")], "CN=x"),
        ([DNS("node2.hospital.org"), DNS("node3.hospital.org")], "CN=x"),
        ([DNS("node2.hospital.org")], "CN=node three,O=St. Mary"),
        ([DNS("ops.hospital.org"), DNS("node3.hospital.org")], "CN=x"),
        ([URI("node3.hospital.org")], "CN=x"),
        ([URI("CN=node three,O=St. Mary")], "CN=x"),
        ([x509.RFC822Name("x@node3.hospital.org")], "CN=x"),
        ([DNS("*.hospital.org")], "CN=x"),
        ([DNS("x.org")], "CN=node3.hospital.org"),
        ([DNS("x.org")], "CN=node three,O=St. Mary,C=US"),
        (names(3), "CN=x"),
    ],
)
def test_a_certificate_that_is_nobodys_or_several_ones_is_refused(
    alternative: list[x509.GeneralName], subject: str, own: Identity, ca: Made
) -> None:
    with pytest.raises(Refused) as caught:
        own.role_of(bearing(ca, *alternative, subject=subject))
    assert caught.value.cause == "other-agent"


def test_the_other_checks_are_the_same(own: Identity, ca: Made) -> None:
    peer = make(ca, alternative=[DNS("node3.hospital.org")])
    with pytest.raises(Refused) as caught:
        own.check_peer(bearing(make_ca(subject="CN=Consortium CA"), DNS("node3.hospital.org")), 3)
    assert caught.value.cause == "wrong-ca"
    (own.folder / "revoked.pem").write_bytes(revoked(ca, 1, peer.serial))
    with pytest.raises(Refused) as caught:
        own.check_peer(peer.pem, 3)
    assert caught.value.cause == "revoked"


def test_tls_is_told_the_first_dns_name_of_an_agent(own: Identity) -> None:
    assert own.target_name(2) == "node2.hospital.org"
    assert own.target_name(3) == "node3.hospital.org"
    with pytest.raises(ConfigError, match="names.yaml has no DNS name of agent 4: add the one"):
        own.target_name(4)


def test_another_agent_than_the_file_says_is_refused_at_the_start(own: Identity) -> None:
    with pytest.raises(ConfigError, match="is agent 2's, and this is agent 3"):
        Identity.load(own.folder, RUN, 3)
    (own.folder / "names.yaml").write_text("node3.hospital.org: 3")
    with pytest.raises(ConfigError, match="names.yaml has no agent for its certificate, of CN="):
        Identity.load(own.folder, RUN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no agent"),
        ("{}", "names no agent"),
        ("- a", "names no agent"),
        ("3: 3", "has the name 3"),
        ("a.org: -1", "says that 'a.org' is -1"),
        ("a.org: true", "says that 'a.org' is True"),
        ("a.org: 1.0", "says that 'a.org' is 1.0"),
        ("a.org: null", "says that 'a.org' is None"),
        ("a.org: agent", "says that 'a.org' is 'agent'"),
        ("a.org: 1\nA.org: 2", "has 'A.org' twice"),
        ("a.org: 1\na.org: 2", "'a.org' is given twice"),
        ("a: [", "is no YAML"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
    ],
)
def test_a_file_that_does_not_say_whose_is_whose_is_refused(
    text: str, said: str, own: Identity
) -> None:
    (own.folder / "names.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"names.yaml .*{said}"):
        Identity.load(own.folder, RUN)
