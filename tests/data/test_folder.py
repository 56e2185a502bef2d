"""Folders of pictures: what is read, in which order, and what is refused by name."""

from __future__ import annotations

import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dimat.data import SourceOptions, load_dataset
from dimat.errors import DataError
from dimat.experiment.config.config import DataConfig, RunConfig
from dimat.experiment.progress import Silent
from dimat.experiment.setup import make_setup

Pixels = NDArray[np.uint8]


def draw(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path: Path, pixels: Pixels, mode: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def make(root: Path, *, held_out: str = "test", channels: tuple[int, ...] = (3,)) -> str:
    """Three images of each of three classes to train on, one to test on."""
    for number, name in enumerate(("ant", "bee", "cat")):
        for i in range(3):
            save(root / "train" / name / f"{i}.png", draw(4, 5, *channels, seed=10 * number + i))
        save(root / held_out / name / "0.png", draw(4, 5, *channels, seed=100 + number))
    return f"folder:{root}"


def refused(source: Path | str) -> str:
    with pytest.raises(DataError) as error:
        load_dataset(str(source) if str(source).startswith("folder:") else f"folder:{source}")
    return str(error.value)


def equal(first: torch.Tensor, second: torch.Tensor | Pixels) -> None:
    torch.testing.assert_close(first, torch.as_tensor(second), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_is_the_same_data_set_as_an_npz_of_its_images(
    tmp_path: Path, held_out: str, channels: tuple[int, ...]
) -> None:
    data = load_dataset(make(tmp_path, held_out=held_out, channels=channels))
    np.savez(
        tmp_path / "set.npz",
        train_x=[draw(4, 5, *channels, seed=10 * c + i) for c in range(3) for i in range(3)],
        train_y=np.arange(9) // 3,
        test_x=[draw(4, 5, *channels, seed=100 + c) for c in range(3)],
        test_y=np.arange(3),
    )
    other = load_dataset(f"npz:{tmp_path}/set.npz")
    for part in ("train_x", "train_y", "test_x", "test_y"):
        equal(getattr(data, part), getattr(other, part))
    assert data.in_channels == (3 if channels else 1)
    assert (data.image_size, data.num_classes) == ((4, 5), 3)


def test_val_is_not_read_where_there_is_a_test_folder(tmp_path: Path) -> None:
    source = make(tmp_path)
    save(tmp_path / "val" / "unknown" / "0.png", draw(9, 9))
    assert len(load_dataset(source).test_y) == 3


def test_the_order_of_images_is_not_that_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path)
    for i in range(200):  # several blocks of work
        save(tmp_path / "train" / "bee" / f"more-{i:03}.png", draw(4, 5, 3, seed=1000 + i))
    expected = load_dataset(source)
    scandir, random = os.scandir, np.random.default_rng(0)

    class Shuffled:
        def __init__(self, path: Any) -> None:
            with scandir(path) as listing:
                self.entries = list(listing)
            random.shuffle(self.entries)  # type: ignore[arg-type]

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *args: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    data = load_dataset(source)
    for part in ("train_x", "train_y", "test_x", "test_y"):
        equal(getattr(data, part), getattr(expected, part))
    equal(data.train_x[6 + 199], draw(4, 5, 3, seed=1199))


def test_what_lies_in_folders_follows_in_the_order_of_their_names(tmp_path: Path) -> None:
    source = make(tmp_path)
    ant = tmp_path / "train" / "ant"
    for i, name in enumerate(("a/deep/0.png", "b/0.png", "0.png", "a/0.png")):
        save(ant / "more" / name, draw(4, 5, 3, seed=200 + i))
    data = load_dataset(source)
    for place, i in enumerate((2, 3, 0, 1)):
        equal(data.train_x[3 + place], draw(4, 5, 3, seed=200 + i))


def test_folders_inside_a_class_and_links_belong_to_it(tmp_path: Path) -> None:
    expected = load_dataset(make(tmp_path / "plain"))
    source = make(tmp_path / "nested")
    train = tmp_path / "nested" / "train"
    (train / "ant" / "images" / "deep").mkdir(parents=True)
    (train / "ant" / "2.png").rename(train / "ant" / "images" / "deep" / "2.PNG")
    (train / "bee").rename(tmp_path / "elsewhere")
    (train / "bee").symlink_to(tmp_path / "elsewhere")
    (train / "cat" / "1.png").rename(tmp_path / "one")
    (train / "cat" / "1.png").symlink_to(tmp_path / "one")
    data = load_dataset(source)
    equal(data.train_x, expected.train_x)
    equal(data.train_y, expected.train_y)


def test_hidden_files_and_files_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    source = make(tmp_path)
    (tmp_path / "train" / "readme.txt").write_text("text")
    (tmp_path / "train" / "ant" / "._0.png").write_text("of a Mac")
    (tmp_path / "train" / "ant" / "boxes.txt").write_text("text")
    save(tmp_path / "train" / ".trash" / "0.png", draw(9, 9))
    assert len(load_dataset(source).train_y) == 9


def test_a_jpeg_is_read_as_pillow_reads_it_whatever_its_suffix_is_called(tmp_path: Path) -> None:
    source = make(tmp_path)
    for name in ("3.jpg", "4.JPEG", "5.jpeg"):
        path = save(tmp_path / "train" / "ant" / name, draw(4, 5, 3, seed=7), format="JPEG")
    expected = np.asarray(Image.open(path))
    train_x = load_dataset(source).train_x
    for i in (3, 4, 5):
        equal(train_x[i], expected.copy())


def test_one_color_image_gives_all_three_channels_and_keeps_the_gray_ones_gray(
    tmp_path: Path,
) -> None:
    source = make(tmp_path, channels=())
    gray = load_dataset(source)
    color = draw(4, 5, 3, seed=5)
    save(tmp_path / "test" / "cat" / "1.png", color)
    data = load_dataset(source)
    equal(data.train_x, gray.train_x.expand(-1, -1, -1, 3))
    equal(data.test_x[-1], color)


CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3}


@pytest.mark.parametrize(("mode", "channels"), CHANNELS.items())
def test_an_image_is_gray_by_its_own_mode(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = draw(4, 5, 1) // 128 * np.full(3, 255, np.uint8)
    for part in ("train", "test"):
        save(tmp_path / part / "a" / "0.png", pixels, mode)
    data = load_dataset(f"folder:{tmp_path}")
    equal(data.train_x, pixels[None, :, :, :channels])


@pytest.mark.parametrize("gray", [True, False])
def test_what_is_transparent_is_laid_on_black(tmp_path: Path, gray: bool) -> None:
    pixels = draw(4, 5, 1 if gray else 3)
    alpha = draw(4, 5, 1, seed=1)
    alpha[0], alpha[1] = 0, 255
    stored = np.concatenate([pixels.repeat(3, 2) if gray else pixels, alpha], 2)
    for part in ("train", "test"):
        save(tmp_path / part / "a" / "0.png", stored, "LA" if gray else None)
    seen = load_dataset(f"folder:{tmp_path}").train_x[0].numpy()
    expected = pixels.astype(float) * alpha / 255
    np.testing.assert_allclose(seen, expected, atol=1.01)
    np.testing.assert_array_equal(seen[:2], expected[:2])


def test_a_transparent_color_of_a_palette_is_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.asarray([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([200, 0, 0, 0, 100, 0])
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        image.save(tmp_path / part / "a" / "0.png", transparency=0)
    equal(
        load_dataset(f"folder:{tmp_path}").train_x[0, 0],
        np.asarray([[0, 0, 0], [0, 100, 0]], np.uint8),
    )


def refusals(source: str, path: Path, versions: list[bytes]) -> list[str]:
    """Read the images with each version of one file; those that are read must all be alike."""
    expected, messages = load_dataset(source).train_x, []
    for version in versions:
        path.write_bytes(version)
        try:
            equal(load_dataset(source).train_x, expected)
        except DataError as error:
            messages.append(str(error))
    return messages


@pytest.mark.parametrize("name", ["9.png", "9.jpg"])
def test_a_truncated_image_is_refused_by_name_unless_all_its_pixels_are_there(
    tmp_path: Path, name: str
) -> None:
    source = make(tmp_path)
    path = save(tmp_path / "train" / "cat" / name, draw(4, 5, 3, seed=3))
    whole = path.read_bytes()
    messages = refusals(source, path, [whole[:length] for length in range(0, len(whole), 3)])
    assert all(message.startswith(f"{path}: ") for message in messages)
    behind = 24 if name == "9.png" else 0  # checksums, and a last chunk that is empty
    assert len(messages) >= (len(whole) - behind) / 3


def test_one_damaged_byte_of_a_png_is_refused_by_name_or_changes_nothing(tmp_path: Path) -> None:
    source = make(tmp_path)
    path = tmp_path / "train" / "cat" / "2.png"
    whole = path.read_bytes()
    flips = [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(len(whole))]
    messages = refusals(source, path, flips)
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert len(messages) > 0.7 * len(whole)


def test_of_several_damaged_images_the_first_is_named(tmp_path: Path) -> None:
    source = make(tmp_path)
    for name in ("cat/0.png", "bee/1.png", "cat/2.png"):
        (tmp_path / "train" / name).write_bytes(b"damaged")
    assert refused(source) == f"{tmp_path}/train/bee/1.png: no PNG or JPEG image, or damaged"


def test_an_image_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    source = make(tmp_path)
    save(tmp_path / "train" / "ant" / "0.png", draw(7, 4, 3))
    save(tmp_path / "test" / "ant" / "0.png", draw(8, 8, 3))
    message = refused(source)
    assert f"{tmp_path}/train/ant/0.png: height x width is 7 x 4, but 4 x 5 in 10 of 12" in message
    assert "resize them first" in message


def bomb(path: Path, side: int) -> None:
    """A small PNG that says it has side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


@pytest.mark.parametrize("side", [8001, 10_000, 20_000])
def test_an_image_of_more_than_64_megapixels_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int
) -> None:
    source = make(tmp_path)
    bomb(tmp_path / "train" / "bee" / "0.png", side)
    assert refused(source) == f"{tmp_path}/train/bee/0.png: more than 64 megapixels"


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path)
    Image.fromarray(np.full((4, 5), 1000, np.uint16)).save(tmp_path / "train" / "ant" / "0.png")
    assert "ant/0.png: pixels of Pillow's mode 'I" in refused(source)


def test_a_class_that_is_only_in_test_is_named(tmp_path: Path) -> None:
    source = make(tmp_path)
    save(tmp_path / "test" / "dog" / "0.png", draw(4, 5, 3))
    message = refused(source)
    assert f"{tmp_path}/test/dog: train has no such class, but 3 others (ant, bee, cat)" in message


def test_a_class_may_be_missing_in_test_but_not_be_empty_in_train(tmp_path: Path) -> None:
    source = make(tmp_path)
    shutil.rmtree(tmp_path / "test" / "ant")
    assert load_dataset(source).test_y.tolist() == [1, 2]
    (tmp_path / "train" / "dog").mkdir()
    assert f"{tmp_path}/train/dog: there is no picture of this class" in refused(source)


def test_what_is_missing_is_said_with_what_was_looked_for(tmp_path: Path) -> None:
    assert refused(f"folder:{tmp_path}/none") == f"folder:{tmp_path}/none: no such folder"
    assert refused("folder:") == "folder:: no such folder"
    assert f"has no folder train; looked for {tmp_path}/train/CLASS/*.png" in refused(tmp_path)
    (tmp_path / "train").mkdir()
    assert f"{tmp_path}/train: there is no picture; looked for" in refused(tmp_path)
    save(tmp_path / "train" / "a" / "0.png", draw(4, 5))
    message = refused(tmp_path)
    assert "has no folder test or val" in message
    assert f"{tmp_path}/test/CLASS/*.png, *.jpg or *.jpeg or {tmp_path}/val/CLASS" in message
    (tmp_path / "test").mkdir()
    assert f"{tmp_path}/test: there is no picture; looked for" in refused(tmp_path)


def test_images_outside_of_classes_or_of_other_formats_are_not_dropped_silently(
    tmp_path: Path,
) -> None:
    source = make(tmp_path)
    other = tmp_path / "train" / "ant" / "9.WebP"
    other.write_bytes(b"")
    assert f"{other}: only .png, .jpg and .jpeg are read; convert it" in refused(source)
    other.unlink()
    save(tmp_path / "test" / "0.png", draw(4, 5, 3))
    assert f"{tmp_path}/test/0.png: is in no class" in refused(source)


def test_links_that_lead_nowhere_or_in_a_circle_are_named(tmp_path: Path) -> None:
    source = make(tmp_path)
    link = tmp_path / "train" / "ant" / "more"
    link.symlink_to(tmp_path / "train" / "ant")
    assert f"{link}: a link to {tmp_path}/train/ant, which is read already" in refused(source)
    link.unlink()
    (tmp_path / "train" / "ant" / "1.png").unlink()
    (tmp_path / "train" / "ant" / "1.png").symlink_to(tmp_path / "nowhere.png")
    assert "ant/1.png: cannot be read (No such file or directory)" in refused(source)


def test_whoever_wants_to_know_is_told_of_every_image_once(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    source = make(tmp_path)
    load_dataset(source, lambda new, total: told.append((new, total)))
    assert told[0] == (0, 12)
    assert sum(new for new, _ in told) == 12
    assert {total for _, total in told} == {12}


class Watching(Silent):
    """Counts what it is told of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, int]] = {}

    def stage(self, description: str, total: int) -> None:
        self.stages[description] = (0, total)

    def advance(self, steps: int = 1) -> None:
        name, (done, total) = list(self.stages.items())[-1]
        self.stages[name] = (done + steps, total)


def test_an_observer_of_a_run_sees_the_images_being_read(tmp_path: Path) -> None:
    data = DataConfig(source=make(tmp_path), split="iid")
    watching = Watching()
    make_setup(RunConfig(agents=1, batch_size=2, data=data), watching)
    assert watching.stages == {"reading images": (12, 12)}


def test_tiny_imagenet_can_be_read_after_what_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tiny-imagenet-200"
    for i, name in enumerate(("n01", "n02")):
        save(root / "train" / name / "images" / f"{name}_0.JPEG", draw(64, 64, 3, seed=i))
        save(root / "val" / "images" / f"val_{i}.JPEG", draw(64, 64, 3, seed=9 - i))
    save(root / "test" / "images" / "test_0.JPEG", draw(64, 64, 3))
    lines = ["val_0.JPEG\tn02\t0\t0\t9\t9", "val_1.JPEG\tn01\t0\t0\t9\t9"]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    assert f"{root}/test/images: train has no such class" in refused(root)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (code,) = re.findall(r"```python\n(from [^`]*tiny-imagenet[^`]*)```", page)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    data = load_dataset(f"folder:{root}")
    assert data.train_y.tolist() == data.test_y.tolist() == [0, 1]
    equal(data.test_x[0], np.asarray(Image.open(root / "val" / "n01" / "val_1.JPEG")).copy())


def test_classes_without_parts_are_one_data_set_of_which_a_share_is_tested_on(
    tmp_path: Path,
) -> None:
    for number, name in enumerate(("ant", "bee")):
        for i in range(10):
            save(tmp_path / name / f"{i}.png", draw(4, 5, 3, seed=10 * number + i))
    data = load_dataset(f"folder:{tmp_path}")
    assert (len(data.train_y), torch.bincount(data.test_y).tolist()) == (16, [2, 2])
    every = torch.cat([data.train_x, data.test_x]).flatten(1).tolist()
    assert sorted(every) == sorted(
        draw(4, 5, 3, seed=seed).flatten().tolist() for seed in range(20)
    )
    whole = load_dataset(
        f"folder:{tmp_path}", needs=("train",), options=SourceOptions(test_share=0.0)
    )
    equal(whole.train_x[10], draw(4, 5, 3, seed=10))
    shutil.rmtree(tmp_path / "bee")
    assert "all samples are of class 'ant'" in refused(tmp_path)
    save(tmp_path / "0.png", draw(4, 5, 3))
    assert "0.png: is in no class" in refused(tmp_path)
