"""``dimat statistics``, and ``dimat merge`` by what it writes: without any data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import dimat
from dimat.cli import main
from dimat.data import load_dataset
from dimat.files import file_digest
from dimat.models import build_model
from dimat.state import State, save_state, state_of
from dimat.tools.merge.samples import Normalization, Samples

HALVES = {"a": slice(0, 400), "b": slice(400, 700)}  # of digits: the owners' images


def tiny() -> nn.Module:
    return build_model("cnn", in_channels=1, num_classes=10, image_size=(8, 8), width=0.25)


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    found = {}
    for seed, name in enumerate(HALVES):
        torch.manual_seed(seed)
        found[name] = state_of(tiny())
    return found


@pytest.fixture(autouse=True)
def _in_a_folder_with_two_owners(
    states: dict[str, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, part in HALVES.items():
        save_state(states[name], Path(f"{name}.safetensors"))
        np.savez(f"{name}.npz", train_x=load_dataset("digits").train_x[part].numpy())


TINY = "--model cnn --width 0.25 --classes 10 --threads 1"


def measure(name: str, *more: str, out: str | None = None) -> int:
    command = f"statistics {name}.safetensors {TINY} --data npz:{name}.npz"
    return main([*command.split(), "--out", out or f"of-{name}.safetensors", *more])


_WRITTEN: dict[str, bytes] = {}  # what the command wrote for each of the owners, once


def measured() -> list[str]:
    for name in HALVES:
        file = Path(f"of-{name}.safetensors")
        if name in _WRITTEN:
            file.write_bytes(_WRITTEN[name])
            continue
        assert measure(name) == 0
        _WRITTEN[name] = file.read_bytes()
    return [f"of-{name}.safetensors" for name in HALVES]


def images(name: str, count: int = 2000) -> list[Tensor]:
    own = load_dataset("digits").train_x[HALVES[name]]
    return Samples(own, Normalization(), 250, "cpu").sample(count, 0)


MERGE = f"merge a.safetensors b.safetensors {TINY} --combine gram --out m.safetensors"
SENT = "--statistics of-a.safetensors of-b.safetensors"


def test_the_command_measures_what_the_library_does(
    states: dict[str, State], capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("a", "--images", "300", "--budget", "0.5") == 0
    expected = dimat.statistics(tiny(), states["a"], images("a", 300), budget=0.5)
    found = dimat.Statistics.load("of-a.safetensors")
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=0)
    assert (found.samples, found.budget, found.state) == (300, 0.5, expected.state)
    size = Path("of-a.safetensors").stat().st_size
    line = f"statistics: of-a.safetensors ({size / 1000:.1f} kB, of 300 images)\n"
    assert capsys.readouterr().out == line


def test_a_merge_by_files_alone_is_that_of_the_library(
    states: dict[str, State], capsys: pytest.CaptureFixture[str]
) -> None:
    files = measured()
    for name in HALVES:
        Path(f"{name}.npz").unlink()
    assert main([*MERGE.split(), "--method", "weights", *SENT.split()]) == 0
    how = {"method": "weights", "combine": "gram"}
    expected = dimat.merge(tiny(), states.values(), statistics=files, **how)  # type: ignore[arg-type]
    torch.testing.assert_close(load_file("m.safetensors"), expected.state, rtol=0, atol=0)
    told = json.loads(Path("m.json").read_text())
    assert [own["sha256"] for own in told["inputs"]] == [
        file_digest(Path(name)) for name in ("a.safetensors", "b.safetensors", *files)
    ]
    assert told["evaluation"] is None
    assert not told["recalibrated"]
    assert "accuracy" not in capsys.readouterr().out.partition("merged state")[0]


def test_with_data_of_its_own_a_merge_by_files_is_tested_and_units_are_compared_on_them(
    states: dict[str, State], capsys: pytest.CaptureFixture[str]
) -> None:
    files = measured()
    capsys.readouterr()
    assert main([*MERGE.split(), "--data", "digits", *SENT.split()]) == 0
    own = Samples(load_dataset("digits").train_x, Normalization(), 250, "cpu").sample(2000, 0)
    expected = dimat.merge(tiny(), states.values(), own, combine="gram", statistics=files)
    torch.testing.assert_close(load_file("m.safetensors"), expected.state, rtol=0, atol=0)
    out = capsys.readouterr().out
    assert "merged (activations, gram)" in out
    assert "written: merged; the ensemble" in out


def refused(capsys: pytest.CaptureFixture[str], command: str) -> str:
    capsys.readouterr()
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert main(command.split()) == 2
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
    return capsys.readouterr().err.splitlines()[-1]


BY_FILES = f"{MERGE} --method weights {SENT}"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (MERGE, "'data' is missing: give --data SOURCE; or, to merge by --combine gram without"),
        (f"{MERGE} {SENT}", "'method' is 'activations': must be identity or weights, without --d"),
        (BY_FILES.replace("--classes 10", ""), "'classes' is null: without --data, from whose"),
        (BY_FILES.replace("gram", "average"), "'combine' is 'average', which takes no statistics"),
        (BY_FILES.replace(" of-b.safetensors", ""), "1 statistics for 2 states: give one each"),
        (BY_FILES.replace("of-b", "of-c"), "of-c.safetensors cannot be read as safetensors"),
        (BY_FILES.replace("of-b", "b"), "b.safetensors holds no statistics"),
        (BY_FILES.replace("m.s", "of-b.s"), "must be another file than those read and written"),
        (
            BY_FILES.replace("a.safetensors b", "b.safetensors a", 1),
            "statistics 0 (of-a.safetensors) were not measured on state 0, but on state 1: give",
        ),
        (BY_FILES.replace("0.25", "0.5"), "a.safetensors (read as 'cnn') does not fit"),
        (f"{BY_FILES} --recalibration batchnorm", "no batches to recompute BatchNorm statistics"),
        ("statistics", "setting 'state' is missing, as in: dimat statistics STATE --model"),
        ("statistics a.safetensors --model cnn --out x.safetensors", "'data' is missing: see --h"),
        (f"align a.safetensors b.safetensors {TINY} --out x.safetensors", "'data' is missing"),
        (f"statistics a.safetensors {TINY} --data digits --out x.pth", "a file that ends in .safe"),
        (
            f"statistics a.safetensors {TINY} --data digits --out of-a.safetensors",
            "of-a.safetensors exists: use another, or --overwrite",
        ),
        (
            f"statistics a.safetensors {TINY} --data digits --out x.safetensors --combine average",
            "'combine' is 'average', which takes no statistics: those that do are gram",
        ),
        (
            f"statistics a.safetensors {TINY} --data digits --out x.safetensors --budget 0",
            "setting 'budget' is 0.0: must be > 0 and finite",
        ),
        (
            f"statistics a.safetensors {TINY} --data digits --out x.safetensors --method weights",
            "unknown setting 'method'",
        ),
    ],
)
def test_a_bad_command_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    measured()
    assert message in refused(capsys, command)


def test_statistics_that_are_of_tokens_are_for_a_merge_from_python(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 10))
    for name in "ab":
        told = dimat.statistics(model, model, [torch.randint(5, (20, 2))])
        told.save(f"of-{name}.safetensors")
    said = refused(capsys, BY_FILES)
    assert "were measured on inputs of shapes [], which are no batch of images or other" in said


def test_a_disk_that_is_full_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dimat.state.write_tensors", full)
    assert measure("a") == 1
    assert "of-a.safetensors cannot be written: No space left" in capsys.readouterr().err
    assert not list(Path().glob("of-a*"))
