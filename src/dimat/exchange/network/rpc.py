"""The gRPC library, set up before it is imported, and what it says put in words for people."""

from __future__ import annotations

import os
import sys

from dimat.errors import shown
from dimat.identity import require_tls13

# It logs no lost connections, as dimat reports them itself; and processes that a data loader forks
# never use it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
if "grpc" not in sys.modules:  # otherwise whoever wants TLS is told, and nobody else
    require_tls13()

import grpc

__all__ = ["NOBODY", "grpc", "in_short"]

NOBODY = "nobody listens there"

_OF_ANOTHER = "its certificate is refused: of another agent or run"
_UNKNOWN = "its host is not known here"
_CLOSES = "it closed the connection: it was stopped, refuses our certificate, or has none itself"
# What gRPC says of a connection that did not come about, and what it means; the first that fits.
_MEANINGS = {
    "Connection refused": NOBODY,
    "certificate has expired": "its certificate is refused: it, or its CA's, has expired",
    "certificate is not yet valid": "its certificate is refused: not valid yet, by our clock",
    "unable to get local issuer": "its certificate is refused: of a CA that is not in our ca.pem",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is refused: of another CA, or expired",
    "not in peer certificate": _OF_ANOTHER,
    "Hostname Verification Check failed": _OF_ANOTHER,
    "WRONG_VERSION_NUMBER": "it does not talk TLS",
    "DNS resolution failed": _UNKNOWN,
    "address lookup failed": _UNKNOWN,
    "handshaker shutdown": "no TLS with who listens there",
    "Socket closed": _CLOSES,
    "Connection reset": _CLOSES,
    "Broken pipe": _CLOSES,
}


def in_short(said: str) -> str:
    """What gRPC says of a connection that did not come about, in words for people.

    >>> in_short("Tls handshake failed: CERTIFICATE_VERIFY_FAILED: certificate has expired: OK")
    "its certificate is refused: it, or its CA's, has expired"
    """
    meant = [meaning for sign, meaning in _MEANINGS.items() if sign in said]
    return meant[0] if meant else shown(said)
