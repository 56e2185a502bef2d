"""Certificates of every kind, good and bad, made by hand."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from dimat.identity import Identity

RUN = "hospitals"
DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_USES = [
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]


def today() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Made:
    """A certificate and its key."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def serial(self) -> int:
        return self.certificate.serial_number


def usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in uses for use in _USES})


def names(agent: int | None = 3, run: str = RUN, observer: str = "ops") -> list[x509.GeneralName]:
    if agent is None:
        return [x509.UniformResourceIdentifier(f"dimat://{run}/observers/{observer}")]
    uri = x509.UniformResourceIdentifier(f"dimat://{run}/agents/{agent}")
    return [uri, x509.DNSName(f"agent-{agent}.{run}.dimat")]


def make(
    by: Made | None,
    *,
    subject: str = "CN=agent",
    alternative: Sequence[x509.GeneralName] | None = None,
    is_ca: bool = False,
    path_length: int | None = 0,
    since: datetime.timedelta = -DAY,
    until: datetime.timedelta = DAY,
    key: Key | None = None,
    also: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Made:
    """A certificate that somebody's key signs; that of nobody is signed by its own.

    Args:
        by: Who signs it, whether or not it is a CA.
        subject: Its name.
        alternative: Its alternative names; None: those of agent 3, or none of a CA.
        is_ca: Whether it says that it may sign.
        path_length: How many CAs may stand below it.
        since: Its first moment, from now.
        until: Its last moment, from now.
        key: Its key; None: a new one.
        also: Extensions, and whether each is critical.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string(subject)
    signer, issuer = (by.key, by.certificate.subject) if by else (key, name)
    uses = ("key_cert_sign", "crl_sign") if is_ca else ("digital_signature",)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today() + since)
        .not_valid_after(today() + until)
        .add_extension(x509.BasicConstraints(is_ca, path_length if is_ca else None), True)
        .add_extension(usage(*uses), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
    )
    if not is_ca:
        alternative = names() if alternative is None else alternative
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), False)
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), False)
    for extension, critical in also:
        builder = builder.add_extension(extension, critical)
    return Made(key, builder.sign(signer, hashes.SHA256()))


def make_ca(by: Made | None = None, subject: str = "CN=CA", **rest: object) -> Made:
    return make(by, subject=subject, is_ca=True, **rest)  # type: ignore[arg-type]


def revoked(
    by: Made,
    number: int | None,
    *serials: int,
    due: datetime.timedelta = DAY,
    key: Key | None = None,
    critical: x509.ExtensionType | None = None,
) -> bytes:
    """A list of the revoked in the name of a CA, signed by its key or by another."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject)
        .last_update(today() - 2 * DAY)
        .next_update(today() + due)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), False)
    if critical is not None:
        builder = builder.add_extension(critical, True)
    for serial in serials:
        one = x509.RevokedCertificateBuilder(serial, today() - DAY).build()
        builder = builder.add_revoked_certificate(one)
    return builder.sign(key or by.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def place(folder: Path, own: Made, ca: Made, *between: Made) -> Path:
    """A folder of an agent, as its administrator would fill it."""
    folder.mkdir(exist_ok=True)
    (folder / "key.pem").write_bytes(own.key_pem)
    (folder / "key.pem").chmod(0o600)
    (folder / "certificate.pem").write_bytes(own.pem + b"".join(made.pem for made in between))
    (folder / "ca.pem").write_bytes(ca.pem)
    return folder


def identity_of(folder: Path, ca: Made, agent: int = 2) -> Identity:
    """The identity of an agent that meets others."""
    return Identity.load(place(folder, make(ca, alternative=names(agent)), ca))
