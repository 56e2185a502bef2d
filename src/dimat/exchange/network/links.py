"""All edges of this process to others."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from dimat.exchange.network.buffers import Pool
from dimat.exchange.network.link import Common, Link, Rules
from dimat.exchange.network.meeting import JOIN_S, meet
from dimat.exchange.network.pipe import Pipe, check_interface
from dimat.exchange.network.rendezvous import CONNECT_S, Directory

_MORE_S = 1.0  # beyond silence: for a thread to see that it is not wanted any more


class Links:
    """Forms an edge to each process that is asked for, and says goodbye to all in the end.

    Args:
        us: The number of this process, or of its one agent.
        board: The store where others are found.
        address: The address of this machine where they find us; None: the one that leads to the
            store.
        rules: What all links have in common.
        greeting: What each other end is told of us whenever a link to it forms.
        what: What has numbers: agent or rank, for messages.

    Raises:
        ConfigError: If the address is not of this machine.
    """

    def __init__(
        self,
        us: int,
        board: Directory,
        address: str | None = None,
        rules: Rules | None = None,
        greeting: Callable[[int], Mapping[str, Any]] = lambda them: {},
        what: str = "agent",
    ) -> None:
        if address is not None:
            check_interface(address)
        self.us = us
        self.common = Common(rules or Rules(), what)
        self._board, self._address, self._greeting = board, address, greeting
        self._links: dict[int, Link] = {}
        atexit.register(self._end)
        _all.add(self)

    @property
    def changed(self) -> threading.Condition:
        """Held to look at links, notified when there is something to look at."""
        return self.common.changed

    @property
    def pool(self) -> Pool:
        """Memory of messages."""
        return self.common.pool

    @property
    def rules(self) -> Rules:
        """What all links have in common."""
        return self.common.rules

    def to(self, them: int) -> Link:
        """The edge to another process; begins to form when first asked for."""
        with self.changed:
            if them in self._links:
                return self._links[them]
            self._links[them] = link = Link(
                self.us,
                them,
                self._connector(),
                lambda: self._greeting(them),
                self.common,
            )
        link.start()
        return link

    def all(self) -> Mapping[int, Link]:
        """Those asked for so far."""
        return dict(self._links)

    @property
    def lingering(self) -> bool:
        """Whether a thread still lives; after :meth:`close`, one that waits for the store."""
        return any(link.lives for link in self.all().values())

    def close(self) -> None:
        """Say goodbye to all, and wait until they have heard it or are lost.

        A link that has nobody to say it to, as the store does not answer, is left to itself.
        """
        owed = {link: link.close() for link in self._links.values()}
        begun, silence = time.monotonic(), self.rules.timeout_s
        for link, owes in owed.items():
            end = begun + _MORE_S + (silence if owes else 0)
            link.join(max(end - time.monotonic(), 0.0))
        if not self.lingering:
            atexit.unregister(self._end)

    def _end(self) -> None:
        """Before the process ends: it would be aborted if a thread was in the midst of meeting."""
        self.close()
        end = time.monotonic() + self.rules.timeout_s + max(JOIN_S, CONNECT_S)
        for link in self._links.values():
            link.join(max(end - time.monotonic(), 0.0))

    def _connector(self) -> Callable[[int, int, Callable[[], bool]], Pipe | None]:
        board = self._board.another()

        def connect(us: int, them: int, wanted: Callable[[], bool]) -> Pipe | None:
            address = self._address or board.local_address()
            return meet(board, us, them, address, wanted)

        return connect


_all: weakref.WeakSet[Links] = weakref.WeakSet()


def lingering() -> bool:
    """Whether any links of this process linger; see :attr:`Links.lingering`."""
    return any(own.lingering for own in _all)
