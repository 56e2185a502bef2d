"""Archives that are damaged or are not what they seem, and labels and images beyond test_data."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dimat.data import load_dataset
from dimat.data.digits import _digits
from dimat.errors import DataError


def arrays() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "train_x": random.integers(0, 256, (6, 4, 5, 3)).astype(np.uint8),
        "train_y": np.arange(6) % 3,
        "test_x": random.integers(0, 256, (3, 4, 5, 3)).astype(np.uint8),
        "test_y": np.arange(3),
    }


def write(folder: Path, **changes: Any) -> str:
    np.savez(folder / "set.npz", **{**arrays(), **changes})
    return f"npz:{folder / 'set.npz'}"


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"set.npz: one array, not an .npz archive of train_x"):
        load_dataset(f"npz:{tmp_path}/set.npz")


def test_an_archive_of_other_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for name in arrays():
            archive.writestr(f"{name}.npy", b"not an array")
    with pytest.raises(DataError, match="set.npz: train_x is no array"):
        load_dataset(f"npz:{tmp_path}/set.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04K\x00."])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match="truncated or not an .npz file"):
        load_dataset(f"npz:{tmp_path}/set.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_one_damaged_byte_is_either_refused_or_changes_nothing(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "set.npz"
    save(path, **arrays())
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            data = load_dataset(f"npz:{path}")
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(data.train_x.numpy(), arrays()["train_x"])
            np.testing.assert_array_equal(data.test_y.numpy(), arrays()["test_y"])
    assert refused > len(whole) / 7 / 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path)
    (tmp_path / "set.npz").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        load_dataset(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_y": np.asarray([0, -3, 1])}, "test_y has label -3: labels start at 0"),
        ({"test_y": np.asarray([0, 3, 1])}, r"test_y has label 3, but train_y only 0\.\.2"),
        ({"test_y": np.arange(2)}, "test_x has 3 images, test_y 2 labels"),
        ({"test_y": np.zeros((3, 1), np.int64)}, r"test_y is int64 of shape \(3, 1\)"),
        ({"train_y": np.ones(6, np.bool_)}, "train_y is bool"),
        ({"train_x": np.zeros((6, 4, 5, 3), np.bool_)}, "train_x is bool: images are uint8, or"),
        ({"test_x": np.zeros((3, 4, 5, 3))}, "uint8, test_x .* torch.float32: they must be alike"),
        ({"train_x": np.zeros((0, 4, 5, 3), np.uint8)}, r"train_x has shape \(0, 4, 5, 3\)"),
        ({"train_x": np.full((6, 4, 5, 3), -0.5)}, r"train_x ranges over \[-0.5, -0.5\]"),
        ({"train_x": np.full((6, 4, 5, 3), np.inf)}, r"train_x has inf at \[0, 0, 0, 0\]"),
    ],
)
def test_unusable_arrays_are_refused_by_name_and_rule(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(write(tmp_path, **changes))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, kind: type) -> None:
    data = load_dataset(write(tmp_path, train_y=(np.arange(6) % 3).astype(kind)))
    assert data.train_y.dtype == torch.int64
    assert data.train_y.tolist() == [0, 1, 2, 0, 1, 2]


def test_arrays_in_another_memory_order_are_read_the_same(tmp_path: Path) -> None:
    x = np.asfortranarray(arrays()["train_x"])
    data = load_dataset(write(tmp_path, train_x=x))
    np.testing.assert_array_equal(data.train_x.numpy(), x)


def test_only_some_training_images_leaves_the_test_images(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path))
    kept = data.only(np.asarray([4, 1]))
    assert kept.train_y.tolist() == [1, 1]
    torch.testing.assert_close(kept.train_x, data.train_x[[4, 1]], rtol=0, atol=0)
    assert kept.test_x is data.test_x


def test_the_digits_are_the_same_at_every_call_and_test_images_are_no_training_images() -> None:
    first, second = load_dataset("digits"), load_dataset("digits")
    torch.testing.assert_close(first.train_x, second.train_x, rtol=0, atol=0)
    train = {x.numpy().tobytes() for x in first.train_x}
    test = {x.numpy().tobytes() for x in first.test_x}
    assert not train & test


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    raw = load_digits()
    images, labels = _digits()
    np.testing.assert_array_equal(images[..., 0], np.round(raw.images * (255 / 16)))
    np.testing.assert_array_equal(labels, raw.target)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)


def test_without_scikit_learn_the_digits_are_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dimat.data.digits.find_spec", lambda name: None)
    with pytest.raises(DataError, match="comes with scikit-learn, so install that, or give data"):
        _digits.__wrapped__()
