"""Edges that break at any time: nobody hangs, nothing is heard twice, and the books hold."""

from __future__ import annotations

import random
import time

import pytest
from tests.exchange.agents_on_graph import (
    AgentsOnGraph,
    GraphAgent,
    agents_on_graph,
    joined,
    play,
)
from tests.exchange.slow_and_broken import delay_sends
from tests.exchange.threads import together, until


def live(here: AgentsOnGraph, own: GraphAgent, rounds: int, draw: random.Random) -> None:
    """Rounds until all have had enough of them, and of trouble, cutting an edge now and then."""
    while any(
        len(other.heard) < rounds or least_used(other) < 3 or not any([*other.incidents])
        for other in here.values()
    ):
        time.sleep(draw.random() * 0.004)
        if draw.random() < 0.05:
            own.hood.cut(draw.choice(own.near))
        own.play()


def least_used(own: GraphAgent) -> int:
    """How often an agent exchanged with the neighbor that it heard least."""
    return min(sum(j in heard for heard in [*own.heard]) for j in own.near)


def settled(here: AgentsOnGraph) -> None:
    """Rounds until one has no trouble in any of its steps, by when all that was one-sided is out.

    An edge that breaks in one, as patience ends on a busy machine, comes out in the next.
    """

    def undisturbed() -> bool:
        joined(here)
        play(here)
        ends = [(own, j) for own in here.values() for j in own.near]
        return all(len(own.heard[-1].get(j, ())) == own.steps for own, j in ends)

    until(undisturbed)  # what was cut may not have been noticed yet


@pytest.mark.parametrize(
    ("seed", "steps", "rounds"), [pytest.param(1, 1, 60, marks=pytest.mark.slow), (3, 3, 10)]
)
def test_in_a_storm_nobody_hangs_and_every_edge_is_accounted_for_at_both_ends(
    monkeypatch: pytest.MonkeyPatch, seed: int, steps: int, rounds: int
) -> None:
    delay_sends(monkeypatch, seed, breaks=0.01)
    with agents_on_graph(timeout_s=2.0, patience_s=1.0) as here:  # whatever is late, the books hold
        for own in here.values():
            own.steps = steps
        draws = {i: random.Random(10 * seed + i) for i in here}
        together([lambda i=i: live(here, here[i], rounds, draws[i]) for i in here])
        monkeypatch.undo()
        settled(here)
