"""Trust in a certificate: its dates, its chain to a trusted CA, and the lists of the revoked."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from dimat.errors import ConfigError, first_line, shown
from dimat.files import read_regular
from dimat.identity.refused import Refused

_LONGEST = 1 << 16  # bytes of a chain; one of ours has 1,000 a certificate
_LEAST_RSA = 2048  # bits
_BEGIN = b"-----BEGIN X509 CRL-----"
_Stamp = tuple[int, int, int]


def now() -> datetime.datetime:
    """The time, as certificates have it."""
    return datetime.datetime.now(datetime.UTC)


def parse(pem: bytes) -> list[x509.Certificate]:
    """Certificates of a peer, its own first.

    Raises:
        Refused: If there is none, or what there is cannot be read.
    """
    if not pem:
        raise Refused("no-certificate", "it shows no certificate")
    if len(pem) > _LONGEST:
        raise Refused("unreadable", f"its certificate has {len(pem):,} bytes, over {_LONGEST:,}")
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception as error:
        raise Refused(
            "unreadable", f"its certificate cannot be read: {shown(first_line(error))}"
        ) from error


def is_strong(key: object) -> TypeGuard[ec.EllipticCurvePublicKey | rsa.RSAPublicKey]:
    """Whether a key is of a kind that TLS of gRPC takes, and not a weak one."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _LEAST_RSA
    curves = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curves)


def check_chain(
    certificate: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
) -> list[x509.Certificate]:
    """The chain from a certificate, valid now, to a trusted CA.

    The rules are those that browsers have for web sites, but for names: a CA says that it is one,
    and how many may stand below it; who is none signs nothing; keys are no weak ones; a critical
    extension that nobody knows is refused.

    Raises:
        Refused: If it is not valid now, or there is no such chain.
    """
    time = now()
    try:
        if certificate.not_valid_after_utc < time:
            until = f"it was valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            raise Refused("expired", f"its certificate has expired: {until}")
        if certificate.not_valid_before_utc > time:
            since = certificate.not_valid_before_utc
            raise Refused(
                "not-yet-valid",
                f"its certificate is not valid before {since:%Y-%m-%d %H:%M} UTC, and it is "
                f"{time:%Y-%m-%d %H:%M} on this machine's clock",
            )
        if all(root.not_valid_after_utc < time for root in roots):
            raise Refused("expired", "the certificate of the CA, ca.pem, has expired")
        if not is_strong(certificate.public_key()):  # of the last one no rule of web sites says it
            raise Refused(
                "wrong-ca", "its certificate's key is neither ECDSA nor RSA of 2048 bits or more"
            )
        verifier = PolicyBuilder().store(Store(list(roots))).time(time).build_client_verifier()
        return verifier.verify(certificate, list(intermediates)).chain
    except VerificationError as error:
        raise Refused(
            "wrong-ca",
            f"its certificate is not one that a CA of ca.pem issued for an agent: "
            f"{shown(first_line(error))}",
        ) from error
    except Refused:
        raise
    except Exception as error:  # of extensions, which are parsed when they are looked at
        raise Refused(
            "unreadable", f"its certificate cannot be read: {shown(first_line(error))}"
        ) from error


class RevocationLists:
    """The lists of revoked certificates, one a CA, in a file that is read anew when it changes.

    A list that was there and cannot be read, is signed by somebody else, or is an older one than
    was there before, revokes everything until it is mended.

    Args:
        path: The file, which may be missing as long as nothing was revoked.
        roots: Certificates of the CAs whose lists count.
    """

    def __init__(self, path: Path, roots: Sequence[x509.Certificate]) -> None:
        self.path = path
        self._roots = roots
        self._lock = threading.Lock()  # servers ask from several threads
        self._stamp: _Stamp | None = None  # of the file as it was read; None: it was never there
        self._problem = ""
        self._lists: list[x509.CertificateRevocationList] = []
        self._numbers: dict[bytes, int] = {}  # the highest of each CA, by its key

    def under(self, roots: Sequence[x509.Certificate]) -> RevocationLists:
        """The same lists under other CAs; what those had that are still trusted must stay.

        Args:
            roots: Certificates of the CAs whose lists count from now on.
        """
        other, known = RevocationLists(self.path, roots), {_key(root) for root in roots}
        with self._lock:
            if self._stamp is not None:
                other._stamp = (0, 0, 0)  # it was there
            other._numbers = {key: n for key, n in self._numbers.items() if key in known}
        return other

    def check(self, chain: Sequence[x509.Certificate]) -> None:
        """Refuse a chain in which a certificate is revoked.

        Raises:
            Refused: If one is, or if the lists are not what they were.
        """
        with self._lock:
            self._follow()
            if self._problem:
                raise Refused("unreadable", f"nobody is let in, as {self._problem}")
            lists = self._lists
        if any(own.next_update_utc is not None and own.next_update_utc < now() for own in lists):
            raise Refused(
                "unreadable",
                f"nobody is let in, as a newer list than {self.path} was due: get it from the CA",
            )
        for certificate in chain:
            for own in lists:
                serial = certificate.serial_number
                found = own.get_revoked_certificate_by_serial_number(serial)
                if found is not None and own.issuer == certificate.issuer:
                    when = found.revocation_date_utc
                    raise Refused(
                        "revoked", f"its certificate, serial {serial:x}, was revoked on {when:%F}"
                    )

    def _follow(self) -> None:
        """Read the file if it is another one than was read last."""
        try:
            seen = self.path.stat()
        except FileNotFoundError:
            if self._stamp is not None:
                self._stamp = (0, 0, 0)
                self._problem = f"{self.path} was there and is gone: put it back"
            return
        except OSError as error:
            self._stamp = (0, 0, 0)
            self._problem = f"{self.path} cannot be read: {error.strerror or error}"
            return
        stamp = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._lists, self._numbers = self._read()
        except OSError as error:
            self._problem = f"{self.path} cannot be read: {error.strerror or error}"
        except ConfigError as error:
            self._problem = f"{self.path} {error}: get it from the CA anew"
        except Exception as error:
            self._problem = (
                f"{self.path} is no list of revoked certificates: {shown(first_line(error))}"
            )
        else:
            self._problem = ""

    def _read(self) -> tuple[list[x509.CertificateRevocationList], dict[bytes, int]]:
        blocks = read_regular(self.path).split(_BEGIN)[1:]
        if not blocks:
            raise ConfigError(f"has no list, which begins with '{_BEGIN.decode()}'")
        lists = [x509.load_pem_x509_crl(_BEGIN + block) for block in blocks]
        numbers, here = dict(self._numbers), set[bytes]()
        for own in lists:
            issuer = next((_key(x) for x in self._roots if _signed_by(own, x)), None)
            if issuer is None:
                raise ConfigError("is signed by no CA of ca.pem")
            here.add(issuer)
            if any(extension.critical for extension in own.extensions):
                raise ConfigError("has a critical extension, as lists of a part have")
            number = own.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            if number < numbers.get(issuer, 0):
                raise ConfigError(f"has number {number}, and {numbers[issuer]} was there before")
            numbers[issuer] = number
        if missing := set(self._numbers) - here:
            raise ConfigError(f"lacks the list of {len(missing)} CA that was there before")
        return lists, numbers


def _key(root: x509.Certificate) -> bytes:
    """The key of a CA, which two of one name have not alike."""
    der, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return root.public_key().public_bytes(der, spki)


def _signed_by(own: x509.CertificateRevocationList, root: x509.Certificate) -> bool:
    key = root.public_key()
    if own.issuer != root.subject or not isinstance(
        key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    ):
        return False
    try:
        may = root.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        may = True
    return may and own.is_signature_valid(key)
