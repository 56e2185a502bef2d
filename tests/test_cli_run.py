"""Bad input that only a real ``dimat run`` finds: data, splits, models, losses, run folders."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.test_cli import files

from dimat.cli import main
from dimat.experiment.progress import LiveProgress
from dimat.experiment.running import runner

QUICK = ["--agents=2", "--rounds=1", "--pretrain_epochs=0", "--local_steps=2", "--controls=[]"]
QUICK += ["--data.split=iid", "--data.train_images=200", "--matching.images=50", "--threads=1"]
QUICK += ["--recalibration.images=50"]

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The message that the run is refused with: short, exit code 2, nothing written."""
    before = files()
    assert main(["run", *QUICK, *options]) == 2
    err = capsys.readouterr().err
    assert 1 <= len(err.splitlines()) <= 3
    assert "Traceback" not in err
    assert files() == before
    return err


def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "train_x": rng.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8),
        "train_y": np.arange(80) % 4,
        "test_x": rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8),
        "test_y": np.arange(20) % 4,
    }


@pytest.mark.parametrize(
    ("changed", "messages"),
    [
        ({"train_y": None}, ["train_y"]),
        ({"train_y": np.arange(79) % 4}, ["train_y", "79", "80"]),
        ({"test_y": np.full(20, 9)}, ["test_y", "9"]),
        ({"train_y": np.arange(80) % 4 - 1}, ["train_y", "-1"]),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(
    capsys: pytest.CaptureFixture[str], changed: Arrays, messages: list[str]
) -> None:
    kept = {name: array for name, array in (arrays() | changed).items() if array is not None}
    np.savez("set.npz", **kept)
    err = refusal(capsys, "--data.source=npz:set.npz", "--data.train_images=null")
    assert all(message in err for message in ["set.npz", *messages]), err


def test_an_npz_that_is_missing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.npz" in refusal(capsys, "--data.source=npz:none.npz")


def test_an_npz_that_is_truncated_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("set.npz", **arrays())
    whole = Path("set.npz").read_bytes()
    Path("set.npz").write_bytes(whole[: len(whole) // 2])
    assert "set.npz" in refusal(capsys, "--data.source=npz:set.npz")


def test_more_agents_than_the_split_allows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "agent" in refusal(capsys, "--agents=11", "--data.split=by-class")
    assert "agent" in refusal(capsys, "--agents=150")


def test_a_graph_that_is_not_connected_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("edges.txt").write_text("0 1\n2 3\n")
    options = ["--agents=4", "--topology.name=edges", "--topology.path=edges.txt"]
    assert "connected" in refusal(capsys, *options)


def test_a_model_of_the_wrong_output_width_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("too_wide.py").write_text(
        "from torch import nn\n"
        "def factory(*, in_channels, num_classes, image_size):\n"
        "    size = in_channels * image_size[0] * image_size[1]\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes + 1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    err = refusal(capsys, "--model=too_wide:factory")
    assert all(word in err for word in ("too_wide:factory", "11", "10")), err


def test_a_factory_that_makes_another_architecture_for_each_agent_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("of_any_width.py").write_text(
        "from itertools import count\n"
        "from torch import nn\n"
        "widths = count(8)\n"
        "def factory(*, num_outputs):\n"
        "    width = next(widths)\n"
        "    layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_outputs)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for more in ([], ["--vectorize=1"]):
        err = refusal(capsys, "--model=of_any_width:factory", *more)
        assert "model 'of_any_width:factory': that of agent " in err
        assert "'1.weight' has shape" in err
        assert "all agents need one architecture" in err


def test_an_existing_run_folder_is_refused_unless_overwrite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", *QUICK, "--out=here"]) == 0
    capsys.readouterr()
    assert "here exists: use another, or --overwrite true" in refusal(capsys, "--out=here")
    assert main(["run", *QUICK, "--out=here", "--overwrite"]) == 0
    again = ["run", "--config=here/config.yaml", "--out=there"]
    assert main(again) == 0


@pytest.mark.parametrize("out", ["closed/here", "closed", None])
def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str | None
) -> None:
    def no_setup(*_: object, **__: object) -> None:
        raise AssertionError("it has begun")

    monkeypatch.setattr(runner, "make_setup", no_setup)
    Path("file").touch()
    assert "file/here cannot be written: " in refusal(capsys, "--out=file/here")
    Path("runs").touch()
    assert "runs is a file" in refusal(capsys)
    Path("runs").unlink()
    place = Path("closed" if out else "runs")
    place.mkdir()
    may = os.access  # the superuser may write anywhere
    monkeypatch.setattr(
        os, "access", lambda path, mode: not Path(path).samefile(place) and may(path, mode)
    )
    given = ["--out", out] if out else []
    assert f"{place} may not be written to: use another" in refusal(capsys, *given)


def metrics(folder: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_record(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--out=here", "--optimizer.name=sgd", "--optimizer.lr=1e30", "--local_steps=20"]
    assert main(["run", *QUICK, *options]) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert "agent 0" in err
    assert "round 1" in err
    assert {line["round"] for line in metrics("here")} >= {0}


def test_an_interrupted_run_leaves_metrics_that_can_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: LiveProgress, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LiveProgress, "note", interrupt)
    assert main(["run", *QUICK, "--out=here"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert {line["round"] for line in metrics("here")} >= {0}


def test_a_model_that_cannot_be_exported_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("halting.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_channels, num_classes, image_size):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(in_channels * image_size[0] * image_size[1], num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x.flatten(1) if x.sum() > 1e9 else 2 * x.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(".")
    assert "cannot capture Net" in refusal(capsys, "--model=halting:Net", "--out=run")
    assert not Path("run").exists()


def test_a_stopped_run_is_resumed_and_a_finished_one_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", *QUICK, "--rounds=2", "--out=whole"]) == 0
    table = capsys.readouterr().out.replace("whole", "stopped")

    def interrupted(self: LiveProgress, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LiveProgress, "note", interrupted)  # after the first round
        assert main(["run", *QUICK, "--rounds=2", "--out=stopped"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not Path("stopped/summary.json").exists()
    for _ in range(2):
        assert main(["resume", "stopped"]) == 0
        assert capsys.readouterr().out == table


def test_what_is_no_run_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "nowhere"]) == 2
    assert "nowhere is not a run folder: there is no such folder" in capsys.readouterr().err
