"""Two processes joined by a process group of their own, so that what breaks is this edge alone.

In a group of all, a frozen process makes a wait time out, and Gloo then closes the healthy pairs of
that group as well. In a group of two there is only the one pair.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import timedelta

from torch import Tensor
from torch.distributed import (  # type: ignore[attr-defined]
    ProcessGroupGloo,
    Store,
    Work,
)

from dimat.errors import ConfigError, ExchangeError, first_line

_CHUNK = 1 << 23  # bytes; a transfer shows life as often as one has passed


class Broken(ExchangeError):
    """The other end is gone, or gave no sign of life in time."""


def check_interface(address: str) -> None:
    """Check that others can be let in at an address, or a name of one.

    Raises:
        ConfigError: If it is not of this machine.
    """
    try:
        family, *_, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as own:
            own.bind(place)
    except (OSError, UnicodeError) as error:
        rule = f"{address} is not an address of this machine"
        raise ConfigError(f"setting 'exchange.interface': {rule}") from error


class Pipe:
    """Both directions of one edge. Sends are of one thread, and so are receipts.

    Args:
        store: Where both ends meet; nothing else may use its keys.
        side: 0 or 1: which end this is.
        address: The address of this machine that the other end connects to, or is seen from.
        timeout_s: The longest to wait for the other end.

    Raises:
        Broken: If the other end does not come, or the address is not there.
    """

    def __init__(self, store: Store, side: int, address: str, timeout_s: float) -> None:
        self._other = 1 - side
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timedelta(seconds=timeout_s)
        options._threads = 1
        try:  # the address too: an interface may be down for a while
            device = ProcessGroupGloo.create_device(hostname=address, lazy_init=False)
            options._devices = [device]
            self._group: ProcessGroupGloo | None = ProcessGroupGloo(store, side, 2, options)
        except RuntimeError as error:
            raise Broken(f"no connection: {_said(error)}") from error

    def send(self, tensor: Tensor, timeout_s: float) -> None:
        """Send all of a contiguous tensor.

        Args:
            tensor: What to send.
            timeout_s: The longest that nothing may get through.

        Raises:
            Broken: If the other end is gone or does not take it.
        """
        self._finish("send", tensor, timeout_s)

    def receive(self, tensor: Tensor, timeout_s: float) -> None:
        """Fill a contiguous tensor.

        Args:
            tensor: Where to.
            timeout_s: The longest that nothing may arrive.

        Raises:
            Broken: If the other end is gone or sends nothing.
        """
        self._finish("recv", tensor, timeout_s)

    def _finish(self, what: str, tensor: Tensor, timeout_s: float) -> None:
        group = self._group
        try:
            if group is None:
                raise Broken("closed")
            parts: Sequence[Tensor] = tensor.split(_CHUNK)  # type: ignore[no-untyped-call]
            works: list[Work] = [getattr(group, what)([own], self._other, 0) for own in parts]
            for work in works:
                work.wait(timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise Broken(_said(error)) from error

    def close(self) -> None:
        """Let go; the other end notices at once."""
        self._group = None


def _said(error: Exception) -> str:
    """What Gloo says, without where in its source and without its jokes."""
    return first_line(error).rpartition("] ")[2].partition(". This is typically")[0]
