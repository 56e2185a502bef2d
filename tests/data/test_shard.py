"""An agent's images: no other image ever reaches it, and every batch can be trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dimat.data import Shard, generator, hold_out, normalize, partition
from dimat.data.partition import held_out

CLASSES = 5


def numbered(n: int) -> tuple[Tensor, Tensor]:
    """Images whose every pixel is (nearly) their own number / 1000."""
    images = (torch.arange(n) / 1000)[:, None, None, None].expand(n, 4, 4, 1)
    return images, torch.arange(n) % CLASSES


def numbers(batch: Tensor) -> list[int]:
    return ((batch[:, 0, 1, 1] * 0.25 + 0.5) * 1000).round().int().tolist()


def make(n: int, validation: float = 0.0, batch_size: int = 1, seed: int = 0) -> Shard:
    images, labels = numbered(n)
    held = held_out(labels.numpy(), validation, batch_size, seed)
    return Shard(images, labels, held=torch.from_numpy(held))


@pytest.mark.parametrize("split", ["iid", "by-class", "dirichlet", "iid-then-by-class"])
def test_an_agent_never_sees_an_image_that_is_not_its_own(split: str) -> None:
    images, labels = numbered(400)
    dealt = partition(split, labels, 3, seed=1, alpha=1.0, batch_size=8)
    out = hold_out(dealt, labels, 0.2, batch_size=8, seed=1)
    owns, helds = (*dealt.pretrain, *dealt.rounds), (*out.pretrain, *out.rounds)
    for own, other in zip(owns, helds, strict=True):
        shard = Shard(images[own], labels[own], held=torch.from_numpy(np.isin(own, other)))
        held = set(numbers(shard.validation()[0]))
        assert held == set(other.tolist())
        trained = {i for x, _ in shard.epoch(1, generator(0)) for i in numbers(x)}
        assert held | trained == set(own.tolist())
        assert not held & trained
        for augment in (False, True):  # augmented images may be shifted until nothing is left
            assert all(len(y) == 8 for _, y in shard.epoch(8, generator(1), augment))
        matched = {i for x in shard.calibration(1000, 10, generator(2)) for i in numbers(x)}
        assert matched == trained  # matching sees no validation image either


@settings(max_examples=40)
@given(
    st.integers(1, 90), st.floats(0, 0.5), st.integers(1, 90), st.integers(0, 50)
)  # images, share held out, batch, seed
def test_a_full_batch_is_always_left_to_train(n: int, share: float, batch: int, seed: int) -> None:
    batch = min(batch, n)
    shard = make(n, validation=share, batch_size=batch, seed=seed)
    _, held = shard.validation()
    assert len(shard) + len(held) == n
    assert len(shard) >= batch
    assert shard.num_batches(batch) >= 1
    assert len(held) == min(round(share * n), n - batch)
    whole = torch.bincount(numbered(n)[1], minlength=CLASSES)
    own = torch.bincount(held, minlength=CLASSES)
    assert (own - whole * (len(held) / n)).abs().max() <= 1 + 1e-6  # stratified


@settings(max_examples=60)
@given(st.integers(1, 120), st.integers(1, 150), st.integers(2, 20), st.integers(0, 50))
def test_calibration_never_exceeds_its_images_and_no_image_is_alone(
    n: int, images: int, batch: int, seed: int
) -> None:
    batches = make(n).calibration(images, batch, generator(seed))
    seen = [i for x in batches for i in numbers(x)]
    sizes = [len(x) for x in batches]
    assert len(set(seen)) == len(seen) == min(n, images)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2 or len(seen) == 1
    assert max(sizes) <= max(batch, 3)  # an odd image joins a pair


def test_the_same_key_gives_the_same_batches_whatever_happened_before() -> None:
    shard = make(60, validation=0.1)

    def drawn(key: int, augment: bool) -> list[Tensor]:
        return [x for x, _ in shard.epoch(7, generator(3, key), augment)]

    first = drawn(1, True)
    shard.calibration(30, 10, generator(9))
    torch.rand(5)
    torch.testing.assert_close(drawn(1, True), first, rtol=0, atol=0)
    assert not torch.equal(drawn(2, True)[0], first[0])
    torch.testing.assert_close(
        shard.calibration(30, 10, generator(4)), shard.calibration(30, 10, generator(4))
    )


def test_the_seed_chooses_the_validation_images() -> None:
    held = [sorted(numbers(make(100, validation=0.3, seed=s).validation()[0])) for s in (1, 1, 2)]
    assert held[0] == held[1] != held[2]


def test_calibration_images_are_not_augmented() -> None:
    (batch,) = make(40).calibration(40, 40, generator(0))
    images = normalize(numbered(40)[0].permute(0, 3, 1, 2))
    torch.testing.assert_close(batch, images[numbers(batch)])


def test_a_test_set_keeps_its_order() -> None:
    images, labels = numbered(30)
    x, y = Shard.whole(images, labels)
    assert numbers(x) == list(range(30))
    torch.testing.assert_close(y, labels)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_batches_of_few_images_are_those_of_many(
    monkeypatch: pytest.MonkeyPatch, kind: torch.dtype
) -> None:
    """Few are normalized once, many by batch: the same bits in the same layout."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 5, 4, 3), generator=random).to(kind)
    images = images if kind == torch.uint8 else images / 255
    labels, found = torch.arange(40), []
    for most in (2**18, 0):
        monkeypatch.setattr("dimat.data.shard._READY_BYTES", most)
        own = Shard(images, labels, held=labels % 7 == 0)
        assert (own._ready is None) == (most == 0)
        found.append(list(own.epoch(8, generator(1, 2), skip=1)))
    assert len(found[0]) == len(found[1]) == 3
    for (x, y), (other, others) in zip(*found, strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, others)
        assert x.stride() == other.stride()
