"""Addresses of the agents of a run: a file that names each, and may change while the run lives."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from dimat.errors import ConfigError, first_line, reason
from dimat.exchange.network.hosts import split_address
from dimat.plain_yaml import load_yaml

_MOST_BYTES = 1 << 22


class Addresses(Protocol):
    """Where the agents of a run are found."""

    def of(self, agent: int) -> str | None:
        """HOST:PORT where an agent is reached, now; None if it cannot be: it dials the others."""

    @property
    def digest(self) -> str:
        """A digest of all addresses, for people to compare."""


class FixedAddresses(dict[int, str]):
    """Addresses by agent that are known to this process."""

    def of(self, agent: int) -> str | None:
        """HOST:PORT where an agent is reached; None if it is not known."""
        return self.get(agent)

    @property
    def digest(self) -> str:
        """A digest of all addresses, for people to compare."""
        return _digest(self)


class PeersFile:
    """The addresses in a file ``peers.yaml``, which is read again whenever it has changed.

    An agent without an address, ``3: {}``, cannot be dialed (it is behind a NAT or a firewall): it
    dials its neighbors. Two of them cannot be neighbors.

    Args:
        path: The file: for each agent its number and ``{address: HOST:PORT}``.

    Raises:
        ConfigError: If the file cannot be read, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._found: Mapping[int, str | None] = {}
        self.problem = ""
        self._read()

    def of(self, agent: int) -> str | None:
        """HOST:PORT where an agent is reached, as the file says now."""
        with self._lock:
            try:
                self._read()
                self.problem = ""
            except Exception as error:  # any, as if half edited: what was read before holds
                self.problem = str(error)
            return self._found.get(agent)

    @property
    def agents(self) -> Mapping[int, str | None]:
        """All agents of the file, with their addresses."""
        return dict(self._found)

    @property
    def digest(self) -> str:
        """A digest of all addresses, for people to compare."""
        return _digest(self._found)

    def _read(self) -> None:
        try:
            now = self.path.stat()
            if (now.st_mtime_ns, now.st_size) == self._seen:
                return
            if now.st_size > _MOST_BYTES:
                raise ConfigError(f"setting 'peers': {self.path} has more than {_MOST_BYTES} bytes")
            found = _parsed(self.path.read_text("utf-8"), self.path)
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"setting 'peers': {self.path} cannot be read: {reason(error)}"
            ) from error
        self._found, self._seen = found, (now.st_mtime_ns, now.st_size)


def _digest(addresses: Mapping[int, str | None]) -> str:
    text = json.dumps(sorted(addresses.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parsed(text: str, path: Path) -> Mapping[int, str | None]:
    rule = "must have a line 'NUMBER: {address: HOST:PORT}' for each agent ({} if it only dials)"
    try:
        found = load_yaml(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"setting 'peers': {path} is no YAML: {first_line(error)}") from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"setting 'peers': {path} {rule}")
    addresses: dict[int, str | None] = {}
    seen: dict[str | None, int] = {}
    for agent, own in found.items():
        if type(agent) is not int or agent < 0 or not isinstance(own, dict) or {*own} - {"address"}:
            raise ConfigError(f"setting 'peers': '{agent}' in {path}: the file {rule}")
        addresses[agent] = _address(agent, own.get("address"), path)
        first = seen.setdefault(addresses[agent], agent)
        if first != agent and addresses[agent] is not None:
            raise ConfigError(
                f"setting 'peers': agents {first} and {agent} in {path} have one address, "
                f"{addresses[agent]}: must be another for each agent"
            )
    return addresses


def _address(agent: int, given: Any, path: Path) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or split_address(given) is None:
        raise ConfigError(
            f"setting 'peers': the address of agent {agent} in {path} is {given!r}: must be "
            "HOST:PORT, such as site.example.org:7400 or '[2001:db8::1]:7400'"
        )
    return given
