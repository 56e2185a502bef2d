"""Data sets through Hugging Face's library, from Parquet files written here; nothing is online."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dimat.data import load_dataset
from dimat.data.huggingface import Address
from dimat.errors import DataError

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("datasets"), reason="an optional extra"
)
LABELS = {"number": [5, 4, 3, 2, 1, 0], "fine": [0, 1, 2, 0, 1, 2], "coarse": [0, 0, 1, 0, 0, 1]}


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own, and no network, whether or not the library was imported before."""
    cache = tmp_path_factory.mktemp("huggingface")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


def draw(num: int, *shape: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(seed).integers(0, 256, (num, *shape)).astype(np.uint8))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


def write(folder: Path, split: str, images: Sequence[bytes | None], **labels: list[Any]) -> Path:
    """A split in the Hub's own form; coarse and fine are classes, other labels numbers."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageType

    kinds = {"coarse": ClassLabel(names=["x", "y"]), "fine": ClassLabel(names=["a", "b", "c"])}
    features = {name: kinds.get(name, Value("int64")) for name in labels}
    rows = [None if one is None else {"bytes": one, "path": None} for one in images]
    made = Dataset.from_dict({**labels, "img": rows}, Features({**features, "img": ImageType()}))
    made.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def make(folder: Path, *, test: str = "test", shape: tuple[int, ...] = (4, 5, 3)) -> Path:
    write(folder, "train", [encode(x) for x in draw(6, *shape)], **LABELS)
    some = {name: values[:3] for name, values in LABELS.items()}
    return write(folder, test, [encode(x) for x in draw(3, *shape, seed=1)], **some)


def refused(source: Path | str) -> str:
    with pytest.raises(DataError) as error:
        load_dataset(f"hf:{source}")
    return str(error.value)


def equal(first: torch.Tensor, second: Any) -> None:
    torch.testing.assert_close(first, torch.as_tensor(second), rtol=0, atol=0)


@pytest.mark.parametrize("test", ["test", "validation"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5)])
def test_a_data_set_is_the_same_as_an_npz_of_its_images(
    tmp_path: Path, test: str, shape: tuple[int, ...]
) -> None:
    data = load_dataset(f"hf:{make(tmp_path, test=test, shape=shape)}")
    np.savez(
        tmp_path / "set.npz",
        train_x=draw(6, *shape),
        train_y=[0, 1, 2, 0, 1, 2],
        test_x=draw(3, *shape, seed=1),
        test_y=[0, 1, 2],
    )
    other = load_dataset(f"npz:{tmp_path}/set.npz")
    for part in ("train_x", "train_y", "test_x", "test_y"):
        equal(getattr(data, part), getattr(other, part))


@pytest.mark.parametrize(("column", "labels"), LABELS.items())
def test_labels_are_of_the_column_that_is_named(
    tmp_path: Path, column: str, labels: list[int]
) -> None:
    assert load_dataset(f"hf:{make(tmp_path)}#{column}").train_y.tolist() == labels


def test_parquet_files_of_other_programs_are_read_too(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    for split, num in (("train", 4), ("test", 2)):
        images = [{"bytes": encode(x), "path": "x.png"} for x in draw(num, 4, 5, 3)]
        table = pyarrow.table({"image": images, "kind": [0, 1, 2, 3][:num]})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    data = load_dataset(f"hf:{tmp_path}#kind")
    equal(data.train_x, np.stack(draw(4, 4, 5, 3)))
    assert data.test_y.tolist() == [0, 1]
    message = refused(tmp_path)
    assert "has no column of class labels (columns: image, kind); name one" in message
    assert f"hf:{tmp_path}#COLUMN" in message


def test_images_may_be_files_beside_the_table(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, pixels in enumerate(draw(3, 4, 5, 3)):
            path = tmp_path / split / "abc"[number] / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(encode(pixels))
    data, other = load_dataset(f"hf:{tmp_path}"), load_dataset(f"folder:{tmp_path}")
    equal(data.train_x, other.train_x)
    equal(data.test_y, other.test_y)


def test_a_test_split_is_used_unless_it_has_no_labels_and_validation_has(tmp_path: Path) -> None:
    images = [encode(x) for x in draw(2, 4, 5, 3, seed=2)]
    write(make(tmp_path), "validation", images, number=[0, 0], fine=[1, 0], coarse=[0, 0])
    assert load_dataset(f"hf:{tmp_path}").test_y.tolist() == [0, 1, 2]
    write(tmp_path, "test", images, number=[0, 0], fine=[-1, -1], coarse=[-1, -1])
    assert load_dataset(f"hf:{tmp_path}").test_y.tolist() == [1, 0]
    (tmp_path / "validation-00000-of-00001.parquet").unlink()
    assert "test: fine has label -1: labels start at 0" in refused(tmp_path)


@pytest.mark.parametrize(
    ("row", "image", "message"),
    [
        (4, encode(draw(1, 4, 5, 3)[0])[:60], "train, row 4: damaged or truncated"),
        (0, b"nothing", "train, row 0: no PNG or JPEG image, or damaged"),
        (1, encode(draw(1, 9, 8, 3)[0]), "train, row 1: height x width is 9 x 8, but 4 x 5 in 8"),
        (2, None, "train, row 2: damaged or truncated (there is no image)"),
    ],
)
def test_an_unusable_image_is_named_by_split_and_row(
    tmp_path: Path, row: int, image: bytes | None, message: str
) -> None:
    images: list[bytes | None] = [encode(x) for x in draw(6, 4, 5, 3)]
    images[row] = image
    make(tmp_path)
    write(tmp_path, "train", images, **LABELS)
    assert refused(tmp_path).startswith(f"hf:{tmp_path}: {message}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("#none", "#none: has no column 'none' (columns: number, fine, coarse, img)"),
        ("#img", "#img: train: img is object of shape (6,): labels are integers"),
        (":small", ":small: cannot be loaded: "),
    ],
)
def test_what_a_data_set_has_not_is_named(tmp_path: Path, source: str, message: str) -> None:
    assert message in refused(f"{make(tmp_path)}{source}")


def test_missing_and_unknown_labels_are_counted_and_named(tmp_path: Path) -> None:
    make(tmp_path)
    images = [encode(x) for x in draw(2, 4, 5, 3)]
    write(tmp_path, "train", images, number=[0, 1], fine=[0, None], coarse=[0, 0])
    assert "train: fine is empty in 1 of 2 rows" in refused(tmp_path)
    assert "test has label 5, but train only 0..1" in refused(f"{tmp_path}#number")


def test_a_missing_split_or_image_column_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    assert "has no split test or validation to test on (it has train)" in refused(tmp_path)
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "test-00000-of-00001.parquet")
    assert "has no split train (it has test)" in refused(tmp_path)


def test_a_data_set_without_images_is_refused(tmp_path: Path) -> None:
    from datasets import Dataset

    for split in ("train", "test"):
        table = Dataset.from_dict({"text": ["abc"], "kind": [0]})
        table.to_parquet(tmp_path / f"{split}.parquet")
    assert "has no column of images (columns: text, kind)" in refused(f"{tmp_path}#kind")


def test_no_code_of_a_data_set_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "cannot be loaded" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_the_hub_out_of_reach_is_one_line_with_data_set_and_cause() -> None:
    message = refused("nobody/nothing")
    assert message.startswith("hf:nobody/nothing: cannot be loaded: ")
    assert "Couldn't reach 'nobody/nothing' on the Hub" in message
    assert "\n" not in message


def test_what_the_library_is_asked_and_why_it_refused_are_those_of_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    asked: list[object] = []

    def load(*names: object, **more: object) -> None:
        asked.extend([*names, more])
        raise RuntimeError("cannot be\n  built") from KeyError("reason")

    monkeypatch.setattr(datasets, "load_dataset", load)
    message = refused("owner/set:small@v2#fine")
    assert asked == ["owner/set", "small", {"revision": "v2"}]
    assert message.endswith("#fine: cannot be loaded: cannot be built ('reason')")


def test_a_damaged_parquet_file_is_one_line_with_its_cause(tmp_path: Path) -> None:
    (make(tmp_path) / "train-00000-of-00001.parquet").write_bytes(b"PAR1 damaged PAR1")
    assert "Parquet" in refused(tmp_path)
    assert "\n" not in refused(tmp_path)


def test_the_way_out_is_named_where_the_library_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install "dimat[hf]"' in refused("uoft-cs/cifar100")


def test_an_address_is_taken_apart_unless_it_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Address.parse("uoft-cs/cifar100:small@refs/convert/parquet#coarse_label")
    assert address == Address("uoft-cs/cifar100", "small", "refs/convert/parquet", "coarse_label")
    assert Address.parse("mnist") == Address("mnist")
    assert Address.parse("mnist@v1") == Address("mnist", revision="v1")
    (tmp_path / "a:b@c").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Address.parse("a:b@c") == Address("a:b@c")
    assert Address.parse("a:b@c#d") == Address("a:b@c", label="d")
    for nameless in ("", "#x", ":x", "@x"):
        with pytest.raises(DataError, match="names no data set: hf:NAME"):
            Address.parse(nameless)


def test_an_image_that_is_elsewhere_is_read_if_it_is_a_regular_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "set").mkdir()
    place = tmp_path / "image.png"
    place.write_bytes(encode(draw(1, 4, 5)[0]))
    table = pyarrow.table({"img": [{"bytes": None, "path": str(place)}], "number": [0]})
    for split in ("train", "test"):
        pyarrow.parquet.write_table(table, tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    assert load_dataset(f"hf:{tmp_path}/set#number").image_size == (4, 5)
    place.unlink()
    os.mkfifo(place)
    assert "row 0: cannot be read (no regular file)" in refused(f"{tmp_path}/set#number")


def test_integers_leave_none_out_and_classes_may(tmp_path: Path) -> None:
    source = make(tmp_path)
    write(tmp_path, "train", [encode(x) for x in draw(6, 4, 5, 3)], number=[1, 2] * 3, fine=[1] * 6)
    write(tmp_path, "test", [encode(x) for x in draw(2, 4, 5, 3)], number=[1, 2], fine=[1, 1])
    assert "train: number has 2 labels from 1 to 2, and no 0" in refused(f"{source}#number")
    assert load_dataset(f"hf:{source}#fine").train_y.tolist() == [1] * 6
