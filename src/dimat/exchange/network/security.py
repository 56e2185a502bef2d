"""The security of an agent's connections: mutual TLS, or plaintext where that was said out loud.

TLS proves that an agent's certificate is of the consortium, and the name in it which agent of which
run that is. gRPC shows a server the certificate of its client; a client gets that of its server in
the answer, with a signature of what the client drew, so that revoked ones are refused both ways.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimat.errors import ConfigError, reason, shown
from dimat.exchange.network.hosts import is_loopback, split_address
from dimat.exchange.network.rpc import grpc
from dimat.identity import Identity, Refused, check_name, require_tls13

Metadata = tuple[tuple[str, str | bytes], ...]
_RUN, _FROM, _TO, _LIFE = "dimat-run", "dimat-from", "dimat-to", "dimat-life"
_NONCE, _CERTIFICATE, _PROOF = "dimat-nonce-bin", "dimat-certificate-bin", "dimat-proof-bin"
_REFUSAL = "dimat-refusal-bin"
_UNNAMED = "dimat"  # a run without a name
_NONCE_BYTES = 32
_PIECE_BYTES = 5 << 20  # a header and a piece of a payload are smaller
_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", _PIECE_BYTES),
    ("grpc.max_metadata_size", 1 << 14),
    ("grpc.use_local_subchannel_pool", 1),  # agents of one process share no connection
    ("grpc.enable_http_proxy", 0),  # peers.yaml says where agents are, and no variable
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    *_OPTIONS,
    ("grpc.so_reuseport", 0),  # a port that another process has is an error
    ("grpc.server_handshake_timeout_ms", 10_000),  # who connects and says nothing
    ("grpc.max_connection_idle_ms", 30_000),  # who has shaken hands and calls nothing
    ("grpc.max_allowed_incoming_connections", 512),  # so that strangers use up no descriptors
    ("grpc.max_concurrent_streams", 100),  # of one connection; after resets gRPC allows fewer
)


@dataclass(frozen=True)
class Claim:
    """What a caller says of itself, checked against its certificate if there is one.

    Args:
        agent: The caller's number; None: an observer, who may ask for the status.
        life: A number that tells this start of the caller from all others.
        nonce: What the called agent is to sign.
        certificate: The caller's certificate, PEM; empty in plaintext.
        refusal: Why the caller refused what it was shown the last time that it called.
    """

    agent: int | None
    life: str
    nonce: bytes
    certificate: bytes = b""
    refusal: str = ""


@dataclass
class Security:
    """How an agent proves who it is, and knows who the others are.

    Args:
        run: Name of the run, which all its agents have alike.
        identity: Certificate, key and roots; None: plaintext, and who calls is believed.
        reload: Reads the identity again, called when its files have changed; None: never.
        trusted_network: Whether plaintext is for more than this machine.
    """

    run: str = "dimat"
    identity: Identity | None = None
    reload: Callable[[Identity], Identity] | None = None
    trusted_network: bool = False

    @property
    def kind(self) -> str:
        """What protects the connections, for people and records."""
        if self.identity is not None:
            return "mutual TLS 1.3"
        return f"plaintext, {'trusted network' if self.trusted_network else 'loopback'}"

    # --- the called ---------------------------------------------------------------------------

    def listen(self, server: grpc.Server, address: str) -> int:
        """Have a server listen at an address, and nowhere else; the port.

        Raises:
            ConfigError: If it cannot listen there.
        """
        try:
            if self.identity is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._server_credentials(self.identity))
        except RuntimeError as error:
            raise _cannot_listen(address) from error
        if not port:
            raise _cannot_listen(address)
        return int(port)

    def _server_credentials(self, identity: Identity) -> grpc.ServerCredentials:
        """Credentials that follow the files: a renewed certificate needs no restart."""
        used = identity

        def fetch() -> Any:  # None: as before
            nonlocal used
            now = self.identity
            if now is None or now is used:
                return None
            used = now
            return _configuration(now)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(identity), fetch, require_client_authentication=True
        )

    def claim_of(self, context: grpc.ServicerContext, us: int) -> Claim:
        """What a caller claims, checked.

        Args:
            context: Of the call.
            us: Our agent's number.

        Raises:
            Refused: If it is not who it says, calls another agent or run, or shows no certificate.
        """
        said = dict(context.invocation_metadata())
        nonce, life = said.get(_NONCE, b""), str(said.get(_LIFE, ""))
        agent = _number(said.get(_FROM))
        if said.get(_RUN) != self.run:
            raise Refused("other-run", f"this is run '{self.run}'")
        if _number(said.get(_TO)) != us:
            raise Refused("other-agent", f"this is agent {us}: see to the addresses in peers.yaml")
        if type(nonce) is not bytes or len(nonce) != _NONCE_BYTES or len(life) > 64:
            raise Refused("unreadable", "the call lacks what a caller has to say")
        told = said.get(_REFUSAL, b"")
        refusal = shown(told.decode(errors="replace")) if type(told) is bytes else ""
        if self.identity is None:
            return Claim(agent, life, nonce, refusal=refusal)
        seen: Mapping[str, Any] = context.auth_context()
        certificate = next(iter(seen.get("x509_pem_cert", ())), b"")
        if agent is None:
            self.identity.role_of(certificate)  # anybody of the run
        else:
            self.identity.check_peer(certificate, agent)
        return Claim(agent, life, nonce, certificate, refusal)

    def answer(self, claim: Claim, us: int) -> Metadata:
        """What the called agent says first: its certificate, and that it has the key."""
        if self.identity is None:
            return ()
        proof = self.identity.sign(_signed(self.run, claim.agent, us, claim.nonce))
        return ((_CERTIFICATE, self.identity.chain), (_PROOF, proof))

    # --- the caller ---------------------------------------------------------------------------

    def channel(self, them: int, address: str) -> grpc.Channel:
        """A channel to the server of an agent, which TLS lets nobody else answer.

        Raises:
            ConfigError: If it would be plaintext to another machine, and nobody asked for that: a
                file of addresses may change while the run lives.
        """
        if self.identity is None:
            place = split_address(address)
            if not self.trusted_network and (place is None or not is_loopback(place[0])):
                raise ConfigError(
                    f"{address} is not this machine alone, and nothing protects what is said to it"
                )
            return grpc.insecure_channel(address, list(_OPTIONS))
        own = self.identity
        credentials = grpc.ssl_channel_credentials(own.roots, own.key, own.chain)
        named = ("grpc.ssl_target_name_override", own.target_name(them))
        return grpc.secure_channel(address, credentials, [*_OPTIONS, named])

    def claim(
        self, us: int | None, them: int, life: str, refusal: str = ""
    ) -> tuple[bytes, Metadata]:
        """What a caller draws for the other end to sign, and what it says of itself.

        Args:
            us: Our agent's number; None for an observer.
            them: Number of the called agent.
            life: A number that tells this start of our agent from all others.
            refusal: Why we refused what the other end showed the last time, which it sees nowhere
                else; empty if we did not.
        """
        nonce = os.urandom(_NONCE_BYTES)
        number = "observer" if us is None else str(us)
        names = ((_RUN, self.run), (_FROM, number), (_TO, str(them)), (_LIFE, life))
        told = ((_REFUSAL, refusal.encode()),) if refusal else ()
        return nonce, (*names, (_NONCE, nonce), *told)

    def check_answer(
        self, said: Mapping[str, str | bytes], nonce: bytes, us: int | None, them: int
    ) -> bytes:
        """The certificate of the called agent, checked; empty in plaintext.

        Raises:
            Refused: If it shows none that is valid, or has not its key.
        """
        if self.identity is None:
            return b""
        certificate, proof = said.get(_CERTIFICATE), said.get(_PROOF)
        if type(certificate) is not bytes or type(proof) is not bytes:
            raise Refused("no-certificate", f"agent {them} shows no certificate")
        signed = _signed(self.run, us, them, nonce)
        self.identity.check_signature(certificate, signed, proof, them)
        return certificate

    # --- while the run lives ------------------------------------------------------------------

    def check_again(self, certificate: bytes, them: int) -> None:
        """Check a certificate that was good: it may have expired, or been revoked.

        Raises:
            Refused: If it has.
        """
        if self.identity is not None:
            self.identity.check_peer(certificate, them)

    def refresh(self) -> str:
        """Read renewed files of our own, if there are any.

        Returns:
            Why they cannot be used, so that what was read before stays; empty if they are used.

        Raises:
            ConfigError: If what we have cannot be used any more.
        """
        problem = ""
        if self.identity is not None:
            if self.reload is not None:
                try:
                    self.identity = self.reload(self.identity)
                except ConfigError as error:  # half installed, perhaps
                    problem = str(error)
            self.identity.check_own()
        return problem


def security_of(
    certificates: Path | None,
    run: str | None,
    agent: int | None,
    *,
    trusted_network: bool = False,
) -> Security:
    """What proves who an agent is, and by what it knows others.

    Args:
        certificates: Folder of the agent's certificate and key; None: nothing does.
        run: Name of the run; None: the certificate's, or dimat.
        agent: The agent's number; None: an observer.
        trusted_network: Whether plaintext is for more than this machine.

    Raises:
        ConfigError: If the certificate cannot be used.
    """
    if certificates is None:
        check_name("name", run or _UNNAMED)
        return Security(run or _UNNAMED, trusted_network=trusted_network)
    require_tls13()
    identity = Identity.load(certificates, run, agent)
    return Security(identity.run, identity, _renewed)


def require_protection(
    identity: Identity | None, addresses: Sequence[str], *, insecure: bool, trusted_network: bool
) -> None:
    """Refuse plaintext, unless it was asked for, and where it can be listened to.

    Args:
        identity: The agent's, if it has one.
        addresses: HOST:PORT of all that it would listen at or dial.
        insecure: Whether plaintext was asked for on this machine alone.
        trusted_network: Whether the user vouches for everybody on the network.

    Raises:
        ConfigError: If there is no certificate, and no word that none is wanted.
    """
    ways = (
        "give 'certificates', a folder that 'dimat certificates' made; or 'insecure' where all "
        "agents are on this machine; or 'trusted_network', if everybody who reaches this network "
        "may read and change all that the agents say"
    )
    if identity is not None:
        if insecure or trusted_network:
            raise ConfigError("'certificates' are given, and so is plaintext: give one of them")
        return
    if trusted_network:
        return
    if not insecure:
        raise ConfigError(f"nothing says how to protect what agents say: {ways}")
    for address in addresses:
        found = split_address(address)
        if found is None or not is_loopback(found[0]):
            raise ConfigError(
                f"'insecure' is for agents on this machine alone, and {address} is not: {ways}"
            )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.chain)], identity.roots
    )


def _cannot_listen(address: str) -> ConfigError:
    return ConfigError(
        f"setting 'listen': {address} cannot be listened on: {_why_not(address)}; where it is not "
        "given, it is the agent's own address in 'peers'"
    )


def _why_not(address: str) -> str:
    """Why nobody can listen at an address, which gRPC does not say."""
    found = split_address(address)
    if found is None:
        return "must be HOST:PORT"
    family = socket.AF_INET6 if ":" in found[0] else socket.AF_INET
    try:
        socket.getaddrinfo(*found, family)
        socket.create_server(found, family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "the port is taken, perhaps by an agent that runs already"
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            return "it is no address of this machine; give 'listen', one that is"
        return reason(error)
    return "must be an address of this machine and a free port"


def _signed(run: str, caller: int | None, called: int, nonce: bytes) -> bytes:
    """What the called agent signs: it is of no use for another call."""
    return f"dimat answer 1\n{run}\n{caller}\n{called}\n".encode() + nonce


def _number(said: object) -> int | None:
    return int(said) if isinstance(said, str) and said.isdecimal() and len(said) < 7 else None


def _renewed(identity: Identity) -> Identity:
    """The identity as its files are now: the same object if they say the same."""
    found = identity.renewed()
    return identity if found == identity else found
