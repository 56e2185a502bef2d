"""Files that say more of themselves than is there: refused before there is memory for it."""

from __future__ import annotations

import inspect
import io
import os
import pickletools
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.test_data import arrays, write

from dimat.checkpoints.formats.files import read_checkpoint
from dimat.data import load_dataset
from dimat.errors import ConfigError, DataError, DimatError, RecordError, StructureError
from dimat.experiment.record.checkpoint import CheckpointFolder
from dimat.experiment.record.lines import read_lines
from dimat.experiment.record.run_folder import read_summary
from dimat.files import VARIABLE, check_bytes
from dimat.state import load_state
from dimat.symmetry import Symmetry
from dimat.tools.records.files import read_text

MOST = 30 * 2**20  # bytes that a refusal may take


def claiming(shape: tuple[int, ...], data: bytes = b"", descr: str = "|u1") -> bytes:
    """An array in NumPy's format whose header says so."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def archive(path: Path, **members: bytes) -> str:
    """An ``.npz``: members as they are, the other arrays sound."""
    with zipfile.ZipFile(path / "set.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays().items():
            sound = io.BytesIO()
            np.save(sound, array)
            file.writestr(f"{name}.npy", members.get(name, sound.getvalue()))
    return f"npz:{path / 'set.npz'}"


def refused(call: Callable[[], object], kind: type[DimatError], message: str) -> None:
    tracemalloc.start()
    with pytest.raises(kind, match=message):
        call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST


def test_an_archive_that_is_sound_is_read(tmp_path: Path) -> None:
    assert len(load_dataset(archive(tmp_path)).train_x) == 12


def test_a_header_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path, train_x=claiming((10**9, 100, 100, 1)))
    message = "train_x is said to be uint8 of shape .*10,000,000,000,000 bytes, and 0 are there"
    refused(lambda: load_dataset(source), DataError, message)


def test_a_header_that_claims_less_than_is_there_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path, train_y=claiming((12,), b"\0" * 97, "<i8"))
    refused(lambda: load_dataset(source), DataError, "96 bytes, and 97 are there")


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimat.files._FREE", 10**6)
    images = claiming((40_000, 10, 10, 1), bytes(4 * 10**6))
    labels = claiming((40_000,), b"".join(i.to_bytes(1) for i in (0, 1)) * 20_000)
    source = archive(tmp_path, train_x=images, train_y=labels)
    refused(lambda: load_dataset(source), DataError, "takes 4,0.* bytes in memory, and its file")
    monkeypatch.setenv(VARIABLE, "5000000")
    with pytest.raises(DataError, match="they must be alike"):  # it was read
        load_dataset(source)


def test_the_limit_is_a_number() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "8GB")
        with pytest.raises(ConfigError, match="DIMAT_MAX_BYTES is '8GB': must be a whole number"):
            check_bytes("it", 2**40, 1, DataError)


@pytest.mark.parametrize("said", [90 * 10**6, 2**63, 2**64 - 1, 200])
def test_a_safetensors_header_longer_than_its_file_is_not_read(tmp_path: Path, said: int) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(said.to_bytes(8, "little") + b"{}" + b" " * 100)
    refused(lambda: load_state(path), StructureError, "header is said to have .* the file has 110")


def test_a_safetensors_header_of_ninety_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes((90 * 10**6).to_bytes(8, "little"))
    os.truncate(path, 90 * 10**6 + 8)  # of nothing, which takes no disk
    refused(lambda: read_checkpoint(path), StructureError, "at most 16,777,216 are read")


def test_a_checkpoint_of_pytorch_that_unpacks_to_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.zeros(10**6)}, tmp_path / "plain.pth")
    monkeypatch.setattr("dimat.files._FREE", 10**6)
    assert read_checkpoint(tmp_path / "plain.pth")["weight"].shape == (10**6,)
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for info in plain.infolist():
            bomb.writestr(info.filename, plain.read(info))
    read = lambda: read_checkpoint(tmp_path / "bomb.pth")  # noqa: E731
    refused(read, StructureError, "bomb.pth, unpacked, takes 4,0")


CALL = b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R."  # bytearray(2130706432)


@pytest.mark.parametrize("archived", [True, False])
def test_a_pickle_that_takes_memory_by_a_number_is_not_loaded(
    tmp_path: Path, archived: bool
) -> None:
    path = tmp_path / "call.pth"
    if archived:
        torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pth")
        with (
            zipfile.ZipFile(tmp_path / "plain.pth") as plain,
            zipfile.ZipFile(path, "w") as file,
        ):
            for info in plain.infolist():
                own = info.filename.endswith("data.pkl")
                file.writestr(info.filename, CALL if own else plain.read(info))
    else:
        old = io.BytesIO()
        torch.save(0, old, _use_new_zipfile_serialization=False)
        old.seek(0)
        for _ in range(3):  # the magic number, the protocol, the system
            list(pickletools.genops(old))
        path.write_bytes(old.getvalue()[: old.tell()] + CALL)
    refused(lambda: read_checkpoint(path), StructureError, "holds more than tensors and plain")


def test_a_number_that_is_seen_as_terabytes_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "wide.pth")
    read = lambda: read_checkpoint(tmp_path / "wide.pth")  # noqa: E731
    refused(read, StructureError, "wide.pth takes 4,000,000,000,000 bytes in memory")


def pictures(path: Path, size: tuple[int, int] = (5, 4)) -> Path:
    for name in ("train/a/0", "train/b/1", "test/a/2"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(path / f"{name}.png")
    return path


def test_pictures_that_unpack_to_too_much_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dimat.files._FREE", 10**6)
    source = f"folder:{pictures(tmp_path, (2000, 2000))}"
    refused(lambda: load_dataset(source), DataError, "and the other 2 takes? 12,000,000 bytes")


def test_a_named_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(pictures(tmp_path) / "train" / "a" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: cannot be read \(no regular file\)"):
        load_dataset(f"folder:{tmp_path}")


def test_a_named_pipe_is_not_opened_by_any_reader(tmp_path: Path) -> None:
    """Whoever opens it waits until somebody writes to it."""
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    readers: list[tuple[Callable[[], object], type[DimatError]]] = [
        (lambda: load_state(pipe), StructureError),
        (lambda: read_checkpoint(pipe), StructureError),
        (lambda: load_dataset(f"npz:{pipe}"), DataError),
        (lambda: read_summary(pipe), RecordError),
        (lambda: [*read_lines(pipe)], RecordError),
        (lambda: read_text(pipe), RecordError),
    ]
    for read, kind in readers:
        with pytest.raises(kind, match="no regular file"):
            read()
    (tmp_path / "checkpoints" / "round-000001").mkdir(parents=True)
    os.mkfifo(tmp_path / "checkpoints" / "round-000001" / "meta.json")
    with pytest.raises(StructureError, match="no regular file"):
        CheckpointFolder(tmp_path / "checkpoints").read(1)


def test_a_file_of_a_run_that_is_longer_than_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    path.touch()
    os.truncate(path, 2**40)
    refused(lambda: read_summary(path), RecordError, "1,099,511,627,776 bytes are too many")


def test_a_folder_that_is_deeper_than_python_calls_functions_is_read(tmp_path: Path) -> None:
    inside = pictures(tmp_path) / "train" / "a"
    deep = inside.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (inside / "0.png").rename(deep / "0.png")
    most = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 250)
    try:
        assert len(load_dataset(f"folder:{tmp_path}").train_x) == 2
    finally:
        sys.setrecursionlimit(most)


def test_what_is_nested_without_end_is_refused_in_words(tmp_path: Path) -> None:
    own: dict[str, object] = {"weight": torch.zeros(2)}
    own["state_dict"] = own
    torch.save(own, tmp_path / "ring.pth")
    with pytest.raises(StructureError, match=r"ring\.pth is damaged"):
        read_checkpoint(tmp_path / "ring.pth")
    with pytest.raises(StructureError, match="not a dimat symmetry: RecursionError"):
        Symmetry.from_json("[" * 10**5)


def test_a_shape_that_is_no_numbers_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path, train_x=claiming((True, 4, 5, 3), bytes(60)))
    with pytest.raises(DataError, match="truncated or not an .npz file"):
        load_dataset(source)


def test_links_that_fork_are_read_once(tmp_path: Path) -> None:
    """Thirty folders, each with two links to the next: 2^30 paths."""
    inside = pictures(tmp_path) / "train" / "a"
    for i in range(30):
        (inside / f"level{i}").mkdir()
        for name in ("left", "right"):
            (inside / f"level{i}" / name).symlink_to(inside / f"level{i + 1}")
    (inside / "level30").mkdir()
    with pytest.raises(DataError, match="a link to .*, which is read already; remove it"):
        load_dataset(f"folder:{tmp_path}")


def test_channels_first_are_told_from_channels_last(tmp_path: Path) -> None:
    first = {f"{part}_x": np.zeros((n, 3, 12, 12), np.uint8) for part, n in PARTS}
    with pytest.raises(DataError) as found:
        load_dataset(write(tmp_path, **first))
    assert "channels came first; np.transpose(x, (0, 2, 3, 1))" in str(found.value)
    assert "kind arrays" not in str(found.value)  # as an array it would not be normalized
    last = {name: np.transpose(x, (0, 2, 3, 1)) for name, x in first.items()}
    assert load_dataset(write(tmp_path, **last)).image_size == (12, 12)
    bands = {f"{part}_x": np.zeros((n, 12, 12, 7), np.uint8) for part, n in PARTS}
    assert load_dataset(write(tmp_path, **bands)).in_channels == 7


PARTS = (("train", 12), ("test", 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y + 1, "has 3 labels from 1 to 3, and no 0: classes are counted from 0 on"),
        (lambda y: y * 2, "has 3 labels from 0 to 4, and no 1"),
        (lambda y: np.where(y == 2, 10**9, y), "has 3 labels from 0 to 1000000000, and no 2"),
    ],
)
def test_labels_that_leave_one_out_are_refused_and_counted_as_the_message_says(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    own = {f"{part}_y": change(arrays()[f"{part}_y"]) for part, _ in PARTS}
    refused(lambda: load_dataset(write(tmp_path, **own)), DataError, message)
    both = np.unique(np.concatenate([own["train_y"], own["test_y"]]), return_inverse=True)[1]
    counted = {"train_y": both[:12], "test_y": both[12:]}
    assert load_dataset(write(tmp_path, **counted)).num_classes == 3


def test_sixteen_bits_are_refused_with_the_way_out(tmp_path: Path) -> None:
    own = {"train_x": np.zeros((12, 4, 5, 3), np.uint16)}
    with pytest.raises(DataError, match="train_x is uint16: .* divide by the highest value"):
        load_dataset(write(tmp_path, **own))
