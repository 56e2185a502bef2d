"""The refusal of a certificate, with a cause that programs can tell apart."""

from __future__ import annotations

from typing import Literal

from dimat.errors import ExchangeError

Cause = Literal[
    "no-certificate",
    "unreadable",  # the certificate, or the revocation list, without which nobody is let in
    "expired",
    "not-yet-valid",
    "wrong-ca",
    "revoked",
    "other-run",
    "other-agent",
    "wrong-key",
    "no-neighbor",
    "leaving",  # the agent that is called ends
    "not-to-dial",  # who is dialed waits, as peers.yaml says
    "too-often",
    "twice",  # two processes claim one number
]


class Refused(ExchangeError):
    """A peer that is not let in.

    Args:
        cause: The reason, one of a fixed set.
        why: The reason in words.
    """

    def __init__(self, cause: Cause, why: str) -> None:
        super().__init__(why)
        self.cause: Cause = cause
