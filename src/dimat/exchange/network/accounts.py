"""How many exchanges each end of an edge counted: what one of them alone did comes out later."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from dimat.errors import shown
from dimat.exchange.network.link import Link

_MOST_COUNTED = 1 << 62
_MOST_NAME = 64  # characters of what a neighbor calls itself: it is kept, and said back


class Accounts:
    """What one agent counted with each process that a neighbor was.

    Two ends can never be sure that both know that both have got a message. So each says, whenever
    their edge forms, how often it counted so far; call all of this with the links' condition held.
    """

    def __init__(self) -> None:
        self._own = uuid.uuid4().hex  # a neighbor that was started again begins anew
        self._counted: dict[tuple[int, str], int] = {}
        self._compared: dict[int, int] = {}

    def count(self, link: Link, more: int = 1) -> None:
        """One more exchange with the other end of a link, or one less."""
        key = _key(link)
        self._counted[key] = self._counted.get(key, 0) + more

    def statement(self, link: Link) -> Mapping[str, Any]:
        """What the other end is told when the link forms; ``link.greeting`` is its last one."""
        key = _key(link)
        return {
            "generation": self._own,
            "with": key[1],
            "counted": self._counted.get(key, 0),
        }

    def alone(self, link: Link) -> int:
        """How many more the other end counted until the link formed; said once."""
        if link.epoch == self._compared.get(link.them, 0):
            return 0
        self._compared[link.them] = link.epoch
        theirs = link.greeting.get("counted")
        if link.greeting.get("with") != self._own or type(theirs) is not int:
            return 0  # it does not know this process
        if theirs > _MOST_COUNTED:
            return 0
        more = theirs - self._counted.get(_key(link), 0)
        if more > 0:
            self._counted[_key(link)] = theirs
        return max(more, 0)


def _key(link: Link) -> tuple[int, str]:
    return link.them, shown(link.greeting.get("generation", ""), _MOST_NAME)
