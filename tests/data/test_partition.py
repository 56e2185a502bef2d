"""Splits for every number of agents: laws beyond the examples of test_data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimat.data import SPLITS, Partition, are_skewed, label_skew, partition, subset
from dimat.data.partition import drawn_skew
from dimat.errors import DataError

CLASSES = 7


def labels(seed: int, n: int = 300) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, CLASSES, n))


def deal(
    name: str, y: torch.Tensor, agents: int, *, seed: int = 0, alpha: float = 1.0
) -> Partition:
    return partition(name, y, agents, seed=seed, alpha=alpha, batch_size=1)


def counts(y: torch.Tensor, parts: list[np.ndarray]) -> np.ndarray:
    """(agents, classes) images."""
    return np.stack([np.bincount(y[part], minlength=CLASSES) for part in parts])


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_an_iid_split_is_stratified_within_one_for_any_number_of_agents(
    agents: int, seed: int
) -> None:
    y = labels(seed)
    dealt = counts(y, deal("iid", y, agents, seed=seed).rounds)
    assert (np.ptp(dealt, axis=0) <= 1).all()
    assert np.ptp(dealt.sum(1)) <= 1


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_pretraining_and_rounds_share_no_image_and_miss_none(agents: int, seed: int) -> None:
    y = labels(seed)
    dealt = deal("iid-then-by-class", y, agents, seed=seed)
    everyone = np.concatenate([*dealt.pretrain, *dealt.rounds])
    np.testing.assert_array_equal(np.sort(everyone), np.arange(300))
    halves = counts(y, [np.concatenate(dealt.pretrain), np.concatenate(dealt.rounds)])
    assert (np.ptp(halves, axis=0) <= 1).all()
    assert (np.ptp(counts(y, dealt.pretrain), axis=0) <= 1).all()
    for agent, own in enumerate(dealt.rounds):
        assert set((y[own] % agents).tolist()) <= {agent}


@settings(max_examples=25)
@given(st.sampled_from(["by-class", "iid-then-by-class"]), st.integers(8, 30), st.integers(0, 1000))
def test_more_agents_than_classes_share_their_classes_evenly(
    name: str, agents: int, seed: int
) -> None:
    """Agent i has class i mod C; who have the same have no image in common, and miss none."""
    y = labels(seed)
    dealt = deal(name, y, agents, seed=seed).rounds
    halves = partition("iid-then-by-class", y, 1, seed=seed, alpha=1.0, batch_size=1)
    all_of_them = halves.rounds[0] if name != "by-class" else np.arange(300)
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), all_of_them)
    for agent, own in enumerate(dealt):
        assert set(y[own].tolist()) == {agent % CLASSES}
        assert (np.diff(own) > 0).all()
    for c in range(CLASSES):
        assert np.ptp([len(own) for own in dealt[c::CLASSES]]) <= 1


@pytest.mark.parametrize("name", ["by-class", "iid-then-by-class"])
def test_who_gets_what_of_a_shared_class_is_drawn(name: str) -> None:
    y = labels(2)
    first, again, other = (deal(name, y, 14, seed=seed).rounds[0].tolist() for seed in (5, 5, 6))
    assert first == again != other


def test_a_large_alpha_is_nearly_iid_and_a_small_one_nearly_one_agent_a_class() -> None:
    y = labels(0, 7000)

    def largest_share(alpha: float) -> float:
        random = np.random.default_rng(1)
        dealt = counts(y, SPLITS["dirichlet"](y.numpy(), 4, alpha, random).rounds)
        return float((dealt.max(0) / dealt.sum(0)).mean())

    assert largest_share(1e4) == pytest.approx(0.25, abs=0.02)
    assert largest_share(0.01) > 0.95
    assert largest_share(1e4) < largest_share(1.0) < largest_share(0.01)


@pytest.mark.parametrize("name", ["iid", "dirichlet", "iid-then-by-class"])
def test_the_seed_decides_who_gets_what_and_nothing_else_does(name: str) -> None:
    y = labels(2)
    first, again, other = (deal(name, y, 3, seed=seed) for seed in (5, 5, 6))
    for a, b in zip(first.pretrain, again.pretrain, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(
        a.tolist() != b.tolist() for a, b in zip(first.pretrain, other.pretrain, strict=True)
    )


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_too_many_agents_are_refused_with_who_how_many_and_the_way_out(name: str) -> None:
    y = labels(3, 40)
    with pytest.raises(DataError) as refused:
        partition(name, y, 11, seed=0, alpha=1.0, batch_size=8)
    said = str(refused.value)
    assert f"split '{name}' gives agent " in said
    assert "a full batch of 8; use fewer agents (now 11), a smaller batch_size" in said
    assert ("larger data.alpha" in said) == (name == "dirichlet")


def test_exactly_one_full_batch_each_is_enough() -> None:
    y = labels(4, 60)
    dealt = partition("iid", y, 3, seed=0, alpha=1.0, batch_size=20)
    assert [len(part) for part in dealt.rounds] == [20, 20, 20]
    with pytest.raises(DataError, match="gives agent 0 20 training samples"):
        partition("iid", y, 3, seed=0, alpha=1.0, batch_size=21)


@settings(max_examples=25)
@given(st.integers(1, 300), st.integers(0, 1000))
def test_a_subset_has_its_size_no_image_twice_and_every_class_in_proportion(
    num: int, seed: int
) -> None:
    y = labels(seed)
    picked = subset(y, num, seed)
    assert len(set(picked.tolist())) == len(picked) == num
    share = np.bincount(y[picked], minlength=CLASSES) - np.bincount(y) * (num / 300)
    assert (np.abs(share) <= 1 + 1e-9).all()


def test_shares_of_one_class_a_sample_are_labels() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 60))
    shares = torch.nn.functional.one_hot(labels).double()
    parts = [np.arange(10), np.arange(10, 60)]
    for skew in (label_skew, drawn_skew):
        assert skew(parts, shares) == pytest.approx(skew(parts, labels))


def test_the_skew_of_random_parts_of_samples_with_several_classes_is_that_foreseen() -> None:
    random = np.random.default_rng(0)
    shares = torch.from_numpy(random.dirichlet([1.0, 2.0, 0.5], 4000))
    parts = np.split(random.permutation(4000), 40)
    assert label_skew(parts, shares) == pytest.approx(drawn_skew(parts, shares), rel=0.15)
    assert not are_skewed(parts, shares)
    by_first = np.split(np.argsort(shares[:, 0].numpy()), 2)
    assert are_skewed(by_first, shares)
    assert not are_skewed(by_first, torch.zeros(4000, 3).double())  # nobody has any label
