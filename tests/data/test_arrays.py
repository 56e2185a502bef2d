"""Inputs that are no images: tables, tokens, anything that has the samples first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dimat.data import SourceOptions, load_dataset
from dimat.errors import DataError
from dimat.tasks import TASKS

RANDOM = np.random.default_rng(0)


def write(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "set.npz", **arrays)
    return f"npz:{folder / 'set.npz'}"


def table(rows: int, columns: int = 3) -> Any:
    return RANDOM.normal(0, 100, (rows, columns))


def test_a_table_is_read_as_it_is(tmp_path: Path) -> None:
    x, y = table(10), RANDOM.normal(size=10)
    source = write(tmp_path, train_x=x[:8], train_y=y[:8], test_x=x[8:], test_y=y[8:])
    data = load_dataset(source, task=TASKS["regression"])
    assert not data.images
    torch.testing.assert_close(data.train_x, torch.from_numpy(x[:8]).float(), rtol=0, atol=0)
    assert data.train_y.shape == (8, 1)
    assert (data.input_shape, data.num_outputs(TASKS["regression"])) == ((3,), 1)
    assert (data.example(2).shape, data.example(2).dtype) == ((2, 3), torch.float32)


def test_a_table_of_classes_has_labels_as_images_have(tmp_path: Path) -> None:
    parts = {"train_x": table(6), "test_x": table(2), "test_y": np.arange(2)}
    assert load_dataset(write(tmp_path, **parts, train_y=np.arange(6) % 3)).num_classes == 3
    with pytest.raises(DataError, match="counted from 0 on"):
        load_dataset(write(tmp_path, **parts, train_y=np.arange(6) % 3 + 1))
    with pytest.raises(DataError, match=r"npz:\S+: train_y is float64 .* labels are integers"):
        load_dataset(write(tmp_path, **parts, train_y=table(6)[:, 0]))


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 4), (6, 2, 3, 4), (6, 2, 3, 4, 2)])
def test_arrays_have_any_number_of_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x, y = RANDOM.normal(size=shape), np.arange(6) % 2
    source = write(tmp_path, train_x=x, train_y=y, test_x=x, test_y=y)
    data = load_dataset(source, options=SourceOptions("arrays"))
    assert data.input_shape == shape[1:]
    if len(shape) in (3, 4):  # which are images, unless it is said
        with pytest.raises(DataError, match=r"must lie in \[0, 1\].*with data.kind arrays"):
            load_dataset(source)
    else:
        assert not load_dataset(source).images


def test_images_of_two_axes_are_refused_if_they_are_to_be_images(tmp_path: Path) -> None:
    x, y = np.zeros((6, 4), np.uint8), np.arange(6) % 2
    with pytest.raises(DataError, match="images are .n, height, width, channels"):
        load_dataset(
            write(tmp_path, train_x=x, train_y=y, test_x=x, test_y=y),
            options=SourceOptions("images"),
        )


def test_texts_are_their_own_targets(tmp_path: Path) -> None:
    train, test = (RANDOM.integers(0, 7, (n, 5)) for n in (8, 3))
    train[0, 0] = 7
    task = TASKS["language-modeling"]
    data = load_dataset(write(tmp_path, train_x=train, test_x=test), task=task)
    assert torch.equal(data.train_y, data.train_x)
    assert (data.num_tokens, data.num_outputs(task)) == (8, 8)
    assert data.example(2).dtype == torch.int64
    with pytest.raises(DataError, match="lacks train_y, test_y"):
        load_dataset(write(tmp_path, train_x=table(8), test_x=table(3)), task=task)
    with pytest.raises(DataError, match="test targets go up to 9, and training targets only to 7"):
        load_dataset(write(tmp_path, train_x=train, test_x=np.full((3, 5), 9)), task=task)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": np.full((6, 3), np.nan)}, "train_x has nan in row 0, column 0 "),
        ({"train_x": np.full((6, 3), 1e300)}, r"has 1e\+300 in row 0, column 0 "),
        ({"train_x": np.full((6, 3), -1)}, "train_x is int64 with -1 to -1: whole numbers are ids"),
        ({"train_x": np.full((6, 3), "a")}, "train_x is <U1: inputs are floats, or whole numbers"),
        ({"train_y": np.full(6, "a")}, "train_y is <U1: targets are numbers"),
        ({"test_x": table(2, 4)}, "they must be alike"),
        ({"train_y": table(5)[:, 0]}, "train_x has 6 inputs, train_y 5 targets"),
        ({"train_y": table(6, 2)}, r"has shape \(2,\), and a test target \(1,\): they must be"),
    ],
)
def test_unusable_arrays_are_refused_by_name_and_rule(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    whole = {"train_x": table(6), "train_y": table(6)[:, 0], "test_x": table(2)}
    source = write(tmp_path, **{**whole, "test_y": table(2)[:, 0], **changes})
    with pytest.raises(DataError, match=message):
        load_dataset(source, task=TASKS["regression"])
