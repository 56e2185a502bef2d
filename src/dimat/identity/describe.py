"""What is in files of keys and certificates, for people."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509

from dimat.errors import ConfigError, DimatError, first_line, shown
from dimat.identity import authority, identity, storage
from dimat.identity.authority import Authority, key_digest
from dimat.identity.identity import Identity
from dimat.identity.names import dns_names, uris
from dimat.identity.trust import now

_LABEL = 16  # characters


def fingerprint(of: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the public key in a certificate or a request: the same in both.

    Two people who compare it by telephone know that a request was not exchanged on its way.
    """
    return key_digest(of.public_key()).hex(":", 2)


def certificates_of(path: Path) -> list[x509.Certificate]:
    """The certificates in a file.

    Raises:
        ConfigError: If it has none.
    """
    try:
        return x509.load_pem_x509_certificates(storage.read(path, "name a folder or a file"))
    except ValueError as error:
        raise ConfigError(
            f"{path} has no certificate in PEM: {shown(first_line(error))}"
        ) from error


def describe(path: Path) -> tuple[list[str], list[str]]:
    """Lines on what is in a folder or a file, and what is wrong with it.

    Args:
        path: The folder of an agent or a CA, or a file with certificates, a request, or a list of
            the revoked.

    Raises:
        ConfigError: If there is nothing of these.
    """
    if not path.is_dir():
        return _file(path)
    if (path / authority.LEDGER).exists():
        return _authority(path)
    if any((path / name).exists() for name in (identity.CERTIFICATE, identity.KEY)):
        return _identity(path)
    raise ConfigError(
        f"{path} is a folder of no agent ({identity.CERTIFICATE}) and of no CA ({authority.LEDGER})"
    )


def _identity(folder: Path) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    for name in (identity.CERTIFICATE, identity.ROOTS):
        if (folder / name).exists():
            lines += _file(folder / name)[0]
    try:
        own = Identity.load(folder)
    except DimatError as error:
        return lines, [str(error)]
    holder = "an observer" if own.agent is None else f"agent {own.agent}"
    of_run = f" of run '{own.run}'" if own.run else ""
    revoked = folder / identity.REVOKED
    known = f"none in {revoked} is its own" if revoked.exists() else f"no list {revoked}"
    return [*lines, _line("revoked", known), _line("good", f"for {holder}{of_run}")], []


def _authority(folder: Path) -> tuple[list[str], list[str]]:
    own = Authority.load(folder)
    lines, problems = _file(folder / authority.CERTIFICATE)
    for one in own.issued:
        until = datetime.datetime.fromisoformat(one.until)
        state = "good until" if until >= now() else "expired on"
        when = f"{state} {one.until[:10]}"
        if one.revoked is not None:
            when = f"revoked on {one.revoked[:10]}"
        lines.append(_line(one.holder, f"{when}, serial {one.serial}"))
    return lines, problems


def _file(path: Path) -> tuple[list[str], list[str]]:
    content = storage.read(path, "name a folder or a file")
    if b"-----BEGIN CERTIFICATE REQUEST-----" in content:
        return _request(path, content)
    if b"-----BEGIN X509 CRL-----" in content:
        return _list(path, content)
    lines: list[str] = []
    problems: list[str] = []
    for one in certificates_of(path):
        since, until = one.not_valid_before_utc, one.not_valid_after_utc
        lines += [
            _line(path.name, shown(one.subject.rfc4514_string())),
            _line("issued by", shown(one.issuer.rfc4514_string())),
            _line("valid", f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"),
            _line("names", _names(path, one)),
            _line("serial", f"{one.serial_number:x}"),
            _line("fingerprint", fingerprint(one)),
        ]
        if until < now():
            problems.append(f"{path} has expired on {until:%Y-%m-%d}")
        if since > now():
            problems.append(f"{path} is not valid before {since:%Y-%m-%d %H:%M} UTC")
    return lines, problems


def _request(path: Path, content: bytes) -> tuple[list[str], list[str]]:
    try:
        asked = x509.load_pem_x509_csr(content)
    except ValueError as error:
        raise ConfigError(f"{path} has no request in PEM: {shown(first_line(error))}") from error
    lines = [
        _line(path.name, f"request of {shown(asked.subject.rfc4514_string())}"),
        _line("names", _names(path, asked)),
        _line("fingerprint", fingerprint(asked)),
    ]
    return lines, [] if asked.is_signature_valid else [f"{path} is not signed by its own key"]


def _list(path: Path, content: bytes) -> tuple[list[str], list[str]]:
    try:
        own = x509.load_pem_x509_crl(content)
        number = own.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(
            f"{path} has no list of the revoked: {shown(first_line(error))}"
        ) from error
    issuer = shown(own.issuer.rfc4514_string())
    lines = [_line(path.name, f"number {number}, of {own.last_update_utc:%Y-%m-%d}, by {issuer}")]
    for one in own:
        when = f"on {one.revocation_date_utc:%Y-%m-%d}"
        lines.append(_line("revoked", f"{when}, serial {one.serial_number:x}"))
    return lines, []


def _names(path: Path, of: x509.Certificate | x509.CertificateSigningRequest) -> str:
    try:
        return shown(", ".join([*uris(of.extensions), *dns_names(of.extensions)])) or "none"
    except Exception as error:  # of extensions, which are parsed when they are looked at
        raise ConfigError(f"{path} cannot be read: {shown(first_line(error))}") from error


def _line(label: str, text: str) -> str:
    return f"{label + ':':<{_LABEL}} {text}"
