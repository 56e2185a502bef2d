"""Neighbors that live and say nothing: their patience is used up once, not in every round."""

from __future__ import annotations

import time
from collections.abc import Collection

from dimat.exchange.network.endpoint import Endpoint


class Silence:
    """The neighbors that were given up for saying nothing, and have said nothing since.

    Args:
        endpoint: With links to the neighbors.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._silent = endpoint, set[int]()

    def add(self, neighbor: int) -> None:
        """One more is given up."""
        self._silent.add(neighbor)
        self._endpoint.to(neighbor).stirs = False

    def last(self, neighbors: Collection[int], *, hesitate: bool) -> set[int]:
        """Those who still say nothing, and are not to be waited for.

        Args:
            neighbors: Of whom.
            hesitate: Wait a moment first: one that hung goes on together with the others. Each is
                told that we have come, as it may have given us up too.
        """
        end = time.monotonic() + self._endpoint.rules.beat_s
        with self._endpoint.changed:
            if hesitate:
                for j in self._quiet(neighbors):
                    self._endpoint.to(j).nudge()
            while (quiet := self._quiet(neighbors)) and hesitate:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._endpoint.changed.wait(left)
            self._silent -= {*neighbors} - quiet
        return quiet

    def _quiet(self, neighbors: Collection[int]) -> set[int]:
        """One whose edge is down is lost in another way."""
        links = {j: self._endpoint.to(j) for j in self._silent & {*neighbors}}
        us = self._endpoint.agent
        up = {j for j, link in links.items() if link.carries(link.epoch)}
        return {j for j in up if not (links[j].stirs or links[j].holds(j, us))}
