"""The checks that others call: what dimat has passes all, and what breaks a law is told which."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from tests.tiers import tiers

from dimat.data import SOURCES, SPLITS, Partition, load_dataset
from dimat.errors import ConfigError
from dimat.exchange import Step, Talk
from dimat.matching import MATCHERS, IdentityMatcher, Matching, Problem, Weights
from dimat.merging import COMBINERS, Average, Gram, mix
from dimat.methods import METHODS, Averaging, Method, RoundContext, RoundResult, StepContext
from dimat.methods.messages import swap, swap_states
from dimat.testing import (
    check_combiner,
    check_matcher,
    check_method,
    check_source,
    check_split,
    check_topology,
)
from dimat.topology import TOPOLOGIES

FAST = ("sgp", "local")  # of steps, alone; the laws one by one: tests/methods


@pytest.mark.parametrize(
    "name", tiers(list(METHODS), slow=[name for name in METHODS if name not in FAST])
)
def test_dimats_methods_keep_the_laws(name: str) -> None:
    check_method(METHODS[name])


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name != "edges"])
def test_dimats_graphs_keep_the_laws(name: str) -> None:
    check_topology(name)


@pytest.mark.parametrize("name", MATCHERS)
def test_dimats_matchers_keep_the_laws(name: str) -> None:
    check_matcher(name, finds=name != "identity")


@pytest.mark.parametrize("name", tiers(list(COMBINERS), slow=["repair", "regression"]))
def test_dimats_combiners_keep_the_laws(name: str) -> None:
    check_combiner(name)


def test_dimats_source_without_a_file_keeps_the_laws() -> None:
    check_source("digits")


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
def test_dimats_splits_keep_the_laws(name: str) -> None:
    check_split(name)


def test_the_checks_need_no_test_framework() -> None:
    code = "import sys, dimat.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- methods that break one law each --------------------------------------------------------------


@dataclass(frozen=True)
class Rounds(Method):
    """In rounds."""

    exchanges = "rounds"

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        theirs = yield from swap_states(me)
        return self.result(me, mix([me.state, *theirs.values()], me.weights_of(theirs)))

    def result(self, me: RoundContext, merged: Any) -> RoundResult:
        return RoundResult(merged, disagreement=0.0 if me.neighbors else None)


class Doubling(Rounds):
    """Its weights sum to two."""

    def result(self, me: RoundContext, merged: Any) -> RoundResult:
        return RoundResult({k: 2 * v for k, v in merged.items()})


class InPlace(Rounds):
    """It changes the agent's own state."""

    def result(self, me: RoundContext, merged: Any) -> RoundResult:
        for key, value in me.state.items():
            if value.is_floating_point():
                value.copy_(merged[key])
        return super().result(me, merged)


class Drawing(Rounds):
    """Its result is drawn."""

    def result(self, me: RoundContext, merged: Any) -> RoundResult:
        noisy = {
            k: v + 1e-9 * torch.rand(v.shape) if v.is_floating_point() else v
            for k, v in merged.items()
        }
        return super().result(me, noisy)


class Narrow(Rounds):
    """It gives float32 for float64."""

    def result(self, me: RoundContext, merged: Any) -> RoundResult:
        return super().result(
            me, {k: v.float() if k == me.parameters[-1] else v for k, v in merged.items()}
        )


class Silent(Rounds):
    """It does not say how far the others were."""

    def result(self, me: RoundContext, merged: Any) -> RoundResult:
        return RoundResult(merged)


class Unmatched(Averaging):
    """It says that it matches, and does not."""

    matches = True


class Intolerant(Rounds):
    """It says that it does without lost messages, and forgets itself then."""

    tolerant = True

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        theirs = yield from swap_states(me)
        if me.neighbors and not theirs:
            return RoundResult({k: 0 * v for k, v in me.state.items()})
        return self.result(me, mix([me.state, *theirs.values()], me.weights_of(theirs)))


class Talkative(Method):
    """It says that it exchanges in steps, and does so when a round begins, too."""

    exchanges = "steps"

    def step(self, me: StepContext) -> Talk[None]:
        yield from super().step(me)

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        yield Step(dict.fromkeys(me.neighbors, me.state), me.neighbors)
        return RoundResult(me.state)


@dataclass(frozen=True)
class Steps(Method):
    """In steps."""

    exchanges = "steps"

    def step(self, me: StepContext) -> Talk[None]:
        theirs = yield from swap(me.topology, me.index, me.state())
        own = float(me.topology.pi[me.index, me.index])
        weights = [own, *(float(me.topology.pi[me.index, j]) for j in theirs)]
        self.move(me, mix([me.state(), *theirs.values()], weights))

    def move(self, me: StepContext, average: Any) -> None:
        me.load(average)
        me.update(me.gradient())


class Fast(Steps):
    """Two steps for one."""

    def move(self, me: StepContext, average: Any) -> None:
        super().move(me, average)
        me.update(me.gradient())


class Apart(Steps):
    """It does not take the average."""

    def move(self, me: StepContext, average: Any) -> None:
        me.update(me.gradient())


class Numbered(Steps):
    """Who has a higher number is faster."""

    def move(self, me: StepContext, average: Any) -> None:
        me.load(average)
        me.update(me.gradient(), 1 + 0.1 * me.index)


@pytest.mark.parametrize("kind", [Rounds, Steps])
def test_what_keeps_the_laws_passes(kind: type[Method]) -> None:
    check_method(kind)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Doubling, "Copies of one state merge to it on any graph"),
        (InPlace, "no state is changed in place"),
        (Drawing, "The same states merge to the same twice"),
        (Narrow, "entries, shapes and types"),
        (Silent, "gives a disagreement"),
        (Unmatched, "merges copies in other unit orders to what they all compute"),
        (Intolerant, "A tolerant method does without what is lost"),
        (Talkative, "a method that does not exchange in rounds sends none"),
        (Fast, "trains as if there were no method"),
        (Apart, "Agents that hardly learn come together"),
        (Numbered, "Agents with one loss at one place stay together|as if there were no method"),
    ],
)
def test_a_method_that_breaks_a_law_is_told_which(kind: type[Method], said: str) -> None:
    with pytest.raises(AssertionError, match=f"broken: .*({said})"):
        check_method(kind)


def test_a_method_that_cannot_be_registered_is_told_so() -> None:
    with pytest.raises(ConfigError, match="must be a class, with dimat.methods.Method as base"):
        check_method(int)  # type: ignore[arg-type]


# --- graphs, matchers, combiners, sources ---------------------------------------------------------


def drawn(agents: int) -> nx.Graph[int]:
    return nx.random_labeled_tree(agents) if agents > 1 else nx.empty_graph(1)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (drawn, "The same graph comes of the same number of agents"),
        (lambda agents: nx.path_graph(agents + 1), "it is a graph of some of"),
        (nx.empty_graph, r"of others it raises TopologyError \(.*not connected"),  # of one it is
        (lambda agents: {}[agents], "where it cannot be of 1 agents .* KeyError: 1"),
        (lambda agents: None, "must be a networkx graph of the nodes"),
    ],
)
def test_a_graph_that_breaks_a_law_is_told_which(build: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_topology(build)


class Shuffling:
    """It moves the first, too."""

    needs_batches = False

    def match(self, problem: Problem) -> list[Matching]:
        first, *others = IdentityMatcher().match(problem)
        random = torch.Generator().manual_seed(0)
        return [replace(first, permutation=problem.analysis.symmetry.random(random)), *others]


def test_a_matcher_that_breaks_a_law_is_told_which() -> None:
    with pytest.raises(AssertionError, match="that of the first is the identity"):
        check_matcher(Shuffling)
    with pytest.raises(AssertionError, match="in another unit order is brought back exactly"):
        check_matcher(IdentityMatcher)
    check_matcher(IdentityMatcher, finds=False)
    check_matcher(Weights)


class Summing(Average):
    """It forgets the weights."""

    def combine(self, analysis: Any, states: Any, weights: Any, batches: Any) -> Any:
        found = super().combine(analysis, states, weights, batches)
        return {k: len(states) * v if v.is_floating_point() else v for k, v in found.items()}


class Cautious(Average):
    """Copies stay; in a run it is the average, whose combine_states it has."""

    def combine(self, analysis: Any, states: Any, weights: Any, batches: Any) -> Any:
        found = states[max(range(len(states)), key=lambda i: weights[i])]
        return {k: (v if v.is_floating_point() else states[0][k]).clone() for k, v in found.items()}


class Keeping(Gram):
    """Its statistics hold the inputs."""

    def statistics(self, analysis: Any, state: Any, batches: Any, budget: float = 5.0) -> Any:
        found = super().statistics(analysis, state, batches, budget)
        return {**found, "inputs": torch.cat(list(batches))}


def test_a_combiner_that_breaks_a_law_is_told_which() -> None:
    with pytest.raises(AssertionError, match="Copies of one state combine to what it computes"):
        check_combiner(Summing)
    with pytest.raises(AssertionError, match="combine_states, which runs call, gives what combine"):
        check_combiner(Cautious)
    with pytest.raises(AssertionError, match="have the same names and shapes, whatever they were"):
        check_combiner(Keeping)


def test_a_source_that_breaks_a_law_is_told_which() -> None:
    data = load_dataset("digits")
    wrong = [
        (replace(data, train_y=data.train_y + 1), "no 0: classes are counted from 0"),
        (replace(data, train_y=data.train_y[:-1]), "train: 1437 images, 1436 labels|images"),
        (replace(data, test_x=data.test_x.float()), "test_x ranges over|float images"),
        ({"train_x": data.train_x}, "it gave a dict"),
    ]
    for found, said in wrong:
        with pytest.raises(AssertionError, match=said):
            check_source(lambda place, tell, found=found: found)
    shuffled = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="same images come in the same order"):
        check_source(lambda place, tell: data.only(shuffled.permutation(100)))

    def half(place: str, tell: Any) -> Any:
        tell(0, 10)
        tell(5, 10)
        return data

    with pytest.raises(AssertionError, match="all of the total, or nothing"):
        check_source(half)
    assert "half" not in SOURCES


def cut(labels: Any, agents: int, alpha: float, random: np.random.Generator) -> Partition:
    parts = np.array_split(np.arange(len(labels)), agents)
    return Partition(parts, parts)


def shared(labels: Any, agents: int, alpha: float, random: np.random.Generator) -> Partition:
    parts = [np.arange(100)] * agents
    return Partition(parts, parts)


def drawn_anew(labels: Any, agents: int, alpha: float, random: np.random.Generator) -> Partition:
    parts = np.array_split(np.random.default_rng().permutation(len(labels)), agents)
    return Partition(parts, parts)


def counting_on(labels: Any, agents: int, alpha: float, random: np.random.Generator) -> Partition:
    labels += 1
    return cut(labels, agents, alpha, random)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (shared, "No sample is dealt out twice"),
        (drawn_anew, "The same labels and random numbers give the same parts"),
        (counting_on, "The labels are not changed"),
        (
            lambda *given: None,
            "it gives a Partition for some of .*what is None",
        ),
        (
            lambda *given: {}["x"],
            "where it cannot be of 1 agents .* KeyError: 'x'",
        ),
    ],
)
def test_a_split_that_breaks_a_law_is_told_which(split: Any, said: str) -> None:
    check_split(cut)
    with pytest.raises(AssertionError, match=said):
        check_split(split)


@pytest.mark.parametrize("check", [check_split, check_source, check_topology])
def test_a_function_of_other_arguments_cannot_be_registered(check: Any) -> None:
    with pytest.raises(ConfigError, match=r"'mine' is a function of \(other, \*, further\): must"):
        check(lambda other, *, further: None)
