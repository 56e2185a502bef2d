"""What a lie can do to a robust mean, and what such a mean is where nobody lies."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.agents import agents_of

from dimat.errors import StructureError
from dimat.merging import mix, robust_mix
from dimat.state import State, squared_distance

Rule = Literal["clip", "trimmed"]
RULES: tuple[Rule, ...] = ("clip", "trimmed")
KINDS: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16, torch.complex64)
KEYS = ["w", "b"]
SIZES = (1.0, 1e3, 1e30, 1e307)


def states(n: int, seed: int) -> list[State]:
    """An agent's own state and those of others, with a running variance and a counter."""
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return [
        {"w": drawn(4, 3), "b": drawn(3), "var": drawn(3).square(), "seen": torch.tensor(i)}
        for i in range(n)
    ]


def shares(n: int, seed: int) -> list[float]:
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    return [float(share) for share in drawn / drawn.sum()]


def apart(a: State, b: State, keys: list[str] = KEYS) -> float:
    return math.sqrt(squared_distance(a, b, keys))


@st.composite
def neighborhoods(draw: st.DrawFn) -> tuple[list[State], list[State], list[float], int]:
    """Honest states, our own the first; lies, at most as many as may be; weights; how many may."""
    liars = draw(st.integers(1, 3))
    n = draw(st.integers(2 * liars + 1, 2 * liars + 4))
    told = draw(st.integers(0, liars))
    seed, size = draw(st.integers(0, 10**6)), draw(st.sampled_from(SIZES))
    honest = states(n - told, seed)
    lies = [{k: v * size if v.dim() else v for k, v in x.items()} for x in states(told, seed + 1)]
    return honest, lies, shares(n, seed), liars


@settings(max_examples=60)
@given(neighborhoods())
def test_trimmed_is_between_the_honest_values_of_every_number_whatever_is_told(
    them: tuple[list[State], list[State], list[float], int],
) -> None:
    honest, lies, weights, liars = them
    found = robust_mix([*honest, *lies], weights, KEYS, "trimmed", liars)
    for key in ("w", "b", "var"):
        values = torch.stack([x[key] for x in honest])
        assert (found[key] <= values.amax(0) + 1e-12).all()
        assert (found[key] >= values.amin(0) - 1e-12).all()
    assert int(found["seen"]) == 0


@settings(max_examples=60)
@given(neighborhoods())
def test_clipped_is_no_farther_from_us_than_the_farthest_honest_neighbor_whatever_is_told(
    them: tuple[list[State], list[State], list[float], int],
) -> None:
    honest, lies, weights, liars = them
    found = robust_mix([*honest, *lies], weights, KEYS, "clip", liars)
    for keys in (KEYS, ["var"]):  # running statistics have a scale of their own
        farthest = max(apart(honest[0], x, keys) for x in honest[1:])
        assert apart(honest[0], found, keys) <= (1 - weights[0]) * farthest * (1 + 1e-9)


def test_an_average_has_no_such_bound() -> None:
    honest = states(4, 0)
    lie = {k: v * 1e6 if v.dim() else v for k, v in states(1, 1)[0].items()}
    farthest = max(apart(honest[0], x) for x in honest[1:])
    assert apart(honest[0], mix([*honest, lie], [0.2] * 5)) > 1e4 * farthest


@pytest.mark.parametrize("rule", RULES)
def test_who_agree_do_not_move_for_one_who_lies(rule: Rule) -> None:
    (own,) = states(1, 0)
    for n, liars in ((3, 1), (6, 2)):
        lies = [{k: -v * 9**i for k, v in own.items()} for i in range(1, liars + 1)]
        them = [own, *copy.deepcopy([own] * (n - 1 - liars)), *lies]
        found = robust_mix(them, shares(n, 1), KEYS, rule, liars)
        torch.testing.assert_close(found, own, rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equal_states_stay_to_the_bit_and_every_entry_keeps_its_type(
    rule: Rule, kind: torch.dtype
) -> None:
    own = {k: v.to(kind) if v.dim() else v for k, v in states(1, 3)[0].items()}
    own["flag"] = torch.tensor([True, False])
    them = [own, *copy.deepcopy([own] * 4)]
    found = robust_mix(them, shares(5, 2), KEYS, rule, 1)
    torch.testing.assert_close(found, own, rtol=0, atol=0)
    lie = {k: (-9 * v if v.dtype == kind else torch.zeros_like(v)) for k, v in own.items()}
    mixed = robust_mix([*them[:2], lie], shares(3, 2), KEYS, rule, 1)
    assert list(mixed) == list(own)
    assert [v.dtype for v in mixed.values()] == [v.dtype for v in own.values()]
    torch.testing.assert_close(mixed, own, rtol=0, atol=0)
    assert all(mixed[k].data_ptr() != v.data_ptr() for k, v in own.items())


def test_trimmed_is_the_mean_of_what_sorting_leaves() -> None:
    for n, liars in ((3, 1), (5, 1), (5, 2), (9, 3)):
        them = states(n, n)
        found = robust_mix(them, [1 / n] * n, KEYS, "trimmed", liars)
        for key in ("w", "b", "var"):
            values = torch.stack([x[key] for x in them]).sort(0).values
            torch.testing.assert_close(found[key], values[liars : n - liars].mean(0))


def test_complex_numbers_are_trimmed_by_their_parts() -> None:
    them = [{"w": torch.complex(x["w"], x["w"].flip(0))} for x in states(3, 0)]
    found = robust_mix(them, [1 / 3] * 3, KEYS, "trimmed", 1)["w"]
    parts = torch.stack([torch.view_as_real(x["w"]) for x in them]).median(0).values
    torch.testing.assert_close(torch.view_as_real(found), parts)


def test_clipping_is_the_formula_of_the_paper_at_the_largest_distance_but_so_many() -> None:
    them, weights = states(5, 4), shares(5, 4)
    own, *others = them
    radius = sorted(apart(own, x) for x in others)[-2]
    expected = own["w"].clone()
    for weight, x in zip(weights[1:], others, strict=True):
        expected += weight * min(1.0, radius / apart(own, x)) * (x["w"] - own["w"])
    found = robust_mix(them, weights, KEYS, "clip", 1)
    torch.testing.assert_close(found["w"], expected)


def test_where_all_are_as_far_away_clipping_is_the_average_to_the_bit() -> None:
    own = states(1, 5)[0]
    others = [{**own, "w": own["w"] + sign} for sign in (1.0, -1.0, 1.0)]
    weights = shares(4, 5)
    found = robust_mix([own, *others], weights, KEYS, "clip", 1)
    torch.testing.assert_close(found, mix([own, *others], weights), rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_too_few_to_tell_lies_from_states_leave_us_as_we_are(rule: Rule) -> None:
    for n, liars in ((1, 1), (2, 1), (3, 2)):
        them = states(n, n)
        found = robust_mix(them, shares(n, n), KEYS, rule, liars)
        torch.testing.assert_close(found, them[0], rtol=0, atol=0)
        assert found["w"].data_ptr() != them[0]["w"].data_ptr()


@pytest.mark.parametrize("rule", RULES)
def test_what_has_no_weight_is_not_there_and_who_is_new_takes_what_it_is_given(rule: Rule) -> None:
    them = states(5, 6)
    own, a, b, c, d = shares(5, 6)
    quiet = robust_mix(them, [own + c, a, b, 0.0, d], KEYS, rule, 1)
    without = robust_mix([*them[:3], them[4]], [own + c, a, b, d], KEYS, rule, 1)
    torch.testing.assert_close(quiet, without, rtol=0, atol=0)
    new = robust_mix(them, [0.0, 0.0, 1.0, 0.0, 0.0], KEYS, rule, 1)
    torch.testing.assert_close(new["w"], them[2]["w"], rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_common_order_of_units_goes_through_it(rule: Rule, name: str) -> None:
    own = agents_of(name)
    symmetry, them = own.analysis.symmetry, own.perturbed(6)
    move = symmetry.random(torch.Generator().manual_seed(0))
    rest: Any = (shares(6, 0), own.parameters, rule, 2)
    moved = robust_mix([symmetry.apply(move, x) for x in them], *rest)
    torch.testing.assert_close(moved, symmetry.apply(move, robust_mix(them, *rest)))


@pytest.mark.parametrize("rule", RULES)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(rule: Rule) -> None:
    them = states(4, 7)
    before = copy.deepcopy(them)
    robust_mix(them, shares(4, 7), KEYS, rule, 1)
    torch.testing.assert_close(them, before, rtol=0, atol=0)
    with pytest.raises(StructureError, match="sum to"):
        robust_mix(them, [0.5] * 4, KEYS, rule, 1)
    with pytest.raises(StructureError, match="state 2 does not fit"):
        robust_mix([*them[:2], {"w": them[2]["w"]}], shares(3, 7), KEYS, rule, 1)
