"""``dimat merge`` and ``dimat align``: what they write and print, what they refuse and how."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import dimat
from dimat.cli import main
from dimat.data import load_dataset, normalize
from dimat.files import file_digest
from dimat.metric import ACCURACY
from dimat.models import build_model
from dimat.state import State, save_state, state_of
from dimat.tools.merge import write as report
from dimat.tools.merge.result import ComparisonRow, MergeComparison, MergeResult, Score
from dimat.tools.merge.result import Path as Between
from dimat.tools.merge.samples import Normalization
from dimat.tools.merge.settings import MergeConfig
from dimat.tools.merge.tables import merge_tables

TINY = [
    "--model",
    "cnn",
    "--width",
    "0.25",
    "--data",
    "digits",
    "--images",
    "500",
    "--threads",
    "1",
]


def tiny() -> nn.Module:
    return build_model("cnn", in_channels=1, num_classes=10, image_size=(8, 8), width=0.25)


def trained(seed: int) -> State:
    """A network that knows most digits after some forty steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, data = tiny(), load_dataset("digits")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for part in torch.randperm(len(data.train_y)).split(64) * 2:
        optimizer.zero_grad()
        outputs = model(normalize(data.train_x[part].permute(0, 3, 1, 2)))
        functional.cross_entropy(outputs, data.train_y[part]).backward()
        optimizer.step()
    return state_of(model)


@pytest.fixture(scope="module")
def parents() -> list[State]:
    return [trained(1), trained(2)]


@pytest.fixture(autouse=True)
def _in_a_folder_with_two_parents(
    parents: list[State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    save_state(parents[0], Path("a.safetensors"))
    torch.save({"state_dict": {f"module.{k}": v for k, v in parents[1].items()}}, "b.pth")


def merge(*options: str, out: str = "m.safetensors") -> int:
    return main(["merge", "a.safetensors", "b.pth", *TINY, "--out", out, *options])


def sample(seed: int = 0) -> list[Tensor]:
    from dimat.tools.merge.samples import Samples

    return Samples(load_dataset("digits").train_x, Normalization(), 250, "cpu").sample(500, seed)


# --- results ----------------------------------------------------------------


def test_a_merge_writes_what_the_library_gives_and_reports_it(
    parents: list[State], capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge() == 0
    expected = dimat.merge(tiny(), parents, sample())
    torch.testing.assert_close(load_file("m.safetensors"), expected.state, rtol=0, atol=0)
    assert sorted(p.name for p in Path().iterdir()) == [
        "a.safetensors", "b.pth", "m.json", "m.safetensors"
    ]  # fmt: skip
    told = json.loads(Path("m.json").read_text())
    check_report(told, expected)
    check_print(capsys.readouterr().out, told)


def check_report(told: Any, expected: dimat.Merge) -> None:
    assert told["settings"]["parents"] == ["a.safetensors", "b.pth"]
    assert [file["sha256"] for file in told["inputs"]] == [
        file_digest(Path("a.safetensors")),
        file_digest(Path("b.pth")),
    ]
    rows = {row["name"]: row for row in told["evaluation"]["networks"]}
    assert list(rows) == [
        "parent 0", "parent 1", "plain average", "merged", "ensemble of the parents"
    ]  # fmt: skip
    again = rows["merged"]["recalibrated"]
    accuracy, loss = scored([expected.state])
    assert again == {"accuracy": pytest.approx(accuracy), "loss": pytest.approx(loss, rel=1e-5)}
    assert again["loss"] < rows["plain average"]["recalibrated"]["loss"]
    path = told["evaluation"]["path"]
    assert path["alpha"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert path["loss"][2] == pytest.approx(loss, rel=1e-4)
    (fit,) = told["matching"]["parents"]
    assert [group["group"] for group in fit["groups"]] == list(expected.symmetry.names)
    similarity = expected.matchings[1].similarity
    assert {g["group"]: g["similarity"] for g in fit["groups"]} == pytest.approx(similarity)
    assert {"torch", "python", "cpu", "threads"} <= told["environment"].keys()


def check_print(out: str, told: Any) -> None:
    rows = {row["name"]: row for row in told["evaluation"]["networks"]}
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    for name in ("parent 0: a.safetensors", "parent 1: b.pth", "plain average", "merged (act"):
        assert name in out
    assert f"{100 * rows['merged']['recalibrated']['accuracy']:.1f}" in out
    assert "written: merged, recalibrated" in out
    assert f"loss barrier: {told['evaluation']['path']['barrier']:.3f}" in out
    assert out.splitlines()[-2:] == ["merged state: m.safetensors", "report: m.json"]


def scored(states: list[State]) -> tuple[float, float]:
    data, model = load_dataset("digits"), tiny().eval()
    logits = torch.zeros(len(data.test_y), 10)
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            logits += model(normalize(data.test_x).permute(0, 3, 1, 2)) / len(states)
    loss = functional.cross_entropy(logits, data.test_y)
    return float((logits.argmax(1) == data.test_y).double().mean()), float(loss)


def test_parents_and_ensemble_are_scored_as_they_are(parents: list[State]) -> None:
    assert merge("--recalibration", "none", "--report", "r.json", "--seed", "3") == 0
    rows = {r["name"]: r for r in json.loads(Path("r.json").read_text())["evaluation"]["networks"]}
    for name, states in {
        "parent 0": parents[:1],
        "parent 1": parents[1:],
        "ensemble of the parents": parents,
    }.items():
        accuracy, loss = scored(states)
        assert rows[name]["accuracy"] == pytest.approx(accuracy)
        assert rows[name]["loss"] == pytest.approx(loss, rel=1e-5)
    expected = dimat.merge(tiny(), parents, sample(3), recalibration="none").state
    torch.testing.assert_close(load_file("m.safetensors"), expected, rtol=0, atol=0)


def test_three_parents_with_weights_without_labels_or_matching(
    parents: list[State], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("images.npz", train_x=load_dataset("digits").train_x[:64].numpy())
    command = ["merge", "a.safetensors", "b.pth", "a.safetensors", "--out", "m.safetensors"]
    options = ["--data", "npz:images.npz", "--model", "cnn", "--width", "0.25", "--classes", "10"]
    how = ["--method", "identity", "--recalibration", "none", "--weights", "0.25,0.5,0.25"]
    assert main([*command, *options, *how, "--no-evaluate"]) == 0
    expected = {
        k: (parents[0][k] + parents[1][k]) / 2 if v.is_floating_point() else v
        for k, v in parents[0].items()
    }
    torch.testing.assert_close(load_file("m.safetensors"), expected)
    assert json.loads(Path("m.json").read_text())["evaluation"] is None
    out = capsys.readouterr().out
    assert "accuracy" not in out
    assert "parent 2" in out


def test_align_writes_the_second_in_the_first_ones_order(
    parents: list[State], capsys: pytest.CaptureFixture[str]
) -> None:
    symmetry = dimat.find_symmetry(tiny(), (torch.zeros(2, 1, 8, 8),))
    moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(1)), parents[0])
    save_state({**moved, "head.bias": moved["head.bias"].half()}, Path("moved.safetensors"))
    command = ["align", "a.safetensors", "moved.safetensors", *TINY, "--out", "x.safetensors"]
    assert main(command) == 0
    expected = {**parents[0], "head.bias": parents[0]["head.bias"].half()}
    torch.testing.assert_close(load_file("x.safetensors"), expected)
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "aligned state: x.safetensors"
    assert not Path("x.json").exists()


def test_a_factory_and_other_normalization(
    parents: list[State], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_nets  # type: ignore[import-not-found]

    state = state_of(own_nets.net())
    save_state(state, Path("n.safetensors"))
    command = ["merge", "n.safetensors", "n.safetensors", "--model", "own_nets:net"]
    options = ["--data", "digits", "--normalize", "0.1/0.5", "--out", "m.safetensors"]
    assert main([*command, *options]) == 0
    torch.testing.assert_close(load_file("m.safetensors"), state)
    rows = json.loads(Path("m.json").read_text())["evaluation"]["networks"]
    data, model = load_dataset("digits"), own_nets.net()
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model((data.test_x.float() / 255 - 0.1) / 0.5)
    expected = float(functional.cross_entropy(logits, data.test_y))
    assert rows[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert rows[0]["recalibrated"] is None


# --- refusals ----------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("dimat: error: ")
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    return last


GOOD = "merge a.safetensors b.pth --model cnn --width 0.25 --data digits --out m.safetensors"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("merge", "setting 'parents' is missing, as in: dimat merge A B [C ...] --model"),
        ("merge --parents a b", "unknown setting 'parents': its values are written without a name"),
        ("merge a b --data digits --out m.safetensors", "setting 'model' is missing"),
        (GOOD.replace("b.pth", ""), "setting 'parents' is ['a.safetensors']: must be two or more"),
        (GOOD.replace("merge", "align") + " --combine x", "unknown setting 'combine'"),
        (GOOD.replace("merge a", "align b.pth a"), "must be two checkpoint files"),
        (GOOD.replace("b.pth", "c.pth"), "c.pth: no such file"),
        (GOOD.replace("b.pth", "b.onnx"), "b.onnx: no such file"),
        (f"{GOOD} --method activation", "'method' is 'activation', which is unknown: did you mean"),
        (f"{GOOD} --combine averag", "'combine' is 'averag', which is unknown: did you mean"),
        (f"{GOOD} --recalibration batch", "must be 'auto' or 'batchnorm' or 'expected' or 'none'"),
        (f"{GOOD} --weights 0.5,0.4", "weights [0.5, 0.4] for 2 states"),
        (f"{GOOD} --weights 1", "weights [1.0] for 2 states: give one each"),
        (f"{GOOD} --weights x", "setting 'weights' is 'x': must be a list"),
        (f"{GOOD} --images 0", "setting 'images' is 0: must be >= 1"),
        (f"{GOOD} --batch-size 0", "setting 'batch_size' is 0: must be >= 1"),
        (f"{GOOD} --batchsize 5", "unknown setting 'batchsize': did you mean 'batch_size'?"),
        (
            f"{GOOD} --data.target x",
            "unknown setting 'data.target', as 'data' has no parts here: a",
        ),
        (
            GOOD.replace("digits", "csv:{agent}.csv"),
            "must be the data of one agent, with no {agent}",
        ),
        (f"{GOOD} --threads 0", "setting 'threads' is 0: must be >= 1"),
        (f"{GOOD} --seed -1", "setting 'seed' is -1: must be >= 0"),
        (f"{GOOD} --device tpu", "setting 'device' is 'tpu': must be cpu, cuda or cuda:N"),
        (f"{GOOD} --classes 0", "setting 'classes' is 0: must be >= 1"),
        (f"{GOOD} --classes 5", "digits: the labels go up to 9, but there are 5 classes"),
        (f"{GOOD} --normalize 0.5", "setting 'normalize' is '0.5': must be MEAN/STD"),
        (f"{GOOD} --normalize 0.5/0", "must be MEAN/STD, each one number or 1 separated"),
        (f"{GOOD} --normalize 1,2,3/1", "must be MEAN/STD"),
        (GOOD.replace("digits", "digts"), "'data' is 'digts', which is unknown: did you mean"),
        (GOOD.replace("digits", "npz:x.npz"), "x.npz: no such file"),
        (GOOD.replace("cnn", "cnm"), "'model' is 'cnm', which is unknown: did you mean 'cnn'?"),
        (GOOD.replace("cnn", "no.such:net"), "model 'no.such:net' cannot be imported"),
        (GOOD.replace("0.25", "0.5"), "a.safetensors (read as 'cnn') does not fit: 'features."),
        (GOOD.replace("cnn", "mlp"), "a.safetensors (read as 'mlp') does not fit: it lacks"),
        (GOOD.replace("m.s", "m.pth.s").replace("m.pth.safetensors", "m.pth"), "a file that ends"),
        (GOOD.replace("m.s", "no/m.s"), "there is no folder no: make it first"),
        (GOOD.replace("--out m", "--out a"), "'out' is 'a.safetensors': must be another file"),
        (f"{GOOD} --report b.pth --overwrite", "'report' is 'b.pth': must be another file"),
        (f"{GOOD} --report m.safetensors", "must be another file than those read and written"),
        (f"{GOOD} --report .", "setting 'report' is '.': must be a file, not a folder"),
    ],
)
def test_a_bad_command_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    assert message in refused(capsys, *command.split())


def test_without_labels_the_way_out_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("images.npz", train_x=np.zeros((4, 8, 8), np.uint8))
    command = GOOD.replace("digits", "npz:images.npz").split()
    assert "lacks train_y, test_x, test_y" in refused(capsys, *command)
    said = refused(capsys, *command, "--no-evaluate")
    assert "where there are no labels, give --classes" in said


def test_a_broken_parent_is_refused_by_file_and_key(
    parents: list[State], capsys: pytest.CaptureFixture[str]
) -> None:
    key = next(iter(parents[0]))
    broken = {**parents[0], key: parents[0][key] * float("nan")}
    save_state(broken, Path("nan.safetensors"))
    said = refused(capsys, *GOOD.replace("b.pth", "nan.safetensors").split())
    assert f"nan.safetensors (read as 'cnn'): '{key}' has" in said


@pytest.mark.parametrize("name", ["m.safetensors", "m.json"])
def test_a_file_that_exists_is_replaced_only_if_that_is_asked_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text("precious")
    assert f"{name} exists: use another, or --overwrite" in refused(capsys, *GOOD.split())
    assert f"{name} exists" in refused(capsys, *GOOD.split(), "--overwrite=false")
    quick = ["--no-evaluate", "true", "--images", "50"]  # as settings of a run are written, too
    assert main([*GOOD.split(), "--overwrite", "true", *quick]) == 0
    assert Path(name).read_bytes() != b"precious"


@pytest.mark.parametrize("broken", ["state", "report"])
def test_nothing_half_written_is_left(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        Path("m.safetensors.partial" if broken == "state" else "m.json.partial").write_bytes(b"{")
        raise OSError(28, "No space left on device")

    where, name = (report, "save_state") if broken == "state" else (Path, "write_text")
    monkeypatch.setattr(where, name, fail)
    said = refused(capsys, *GOOD.split(), "--no-evaluate", "--images", "50")
    assert "m.safetensors cannot be written: " in said
    assert "No space left" in said


# --- parts ----------------------------------------------------------------


def test_the_barrier_is_the_rise_above_the_line_between_the_ends() -> None:
    losses = (1.0, 2.0, 4.0, 3.0)
    path = Between((0.0, 0.25, 0.5, 1.0), tuple(Score({"accuracy": 0.0}, loss) for loss in losses))
    assert path.barrier == pytest.approx(2.0)
    line = Between(
        (0.0, 0.5, 1.0), tuple(Score({"accuracy": 0.0}, loss) for loss in (1.0, 1.0, 3.0))
    )
    assert line.barrier == 0.0


def test_normalization_by_default_is_dimats_own() -> None:
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 4, 4, 4)
    own = normalize(images.permute(0, 3, 1, 2))
    torch.testing.assert_close(Normalization()(images), own, rtol=0, atol=0)
    torch.testing.assert_close(Normalization()(images / 255), own)


@pytest.mark.parametrize("recalibrated", [False, True])
def test_huge_losses_leave_the_names_of_files_whole(recalibrated: bool) -> None:
    huge = Score({"accuracy": 0.1}, 1234567890123.4)
    again = huge if recalibrated else None
    rows = [ComparisonRow(name, huge, again) for name in ("parent 0", "parent 1", "merged")]
    config = MergeConfig(model="mlp", parents=("a/agent-7.safetensors", "b.pt"), out="x")
    between = Between((0.0, 0.5, 1.0), (huge, huge, huge))
    compared = MergeComparison((ACCURACY,), 360, True, tuple(rows), between)
    result = MergeResult(config, (), "", (), compared, recalibrated, {}, ())
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(merge_tables(result))
    text = console.export_text()
    assert "parent 0: agent-7.safetensors " in text
    assert "1.2e+12" in text
    assert "123456" not in text


def test_help_answers_without_torch() -> None:
    script = (
        "import sys\nfrom dimat.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    )
    options = {"merge": "--combine", "align": "--normalize", "statistics": "--budget"}
    for command, option in options.items():
        done = subprocess.run(
            [sys.executable, "-c", script, command, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert option in done.stdout
