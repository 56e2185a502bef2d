"""The gRPC library, set up before it is imported."""

from __future__ import annotations

import os
import sys

from dimat.identity import require_tls13

# It logs no lost connections, as dimat reports them itself; and processes that a data loader forks
# never use it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
if "grpc" not in sys.modules:  # otherwise whoever wants TLS is told, and nobody else
    require_tls13()

import grpc

__all__ = ["grpc"]
