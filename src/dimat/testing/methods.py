"""What every method keeps, on irregular graphs and on the smallest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from dimat.errors import TrainingError
from dimat.exchange import Inbox, Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import METHODS, Method, RoundResult, check_needs
from dimat.testing.agents import (
    SHAPE,
    D,
    SmallNetwork,
    irregular,
    known_network,
    merge,
    places,
    quadratics,
    take_steps,
)
from dimat.testing.laws import keeps, law
from dimat.topology import build_topology


def check_method(method: type[Method] | Method) -> None:
    """Check that a method keeps the laws that dimat's methods keep.

    Args:
        method: Its class, which is made with all defaults; or an object, with other parameters.

    Raises:
        AssertionError: Naming the law that is broken.
        ConfigError: If it cannot be registered.
    """
    kind = method if isinstance(method, type) else type(method)
    METHODS.prepared("my-method", kind)
    made = method() if isinstance(method, type) else method
    with law("a method says what it is in its docstring"):
        assert kind.__doc__, f"{kind.__name__} has none"
    for name in ("mlp", "cnn"):
        keeps(MERGES, made, known_network(name))
    if made.exchanges == "steps":
        keeps(STEPS, made)


# --- merges ---------------------------------------------------------------------------------------


def it_works_on_any_connected_graph(method: Method, network: SmallNetwork) -> None:
    """Undirected graphs with a doubly stochastic matrix have all that a method may need."""
    check_needs("it", method, irregular(0))


def copies_merge_to_themselves(method: Method, network: SmallNetwork) -> None:
    """Copies of one state merge to it on any graph, and no state is changed in place."""
    state = network.state()
    before = copy.deepcopy(state)
    for graph in (irregular(0), irregular(1, 2)):
        merged, _ = merge(method, network.members([state] * graph.num_agents, graph))
        for result in merged:
            torch.testing.assert_close(result.state, before)
        torch.testing.assert_close(state, before, rtol=0, atol=0)


def merging_gives_the_same_twice(method: Method, network: SmallNetwork) -> None:
    """The same states merge to the same twice, and no state is changed in place."""
    states = network.perturbed(6)
    before = copy.deepcopy(states)
    first, second = (merge(method, network.members(states, irregular(4)))[0] for _ in range(2))
    torch.testing.assert_close(states, before, rtol=0, atol=0)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)


def entries_keep_their_names_shapes_and_types(method: Method, network: SmallNetwork) -> None:
    """A merged state has the entries, shapes and types of the agent's own."""
    states = network.perturbed(6)
    merged, _ = merge(method, network.members(states, irregular(4)))
    for own, result in zip(states, merged, strict=True):
        assert list(result.state) == list(own), "entries"
        for key, value in own.items():
            found = result.state[key]
            assert (found.shape, found.dtype) == (value.shape, value.dtype), key


def an_agent_alone_keeps_its_state(method: Method, network: SmallNetwork) -> None:
    """An agent without others keeps its state, sends nothing, and has no disagreement."""
    states = network.perturbed(1)
    ((merged,), (traffic,)) = merge(method, network.members(states, irregular(0, 1)))
    torch.testing.assert_close(merged.state, states[0], rtol=0, atol=0)
    assert (traffic, merged.disagreement) == (Traffic(), None)


def what_is_mixed_says_how_far_it_was(method: Method, network: SmallNetwork) -> None:
    """A merge that changes the state, but for the order of its units, gives a disagreement.

    Without one nobody recalibrates BatchNorm, and no merged accuracy is recorded.
    """
    states = network.perturbed(6)
    merged, _ = merge(method, network.members(states, irregular(4)))
    for state, result in zip(states, merged, strict=True):
        if result.permutation is None and not result.mixed:
            torch.testing.assert_close(result.state, state, rtol=0, atol=0)


def no_order_of_processes_matters(method: Method, network: SmallNetwork) -> None:
    """What an agent computes depends on what it hears, not on who is resumed first."""
    graph = irregular(1)
    first, _ = merge(method, network.members(network.permuted(6), graph))
    them = network.members(network.permuted(6), graph)
    talks = [_delayed(method.merge(me), 7 * me.agent % 5) for me in them]
    for a, b in zip(first, run_all(talks, [Traffic() for _ in them]), strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)


def what_is_sent_is_received(method: Method, network: SmallNetwork) -> None:
    """All bytes sent are received; a method that does not exchange in rounds sends none."""
    _, traffic = merge(method, network.members(network.perturbed(6), irregular(4)))
    sent = sum(own.sent_bytes for own in traffic)
    assert sent == sum(own.received_bytes for own in traffic)
    if method.exchanges != "rounds":
        assert sent == 0


def permuted_copies_merge_to_one_function(method: Method, network: SmallNetwork) -> None:
    """A method that matches merges copies in other unit orders to what they all compute."""
    if not method.matches:
        return
    graph = irregular(2)
    merged, _ = merge(method, network.members(network.permuted(6), graph))
    x = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(5)).double()
    for result in merged:
        found = functional_call(network.model, result.state, x)
        torch.testing.assert_close(found, network.model(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result.disagreement or 0.0, 0.0, rtol=0, atol=1e-6)


def lost_messages_are_done_without_or_said(method: Method, network: SmallNetwork) -> None:
    """A tolerant method does without what is lost; another raises TrainingError for it."""
    them = network.members(network.perturbed(6), irregular(3))
    talks = [_deaf(method.merge(me)) for me in them]
    try:
        merged = run_all(talks, [Traffic() for _ in them])
    except TrainingError:
        assert not method.tolerant, "it says that it is tolerant, and raised"
        return
    for me, result in zip(them, merged, strict=True):
        torch.testing.assert_close(result.state, dict(me.state), rtol=0, atol=0)


MERGES: tuple[Callable[[Method, SmallNetwork], None], ...] = (
    it_works_on_any_connected_graph,
    entries_keep_their_names_shapes_and_types,
    copies_merge_to_themselves,
    merging_gives_the_same_twice,
    an_agent_alone_keeps_its_state,
    what_is_mixed_says_how_far_it_was,
    no_order_of_processes_matters,
    what_is_sent_is_received,
    permuted_copies_merge_to_one_function,
    lost_messages_are_done_without_or_said,
)


def _delayed(talk: Generator[Step, Any, RoundResult], steps: int) -> Talk[RoundResult]:
    for _ in range(steps):
        yield Step()
    return (yield from talk)


def _deaf(talk: Talk[RoundResult]) -> Talk[RoundResult]:
    """A talk that goes on with nothing heard."""
    nothing: Inbox = {}
    try:
        step = next(talk)
        while True:
            yield step
            step = talk.send(nothing)
    except StopIteration as stop:
        result: RoundResult = stop.value
        return result


# --- steps ----------------------------------------------------------------------------------------


def one_agent_takes_steps_of_its_optimizer(method: Method) -> None:
    """An agent without others trains as if there were no method, and sends nothing."""
    alone = build_topology("ring", 1)
    (ours,), (theirs,) = quadratics(alone, momentum=0.5), quadratics(alone, momentum=0.5)
    (traffic,) = take_steps(method, [ours], 12)
    take_steps(Method(), [theirs], 12)
    np.testing.assert_array_equal(ours.x, theirs.x)
    assert traffic == Traffic()


def agents_that_are_alike_stay_alike(method: Method) -> None:
    """Agents with one loss at one place stay together, and descend."""
    them = quadratics(irregular(2))
    for me in them:
        me.curvature, me.minimum, me.x = np.eye(D), np.zeros(D), np.ones(D)
    take_steps(method, them, 30)
    found = places(them)
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), rtol=1e-9)
    assert np.abs(found).max() < 1, "they do not descend"


def steps_give_the_same_twice(method: Method) -> None:
    """The same agents go the same way twice; all bytes that are sent are received."""
    found = []
    for _ in range(2):
        them = quadratics(irregular(2))
        traffic = take_steps(method, them, 10)
        assert sum(t.sent_bytes for t in traffic) == sum(t.received_bytes for t in traffic)
        found.append(places(them))
    np.testing.assert_array_equal(found[0], found[1])


def agents_agree_where_nothing_else_moves_them(method: Method) -> None:
    """Agents that hardly learn come together in 400 steps, on a graph whose edges drop out too."""
    for network in (irregular(3), build_topology("ring", 6, dropout=0.4)):
        them = quadratics(network)
        for me in them:
            me.lr = 1e-12
        apart = np.ptp(places(them), 0).max()
        for _ in range(8):
            take_steps(method, them, 50)
            if (left := np.ptp(places(them), 0).max()) < 0.05 * apart:
                break
        assert left < 0.05 * apart


STEPS: tuple[Callable[[Method], None], ...] = (
    one_agent_takes_steps_of_its_optimizer,
    agents_that_are_alike_stay_alike,
    steps_give_the_same_twice,
    agents_agree_where_nothing_else_moves_them,
)
