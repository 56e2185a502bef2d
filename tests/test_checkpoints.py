"""Checkpoint files: what is read, what is refused, and that nothing in them is run."""

from __future__ import annotations

import os
import resource
import zipfile
from argparse import Namespace
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dimat.checkpoints.formats.files import read_checkpoint
from dimat.errors import StructureError
from dimat.files import file_digest
from dimat.state import save_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".bin"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"state_dict": STATE, "best_prec1": 0.9},
        {"model_state_dict": OrderedDict(STATE), "epoch": 3},
        {"model": STATE, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
        {"net": STATE, "epoch": 3},
        {"checkpoint": STATE, "args": Namespace(lr=0.1, out=Path("x"), best=np.float64(0.3))},
        {"model": STATE, "args": Namespace(seeds=np.arange(3)), "at": datetime(2026, 1, 2)},
        {"state_dict": STATE, "model": {"depth": 3}},
    ],
)
def test_what_training_scripts_save_is_read(tmp_path: Path, suffix: str, content: Any) -> None:
    torch.save(content, tmp_path / f"a{suffix}")
    torch.testing.assert_close(read_checkpoint(tmp_path / f"a{suffix}"), STATE)


def test_safetensors_and_torchs_old_format_are_read(tmp_path: Path) -> None:
    save_state(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "old.th"):
        torch.testing.assert_close(read_checkpoint(tmp_path / name), STATE)


class Bomb:
    """Makes a folder where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": STATE, "extra": Bomb()}, "bomb.pt")
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    for name in ("bomb.pt", "module.pt"):
        with pytest.raises(StructureError, match=f"{name} holds more than.*save the state"):
            read_checkpoint(Path(name))
    with pytest.raises(StructureError, match=r"plain containers \(torch.nn.modules.linear.Linear"):
        read_checkpoint(Path("module.pt"))
    assert not Path("exploded").exists()


def test_what_stands_beside_a_state_is_never_made(tmp_path: Path) -> None:
    """A NumPy scalar of a gigabyte costs a pickle of a hundred bytes."""
    huge = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x0b\0\0\0V2000000000tRtR."
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "huge.pth", "w") as file,
    ):
        for info in plain.infolist():
            own = info.filename.endswith("data.pkl")
            file.writestr(info.filename, b"\x80\x02" + huge if own else plain.read(info))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StructureError, match="it holds an object that was left unread"):
        read_checkpoint(tmp_path / "huge.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ({"ours": STATE, "theirs": STATE}, None, "several states, 'ours', 'theirs': choose one"),
        ({"model": STATE, "state_dict": STATE}, None, "several states, 'state_dict', 'model'"),
        ({"model": STATE}, "ema", "no entry 'ema', nor names that begin with 'ema.'.* 'model'"),
        ({"ema": {"lr": 0.1}}, "ema", "holds no state: its 'lr' is of type float"),
        ({"args": Namespace(a=1), 3: STATE}, None, "its 'args' is an object that was left unread"),
    ],
)
def test_a_state_that_cannot_be_chosen_is_refused(
    tmp_path: Path, content: Any, key: str | None, message: str
) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(StructureError, match=message):
        read_checkpoint(tmp_path / "a.pt", key)


def test_a_key_chooses_an_entry_or_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = {name: value + 1 for name, value in STATE.items()}
    torch.save({"model": STATE, "model_ema": other}, tmp_path / "entries.pt")
    torch.save({"state_dict": prefixed("student.") | {"teacher.x": STATE["a.count"]}}, "s.ckpt")
    said: list[str] = []
    torch.testing.assert_close(read_checkpoint(tmp_path / "entries.pt", None, said.append), STATE)
    assert said == ["the state is its entry 'model'; it also holds 'model_ema' (--key)"]
    torch.testing.assert_close(read_checkpoint(tmp_path / "entries.pt", "model_ema"), other)
    for key in ("student", "student."):
        torch.testing.assert_close(read_checkpoint(Path("s.ckpt"), key), STATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds no state: it holds of type list"),
        ({}, "holds no state: it is empty"),
        ({"epoch": 3, "w": torch.ones(1)}, "holds no state: its 'epoch' is of type int"),
        ({"state_dict": {}}, "holds no state: it is empty"),
    ],
)
def test_a_file_without_a_state_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(StructureError, match=message):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    torch.save(STATE, path) if name == "a.pt" else save_state(STATE, path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(StructureError, match=str(path)):
        read_checkpoint(path)


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"none\.pt: no such file"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(StructureError, match=r": a folder$"):
        read_checkpoint(tmp_path)
    (tmp_path / "states").mkdir()
    with pytest.raises(StructureError, match=r": a folder: its networks are in .*states$"):
        read_checkpoint(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(StructureError, match=r"a\.onnx: a checkpoint is \.safetensors, or"):
        read_checkpoint(tmp_path / "a.onnx")


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
