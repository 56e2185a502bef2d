"""Who is let in: each refusal by a real certificate that is wrong in that one way."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.identity.making import (
    DAY,
    RUN,
    Made,
    identity_of,
    make,
    make_ca,
    names,
    place,
    revoked,
    usage,
)

from dimat.errors import ConfigError
from dimat.identity import Identity, Refused, server_name

URI, DNS = x509.UniformResourceIdentifier, x509.DNSName


@pytest.fixture(scope="session")
def ca() -> Made:
    return make_ca()


@pytest.fixture
def own(tmp_path: Path, ca: Made) -> Identity:
    return identity_of(tmp_path / "own", ca)


def cause(own: Identity, shown: bytes, agent: int = 3) -> str:
    with pytest.raises(Refused) as caught:
        own.check_peer(shown, agent)
    assert str(caught.value).isprintable()  # who is refused writes on nobody's terminal
    assert len(str(caught.value)) < 1000
    return caught.value.cause


def test_an_agent_of_the_same_run_and_ca_is_let_in(own: Identity, ca: Made) -> None:
    peer = make(ca)
    own.check_peer(peer.pem, 3)
    assert own.role_of(peer.pem) == (RUN, 3)
    assert (own.run, own.agent) == (RUN, 2)


def leaf_by_leaf(ca: Made) -> bytes:
    signer = make(ca, alternative=names(4))
    return make(signer).pem + signer.pem


def below(ca: Made) -> bytes:
    between = make_ca(ca, "CN=between")
    return make(between).pem + between.pem


WRONG: Mapping[str, tuple[str, Callable[[Made], bytes]]] = {
    "no certificate": ("no-certificate", lambda ca: b""),
    "text": ("unreadable", lambda ca: b"agent 3, honestly"),
    "broken base64": ("unreadable", lambda ca: make(ca).pem.replace(b"M", b"!", 1)),
    "cut": ("unreadable", lambda ca: make(ca).pem[:300] + b"\n-----END CERTIFICATE-----\n"),
    "too long": ("unreadable", lambda ca: make(ca).pem * 200),
    "expired": ("expired", lambda ca: make(ca, since=-2 * DAY, until=-DAY).pem),
    "not yet valid": ("not-yet-valid", lambda ca: make(ca, since=DAY, until=2 * DAY).pem),
    "another CA of the same name": ("wrong-ca", lambda ca: make(make_ca()).pem),
    "another CA, shown with it": (
        "wrong-ca",
        lambda ca: make(other := make_ca()).pem + other.pem,
    ),
    "self-signed": ("wrong-ca", lambda ca: make(None).pem),
    "in the name of the CA": ("wrong-ca", lambda ca: make(None, subject="CN=CA").pem),
    "the CA's own": ("wrong-ca", lambda ca: ca.pem),
    "says that it is a CA": ("wrong-ca", lambda ca: make_ca(ca, alternative=names()).pem),
    "signed by an agent": ("wrong-ca", leaf_by_leaf),
    "a CA below a CA that allows none": ("wrong-ca", below),
    "a critical extension nobody knows": (
        "wrong-ca",
        lambda ca: (
            make(
                ca,
                also=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), True)],
            ).pem
        ),
    ),
    "a weak key": (
        "wrong-ca",
        lambda ca: make(ca, key=rsa.generate_private_key(65537, 1024)).pem,
    ),
    "a subject that paints the terminal": (
        "wrong-ca",
        lambda ca: make(ca, subject="CN=\\1b[31m" + "x" * 40, alternative=[]).pem,
    ),
    "an alternative name that does": (
        "other-agent",
        lambda ca: make(ca, alternative=[URI("dimat://\x1b[31m" + "x" * 5000)]).pem,
    ),
    "no names": ("wrong-ca", lambda ca: make(ca, alternative=[]).pem),
    "another agent": ("other-agent", lambda ca: make(ca, alternative=names(4)).pem),
    "an observer": ("other-agent", lambda ca: make(ca, alternative=names(None)).pem),
    "another run": ("other-run", lambda ca: make(ca, alternative=names(run="banks")).pem),
    "a DNS name alone": (
        "other-agent",
        lambda ca: make(ca, alternative=[DNS("agent-3.hospitals.dimat")]).pem,
    ),
    "two agents at once": (
        "other-agent",
        lambda ca: make(ca, alternative=[*names(3), *names(4)]).pem,
    ),
    **{
        f"the name {uri!r}": (
            "other-agent",
            lambda ca, uri=uri: make(ca, alternative=[URI(uri)]).pem,  # type: ignore[misc]
        )
        for uri in (
            "dimat://hospitals/agents/03",
            "dimat://hospitals/agents/-3",
            "dimat://hospitals/agents/3/",
            "dimat://hospitals/agents/3\n",
            "dimat://hospitals/agents/",
            "dimat://hospitals/agents/3?x",
            "DIMAT://hospitals/agents/3",
            "xdimat://hospitals/agents/3",
            "https://hospitals/agents/3",
        )
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_certificate_is_refused_by_its_cause(
    what: str, own: Identity, ca: Made
) -> None:
    expected, shown = WRONG[what]
    assert cause(own, shown(ca)) == expected


def test_a_ca_that_allows_one_below_it_may_have_one(tmp_path: Path) -> None:
    """So it was the length of the path that was refused above."""
    root = make_ca(path_length=1)
    between = make_ca(root, "CN=between")
    own = Identity.load(place(tmp_path, make(between, alternative=names(2)), root, between))
    peer = make(between)
    own.check_peer(peer.pem + between.pem, 3)
    own.check_peer(peer.pem, 3)  # TLS shows the first one alone; the rest is as one's own
    other = identity_of(tmp_path / "other", root, 4)
    other.check_peer(peer.pem + between.pem, 3)
    assert cause(other, peer.pem) == "wrong-ca"


def changed(der: bytes, signed: bytes) -> Iterator[bytes]:
    """What is left when a byte of what was signed is another; beside it, an encoding has slack."""
    begin = der.index(signed)
    for place_ in range(begin, begin + len(signed)):
        byte = der[place_] ^ 1 << place_ % 8
        yield der[:place_] + bytes([byte]) + der[place_ + 1 :]


def test_whoever_changes_a_byte_of_a_certificate_is_refused(own: Identity, ca: Made) -> None:
    peer = make(ca)
    good = peer.certificate.public_bytes(serialization.Encoding.DER)
    for other in changed(good, peer.certificate.tbs_certificate_bytes):
        with pytest.raises(Refused):
            own.check_peer(armored(other), 3)
    own.check_peer(armored(good), 3)


def armored(der: bytes) -> bytes:
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def test_an_observer_is_known_as_one(own: Identity, ca: Made, tmp_path: Path) -> None:
    observer = make(ca, alternative=names(None))
    assert own.role_of(observer.pem) == (RUN, None)
    watching = Identity.load(place(tmp_path / "ops", observer, ca))
    assert watching.agent is None
    watching.check_peer(own.chain, 2)
    with pytest.raises(ConfigError, match="an observer's, and this is agent 3"):
        Identity.load(tmp_path / "ops", RUN, 3)


def test_once_the_ca_has_expired_nobody_is_let_in(tmp_path: Path) -> None:
    old = make_ca(since=-3 * DAY, until=-DAY)
    folder = place(tmp_path, make(old, alternative=names(2)), old)
    own = Identity(RUN, 2, b"", make(old).pem, old.pem, folder)
    assert cause(own, make(old).pem) == "expired"


# The list of the revoked


def test_who_was_revoked_is_refused_at_once_and_nobody_else(own: Identity, ca: Made) -> None:
    peer, other = make(ca), make(ca)
    own.check_peer(peer.pem, 3)
    (own.folder / "revoked.pem").write_bytes(revoked(ca, 1, peer.serial))
    assert cause(own, peer.pem) == "revoked"
    own.check_peer(other.pem, 3)


def test_a_newer_list_takes_the_place_of_an_older_one(own: Identity, ca: Made) -> None:
    first, second = make(ca), make(ca)
    (own.folder / "revoked.pem").write_bytes(revoked(ca, 1, first.serial))
    own.check_peer(second.pem, 3)
    (own.folder / "revoked.pem").write_bytes(revoked(ca, 2, first.serial, second.serial))
    assert cause(own, first.pem) == cause(own, second.pem) == "revoked"


def other_key(ca: Made) -> bytes:
    return revoked(ca, 7, key=ec.generate_private_key(ec.SECP256R1()))


part = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
BAD_LISTS: Mapping[str, Callable[[Made], bytes]] = {
    "older": lambda ca: revoked(ca, 4),
    "signed by another key": other_key,
    "of another CA": lambda ca: revoked(make_ca(subject="CN=other"), 7),
    "without a number": lambda ca: revoked(ca, None),
    "of a part": lambda ca: revoked(ca, 7, critical=part),
    "overdue": lambda ca: revoked(ca, 7, due=-DAY),
    "empty": lambda ca: b"",
    "text": lambda ca: b"nobody is revoked",
    "cut": lambda ca: revoked(ca, 7)[:-60],
    "a good one, and a bad one": lambda ca: revoked(ca, 7) + other_key(ca),
}


@pytest.mark.parametrize("what", BAD_LISTS)
def test_with_a_list_that_is_not_good_nobody_is_let_in_until_it_is_mended(
    what: str, own: Identity, ca: Made
) -> None:
    peer, path = make(ca), own.folder / "revoked.pem"
    path.write_bytes(revoked(ca, 5))
    own.check_peer(peer.pem, 3)
    path.write_bytes(BAD_LISTS[what](ca))
    assert cause(own, peer.pem) == cause(own, peer.pem) == "unreadable"
    with pytest.raises(ConfigError, match="revoked.pem"):
        own.check_own()
    path.write_bytes(revoked(ca, 8))
    own.check_peer(peer.pem, 3)


@pytest.mark.parametrize("what", [own for own in BAD_LISTS if own != "older"])
def test_an_agent_does_not_start_with_such_a_list(what: str, own: Identity, ca: Made) -> None:
    (own.folder / "revoked.pem").write_bytes(BAD_LISTS[what](ca))
    with pytest.raises(ConfigError, match="revoked.pem"):
        Identity.load(own.folder)


def test_a_list_that_is_gone_lets_nobody_in(own: Identity, ca: Made) -> None:
    path = own.folder / "revoked.pem"
    path.write_bytes(revoked(ca, 5))
    started = Identity.load(own.folder)
    path.unlink()
    assert cause(started, make(ca).pem) == "unreadable"
    path.mkdir()
    assert cause(started, make(ca).pem) == "unreadable"
    path.rmdir()
    path.write_bytes(revoked(ca, 4))
    assert cause(started, make(ca).pem) == "unreadable"
    path.write_bytes(revoked(ca, 5))
    started.check_peer(make(ca).pem, 3)


def test_whoever_changes_a_byte_of_a_list_stops_everybody(own: Identity, ca: Made) -> None:
    peer = make(ca)
    good = x509.load_pem_x509_crl(revoked(ca, 5, peer.serial))
    der = good.public_bytes(serialization.Encoding.DER)
    for other in changed(der, good.tbs_certlist_bytes):
        text = armored(other).replace(b"CERTIFICATE", b"X509 CRL")
        (own.folder / "revoked.pem").write_bytes(text)
        fresh = Identity(own.run, 2, own.key, own.chain, own.roots, own.folder)
        assert cause(fresh, peer.pem) == "unreadable"


@pytest.mark.parametrize("later", [None, 4])
def test_a_renewed_certificate_does_not_make_the_list_forgotten(
    later: int | None, own: Identity, ca: Made
) -> None:
    path, bad = own.folder / "revoked.pem", make(ca)
    path.write_bytes(revoked(ca, 5, bad.serial))
    assert cause(own, bad.pem) == "revoked"
    if later is None:
        path.unlink()
    else:
        path.write_bytes(revoked(ca, later))
    place(own.folder, make(ca, alternative=names(2)), ca)
    with pytest.raises(ConfigError, match="revoked.pem"):
        own.renewed()
    path.write_bytes(revoked(ca, 6, bad.serial))
    new = own.renewed()
    assert new.chain != own.chain
    assert cause(new, bad.pem) == "revoked"
    new.check_peer(make(ca).pem, 3)


def test_with_another_ca_lists_begin_anew(own: Identity, ca: Made) -> None:
    (own.folder / "revoked.pem").write_bytes(revoked(ca, 5))
    own.check_peer(make(ca).pem, 3)
    other = make_ca()
    (own.folder / "revoked.pem").write_bytes(revoked(other, 1))
    place(own.folder, make(other, alternative=names(2)), other)
    own.renewed().check_peer(make(other).pem, 3)


def test_each_of_two_cas_has_its_list_and_neither_may_be_lost(tmp_path: Path, ca: Made) -> None:
    second = make_ca(subject="CN=second")
    folder = place(tmp_path, make(ca, alternative=names(2)), ca)
    (folder / "ca.pem").write_bytes(ca.pem + second.pem)
    one, two = make(ca), make(second, alternative=names(4))
    path = folder / "revoked.pem"
    path.write_bytes(revoked(ca, 5, one.serial) + revoked(second, 1, two.serial))
    own = Identity.load(folder)
    assert cause(own, one.pem) == cause(own, two.pem, 4) == "revoked"
    path.write_bytes(revoked(ca, 6, one.serial))
    assert cause(own, two.pem, 4) == "unreadable"


def test_of_two_cas_of_one_name_each_has_its_list_and_numbers(tmp_path: Path, ca: Made) -> None:
    other = make_ca()
    assert other.certificate.subject == ca.certificate.subject
    folder = place(tmp_path / "both", make(ca), ca)
    (folder / "ca.pem").write_bytes(ca.pem + other.pem)
    path, bad = folder / "revoked.pem", make(other)
    path.write_bytes(revoked(ca, 3) + revoked(other, 1, bad.serial))
    started = Identity.load(folder)
    assert cause(started, bad.pem) == "revoked"
    path.write_bytes(revoked(ca, 3))
    assert cause(started, bad.pem) == "unreadable"


def test_a_number_that_one_ca_has_given_another_may_give_too(tmp_path: Path, ca: Made) -> None:
    """A serial number is revoked for the CA that revoked it."""
    second = make_ca(subject="CN=second")
    folder = place(tmp_path, make(ca, alternative=names(2)), ca)
    (folder / "ca.pem").write_bytes(ca.pem + second.pem)
    peer = make(ca)
    (folder / "revoked.pem").write_bytes(revoked(second, 1, peer.serial))
    Identity.load(folder).check_peer(peer.pem, 3)


def test_threads_that_ask_while_the_list_changes_never_let_the_revoked_in(
    own: Identity, ca: Made
) -> None:
    peer = make(ca)
    path = own.folder / "revoked.pem"
    path.write_bytes(revoked(ca, 1, peer.serial))
    assert cause(own, peer.pem) == "revoked"
    seen: set[str] = set()

    def ask() -> None:
        for _ in range(100):
            try:
                own.check_peer(peer.pem, 3)
            except Refused as error:
                seen.add(error.cause)
            else:
                seen.add("let in")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 40):
        path.write_bytes(revoked(ca, number, peer.serial))
    for thread in threads:
        thread.join()
    assert "revoked" in seen
    assert seen <= {"revoked", "unreadable"}  # the latter while it was half-written


# Signatures


def test_who_has_the_certificate_but_not_the_key_is_found_out(
    tmp_path: Path, own: Identity, ca: Made
) -> None:
    peer = make(ca)
    theirs = Identity.load(place(tmp_path / "peer", peer, ca), RUN, 3)
    signed = theirs.sign(b"round 7")
    own.check_signature(peer.pem, b"round 7", signed, 3)
    forged = own.sign(b"round 7")
    for data, signature in ((b"round 8", signed), (b"round 7", forged), (b"round 7", b"")):
        with pytest.raises(Refused) as caught:
            own.check_signature(peer.pem, data, signature, 3)
        assert caught.value.cause == "wrong-key"
    with pytest.raises(Refused) as caught:
        own.check_signature(peer.pem, b"round 7", signed, 4)
    assert caught.value.cause == "other-agent"


def test_a_signature_is_over_more_than_the_data(own: Identity, ca: Made, tmp_path: Path) -> None:
    """So nobody gets a request for a certificate, or a part of TLS, signed by asking for it."""
    key = x509.load_pem_x509_certificate(own.chain).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    with pytest.raises(InvalidSignature):
        key.verify(own.sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))


def test_a_key_of_rsa_signs_too(tmp_path: Path, own: Identity, ca: Made) -> None:
    peer = make(ca, key=rsa.generate_private_key(65537, 2048))
    theirs = Identity.load(place(tmp_path / "peer", peer, ca))
    own.check_signature(peer.pem, b"x", theirs.sign(b"x"), 3)
    with pytest.raises(Refused, match="not signed by its certificate's key"):
        own.check_signature(peer.pem, b"y", theirs.sign(b"x"), 3)


# An agent's own folder


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem", "ca.pem"])
def test_a_file_that_is_missing_or_is_none_is_named(name: str, own: Identity) -> None:
    path = own.folder / name
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=name):
        Identity.load(own.folder)
    path.unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing: .*"):
        Identity.load(own.folder)
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=f"{name} cannot be read: no regular file"):
        Identity.load(own.folder)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_key_that_others_have_rights_to_is_refused(mode: int, own: Identity) -> None:
    (own.folder / "key.pem").chmod(mode)
    with pytest.raises(ConfigError, match=rf"key.pem has mode {mode:o}: .*'chmod 600 \S+key.pem'"):
        Identity.load(own.folder)


def test_a_key_of_another_certificate_is_refused(own: Identity, ca: Made) -> None:
    (own.folder / "key.pem").write_bytes(make(ca).key_pem)
    with pytest.raises(ConfigError, match=r"certificate.pem is not for \S+key.pem: put the key"):
        Identity.load(own.folder)


def test_an_encrypted_key_and_one_that_grpc_has_not_are_refused(own: Identity) -> None:
    made = ed25519.Ed25519PrivateKey.generate()
    coding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(b"secret")
    (own.folder / "key.pem").write_bytes(made.private_bytes(*coding, secret))
    with pytest.raises(ConfigError, match="key.pem is encrypted: agents start without anybody"):
        Identity.load(own.folder)
    plain = serialization.NoEncryption()
    (own.folder / "key.pem").write_bytes(made.private_bytes(*coding, plain))
    with pytest.raises(ConfigError, match="key.pem is a Ed25519PrivateKey: gRPC takes"):
        Identity.load(own.folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"since": -2 * DAY, "until": -DAY},
            r"has expired: it was valid until .* UTC; have a",
        ),
        ({"since": DAY, "until": 2 * DAY}, "certificate.pem is not valid before .*'s clock"),
        ({"alternative": [DNS("x.org")]}, "certificate.pem names nobody"),
    ],
)
def test_a_certificate_that_others_would_refuse_is_refused_at_the_start(
    changes: dict[str, object], said: str, tmp_path: Path, ca: Made
) -> None:
    with pytest.raises(ConfigError, match=said):
        Identity.load(place(tmp_path, make(ca, **changes), ca))  # type: ignore[arg-type]


def test_a_certificate_of_another_ca_is_refused_at_the_start(tmp_path: Path, ca: Made) -> None:
    with pytest.raises(ConfigError, match="certificate.pem is not one that a CA of ca.pem issued"):
        Identity.load(place(tmp_path, make(make_ca()), ca))


def test_another_run_or_agent_than_was_asked_for_is_refused(own: Identity) -> None:
    assert Identity.load(own.folder, RUN, 2) == Identity.load(own.folder)
    with pytest.raises(ConfigError, match="is for run 'hospitals', and this is run 'banks'"):
        Identity.load(own.folder, "banks", 2)
    with pytest.raises(ConfigError, match="is agent 2's, and this is agent 3: name the folder"):
        Identity.load(own.folder, RUN, 3)


def test_ones_own_end_is_noticed(tmp_path: Path, own: Identity, ca: Made) -> None:
    own.check_own()
    serial = x509.load_pem_x509_certificate(own.chain).serial_number
    (own.folder / "revoked.pem").write_bytes(revoked(ca, 1, serial))
    with pytest.raises(ConfigError, match=r"certificate.pem, serial \w+, was revoked on"):
        own.check_own()
    with pytest.raises(ConfigError, match="was revoked on"):
        Identity.load(own.folder)
    old = make(ca, alternative=names(2), since=-2 * DAY, until=-DAY)
    late = Identity(RUN, 2, old.key_pem, old.pem, ca.pem, tmp_path)
    with pytest.raises(ConfigError, match="certificate.pem has expired"):
        late.check_own()


def test_what_is_printed_of_an_identity_has_no_key_in_it(own: Identity) -> None:
    assert "PRIVATE" not in repr(own)
    assert "agent=2" in repr(own)


# Names


def test_tls_is_told_the_name_of_the_agent_that_is_meant(own: Identity) -> None:
    assert own.target_name(3) == server_name(RUN, 3) == "agent-3.hospitals.dimat"


@pytest.mark.parametrize("run", ["", "A", "a.b", "-a", "a-", "a" * 41, "a\n", "ä", 3])
def test_a_run_whose_name_could_not_stand_in_a_certificate_is_refused(run: str) -> None:
    with pytest.raises(ConfigError, match="'run' is .*: must be 1 to 40 of a-z, 0-9 and '-'"):
        server_name(run, 0)


def test_an_identity_is_there_without_pytorch_and_grpc() -> None:
    code = "import sys, dimat.identity; print({'torch', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_usage_of_a_ca_without_the_right_to_sign_lists_is_kept_to(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = make_ca(key=key)
    builder = x509.CertificateBuilder(
        ca.certificate.issuer,
        ca.certificate.subject,
        key.public_key(),
        5,
        ca.certificate.not_valid_before_utc.replace(tzinfo=None),
        ca.certificate.not_valid_after_utc.replace(tzinfo=None),
    )
    for extension in ca.certificate.extensions:
        kept = extension.value
        if isinstance(kept, x509.KeyUsage):
            kept = usage("key_cert_sign")
        builder = builder.add_extension(kept, extension.critical)
    mute = Made(key, builder.sign(key, hashes.SHA256()))
    own = identity_of(tmp_path, mute)
    own.check_peer(make(mute).pem, 3)
    (own.folder / "revoked.pem").write_bytes(revoked(mute, 1))
    assert cause(own, make(mute).pem) == "unreadable"
