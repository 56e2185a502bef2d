"""The rendezvous store: where agents find each other, and nothing else passes through it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from dimat.errors import ConfigError, ExchangeError

_PATIENCE = timedelta(seconds=5)
CONNECT_S = 20.0
"""The longest that it may take to connect.

Torch asks for the name of every address that it connects to, 127.0.0.1 too. A name server that does
not answer costs 5 s each time.
"""


def serve(host: str, port: int) -> TCPStore:
    """A store that listens on one address of this machine; it lives as long as what is returned.

    Args:
        host: The address; only there it listens.
        port: 0: any that is free.

    Raises:
        ConfigError: If it cannot listen there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"setting 'listen': {host}:{port} cannot be listened on ({error}): must be an address "
            "of this machine and a free port"
        ) from error
    port = listener.getsockname()[1]
    wait = timedelta(seconds=CONNECT_S)
    return TCPStore(host, port, None, True, wait, False, master_listen_fd=listener.detach())


class Directory:
    """A store's keys, for one thread; it connects again after the store was gone.

    Args:
        host: Where the store listens.
        port: Where the store listens.
        prefix: Put before every key.
    """

    def __init__(self, host: str, port: int, prefix: str = "dimat") -> None:
        self.host, self.port, self.prefix = host, port, prefix
        self._store: Store | None = None

    def another(self) -> Directory:
        """The same, with a connection of its own."""
        return Directory(self.host, self.port, self.prefix)

    def store(self) -> Store:
        """Its connection.

        Raises:
            ExchangeError: If the store cannot be reached.
        """
        if self._store is None:
            try:
                # Asked first, as a TCPStore that finds nobody fills stderr.
                with socket.create_connection((self.host, self.port), 2):
                    pass
                wait = timedelta(seconds=CONNECT_S)
                client = TCPStore(self.host, self.port, None, False, wait, False)
                client.set_timeout(_PATIENCE)
                self._store = PrefixStore(self.prefix, client)
            except (OSError, RuntimeError) as error:
                raise ExchangeError(
                    f"the store at {self.host}:{self.port} does not answer: {error}"
                ) from error
        return self._store

    def under(self, name: str) -> Store:
        """The keys under a name, on the same connection.

        Raises:
            ExchangeError: If the store cannot be reached.
        """
        return PrefixStore(name, self.store())

    def put(self, key: str, value: str) -> None:
        """Write a key.

        Raises:
            ExchangeError: If the store cannot be reached.
        """
        with self._connected() as store:
            store.set(key, value)

    def look(self, key: str) -> str | None:
        """Read a key, if it is there.

        Raises:
            ExchangeError: If the store cannot be reached.
        """
        with self._connected() as store:
            return bytes(store.get(key)).decode() if store.check([key]) else None

    def drop(self, key: str) -> None:
        """Remove a key, if it is there.

        Raises:
            ExchangeError: If the store cannot be reached.
        """
        with self._connected() as store:
            store.delete_key(key)

    def local_address(self) -> str:
        """The address of this machine from which the store is reached.

        Raises:
            ExchangeError: If the store cannot be reached.
        """
        try:
            with socket.create_connection((self.host, self.port), 2) as own:
                return str(own.getsockname()[0])
        except OSError as error:
            raise ExchangeError(
                f"the store at {self.host}:{self.port} does not answer: {error}"
            ) from error

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Store]:
        try:
            yield self.store()
        except RuntimeError as error:
            self._store = None
            if isinstance(error, ExchangeError):
                raise
            raise ExchangeError(
                f"the store at {self.host}:{self.port} does not answer: {error}"
            ) from error
