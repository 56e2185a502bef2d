"""The certificate authority of a run: who signs requests of agents, and revokes what it signed."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from dimat.errors import ConfigError, check_whole, first_line, shown
from dimat.identity import storage
from dimat.identity.names import alternative_names, check_name, claimed, whose
from dimat.identity.trust import now

KEY, CERTIFICATE, REVOKED, LEDGER = "key.pem", "ca.pem", "revoked.pem", "issued.json"
REQUEST = "request.pem"
DAYS, CA_DAYS = 365, 3650
_SKEW = datetime.timedelta(hours=1)  # by which a clock of an agent may be slow
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Issued:
    """An entry of the CA's ledger: a certificate that it issued.

    Attributes:
        serial: Its number, in hexadecimal.
        agent: The agent; None: an observer's.
        observer: The observer's name.
        until: Its last moment, ISO 8601.
        revoked: The moment when it was revoked, if it was.
        key: SHA-256 of its public key, in hexadecimal.
    """

    serial: str
    agent: int | None
    observer: str | None
    until: str
    revoked: str | None = None
    key: str = ""

    @property
    def holder(self) -> str:
        """Whose certificate it is."""
        return whose(self.agent, self.observer)


@dataclass(frozen=True)
class Authority:
    """A folder with a CA's key, its certificate, and the ledger of what it issued."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(
        cls, folder: Path, run: str, days: int = CA_DAYS, *, overwrite: bool = False
    ) -> Authority:
        """A new CA for one run.

        Args:
            folder: Where its files are written.
            run: Name of the run.
            days: For how long its certificate is valid.
            overwrite: Whether a CA that is there is replaced; no certificate of it is good then.

        Raises:
            ConfigError: If the name cannot stand in a certificate, or there is a CA.
            WriteError: If it cannot be written.
        """
        check_name("run", run)
        check_whole("days", days)
        key = storage.new_key()
        subject = _subject(run, "dimat CA")
        builder = (
            _builder(subject, subject, key.public_key(), _end(days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(_identifier(key.public_key()), critical=False)
        )
        certificate = builder.sign(key, hashes.SHA256())
        storage.write(folder / KEY, storage.pem_of(key), storage.PRIVATE, overwrite=overwrite)
        storage.write(folder / CERTIFICATE, certificate.public_bytes(_PEM), overwrite=True)
        (folder / REVOKED).unlink(missing_ok=True)
        own = cls(folder, key, certificate)
        own._record([], 0)
        return own

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The CA in a folder.

        Raises:
            ConfigError: If a file is missing, cannot be read, or belongs to another one; or others
                may read the key.
        """
        way_out = "'dimat certificates init --run RUN --out CA' makes a CA"
        key_pem = storage.read_key(folder / KEY, way_out)
        key = storage.key_of(folder / KEY, key_pem)
        try:
            certificate = x509.load_pem_x509_certificate(
                storage.read(folder / CERTIFICATE, way_out)
            )
        except ValueError as error:
            raise ConfigError(
                f"{folder / CERTIFICATE} is no certificate in PEM: {error}"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or (
            key.public_key() != certificate.public_key()
        ):
            raise ConfigError(
                f"{folder / CERTIFICATE} is not for {folder / KEY}: put both back from one copy"
            )
        own = cls(folder, key, certificate)
        own._ledger()
        return own

    @cached_property
    def run(self) -> str:
        """Name of the run that it is for.

        Raises:
            ConfigError: If it is none of dimat's.
        """
        names = self.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        run = names[0].value if len(names) == 1 else None
        check_name("run", run)
        return str(run)

    @property
    def issued(self) -> list[Issued]:
        """What it issued, oldest first."""
        return self._ledger()[0]

    def good(self, agent: int | None, observer: str | None) -> list[Issued]:
        """What it issued to an agent, or else to an observer, that is good today."""
        return [
            own
            for own in self.issued
            if (own.agent, own.observer) == (agent, observer)
            and own.revoked is None
            and datetime.datetime.fromisoformat(own.until) >= now()
        ]

    def sign(
        self,
        request: bytes,
        agent: int | None = None,
        observer: str | None = None,
        days: int = DAYS,
    ) -> bytes:
        """A certificate for an agent or an observer, PEM.

        Of the request nothing but the key is taken over: what it says of itself has to be what the
        caller says, and its extensions are not looked at.

        Args:
            request: The request, PEM.
            agent: Whose request it is.
            observer: Name of the observer whose request it is, instead.
            days: For how long the certificate is valid; not longer than the CA.

        Raises:
            ConfigError: If the request is none, is not signed by its own key, is for another agent
                or run, or has a key of another kind or of a certificate that was revoked; or the
                days are too many.
        """
        asked, said = _parsed(request)
        if (agent is None) == (observer is None):
            says = f"; the request says {shown(', '.join(said))}" if said else ""
            raise ConfigError(f"whose request is it? Say --agent N, or --observer NAME{says}")
        names = alternative_names(self.run, agent, observer)
        others = sorted(set(said) - {str(name.value) for name in names})
        if others:
            raise ConfigError(
                f"the request is for {shown(', '.join(others))}, not for {whose(agent, observer)} "
                f"of run '{self.run}': have it made anew, or say --agent, --observer as it does"
            )
        check_whole("days", days)
        end, last = _end(days), self.certificate.not_valid_after_utc
        if end > last:
            raise ConfigError(f"'days' is {days}: the CA itself ends in {(last - now()).days} days")
        key = asked.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise ConfigError("the request's key must be one of ECDSA over P-256")
        subject = _subject(self.run, whose(agent, observer))
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(subject, self.certificate.subject, key, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_identifier(key), critical=False)
            .add_extension(self._authority_identifier, critical=False)
        ).sign(self.key, hashes.SHA256())
        until = certificate.not_valid_after_utc.isoformat()
        serial, digest = f"{certificate.serial_number:x}", key_digest(key).hex()
        entry = Issued(serial, agent, observer, until, key=digest)
        with FileLock(self.folder / ".lock"):
            entries, number = self._ledger()
            for own in entries:
                if own.revoked is not None and own.key == digest:
                    raise ConfigError(
                        f"the request's key is that of serial {own.serial} of {own.holder}, which "
                        f"was revoked on {own.revoked[:10]}: whoever has that key would be let in "
                        "again; have its site make a new key and a new request, by 'dimat "
                        "certificates request' into a new folder"
                    )
            self._record([*entries, entry], number)
        return certificate.public_bytes(_PEM)

    def revoke(
        self, *, agent: int | None = None, observer: str | None = None, serial: str | None = None
    ) -> list[Issued]:
        """Revoke certificates, and write the list of all that are revoked anew.

        Args:
            agent: All of an agent.
            observer: All of an observer.
            serial: The one of this number, in hexadecimal.

        Returns:
            Those that were not revoked before.

        Raises:
            ConfigError: If the CA issued none of these.
            WriteError: If the list cannot be written.
        """
        if sum(x is not None for x in (agent, observer, serial)) != 1:
            raise ConfigError("what is revoked? Say --agent N, --observer NAME, or --serial HEX")
        if serial is None:
            alternative_names(self.run, agent, observer)  # names that can be some at all
            what = whose(agent, observer)
        else:
            serial = serial.lower().replace(":", "").removeprefix("0x").lstrip("0")
            what = f"serial {shown(serial)}"
        with FileLock(self.folder / ".lock"):
            entries, number = self._ledger()
            meant = [
                own
                for own in entries
                if own.serial == serial
                or (serial is None and (own.agent, own.observer) == (agent, observer))
            ]
            if not meant:
                raise ConfigError(f"{self.folder} issued no certificate of {what}")
            at = now().isoformat(timespec="seconds")
            done = [replace(own, revoked=at) for own in meant if own.revoked is None]
            by_serial = {own.serial: own for own in done}
            entries = [by_serial.get(own.serial, own) for own in entries]
            self._record(entries, number + 1)
            storage.write(self.folder / REVOKED, self._list(entries, number + 1), overwrite=True)
        return done

    def _list(self, entries: list[Issued], number: int) -> bytes:
        """The signed list of the revoked, which is good for as long as the CA is."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now())
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._authority_identifier, critical=False)
        )
        for own in entries:
            if own.revoked is not None:
                revoked = x509.RevokedCertificateBuilder(
                    int(own.serial, 16), datetime.datetime.fromisoformat(own.revoked)
                )
                builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(_PEM)

    @property
    def _authority_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())

    def _ledger(self) -> tuple[list[Issued], int]:
        """What was issued, and the number of the newest list of the revoked."""
        path = self.folder / LEDGER
        text = storage.read(
            path, "without it nobody knows what was issued and revoked: restore it from a copy"
        )
        try:
            content = json.loads(text)
            return [Issued(**own) for own in content["issued"]], int(content["list"])
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is no ledger: restore it from a copy") from error

    def _record(self, entries: list[Issued], number: int) -> None:
        content = {"issued": [asdict(own) for own in entries], "list": number}
        text = json.dumps(content, indent=1).encode()
        storage.write(self.folder / LEDGER, text, storage.PRIVATE, overwrite=True)


def request(
    folder: Path,
    run: str,
    agent: int | None = None,
    observer: str | None = None,
    *,
    overwrite: bool = False,
) -> x509.CertificateSigningRequest:
    """Make a key, which stays in the folder, and a request for a certificate, for the CA.

    Args:
        folder: Where ``key.pem`` and ``request.pem`` are written.
        run: Name of the run.
        agent: The agent.
        observer: Name of the observer, instead.
        overwrite: Whether a key that is there is replaced.

    Raises:
        ConfigError: If a name cannot stand in a certificate, or there is a key.
        WriteError: If the files cannot be written.
    """
    if (agent is None) == (observer is None):
        raise ConfigError("for whom? Say --agent N, or --observer NAME")
    names = alternative_names(run, agent, observer)
    subject = _subject(run, whose(agent, observer))
    key = storage.new_key()
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    storage.write(folder / KEY, storage.pem_of(key), storage.PRIVATE, overwrite=overwrite)
    storage.write(folder / REQUEST, asked.public_bytes(_PEM), overwrite=True)
    return asked


def key_digest(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a public key."""
    der, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(der, spki)).digest()


def _parsed(request: bytes) -> tuple[x509.CertificateSigningRequest, list[str]]:
    """A request that its own key signed, and the names of dimat's that it asks for."""
    try:
        asked = x509.load_pem_x509_csr(request)
        if not asked.is_signature_valid:
            raise ConfigError("the request is not signed by its own key: have it made anew")
        return asked, claimed(asked.extensions)
    except ConfigError:
        raise
    except Exception as error:  # of extensions, which are parsed when they are looked at
        raise ConfigError(f"the request is none in PEM: {shown(first_line(error))}") from error


def _subject(run: str, holder: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, run),
            x509.NameAttribute(NameOID.COMMON_NAME, holder),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - _SKEW)
        .not_valid_after(end)
    )


def _end(days: int) -> datetime.datetime:
    try:
        return now().replace(microsecond=0) + datetime.timedelta(days=days)
    except OverflowError:
        raise ConfigError(f"'days' is {days}: no calendar has so many") from None


def _identifier(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _key_usage(**uses: bool) -> x509.KeyUsage:
    none = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**{**none, **uses})
