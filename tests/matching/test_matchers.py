"""One conformance suite over every matcher; the zoo's tests plant permutations in every model.

A matcher can only undo what it can see. *Distinct* are the units that it tells from all others when
a state is matched with itself: their margin is above 0. The others are dead, or equal to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.tiers import tiers
from torch import Tensor, nn
from torch.func import functional_call

from dimat.matching import MATCHERS, Activations, Consistent, Matcher, Matching, Problem
from dimat.matching.activations import Moments
from dimat.matching.assignment import assign
from dimat.matching.consistent import Gauge, Pairs
from dimat.matching.coordinate_ascent import CoordinateAscent
from dimat.matching.parameter_slices import ParameterSlices
from dimat.symmetry import Analysis, Symmetry
from dimat.symmetry.proof.redraw import redraw

State = dict[str, Tensor]
FINDING = [name for name in MATCHERS if name != "identity"]


class Recurrent(nn.Module):
    """One group on both axes of a matrix; its input matrix is tied to its output's."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again = nn.Linear(5, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 5)
        self.out.weight = nn.Parameter(self.into.weight.detach().t().clone())

    def forward(self, x: Tensor) -> Any:
        h = self.into(x).tanh()
        for _ in range(2):
            h = self.again(h).tanh()
        return self.out(h)


class Attention(nn.Module):
    """A stream, heads, and what is inside them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 10, 0.0, "gelu", batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layer(self.embed(x)))


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 12, 3, groups=2), nn.BatchNorm2d(12),
        nn.Tanh(), nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, 4),
    )  # fmt: skip


MODELS = {"recurrent": (Recurrent, (5,)), "attention": (Attention, (4, 5)),
          "grouped": (grouped, (3, 4, 4))}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A model, and what is needed to draw states of it."""

    model: nn.Module
    analysis: Analysis
    batches: list[Tensor]
    random: torch.Generator

    @property
    def symmetry(self) -> Symmetry:
        return self.analysis.symmetry

    def draw(self) -> State:
        """A state with every floating entry at random."""
        state = redraw(self.model.state_dict(), self.random)
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}

    def copy(self, state: Mapping[str, Tensor]) -> State:
        """The state with its units at random places."""
        return self.symmetry.apply(self.symmetry.random(self.random), state)

    def match(self, matcher: Matcher, states: list[State]) -> list[Matching]:
        weights = [1 / len(states)] * len(states)
        batches = self.batches if matcher.needs_batches else ()
        return matcher.match(Problem(self.analysis, states, weights, batches))

    def outputs(self, state: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            found: Tensor = functional_call(self.model, dict(state), (self.batches[0],))
        return found


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they give at these sizes, and wait for each other on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=MODELS)
def built(request: pytest.FixtureRequest) -> tuple[nn.Module, Analysis, tuple[int, ...]]:
    torch.manual_seed(0)
    make, shape = MODELS[request.param]
    model = make().eval()
    return model, analyze(model, (torch.zeros(2, *shape),)), shape


@pytest.fixture
def setting(built: tuple[nn.Module, Analysis, tuple[int, ...]]) -> Setting:
    model, analysis, shape = built
    random = torch.Generator().manual_seed(1)
    batches = [torch.randn(40, *shape, generator=random) for _ in range(3)]
    return Setting(model, analysis, batches, random)


def same(p: Matching, q: Matching) -> bool:
    return all(
        np.array_equal(own, q.permutation.slots[k]) for k, own in p.permutation.slots.items()
    )


def mean(states: list[State]) -> State:
    return {
        k: torch.stack([s[k] for s in states]).mean(0) if v.is_floating_point() else v
        for k, v in states[0].items()
    }


@pytest.mark.parametrize("count", tiers([2, 3], slow=[2]))
@pytest.mark.parametrize("name", FINDING)
def test_permuted_copies_are_brought_back_exactly(setting: Setting, name: str, count: int) -> None:
    state = setting.draw()
    # By correlation all units are distinct. (By covariance a louder unit may score above oneself,
    # but the sum over all units is largest at the identity even so.)
    itself = setting.match(MATCHERS["activations"], [state, state])[1]
    assert all((own > 1e-4).all() for own in itself.margins.values())
    states = [state, *(setting.copy(state) for _ in range(count - 1))]
    for own, found in zip(states, setting.match(MATCHERS[name], states), strict=True):
        back = setting.symmetry.apply(found.permutation, own)
        torch.testing.assert_close(back, state, rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", MATCHERS)
def test_one_matching_a_state_and_the_first_is_the_identity(
    setting: Setting, name: str, count: int
) -> None:
    found = setting.match(MATCHERS[name], [setting.draw() for _ in range(count)])
    assert len(found) == count
    assert found[0].permutation.moved == 0
    assert {m.permutation.digest for m in found} == {setting.symmetry.digest}


@pytest.mark.parametrize("name", MATCHERS)
def test_states_are_not_changed_and_twice_gives_the_same(setting: Setting, name: str) -> None:
    states = [setting.draw() for _ in range(3)]
    before = [{k: v.clone() for k, v in s.items()} for s in states]
    once, twice = (setting.match(MATCHERS[name], states) for _ in range(2))
    torch.testing.assert_close(states, before, rtol=0, atol=0)
    assert all(same(p, q) for p, q in zip(once, twice, strict=True))


@pytest.mark.parametrize("name", FINDING)
def test_permuted_states_are_matched_to_the_same_pairs_of_units(
    setting: Setting, name: str
) -> None:
    ours, theirs = setting.draw(), setting.draw()
    p = setting.symmetry.random(setting.random)
    states = [setting.symmetry.apply(p, ours), setting.copy(theirs)]
    direct = setting.match(MATCHERS[name], [ours, theirs])[1]
    moved = setting.match(MATCHERS[name], states)[1]
    expected = setting.symmetry.apply(p, setting.symmetry.apply(direct.permutation, theirs))
    found = setting.symmetry.apply(moved.permutation, states[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", FINDING)
def test_similarities_are_in_bounds_and_a_copy_is_fully_similar(
    setting: Setting, name: str
) -> None:
    ours, theirs = setting.draw(), setting.draw()
    _, found, itself = setting.match(MATCHERS[name], [ours, theirs, setting.copy(ours)])
    for own in found.similarities.values():
        assert (np.abs(own) <= 1).all()
    if name != "covariance":  # whose scale is that of the largest unit
        for own in itself.similarities.values():
            np.testing.assert_allclose(own, 1, atol=1e-3)


def layered() -> Setting:
    """A network whose units can be killed and doubled: 5 to 8 to 6 to 3."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    ).eval()
    random = torch.Generator().manual_seed(2)
    batches = [torch.randn(64, 5, generator=random) for _ in range(2)]
    return Setting(model, analyze(model, (torch.zeros(2, 5),)), batches, random)


def with_dead(state: State) -> State:
    """Two units that are never on, and that nothing comes from or goes to."""
    return {
        k: v.index_fill(axis, torch.tensor([1, 4]), 0.0)
        for k, v in state.items()
        for axis in [1 if k == "2.weight" else 0]
        if k in ("0.weight", "0.bias", "2.weight")
    } | {k: v for k, v in state.items() if k not in ("0.weight", "0.bias", "2.weight")}


def with_doubles(state: State) -> State:
    """Units 1 and 4 equal unit 0 in all that comes in and goes out."""
    pick = torch.tensor([0, 0, 2, 3, 0, 5, 6, 7])
    own = {"0.weight": 0, "0.bias": 0, "2.weight": 1}
    return {k: v.index_select(own[k], pick) if k in own else v for k, v in state.items()}


@pytest.mark.parametrize("change", [with_dead, with_doubles])
@pytest.mark.parametrize("name", FINDING)
def test_dead_and_doubled_units_may_swap_but_the_merge_computes_the_same(
    name: str, change: Any
) -> None:
    setting = layered()
    state = change({k: v.abs() if k == "0.bias" else v for k, v in setting.draw().items()})
    states = [state, setting.copy(state), setting.copy(state)]
    found = setting.match(MATCHERS[name], states)
    for own in found:
        for values in (*own.similarities.values(), *own.margins.values()):
            assert np.isfinite(values).all()
    aligned = [setting.symmetry.apply(m.permutation, s) for m, s in zip(found, states, strict=True)]
    torch.testing.assert_close(setting.outputs(mean(aligned)), setting.outputs(state))


def test_dead_units_stay_where_they_are() -> None:
    setting = layered()
    state = with_dead(setting.draw())
    for name in FINDING:
        assert setting.match(MATCHERS[name], [state, state])[1].permutation.moved == 0


# --- weights --------------------------------------------------------------------------------------


def rises(totals: list[float]) -> bool:
    return all(b >= a for a, b in pairwise(totals))


def test_no_sweep_lowers_the_inner_product(setting: Setting) -> None:
    slices = ParameterSlices(setting.analysis)
    for _ in range(5):
        ascent = CoordinateAscent(slices, setting.draw(), setting.draw())
        ascent.settle()
        totals = [ascent.total, *ascent.sweeps()]
        assert rises(totals)
        assert len(totals) < 50


def test_the_total_is_that_of_the_states_put_in_order(setting: Setting) -> None:
    ours, theirs = setting.draw(), setting.draw()
    ascent = CoordinateAscent(ParameterSlices(setting.analysis), ours, theirs)
    ascent.settle()
    *_, total = ascent.sweeps()
    aligned = setting.symmetry.apply(ascent.permutation, theirs)
    expected = sum(
        float((ours[k].double() * aligned[k].double()).sum()) for k in sorted(ascent.ours)
    )
    assert total == pytest.approx(expected)


def test_no_single_assignment_of_a_plain_group_would_gain(setting: Setting) -> None:
    ascent = CoordinateAscent(ParameterSlices(setting.analysis), setting.draw(), setting.draw())
    ascent.settle()
    list(ascent.sweeps())
    for group in setting.symmetry.groups:
        own = ascent.slices.of({group.name})
        if group.over or not own or any(group.name in t.others for t in own):
            continue
        step = assign(setting.symmetry, ascent.scores(own), {group.name})
        assert step.moved == 0


def test_buffers_do_not_count_and_batches_are_not_read() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    analysis = analyze(model, (torch.zeros(2, 3, 4, 4),))
    setting = Setting(model, analysis, [], torch.Generator().manual_seed(4))
    ours, theirs = setting.draw(), setting.draw()

    def batches() -> Iterator[Any]:
        raise AssertionError("batches were read")
        yield

    problem = Problem(analysis, [ours, theirs], (0.5, 0.5), batches())  # type: ignore[arg-type]
    first = MATCHERS["weights"].match(problem)[1]
    theirs["1.running_mean"] = theirs["1.running_mean"].flip(0) * 100
    second = MATCHERS["weights"].match(replace(problem, states=[ours, theirs]))[1]
    assert same(first, second)


# --- one order for all ----------------------------------------------------------------------------


def measured(setting: Setting, states: list[State]) -> dict[tuple[int, int], Moments]:
    """The moments of every two states."""
    pairs = combinations(range(len(states)), 2)
    return Activations().measure(setting.analysis, states, pairs, setting.batches)


def gauge(setting: Setting, count: int) -> Gauge:
    how = Activations()
    states = [setting.draw() for _ in range(count)]
    moments = measured(setting, states)
    weights = np.random.default_rng(0).dirichlet(np.ones(count)).tolist()
    return pairwise_gauge(setting, {k: how.scores(m) for k, m in moments.items()}, weights)


def pairwise_gauge(setting: Setting, pairs: Pairs, weights: list[float]) -> Gauge:
    """Set out from every state in the order of the first."""
    start = [assign(setting.symmetry, pairs[0, j]) for j in range(1, len(weights))]
    return Gauge(setting.symmetry, pairs, weights, start)


def test_what_is_returned_agrees_as_well_though_it_is_in_the_order_of_the_first(
    setting: Setting,
) -> None:
    how, states = Activations(), [setting.draw() for _ in range(5)]
    moments = measured(setting, states)
    own = pairwise_gauge(setting, {k: how.scores(m) for k, m in moments.items()}, [1 / 5] * 5)
    *_, total = own.sweeps()
    alone = len(setting.symmetry.groups) == 1  # all were matched to the first: it need not move
    assert alone or own.orders[0].moved > 0  # so it has to be undone
    own.orders = [m.permutation for m in setting.match(Consistent(), states)]
    assert own.orders[0].moved == 0
    assert own.total == pytest.approx(total)


@pytest.mark.parametrize("count", [2, 4])
def test_no_sweep_lowers_the_agreement_of_all_pairs(setting: Setting, count: int) -> None:
    own = gauge(setting, count)
    totals = [own.total, *own.sweeps()]
    assert rises(totals)
    assert len(totals) < 50
    assert count == 2 or totals[-1] > totals[0]


def test_two_states_are_matched_as_a_pair(setting: Setting) -> None:
    states = [setting.draw(), setting.draw()]
    both = (setting.match(matcher, states)[1] for matcher in (Activations(), Consistent()))
    assert same(*both)


def test_pairs_are_measured_as_they_are_one_by_one(setting: Setting) -> None:
    how, states = Activations(), [setting.draw() for _ in range(3)]
    pairs = measured(setting, states)
    assert list(pairs) == [(0, 1), (0, 2), (1, 2)]
    for (i, j), moments in pairs.items():
        alone = measured(setting, [states[i], states[j]])[0, 1]
        for name, score in how.scores(moments).items():
            np.testing.assert_array_equal(score, how.scores(alone)[name])
