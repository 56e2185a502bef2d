"""Images and shards: who gets what, what a batch is, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimat.data import Shard, flip_and_crop, generator, load_dataset, normalize, partition, subset
from dimat.data.partition import held_out
from dimat.errors import ConfigError, DataError


def arrays(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    made: dict[str, Any] = {
        "train_x": random.integers(0, 256, (12, 4, 5, 3)).astype(np.uint8),
        "train_y": np.arange(12) % 3,
        "test_x": random.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8),
        "test_y": np.arange(6) % 3,
    }
    made.update(changes)
    return {key: value for key, value in made.items() if value is not None}


def write(path: Path, **changes: Any) -> str:
    np.savez(path / "set.npz", **arrays(**changes))
    return f"npz:{path / 'set.npz'}"


def test_digits_are_split_by_class_and_span_the_whole_range() -> None:
    data = load_dataset("digits")
    assert data.train_x.dtype == torch.uint8
    assert int(data.train_x.max()) == 255
    assert (len(data.train_y) + len(data.test_y), data.num_classes) == (1797, 10)
    assert (data.in_channels, data.image_size) == (1, (8, 8))
    shares = torch.bincount(data.test_y) / (
        torch.bincount(data.test_y) + torch.bincount(data.train_y)
    )
    torch.testing.assert_close(shares, torch.full((10,), 0.2), atol=0.005, rtol=0)


def test_an_npz_is_read_as_it_is(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path))
    np.testing.assert_array_equal(data.train_x.numpy(), arrays()["train_x"])
    assert data.num_classes == 3


def test_gray_and_float_images_are_read_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((12, 4, 5))
    data = load_dataset(write(tmp_path, train_x=x, test_x=x[:6].astype(np.float32)))
    assert (data.in_channels, data.train_x.dtype) == (1, torch.float32)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"test_y": None}, r"lacks test_y \(it has train_x, train_y, test_x\)"),
    ({"train_y": np.arange(11) % 3}, "train_x has 12 images, train_y 11 labels"),
    ({"test_y": np.arange(6)}, r"test_y has label 5, but train_y only 0\.\.2"),
    ({"train_y": np.arange(12) - 1}, "train_y has label -1: labels start at 0"),
    ({"train_y": np.arange(12) / 2}, r"train_y is float64 of shape \(12,\): labels are integers"),
    ({"train_x": np.zeros((12, 4))}, r"holds \(4,\) torch.float32, test_x \(4, 5, 3\) torch.int64"),
    ({"train_x": np.zeros(12)}, r"train_x has shape \(12,\): inputs have samples first"),
    ({"train_x": np.zeros((12, 4, 5, 3), np.int32)}, "train_x is int32: images are uint8, or"),
    ({"train_x": np.full((12, 4, 5, 3), np.nan)}, r"train_x has nan at \[0, 0, 0, 0\](?!.*kind)"),
    ({"train_x": np.full((12, 4, 5, 3), 255.0)}, r"ranges over \[255, 255\].*in \[0, 1\]"),
    ({"test_x": np.zeros((6, 4, 4, 3), np.uint8)}, "they must be alike"),
    ({"train_y": np.empty(0, np.int64)}, "train_y is empty"),
    ({"train_y": np.asarray([{}] * 12, object)}, "train_y holds Python objects, and nothing is"),
    ({"train_y": np.full(12, 2**64 - 1, np.uint64)}, "has label 18446744073709551615: labels are"),
    ({"train_x": np.full((12, 4, 5, 3), 1e300)}, r"ranges over \[1e\+300, 1e\+300\]"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_bad_npz_is_refused_by_array_and_rule(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(write(tmp_path, **changes))


def test_a_missing_or_truncated_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_dataset(f"npz:{tmp_path}/none.npz")
    write(tmp_path)
    whole = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated or not an .npz file"):
        load_dataset(f"npz:{tmp_path}/set.npz")
    (tmp_path / "set.npz").write_text("PNG")  # of which NumPy says how to load it unsafely
    with pytest.raises(DataError, match=r"truncated or not an .npz file$"):
        load_dataset(f"npz:{tmp_path}/set.npz")
    with pytest.raises(ConfigError, match="'data.source' is 'digit'.*did you mean 'digits'"):
        load_dataset("digit")


LABELS = torch.from_numpy(np.random.default_rng(1).integers(0, 7, 500))


def deal(name: str, agents: int, *, seed: int = 0, batch_size: int = 1) -> Any:
    return partition(name, LABELS, agents, seed=seed, alpha=1.0, batch_size=batch_size)


@settings(max_examples=20)
@given(st.sampled_from(["iid", "by-class", "dirichlet"]), st.integers(1, 5), st.integers(0, 1000))
def test_a_split_is_disjoint_and_complete(name: str, agents: int, seed: int) -> None:
    parts = deal(name, agents, seed=seed)
    for dealt in (parts.pretrain, parts.rounds):
        assert sorted(np.concatenate(dealt).tolist()) == list(range(500))


def test_the_iid_split_is_equal_and_stratified_within_one() -> None:
    counts = np.stack([np.bincount(LABELS[p], minlength=7) for p in deal("iid", 4).rounds])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    assert np.ptp(counts.sum(1)) <= 1


def test_by_class_gives_class_c_to_agent_c_mod_n() -> None:
    for agent, part in enumerate(deal("by-class", 3).rounds):
        assert set((LABELS[part] % 3).tolist()) == {agent}


def test_iid_then_by_class_uses_two_disjoint_halves() -> None:
    parts = deal("iid-then-by-class", 3)
    first, second = np.concatenate(parts.pretrain), np.concatenate(parts.rounds)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(500))
    counts = [np.bincount(LABELS[half], minlength=7) for half in (first, second)]
    assert (np.abs(counts[0] - counts[1]) <= 1).all()
    for agent, part in enumerate(parts.rounds):
        assert set((LABELS[part] % 3).tolist()) == {agent}


def test_more_agents_than_the_split_allows_are_refused() -> None:
    with pytest.raises(DataError, match=r"gives agent 0 \d\d training.*fewer agents .now 9."):
        deal("by-class", 9, batch_size=50)  # two have class 0
    with pytest.raises(DataError, match="a full batch of 200; use fewer agents"):
        deal("iid", 5, batch_size=200)
    with pytest.raises(ConfigError, match="'data.split' is 'idd'.*did you mean 'iid'"):
        deal("idd", 2)


def test_a_subset_is_stratified() -> None:
    counts = np.bincount(LABELS[subset(LABELS, 100, seed=0)], minlength=7)
    np.testing.assert_allclose(counts, np.bincount(LABELS) / 5, atol=1.01)
    with pytest.raises(DataError, match="there are only 500"):
        subset(LABELS, 501, seed=0)


def make_shard(n: int = 50, validation: float = 0.0, batch_size: int = 1) -> Shard:
    """Images whose every pixel is their own number."""
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 4, 4, 3)
    labels = torch.arange(n) % 5
    held = held_out(labels.numpy(), validation, batch_size, 0)
    return Shard(images, labels, held=torch.from_numpy(held))


def numbers(batch: torch.Tensor) -> list[int]:
    return ((batch[:, 0, 0, 0] * 0.25 + 0.5) * 255).round().int().tolist()


def test_an_epoch_is_every_image_once_in_full_batches_with_its_label() -> None:
    shard = make_shard()
    batches = list(shard.epoch(10, generator(0)))
    seen = [i for inputs, _ in batches for i in numbers(inputs)]
    assert sorted(seen) == list(range(50))
    for inputs, labels in batches:
        assert [i % 5 for i in numbers(inputs)] == labels.tolist()
    assert [len(y) for _, y in shard.epoch(20, generator(0))] == [20, 20]


def test_the_same_generator_gives_the_same_batches_and_another_does_not() -> None:
    shard = make_shard()

    def order(seed: int) -> list[int]:
        return [i for x, _ in shard.epoch(10, generator(seed), False) for i in numbers(x)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_validation_images_are_held_out_and_stratified() -> None:
    shard = make_shard(validation=0.2)
    held, labels = shard.validation()
    assert torch.bincount(labels).tolist() == [2] * 5
    assert not set(numbers(held)) & {i for x, _ in shard.epoch(1, generator(0)) for i in numbers(x)}
    assert len(make_shard(validation=0.5, batch_size=49)) == 49


@pytest.mark.parametrize("images", [1, 2, 7, 49, 50, 1000])
def test_calibration_images_are_the_shards_own_and_never_alone(images: int) -> None:
    shard = make_shard(validation=0.2)
    training = {i for x, _ in shard.epoch(1, generator(0)) for i in numbers(x)}
    batches = shard.calibration(images, 10, generator(3))
    seen = [i for batch in batches for i in numbers(batch)]
    assert len(seen) == len(set(seen)) == min(images, 40)
    assert set(seen) <= training
    assert all(len(batch) > 1 for batch in batches) or images == 1


def test_normalized_images_are_float_and_centered() -> None:
    ends = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    assert normalize(ends).flatten().tolist() == [-2.0, 2.0]


def test_augmentation_is_a_crop_of_the_padded_and_perhaps_mirrored_image() -> None:
    images = torch.randint(1, 256, (40, 3, 6, 7), dtype=torch.uint8)
    out = flip_and_crop(images, generator(0), padding=2)
    assert out.dtype == torch.uint8
    flips = 0
    for image, made in zip(images, out, strict=True):
        found = []
        for flip in (False, True):
            source = image.flip(2) if flip else image
            padded = torch.nn.functional.pad(source, (2, 2, 2, 2))
            found += [
                flip
                for dy in range(5)
                for dx in range(5)
                if torch.equal(padded[:, dy : dy + 6, dx : dx + 7], made)
            ]
        assert len(found) == 1
        flips += found[0]
    assert 8 < flips < 32
