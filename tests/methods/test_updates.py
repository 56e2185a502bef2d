"""All that a method's step is made of, against NumPy: PyTorch's optimizers, under a schedule.

Losses are quadratics; agents are real ones, with momentum, weight decay and a falling rate. What is
compared with is written down from the papers, agents as rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.methods.making import made
from tests.methods.test_steps import irregular_topology, lopsided
from torch import Tensor, nn

from dimat.data import Shard
from dimat.exchange import Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import METHODS, Method, RoundContext
from dimat.methods.pairs import pairs
from dimat.state import State
from dimat.symmetry import Analysis
from dimat.topology import Topology
from dimat.training.trainer import LocalTrainer, MergeSettings

Vector = NDArray[np.float64]
Gradient = Callable[[Vector], Vector]
D, STEPS, LR, MOMENTUM, DECAY = 3, 24, 0.1, 0.9, 0.05
IMAGES = (3, 1, 4, 1, 5, 9)
OPTIMIZERS = ("sgd", "msgd", "adam")


def rate(step: int) -> float:
    """A cosine with a drop: it falls to a hundredth, and by a third at once."""
    return LR * (0.3 if step > 15 else 1.0) * (0.5 + 0.5 * math.cos(math.pi * step / (STEPS + 2)))


# --- agents ---------------------------------------------------------------------------------------


class Point(nn.Module):
    """A model that is its parameters."""

    def __init__(self, x: Vector) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.from_numpy(x.copy()))


@dataclass
class OnQuadratic(LocalTrainer):
    """An agent whose loss is ½ (x - b)ᵀ A (x - b)."""

    curvature: Vector = field(default_factory=lambda: np.eye(D))
    minimum: Vector = field(default_factory=lambda: np.zeros(D))

    def gradient(self) -> State:
        self.steps += 1
        return self.gradient_at(self.state())

    def gradient_at(self, state: Mapping[str, Tensor]) -> State:
        return {"x": torch.from_numpy(self.curvature @ (state["x"].numpy() - self.minimum))}


def optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    own = model.parameters()
    if name == "adam":
        return torch.optim.Adam(own, LR, weight_decay=DECAY)
    return torch.optim.SGD(own, LR, MOMENTUM if name == "msgd" else 0.0, weight_decay=DECAY)


def unmatched() -> Analysis:
    raise AssertionError("nothing is matched here")


def agents(topology: Topology, name: str) -> list[OnQuadratic]:
    random, found = np.random.default_rng(7), []
    for i in range(topology.num_agents):
        root, (x, b) = random.normal(size=(D, D)), random.normal(size=(2, D))
        model = Point(x)
        own = optimizer(name, model)
        shard = Shard(torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64))
        schedule = torch.optim.lr_scheduler.LambdaLR(own, lambda step: rate(step) / LR)
        curvature = root @ root.T / D + 0.2 * np.eye(D)
        merging = MergeSettings("quadratic", topology, unmatched)
        args = (i, model, own, schedule, shard, topology, 0, 1, merging)
        found.append(OnQuadratic(*args, curvature=curvature, minimum=b))
    return found


def stacked(them: Sequence[LocalTrainer]) -> Vector:
    return np.stack([me.state()["x"].numpy() for me in them])


def in_steps(method: Method, them: Sequence[LocalTrainer]) -> Iterator[Vector]:
    for _ in range(STEPS):
        run_all([method.step(me) for me in them], [Traffic() for _ in them])
        yield stacked(them)


def in_rounds(method: Method, them: Sequence[LocalTrainer], local: int) -> Iterator[Vector]:
    for number in range(STEPS // local):
        members = [_member(me, number + 1) for me in them]
        merged = run_all([method.merge(own) for own in members], [Traffic() for _ in them])
        for me, own in zip(them, merged, strict=True):
            me.load(own.state)
            me.kept = {name: dict(kept) for name, kept in own.kept.items()}
        for _ in range(local):
            run_all([method.step(me) for me in them], [Traffic() for _ in them])
        yield stacked(them)


def _member(me: LocalTrainer, number: int) -> RoundContext:
    def never() -> list[Tensor]:
        raise AssertionError("nothing is matched here")

    own, images = me.topology, IMAGES[me.index]
    return RoundContext(
        me.index, number, me.state(), own, ["x"], never, never, images=images, kept=me.kept
    )  # type: ignore[arg-type]


# --- what they are compared with ------------------------------------------------------------------


@dataclass
class Displacement:
    """Δ of all agents: the optimizer's own rule, decay added to the gradient (L2)."""

    name: str
    b: Vector | float = 0.0
    square: Vector | float = 0.0
    k: int = 0

    def __call__(self, x: Vector, g: Vector, scale: Vector | float = 1.0) -> Vector:
        alpha, d = rate(self.k) * scale, g + DECAY * x
        self.k += 1
        if self.name == "adam":
            self.b = 0.9 * self.b + 0.1 * d
            self.square = 0.999 * self.square + 0.001 * d * d
            first, second = self.b / (1 - 0.9**self.k), self.square / (1 - 0.999**self.k)
            return -alpha * first / (np.sqrt(second) + 1e-8)
        self.b = (MOMENTUM if self.name == "msgd" else 0.0) * self.b + d
        return -alpha * self.b


def gradient_of(them: Sequence[OnQuadratic]) -> Gradient:
    def gradient(x: Vector) -> Vector:
        return np.stack([me.curvature @ (x[me.index] - me.minimum) for me in them])

    return gradient


def consensus(x: Vector, pi: Vector, delta: Displacement, along: Vector, order: str) -> Vector:
    if order == "combine":
        return pi @ x + delta(pi @ x, along)
    return pi @ (x + delta(x, along))


def cdsgd(x: Vector, pi: Vector, g: Gradient, delta: Displacement, order: str) -> Iterator[Vector]:
    for _ in range(STEPS):
        x = consensus(x, pi, delta, g(x), order)
        yield x


def cdmsgd(x: Vector, pi: Vector, g: Gradient, delta: Displacement, order: str) -> Iterator[Vector]:
    """Jiang et al., Algorithm 2: w = Π x, v ← μ v - α g(x), x ← w + v."""
    v, mu = np.zeros_like(x), MOMENTUM if delta.name == "msgd" else 0.0
    for k in range(STEPS):
        set_out = pi @ x if order == "combine" else x
        v = mu * v - rate(k) * (g(x) + DECAY * set_out)
        x = set_out + v if order == "combine" else pi @ (set_out + v)
        yield x


def tracking(
    x: Vector, pi: Vector, g: Gradient, delta: Displacement, order: str
) -> Iterator[Vector]:
    last = y = g(x)
    for k in range(STEPS):
        if k:
            now = g(x)
            y, last = pi @ y + now - last, now
        x = consensus(x, pi, delta, y, order)
        yield x


def ldsgd(x: Vector, pi: Vector, g: Gradient, delta: Displacement, order: str) -> Iterator[Vector]:
    for k in range(STEPS):
        x = consensus(x, pi if k % 5 >= 3 else np.eye(len(pi)), delta, g(x), order)
        yield x


ORACLES = {"cdsgd": cdsgd, "cdmsgd": cdmsgd, "gradient-tracking": tracking, "ldsgd": ldsgd}


def nearest(g: Vector, cross: Vector) -> Vector:
    """The point nearest to ``g`` with ``cross @ point >= 0``: every set of active rows is tried."""
    best = None
    for size in range(len(cross) + 1):
        for active in itertools.combinations(range(len(cross)), size):
            rows = cross[list(active)]
            found = g - rows.T @ np.linalg.lstsq(rows @ rows.T, rows @ g, rcond=None)[0]
            if (cross @ found >= -1e-10).all():
                away = float(np.linalg.norm(found - g))
                best = (away, found) if best is None or away < best[0] else best
    assert best is not None
    return best[1]


# --- the laws -------------------------------------------------------------------------------------


def check(found: Iterator[Vector], expected: Iterator[Vector]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("order", ["combine", "adapt"])
@pytest.mark.parametrize(
    ("name", "own"),
    [pair for pair in itertools.product(ORACLES, OPTIMIZERS) if pair != ("cdmsgd", "adam")],
)
def test_consensus_methods_follow_their_papers_under_a_schedule(
    name: str, own: str, order: str
) -> None:
    topology = irregular_topology(2)
    method = made(name, order=order, quiet_steps=3, mixing_steps=2)
    them = agents(topology, own)
    oracle = ORACLES[name](stacked(them), topology.pi, gradient_of(them), Displacement(own), order)
    check(in_steps(method, them), oracle)


@pytest.mark.parametrize("own", OPTIMIZERS)
def test_gradient_push_follows_its_numerators_and_weights_under_a_schedule(own: str) -> None:
    topology = lopsided()
    them = agents(topology, own)

    def oracle(x: Vector) -> Iterator[Vector]:
        w, delta, g = np.ones((len(them), 1)), Displacement(own), gradient_of(them)
        for _ in range(STEPS):
            x = x + delta(x / w, g(x / w))
            x, w = topology.pi @ x, topology.pi @ w
            yield x / w

    check(in_steps(METHODS["sgp"](), them), oracle(stacked(them)))


@pytest.mark.parametrize("own", OPTIMIZERS)
def test_cross_gradients_follow_the_quadratic_program_under_a_schedule(own: str) -> None:
    topology = irregular_topology(4)
    them = agents(topology, own)
    turned = []

    def at(i: int, x: Vector) -> Vector:
        cross = [them[j].curvature @ (x - them[j].minimum) for j in [i, *topology.neighbors(i)]]
        turned.append(nearest(cross[0], np.stack(cross)) - cross[0])
        return cross[0] + turned[-1]

    def oracle(x: Vector) -> Iterator[Vector]:
        delta = Displacement(own)
        for _ in range(STEPS):
            along = np.stack([at(i, x[i]) for i in range(len(them))])
            x = consensus(x, topology.pi, delta, along, "combine")
            yield x

    check(in_steps(METHODS["cga"](), them), oracle(stacked(them)))
    assert sum(np.abs(by).max() > 1e-3 for by in turned) > 10  # there was something to project


@pytest.mark.parametrize("own", OPTIMIZERS)
def test_a_swarm_follows_local_steps_and_meetings_under_a_schedule(own: str) -> None:
    topology = irregular_topology(5)
    them = agents(topology, own)

    def oracle(x: Vector) -> Iterator[Vector]:
        delta, g = Displacement(own), gradient_of(them)
        for k in range(STEPS):
            x = x + delta(x, g(x))
            met = pairs(topology, 3, k) if k % 3 == 2 else {}
            x = np.stack([(x[i] + x[met.get(i, i)]) / 2 for i in range(len(x))])
            yield x

    check(in_steps(METHODS["swarm"](quiet_steps=2, seed=3), them), oracle(stacked(them)))


def test_quasi_global_momentum_follows_its_paper_under_a_schedule() -> None:
    """Lin et al., Algorithm 1: decay is a part of the gradient, the rate is the step's own."""
    topology = irregular_topology(2)
    them = agents(topology, "msgd")

    def oracle(x: Vector) -> Iterator[Vector]:
        momentum, g = np.zeros_like(x), gradient_of(them)
        for k in range(STEPS):
            new = topology.pi @ (x - rate(k) * (g(x) + DECAY * x + 0.7 * momentum))
            momentum, x = 0.7 * momentum + 0.3 * (x - new) / rate(k), new
            yield x

    check(in_steps(METHODS["qg-momentum"](momentum=0.7), them), oracle(stacked(them)))


@pytest.mark.parametrize("own", OPTIMIZERS)
def test_tracking_with_local_steps_corrects_what_any_optimizer_is_given(own: str) -> None:
    topology = irregular_topology(2)
    them = agents(topology, own)

    def oracle(x: Vector) -> Iterator[Vector]:
        delta, g, c = Displacement(own), gradient_of(them), np.zeros_like(x)
        given: list[Vector] = []
        for k in range(STEPS):
            given.append(g(x) + c)
            x = x + delta(x, given[-1])
            if k % 3 == 2:
                z, given = np.mean(given, 0), []
                x, c = topology.pi @ x, c - z + topology.pi @ z
            yield x

    check(in_steps(METHODS["k-gt"](quiet_steps=2), them), oracle(stacked(them)))


@pytest.mark.parametrize("own", OPTIMIZERS)
@pytest.mark.parametrize("name", ["local", "wa", "fedavg", "diloco"])
def test_methods_of_rounds_follow_their_papers_under_a_schedule(name: str, own: str) -> None:
    """Local momenta go on through the merge; that of the outer step is beside them."""
    topology, local = irregular_topology(1), 4
    them = agents(topology, own)
    n, shares = len(them), np.array(IMAGES) / sum(IMAGES)

    def oracle(x: Vector) -> Iterator[Vector]:
        delta, g = Displacement(own), gradient_of(them)
        outer, velocity = x.mean(0), np.zeros(D)
        for number in range(STEPS // local):
            if name == "diloco" and number:
                away = outer - x.mean(0)
                velocity = 0.8 * velocity + away
                outer = outer - 0.7 * (away + 0.8 * velocity)
            x = {
                "local": x,
                "wa": topology.pi @ x,
                "fedavg": np.stack([shares @ x] * n),
                "diloco": np.stack([outer] * n),
            }[name]
            for _ in range(local):
                x = x + delta(x, g(x))
            yield x

    method = made(name, lr=0.7, momentum=0.8)
    check(in_rounds(method, them, local), oracle(stacked(them)))


@pytest.mark.parametrize("own", OPTIMIZERS)
def test_pairs_follow_the_outer_step_of_their_paper_under_a_schedule(own: str) -> None:
    """Kolehmainen et al.: outer states and displacements apart, who is alone trains on."""
    topology, local = irregular_topology(5), 2
    them = agents(topology, own)

    def oracle(x: Vector) -> Iterator[Vector]:
        delta, g = Displacement(own), gradient_of(them)
        outer, velocity = np.zeros_like(x), np.zeros_like(x)
        for number in range(1, STEPS // local + 1):
            met = pairs(topology, 3, number)
            alone = np.array([i not in met for i in range(len(x))])[:, None]
            other = [met.get(i, i) for i in range(len(x))]
            if number == 1:
                outer = x = (x + x[other]) / 2
            else:
                moved, between = x - outer, (outer[other] - outer) / 2
                step = 0.4 * velocity + 0.7 * (moved + moved[other]) / 2 + 0.7 * between
                velocity = np.where(alone, velocity, step)
                outer = np.where(alone, outer, outer + velocity)
                x = np.where(alone, x, outer)
            for _ in range(local):
                x = x + delta(x, g(x))
            yield x

    method = METHODS["noloco"](lr=0.7, momentum=0.4, seed=3)
    check(in_rounds(method, them, local), oracle(stacked(them)))
