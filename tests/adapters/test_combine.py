"""Laws of ways to combine adapters: of products, frames, ranks, zeros and noise."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dimat.errors import ConfigError, StructureError
from dimat.merging import COMBINERS, StateCombiner
from dimat.merging.adapters import (
    WAYS,
    Factors,
    aligned,
    find_factors,
    frozen_a,
    naive,
    product,
    product_error,
    stacked,
)

RANK, INPUTS, OUTPUTS = 4, 12, 9
WEIGHTS = [0.5, 0.3, 0.2]


def drawn(seed: int, rank: int = RANK) -> Factors:
    random = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, INPUTS, generator=random, dtype=torch.float64)
    return Factors(a, torch.randn(OUTPUTS, rank, generator=random, dtype=torch.float64))


def several(ranks: Sequence[int] = (RANK,) * 3) -> list[Factors]:
    return [drawn(seed, rank) for seed, rank in enumerate(ranks)]


def dense(own: Factors) -> Tensor:
    return own.b @ own.a


def mean(adapters: Sequence[Factors], weights: Sequence[float] = WEIGHTS) -> Tensor:
    return torch.stack([w * dense(x) for w, x in zip(weights, adapters, strict=True)]).sum(0)


def turned(own: Factors, frame: Tensor) -> Factors:
    return Factors(torch.linalg.solve(frame, own.a), own.b @ frame)


def rotations(count: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(9)
    drawn = torch.randn(count, RANK, RANK, generator=random, dtype=torch.float64)
    return list(torch.linalg.qr(drawn).Q)


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 2, 7), (1, 1, 1), (9, 9, 9)])
def test_the_product_is_the_best_of_its_rank(ranks: tuple[int, ...]) -> None:
    """Eckart and Young, by an SVD of the dense mean."""
    adapters = several(ranks)
    found = product(adapters, WEIGHTS)
    expected = mean(adapters)
    s = torch.linalg.svdvals(expected)
    least = float(s[ranks[0] :].norm())
    assert found.rank == ranks[0]
    assert float((dense(found) - expected).norm()) == pytest.approx(least, abs=1e-12)
    apart, norm = product_error(found, adapters, WEIGHTS)
    assert (apart, norm) == pytest.approx((least, float(expected.norm())), abs=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6, 12])
def test_a_product_may_have_another_rank(rank: int) -> None:
    adapters = several()
    found = product(adapters, WEIGHTS, rank)
    s = torch.linalg.svdvals(mean(adapters))
    assert (found.a.shape, found.b.shape) == ((rank, INPUTS), (OUTPUTS, rank))
    assert float((dense(found) - mean(adapters)).norm()) == pytest.approx(
        float(s[rank:].norm()), abs=1e-12
    )


def test_a_product_depends_on_the_products_of_others_alone() -> None:
    """In whatever frame of GL(r) they are."""
    adapters = several()
    random = torch.Generator().manual_seed(5)
    frames = torch.randn(2, RANK, RANK, generator=random, dtype=torch.float64)
    moved = [adapters[0], *(turned(x, f) for x, f in zip(adapters[1:], frames, strict=True))]
    assert_close(product(moved, WEIGHTS), product(adapters, WEIGHTS))


def test_a_product_stands_in_the_own_frame() -> None:
    """Its A is the own one, projected on the merged row space; a frame that turns it turns that."""
    adapters = several()
    found = product(adapters, WEIGHTS)
    rows = torch.linalg.svd(mean(adapters)).Vh[:RANK]
    assert_close(found.a, adapters[0].a @ rows.T @ rows)
    (turn,) = rotations(1)
    other = product([turned(adapters[0], turn), *adapters[1:]], WEIGHTS)
    assert_close(other, turned(found, turn))


@pytest.mark.parametrize("way", ["naive", "aligned", "product", "frozen-a"])
def test_copies_keep_their_factors(way: str) -> None:
    own = drawn(0)
    assert_close(WAYS[way]([own] * 3, WEIGHTS), own)


@pytest.mark.parametrize("way", ["naive", "aligned", "product"])
def test_who_has_all_the_weight_keeps_its_factors(way: str) -> None:
    adapters = several()
    assert_close(WAYS[way](adapters, [1.0, 0.0, 0.0]), adapters[0])


def test_copies_of_a_lower_rank_than_they_have_room_for_keep_their_factors() -> None:
    own = drawn(0)
    low = Factors(own.a, own.b * torch.tensor([1.0, 1.0, 0.0, 0.0]).double())
    assert_close(product([low] * 3, WEIGHTS), low)


def test_rotated_copies_are_aligned_to_their_product() -> None:
    own = drawn(0)
    copies = [own, *(turned(own, turn) for turn in rotations(2))]
    assert_close(aligned(copies, WEIGHTS), own)
    apart, norm = product_error(naive(copies, WEIGHTS), copies, WEIGHTS)
    assert apart > 0.3 * norm


def test_float32_noise_stays_float32_noise() -> None:
    own = drawn(0)
    copies = [own, *(turned(own, turn) for turn in rotations(2))]
    random = torch.Generator().manual_seed(3)

    def noisy(x: Tensor) -> Tensor:
        return x * (1 + 1e-7 * torch.randn(x.shape, generator=random, dtype=torch.float64))

    noise = [Factors(noisy(x.a), noisy(x.b)) for x in copies]
    for way in (aligned, product):
        assert_close(way(noise, WEIGHTS), own, rtol=1e-5, atol=1e-5)


def test_alignment_is_never_farther_off_than_its_bound_without() -> None:
    """Where A is common and B are small, as early in training, averages are nearly exact."""
    first, *others = several()
    small = Factors(first.a, 0.02 * first.b)
    alike = [small, *(Factors(first.a + 0.01 * x.a, 0.02 * x.b) for x in others)]
    rotated = [small, *(turned(x, f) for x, f in zip(alike[1:], rotations(2), strict=True))]
    plain = product_error(naive(alike, WEIGHTS), alike, WEIGHTS)[0]
    for adapters in (alike, rotated):
        assert product_error(aligned(adapters, WEIGHTS), adapters, WEIGHTS)[0] <= 1.1 * plain


@pytest.mark.parametrize("way", ["naive", "aligned", "product"])
def test_adapters_that_add_nothing_yet_can_be_trained_on(way: str) -> None:
    """B is zero at the beginning: A must not become so."""
    adapters = [Factors(x.a, torch.zeros_like(x.b)) for x in several()]
    found = WAYS[way](adapters, WEIGHTS)
    assert_close(dense(found), torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64))
    assert float(torch.linalg.svdvals(found.a)[-1]) > 0.1
    if way == "product":
        assert_close(found.a, adapters[0].a)


def test_only_one_agent_has_trained() -> None:
    adapters = several()
    zero = [adapters[0], *(Factors(x.a, torch.zeros_like(x.b)) for x in adapters[1:])]
    assert_close(dense(product(zero, WEIGHTS)), mean(zero))
    other = [zero[1], adapters[0], zero[2]]  # the own B is zero
    found = product(other, WEIGHTS)
    assert_close(dense(found), mean(other))
    assert found.b.abs().max() < 20 * adapters[0].b.abs().max()


@pytest.mark.parametrize("way", ["aligned", "product"])
def test_directions_that_are_alike_or_missing_break_nothing(way: str) -> None:
    """Equal singular values, factors of lower rank than they have room for, zeros all over."""
    eye = Factors(torch.eye(RANK, INPUTS).double(), torch.eye(OUTPUTS, RANK).double())
    low = Factors(eye.a, eye.b * torch.tensor([1.0, 1.0, 0.0, 0.0]).double())
    thin = Factors(eye.a * torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None].double(), eye.b)
    zero = Factors(0 * eye.a, 0 * eye.b)
    for adapters in ([eye, eye, eye], [low, eye, thin], [zero, eye, low], [zero, zero, zero]):
        found = WAYS[way](adapters, WEIGHTS)
        assert all(bool(x.isfinite().all()) for x in found)
        if way == "product":
            assert_close(dense(found), mean(adapters))


def test_stacks_are_exact_and_their_rank_grows() -> None:
    adapters = several((4, 2, 7))
    found = stacked(adapters, WEIGHTS)
    assert found.rank == 13
    assert_close(dense(found), mean(adapters))


def test_lower_ranks_are_filled_up() -> None:
    adapters = several((2, 4, 3))
    found = naive(adapters, WEIGHTS)
    assert found.rank == 4
    assert_close(found.a[3], 0.3 * adapters[1].a[3])
    assert aligned(adapters, WEIGHTS).rank == 4
    copies = [adapters[0], Factors(*stacked([adapters[0], drawn(8, 2)], [1.0, 0.0]))]
    assert_close(dense(aligned(copies, [0.5, 0.5])), dense(adapters[0]))


def test_frozen_a_is_exact_and_refused_where_they_differ() -> None:
    first, *others = several()
    alike = [first, *(Factors(first.a, x.b) for x in others)]
    assert_close(dense(frozen_a(alike, WEIGHTS)), mean(alike))
    with pytest.raises(StructureError, match="adapters 0 and 1 have different factors A"):
        frozen_a([first, *others], WEIGHTS)


# --- states ---------------------------------------------------------------------------------------


def test_factors_are_found_by_the_names_of_peft() -> None:
    names = [
        *("q.lora_A.weight", "q.lora_B.weight", "q.lora_B.bias"),
        *("q.lora_A.default.weight", "q.lora_B.default.weight"),
        *("e.lora_embedding_B.default", "e.lora_embedding_A.default"),
        *("lora_A", "lora_B", "head.weight", "flora_A.weight"),
    ]
    assert [(own.module, own.a, own.b) for own in find_factors(names)] == [
        ("q", "q.lora_A.weight", "q.lora_B.weight"),
        ("q", "q.lora_A.default.weight", "q.lora_B.default.weight"),
        ("e", "e.lora_embedding_A.default", "e.lora_embedding_B.default"),
        ("", "lora_A", "lora_B"),
    ]
    with pytest.raises(StructureError, match=r"'q.lora_B.weight' is missing"):
        find_factors(["q.lora_A.weight"])


def state(seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "conv.lora_A.weight": torch.randn(2, 3, 3, 3, generator=random),
        "conv.lora_B.weight": torch.randn(5, 2, 1, 1, generator=random),
        "head.weight": torch.randn(4, 5, generator=random),
        "count": torch.tensor(seed),
    }


@pytest.mark.parametrize("name", ["lora-aligned", "lora-product"])
def test_a_state_has_its_factors_combined_and_all_else_averaged(name: str) -> None:
    states = [state(seed) for seed in range(3)]
    combiner = COMBINERS[name]
    assert isinstance(combiner, StateCombiner)
    found = combiner.combine_states(states, WEIGHTS)
    (keys,) = find_factors(states[0])
    own = [keys.read(x) for x in states]
    way = WAYS[name.removeprefix("lora-")]
    assert_close(keys.read(found), way(own, WEIGHTS), rtol=1e-5, atol=1e-5)
    assert found["conv.lora_A.weight"].shape == (2, 3, 3, 3)
    average = sum(w * x["head.weight"] for w, x in zip(WEIGHTS, states, strict=True))
    assert_close(found["head.weight"], average)
    assert found["count"] == 0


def test_weights_sum_to_one() -> None:
    combiner = COMBINERS["lora-product"]
    assert isinstance(combiner, StateCombiner)
    with pytest.raises(StructureError, match=r"sum to 0.9"):
        combiner.combine_states([state(0), state(1)], [0.5, 0.4])


def test_factors_without_a_product_are_refused() -> None:
    wide = {**state(0), "conv.lora_B.weight": torch.zeros(5, 2, 3, 3)}
    (keys,) = find_factors(wide)
    with pytest.raises(StructureError, match="are no factors of a product"):
        keys.read(wide)


def test_an_adapter_combiner_is_for_adapters() -> None:
    with pytest.raises(ConfigError, match="no entry of the model is named"):
        COMBINERS["lora-product"].check_keys(["head.weight"], "lora-product")  # type: ignore[attr-defined]
