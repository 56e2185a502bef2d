"""The CA of a run: what it signs is what its operator says, whatever a request asks for."""

from __future__ import annotations

import datetime
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.identity.making import DAY, RUN, make, names, today, usage

from dimat.errors import ConfigError, DimatError
from dimat.identity import Authority, Identity, Refused, request, storage
from dimat.identity.describe import fingerprint

PEM = serialization.Encoding.PEM


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", RUN)


def site(authority: Authority, agent: int) -> Path:
    """The folder of an agent whose request was signed."""
    folder = authority.folder.parent / f"site-{agent}"
    asked = request(folder, RUN, agent)
    (folder / "certificate.pem").write_bytes(authority.sign(asked.public_bytes(PEM), agent))
    (folder / "ca.pem").write_bytes((authority.folder / "ca.pem").read_bytes())
    return folder


def asking(*also: x509.ExtensionType, key: object = None, subject: str = "CN=x") -> bytes:
    """A request that asks for what it likes."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name.from_rfc4514_string(subject)
    )
    for extension in also:
        builder = builder.add_extension(extension, critical=True)
    key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)  # type: ignore[arg-type]


def test_agents_whose_requests_it_signed_know_each_other(authority: Authority) -> None:
    three, four = (Identity.load(site(authority, agent), RUN, agent) for agent in (3, 4))
    three.check_peer(four.chain, 4)
    four.check_peer(three.chain, 3)
    with pytest.raises(Refused, match="its certificate is agent 4's"):
        three.check_peer(four.chain, 3)


def test_a_certificate_says_what_it_is_for_and_no_more(authority: Authority) -> None:
    folder = site(authority, 3)
    made = x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
    found = {type(own.value): own for own in made.extensions}
    assert found[x509.BasicConstraints].critical
    assert found[x509.KeyUsage].critical
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert made.extensions.get_extension_for_class(x509.KeyUsage).value == usage(
        "digital_signature"
    )
    alternative = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(alternative) == names(3)
    assert set(found) == {
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
        x509.SubjectKeyIdentifier,
        x509.AuthorityKeyIdentifier,
    }
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)
    assert made.not_valid_before_utc <= today() - datetime.timedelta(minutes=59)
    assert today() + 364 * DAY < made.not_valid_after_utc <= today() + 365 * DAY


def test_what_a_request_asks_for_beside_its_key_is_not_given(authority: Authority) -> None:
    plain = asking(*[], key=(key := ec.generate_private_key(ec.SECP256R1())))
    forged = asking(
        x509.BasicConstraints(ca=True, path_length=3),
        usage("key_cert_sign", "crl_sign"),
        x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.5.29.37.0")]),
        x509.NameConstraints([x509.DNSName("org")], None),
        x509.SubjectAlternativeName([x509.DNSName("bank.org"), x509.DNSName("*")]),
        key=key,
        subject="CN=dimat CA,O=hospitals",
    )
    signed = [
        x509.load_pem_x509_certificate(authority.sign(own, agent=3)) for own in (plain, forged)
    ]
    assert list(signed[0].extensions) == list(signed[1].extensions)
    assert signed[0].subject == signed[1].subject
    assert "bank.org" not in str(signed[1].extensions)


@pytest.mark.parametrize(
    "other",
    [
        names(4),
        names(3, run="banks"),
        names(None),
        [*names(3), *names(4)],
        [x509.DNSName("agent-4.hospitals.dimat")],
        [x509.DNSName("AGENT-4.hospitals.DIMAT")],
        [x509.UniformResourceIdentifier("DIMAT://hospitals/agents/4")],
        [x509.UniformResourceIdentifier("dimat://hospitals/anything")],
    ],
)
def test_a_request_for_somebody_else_is_refused(
    other: list[x509.GeneralName], authority: Authority
) -> None:
    asked = asking(x509.SubjectAlternativeName(other))
    with pytest.raises(ConfigError, match="the request is for .*, not for agent 3 of run"):
        authority.sign(asked, agent=3)
    assert authority.issued == []


def test_who_it_is_for_has_to_be_said(authority: Authority) -> None:
    asked = asking(x509.SubjectAlternativeName(names(3)))
    with pytest.raises(ConfigError, match="Say --agent N, .* says dimat://hospitals/agents/3"):
        authority.sign(asked)
    with pytest.raises(ConfigError, match="Say --agent N"):
        authority.sign(asked, agent=3, observer="ops")


def test_a_request_that_its_key_did_not_sign_is_refused(authority: Authority) -> None:
    asked = x509.load_pem_x509_csr(asking()).public_bytes(serialization.Encoding.DER)
    other = x509.load_pem_x509_csr(asking()).public_key()
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    own = x509.load_der_x509_csr(asked).public_key().public_bytes(*form)
    forged = x509.load_der_x509_csr(asked.replace(own, other.public_bytes(*form)))
    with pytest.raises(ConfigError, match="not signed by its own key"):
        authority.sign(forged.public_bytes(PEM), agent=3)


@pytest.mark.parametrize("text", [b"", b"agent 3", b"\0" * 100])
def test_what_is_no_request_is_refused(text: bytes, authority: Authority) -> None:
    with pytest.raises(ConfigError, match="the request is none in PEM"):
        authority.sign(text, agent=3)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)]
)
def test_a_key_of_another_kind_is_refused(key: object, authority: Authority) -> None:
    with pytest.raises(ConfigError, match="must be one of ECDSA over P-256"):
        authority.sign(asking(key=key), agent=3)


@pytest.mark.parametrize("agent", [-1, 2.0, True, "3"])
def test_an_agent_that_cannot_be_is_refused(agent: int, authority: Authority) -> None:
    with pytest.raises(ConfigError, match="'agent' is"):
        authority.sign(asking(), agent=agent)


@pytest.mark.parametrize(
    ("days", "said"),
    [(0, "must be >= 1"), (4000, "the CA itself ends in 36"), (10**12, "no calendar has so many")],
)
def test_days_that_cannot_be_are_refused(days: int, said: str, authority: Authority) -> None:
    with pytest.raises(ConfigError, match=f"'days' is {days}: {said}"):
        authority.sign(asking(), agent=3, days=days)


def test_the_ca_can_sign_agents_and_no_other_ca(authority: Authority) -> None:
    extensions = authority.certificate.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == (
        x509.BasicConstraints(ca=True, path_length=0)
    )
    assert extensions.get_extension_for_class(x509.KeyUsage).value == usage(
        "key_cert_sign", "crl_sign"
    )


def test_keys_are_for_their_owner_from_the_beginning(authority: Authority) -> None:
    before = os.umask(0)
    try:
        folder = site(authority, 3)
    finally:
        os.umask(before)
    for path in (authority.folder / "key.pem", authority.folder / "issued.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "request.pem").stat().st_mode) == 0o644
    assert not list(authority.folder.parent.rglob("*.partial"))


def test_a_key_is_replaced_only_if_that_is_said(authority: Authority) -> None:
    folder = site(authority, 3)
    before = (folder / "key.pem").read_bytes(), (authority.folder / "key.pem").read_bytes()
    with pytest.raises(ConfigError, match="key.pem exists: '--overwrite' replaces it"):
        request(folder, RUN, 3)
    with pytest.raises(ConfigError, match="key.pem exists: '--overwrite' replaces it"):
        Authority.create(authority.folder, RUN)
    assert before == (
        (folder / "key.pem").read_bytes(),
        (authority.folder / "key.pem").read_bytes(),
    )
    request(folder, RUN, 3, overwrite=True)
    assert (folder / "key.pem").read_bytes() != before[0]
    with pytest.raises(ConfigError, match="is not for"):
        Identity.load(folder)


def test_a_file_that_comes_between_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two who write at once: one of both is told so, and nothing of it is left."""
    path = tmp_path / "key.pem"
    monkeypatch.setattr(storage, "check_free", lambda path: path.write_bytes(b"first"))
    with pytest.raises(ConfigError, match="key.pem exists"):
        storage.write(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_who_is_revoked_is_on_the_list_that_agents_read(authority: Authority) -> None:
    three, four = (Identity.load(site(authority, agent)) for agent in (3, 4))
    first = authority.revoke(agent=4)
    assert [own.agent for own in first] == [4]
    (three.folder / "revoked.pem").write_bytes((authority.folder / "revoked.pem").read_bytes())
    with pytest.raises(Refused) as caught:
        three.check_peer(four.chain, 4)
    assert caught.value.cause == "revoked"

    again = Identity.load(site_again(authority, 4))
    three.check_peer(again.chain, 4)
    assert [own.serial for own in authority.good(4, None)] != [first[0].serial]


def site_again(authority: Authority, agent: int) -> Path:
    folder = authority.folder.parent / f"site-{agent}"
    asked = request(folder, RUN, agent, overwrite=True)
    (folder / "certificate.pem").write_bytes(authority.sign(asked.public_bytes(PEM), agent))
    return folder


def test_each_list_has_all_that_were_revoked_and_a_higher_number(authority: Authority) -> None:
    for agent in range(3):
        site(authority, agent)
    numbers, lengths = [], []
    for agent in (1, 0, 0):
        authority.revoke(agent=agent)
        own = x509.load_pem_x509_crl((authority.folder / "revoked.pem").read_bytes())
        numbers.append(own.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        lengths.append(len(own))
        authority = Authority.load(authority.folder)
    assert numbers == [1, 2, 3]
    assert lengths == [1, 2, 2]
    assert [own.revoked is not None for own in authority.issued] == [True, True, False]


def test_one_certificate_is_revoked_by_its_number(authority: Authority) -> None:
    site(authority, 3)
    site_again(authority, 3)
    old, new = (own.serial for own in authority.issued)
    spelled = "0x" + ":".join(old[i : i + 2] for i in range(0, len(old), 2)).upper()
    assert [own.serial for own in authority.revoke(serial=spelled)] == [old]
    assert [own.serial for own in authority.good(3, None)] == [new]
    with pytest.raises(ConfigError, match="issued no certificate of serial abc"):
        authority.revoke(serial="abc")
    with pytest.raises(ConfigError, match="issued no certificate of agent 7"):
        authority.revoke(agent=7)
    with pytest.raises(ConfigError, match="what is revoked"):
        authority.revoke(agent=3, serial=old)


def test_an_observer_is_signed_and_revoked_by_name(authority: Authority, tmp_path: Path) -> None:
    asked = request(tmp_path / "ops", RUN, observer="ops").public_bytes(PEM)
    with pytest.raises(ConfigError, match="not for observer other of run"):
        authority.sign(asked, observer="other")
    shown = authority.sign(asked, observer="ops")
    assert Identity.load(site(authority, 3)).role_of(shown) == (RUN, None)
    assert [own.observer for own in authority.revoke(observer="ops")] == ["ops"]


@pytest.mark.parametrize("name", ["key.pem", "ca.pem", "issued.json"])
def test_a_ca_that_lacks_a_file_or_has_another_ones_does_nothing(
    name: str, authority: Authority
) -> None:
    path = authority.folder / name
    path.write_bytes(b"{}")
    with pytest.raises(ConfigError, match=name):
        Authority.load(authority.folder)
    path.unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        Authority.load(authority.folder)


def test_a_ca_of_two_halves_is_refused(authority: Authority, tmp_path: Path) -> None:
    Authority.create(tmp_path / "other", RUN)
    (authority.folder / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(ConfigError, match="ca.pem is not for .*key.pem: put both back"):
        Authority.load(authority.folder)


def test_a_ca_that_is_made_anew_forgets_what_the_old_one_revoked(authority: Authority) -> None:
    site(authority, 3)
    authority.revoke(agent=3)
    anew = Authority.create(authority.folder, RUN, overwrite=True)
    assert anew.issued == []
    assert not (authority.folder / "revoked.pem").exists()


def test_a_ca_of_somebody_else_is_not_taken_for_one_of_a_run(authority: Authority) -> None:
    other = make(None, subject="CN=other", is_ca=True)
    (authority.folder / "key.pem").write_bytes(other.key_pem)
    (authority.folder / "ca.pem").write_bytes(other.pem)
    with pytest.raises(ConfigError, match="'run' is None"):
        Authority.load(authority.folder).sign(asking(), agent=3)


def test_the_ledger_knows_a_certificate_before_anybody_has_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **rest: object) -> None:
        raise DimatError("the disk is full")

    monkeypatch.setattr(storage, "write", full)
    with pytest.raises(DimatError, match="the disk is full"):
        authority.sign(asking(), agent=3)


def test_a_fingerprint_is_of_the_key_in_request_and_certificate(authority: Authority) -> None:
    asked = x509.load_pem_x509_csr(asking())
    made = x509.load_pem_x509_certificate(authority.sign(asked.public_bytes(PEM), agent=3))
    assert fingerprint(asked) == fingerprint(made) != fingerprint(authority.certificate)
    assert len(fingerprint(asked).replace(":", "")) == 64


def test_the_ledger_is_text_for_people(authority: Authority) -> None:
    site(authority, 3)
    content = json.loads((authority.folder / "issued.json").read_bytes())
    assert [own["agent"] for own in content["issued"]] == [3]
