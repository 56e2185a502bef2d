"""TLS 1.3 alone: gRPC for Python has no setting for the least version of TLS."""

from __future__ import annotations

import os
import sys

from dimat.errors import ConfigError

VARIABLE = "GRPC_SSL_CIPHER_SUITES"
# A suite of TLS 1.2 that needs a key shared beforehand, which gRPC never has: it is known, so gRPC
# takes it, and it is never agreed on. BoringSSL has the suites of TLS 1.3 beside this list, always.
NEVER_AGREED_ON = "ECDHE-PSK-CHACHA20-POLY1305"


def require_tls13() -> None:
    """Have gRPC of this process speak TLS 1.3 and nothing older, as a server and as a client.

    It has to be called before ``grpc`` is imported first: then gRPC reads its environment, and not
    again. It holds for all that the process and its children do with gRPC.

    Raises:
        ConfigError: If ``grpc`` was imported without it.
    """
    if "grpc" in sys.modules and os.environ.get(VARIABLE) != NEVER_AGREED_ON:
        raise ConfigError(
            f"'grpc' was imported before dimat could have it refuse TLS 1.2: import dimat's "
            f"exchange first, or set {VARIABLE}={NEVER_AGREED_ON} in the environment"
        )
    os.environ[VARIABLE] = NEVER_AGREED_ON
