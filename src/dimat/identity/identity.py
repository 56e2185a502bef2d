"""An agent's identity: what it proves who it is by, and what it checks others by."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from dimat.errors import ConfigError, first_line, shown
from dimat.identity import storage
from dimat.identity.names import mapped, read_names, role, server_name
from dimat.identity.refused import Refused
from dimat.identity.trust import RevocationLists, check_chain, parse

KEY, CERTIFICATE, ROOTS = "key.pem", "certificate.pem", "ca.pem"
REVOKED, NAMES = "revoked.pem", "names.yaml"
# Before all that is signed: no signature can be taken for one that TLS or a CA asks for.
_CONTEXT = b"dimat identity, version 1\0"
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


@dataclass(frozen=True)
class Identity:
    """The certificate, the key and the trusted roots by which an agent is known, and knows others.

    Attributes:
        run: Name of the run.
        agent: Number of the agent; None: an observer, who may ask for status and nothing else.
        key: Private key, PEM.
        chain: Own certificate first, then those between it and a root, PEM.
        roots: Certificates of the trusted CAs, PEM.
        folder: Where the lists of revoked certificates are read anew, ``revoked.pem``.
        names: Agents by names of certificates that a CA of the users' own issued, as
            ``names.yaml`` says; None stands for an observer. Empty: the CA is dimat's own.
    """

    run: str
    agent: int | None
    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    roots: bytes = field(repr=False)
    folder: Path
    names: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, run: str | None = None, agent: int | None = None) -> Identity:
        """Read an identity from a folder, and check it as others will.

        Args:
            folder: Has ``key.pem``, ``certificate.pem``, ``ca.pem``, and perhaps ``revoked.pem``
                and ``names.yaml``.
            run: The run that it must be for; None: that of the certificate.
            agent: The agent that it must be of; None: any, or an observer.

        Raises:
            ConfigError: If a file is missing or cannot be read, others may read the key, or the
                certificate is not valid now, is revoked, is of no trusted CA, is not for this key,
                or is another agent's; with the way out.
        """
        folder = Path(folder)
        whom = f"--agent {'N' if agent is None else agent}"
        way_out = (
            f"'dimat certificates request --run {run or 'RUN'} {whom} --out {folder}' makes one"
        )
        if (folder / CERTIFICATE).exists():
            way_out = (
                f"what the CA sends has no key; put {CERTIFICATE} and {ROOTS} into the folder that "
                "the request was made in, where the key is, and name that folder"
            )
        key = storage.read_key(folder / KEY, way_out)
        chain = storage.read(
            folder / CERTIFICATE,
            f"the CA makes it of request.pem, by 'dimat certificates sign request.pem {whom} "
            f"--ca CA --out {CERTIFICATE}'",
        )
        roots = storage.read(
            folder / ROOTS, "it is the certificate of the CA, whose owner sends it"
        )
        names = read_names(folder / NAMES)
        mine = _own_role(folder / CERTIFICATE, chain, names, run)
        own = cls(*mine, key, chain, roots, folder, names)
        own._check_files()
        own.check_own()
        own._check_asked(run, agent)
        return own

    def renewed(self) -> Identity:
        """The identity as its files are now; what lists of the revoked there were is not forgotten.

        Raises:
            ConfigError: As :meth:`load`.
        """
        own = Identity.load(self.folder, self.run, self.agent)
        same = own.roots == self.roots
        own.__dict__["_revoked"] = self._revoked if same else self._revoked.under(own._roots)
        own.check_own()
        return own

    def check_peer(self, certificate: bytes, agent: int) -> None:
        """Refuse a peer unless its certificate is, now, that of an agent of this run.

        Args:
            certificate: Certificate of the peer as TLS has it, PEM, perhaps with those that lead to
                a root.
            agent: The agent that it says it is.

        Raises:
            Refused: With the cause.
        """
        _, found = self.role_of(certificate)
        if found != agent:
            whose = "an observer's" if found is None else f"agent {found}'s"
            raise Refused("other-agent", f"its certificate is {whose}, and not agent {agent}'s")

    def role_of(self, certificate: bytes) -> tuple[str, int | None]:
        """Run and agent (None: an observer) that a certificate is of, if it is good now.

        Raises:
            Refused: If it is not, or is one of another run.
        """
        return self._role(parse(certificate))

    def sign(self, data: bytes) -> bytes:
        """Signature over data, by the agent's key."""
        key = self._key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(_CONTEXT + data, ec.ECDSA(hashes.SHA256()))
        return key.sign(_CONTEXT + data, _PSS, hashes.SHA256())

    def check_signature(
        self, certificate: bytes, data: bytes, signature: bytes, agent: int
    ) -> None:
        """Refuse data unless an agent of this run, whose certificate is good now, signed it.

        Raises:
            Refused: With the cause; 'wrong-key' if the signature is not by the certificate's key.
        """
        self.check_peer(certificate, agent)
        key = parse(certificate)[0].public_key()
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, _CONTEXT + data, ec.ECDSA(hashes.SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, _CONTEXT + data, _PSS, hashes.SHA256())
            else:
                raise InvalidSignature
        except InvalidSignature:
            raise Refused(
                "wrong-key", f"what agent {agent} sent is not signed by its certificate's key"
            ) from None

    @property
    def valid_until(self) -> datetime.datetime:
        """The last moment at which the own certificate is valid."""
        return self._chain[0].not_valid_after_utc

    def check_own(self) -> None:
        """Refuse to go on once the own certificate has expired or was revoked.

        Raises:
            ConfigError: If so, with the way out.
        """
        try:
            self._role(parse(self.chain))
        except Refused as error:
            raise self._of_own(error) from error

    def target_name(self, agent: int) -> str:
        """DNS name that a neighbor's certificate must bear for TLS to take it.

        Raises:
            ConfigError: If ``names.yaml`` has no DNS name of this agent.
        """
        if not self.names:
            return server_name(self.run, agent)
        for name, number in self.names.items():
            if number == agent and "=" not in name and "://" not in name:
                return name
        raise ConfigError(
            f"{self.folder / NAMES} has no DNS name of agent {agent}: add the one that its "
            f"certificate bears, such as 'node{agent}.hospital.org: {agent}'"
        )

    def _role(self, chain: list[x509.Certificate]) -> tuple[str, int | None]:
        """The role of the first certificate of a chain, whose others may lead to a root."""
        between = [*chain[1:], *self._chain[1:]]
        self._revoked.check(check_chain(chain[0], between, self._roots))
        try:
            if self.names:
                return self.run, mapped(chain[0], self.names)
            run, agent, _ = role(chain[0])
        except Refused:
            raise
        except Exception as error:  # of extensions, which are parsed when they are looked at
            why = f"its certificate cannot be read: {shown(first_line(error))}"
            raise Refused("unreadable", why) from error
        if run != self.run:
            raise Refused("other-run", f"its certificate is for run '{run}', not '{self.run}'")
        return run, agent

    def _check_files(self) -> None:
        """Refuse roots that are none, and a key that is not the certificate's."""
        _certificates(self.folder / ROOTS, self.roots)
        if self._key.public_key() != self._chain[0].public_key():
            raise ConfigError(
                f"{self.folder / CERTIFICATE} is not for {self.folder / KEY}: put the key back "
                "that its request was made with, or have a certificate issued for the new request"
            )

    def _check_asked(self, run: str | None, agent: int | None) -> None:
        """Refuse another run, or another agent, than was asked for."""
        path = self.folder / CERTIFICATE
        if run is not None and self.run != run:
            raise ConfigError(
                f"{path} is for run '{self.run}', and this is run '{run}': have one issued for it"
            )
        if agent is not None and self.agent != agent:
            whose = "an observer's" if self.agent is None else f"agent {self.agent}'s"
            raise ConfigError(
                f"{path} is {whose}, and this is agent {agent}: name the folder of agent {agent}"
            )

    def _of_own(self, error: Refused) -> ConfigError:
        """What others would refuse, as an error of one's own, with the way out."""
        way_out = "" if error.cause == "unreadable" else "; have a new one issued by the CA"
        return ConfigError(f"{_said_of(self.folder / CERTIFICATE, error)}{way_out}")

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
        key = storage.key_of(self.folder / KEY, self.key)
        if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
            raise ConfigError(
                f"{self.folder / KEY} is a {type(key).__name__}: gRPC takes keys of ECDSA (P-256) "
                "and RSA"
            )
        return key

    @cached_property
    def _chain(self) -> list[x509.Certificate]:
        return parse(self.chain)

    @cached_property
    def _roots(self) -> list[x509.Certificate]:
        return parse(self.roots)

    @cached_property
    def _revoked(self) -> RevocationLists:
        return RevocationLists(self.folder / REVOKED, self._roots)


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    """Certificates of a file of one's own."""
    try:
        return parse(pem)
    except Refused as error:
        raise ConfigError(f"{_said_of(path, error)}; get it from the CA anew, in PEM") from error


def _said_of(path: Path, error: Refused) -> str:
    """What is said of a peer's certificate, said of a file."""
    said = str(error)
    own = said.removeprefix("its certificate")
    return f"{path}: {said}" if own == said else f"{path}{own}"


def _own_role(
    path: Path, chain: bytes, names: Mapping[str, int | None], run: str | None
) -> tuple[str, int | None]:
    """Run and agent of one's own certificate, which nobody has checked yet."""
    certificate = _certificates(path, chain)[0]
    try:
        if names:
            return run or "", mapped(certificate, names)
        return role(certificate)[:2]
    except Refused as error:
        raise ConfigError(f"{_said_of(path, error)}; have a new one issued by the CA") from error
    except Exception as error:  # of extensions, which are parsed when they are looked at
        raise ConfigError(f"{path} cannot be read: {shown(first_line(error))}") from error
