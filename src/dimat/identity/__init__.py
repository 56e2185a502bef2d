"""Identity of agents: X.509 certificates by which each proves who it is and checks the others."""

from __future__ import annotations

from dimat.identity.authority import Authority, request
from dimat.identity.identity import Identity
from dimat.identity.names import check_name, server_name
from dimat.identity.refused import Cause, Refused
from dimat.identity.tls import require_tls13

__all__ = [
    "Authority",
    "Cause",
    "Identity",
    "Refused",
    "check_name",
    "request",
    "require_tls13",
    "server_name",
]
