"""A run that was stopped goes on to the same bits, wherever it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests import fork_server
from tests.experiment.test_run import TIMES
from tests.tiers import slow, tiers
from torch import nn

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError, RecordError
from dimat.experiment.callbacks import Callback
from dimat.experiment.config.config import (
    CheckpointConfig,
    ConsensusConfig,
    DataConfig,
    OptimizerConfig,
    TopologyConfig,
)
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.locks import alone
from dimat.experiment.run import run_or_resume
from dimat.experiment.running import rounds
from dimat.tools.records.curve import Line

HERE = "tests.experiment.test_resume"
NOISY = f"{__name__}:noisy"
CONFIG = RunConfig(
    agents=3,
    rounds=4,
    pretrain_epochs=2,
    batch_size=32,
    model=NOISY,
    width=0.25,
    threads=1,
    data=DataConfig(train_images=300),
    method="dimat",
    controls=("sgp", "gradient-tracking", "diloco", "centralized"),
    topology=TopologyConfig("ring"),
    checkpoint=CheckpointConfig(every=1),
    optimizer=OptimizerConfig(
        *("msgd", 0.02),
        schedule="cosine",
        on_merge="mix",
        warmup_steps=20,
        clip_norm=1.0,
        accumulate=2,
        ema=0.9,
    ),
    consensus=ConsensusConfig(order="adapt"),
)
Content = dict[str, object]


def noisy(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A network whose training draws random numbers of its own."""
    height, width = image_size
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(6 * height * width, num_classes),
    )


class Stopped(Exception):
    """What the test stops a run by."""


class StopAfter:
    """A callback that stops a run after so many lines."""

    def __init__(self, lines: int) -> None:
        self.left = lines

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """Let it."""

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        self.measured(method, summary)


def bits(value: torch.Tensor) -> tuple[str, list[int], str]:
    """A tensor's dtype, shape and digest; its numbers as a list take ten times its memory."""
    flat = value.contiguous().reshape(-1).view(torch.uint8).numpy()
    return str(value.dtype), list(value.shape), hashlib.sha256(flat).hexdigest()


def content(folder: Path) -> Content:
    """All that a run leaves behind, but for times and where it ran."""
    found: Content = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in x.items() if k not in TIMES} for x in lines]
        elif path.suffix == ".safetensors":
            found[name] = {k: bits(v) for k, v in safetensors.torch.load_file(path).items()}
        elif path.name == "summary.json":
            read = json.loads(path.read_text())
            found[name] = {k: v for k, v in read.items() if k not in TIMES}
        elif path.is_file() and path.name != "environment.json":
            found[name] = path.read_text()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """The run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    dimat.run(replace(CONFIG, out=str(out)))
    return content(out)


def test_an_uninterrupted_run_leaves_no_checkpoints(whole: Content) -> None:
    assert not [name for name in whole if "checkpoint" in name or "partial" in name]
    assert len(whole["diagnostics.jsonl"]) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("lines", tiers([1, 11, 44, 75], slow=[1, 44]))
def test_a_run_stopped_after_any_line_resumes_to_the_same_bits(
    tmp_path: Path, whole: Content, lines: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        dimat.run(replace(CONFIG, out=str(out)), callbacks=[StopAfter(lines)])
    if lines % 2:  # and stopped once more
        with pytest.raises(Stopped):
            dimat.resume(out, callbacks=[StopAfter(4)])
    torch.manual_seed(lines)  # what the process drew before must not matter
    dimat.resume(out)
    assert content(out) == whole


KILLED = f"""
import os, signal, sys
from dataclasses import replace
from dimat.experiment.run import run_or_resume
from dimat.experiment.running import rounds
from {HERE} import CONFIG

left = int(sys.argv[2])

def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

if left:
    sys.setprofile(count)
run_or_resume(replace(CONFIG, model="{HERE}:noisy", out=sys.argv[1]))
"""


def test_a_run_killed_at_random_moments_resumes_to_the_same_bits(
    tmp_path: Path, whole: Content
) -> None:
    """A moment is a call or return of a function, so that it comes on any machine."""
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    out = tmp_path / "run"
    calls = [draw.randrange(1, 400_000), *(draw.randrange(1, 1_500_000) for _ in range(2)), 0]
    codes = [fork_server.run(["python", "-c", KILLED, str(out), str(n)]).returncode for n in calls]
    assert codes[0] == -signal.SIGKILL, f"seed {seed}: done before it could be killed"
    assert codes[-1] == 0
    found = content(out)
    expected = {name: _renamed(value) for name, value in whole.items()}
    assert found == expected, f"seed {seed}"


def _renamed(value: object) -> object:
    """The module of the test may be imported under another name there."""
    return value.replace(NOISY, f"{HERE}:noisy") if isinstance(value, str) else value


def stopped(out: Path, lines: int) -> Path:
    with pytest.raises(Stopped):
        dimat.run(replace(CONFIG, out=str(out)), callbacks=[StopAfter(lines)])
    return out


@pytest.fixture(scope="module")
def _in_round_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("stopped") / "run", 20)


@pytest.fixture
def in_round_3(_in_round_3: Path, tmp_path: Path) -> Path:
    """A copy of a run that was stopped in round 3: checkpoints of rounds 1 and 2 are there."""
    return shutil.copytree(_in_round_3, tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        slow("tensors.safetensors", lambda b: b[: len(b) // 2], "was changed"),
        ("tensors.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], "was changed"),
        ("meta.json", lambda b: b.replace(b"epochs", b"epoch5"), "was changed"),
        ("meta.json", lambda b: b[:-30], "is not whole"),
        slow("meta.json", lambda b: b"[]", "is not whole"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    in_round_3: Path, whole: Content, file: str, damage: object, message: str
) -> None:
    out = in_round_3
    last = out / "checkpoints" / "round-000002"
    assert (out / "checkpoints" / "round-000001").is_dir()
    (last / file).write_bytes(damage((last / file).read_bytes()))  # type: ignore[operator]
    notes = Notes()
    dimat.resume(out, notes)
    (note,) = [n for n in notes.lines if "checkpoint" in n]
    assert str(last) in note
    assert message in note
    assert content(out) == whole


class Notes:
    """An observer that remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, description: str, total: int) -> None:
        """Let it."""

    def advance(self, steps: int = 1) -> None:
        """Let it."""

    def note(self, text: str) -> None:
        self.lines.append(text)

    def close(self) -> None:
        """Let it."""


def test_without_a_whole_checkpoint_a_run_begins_again(in_round_3: Path, whole: Content) -> None:
    out = in_round_3
    for file in (out / "checkpoints").rglob("meta.json"):
        file.write_text("{")
    dimat.resume(out)
    assert content(out) == whole


def test_a_checkpoint_whose_metrics_were_lost_is_not_used(in_round_3: Path, whole: Content) -> None:
    """As after a power cut: lines that a later checkpoint counts on are not there."""
    out = in_round_3
    file = out / "metrics.jsonl"
    kept = CheckpointFolder(out / "checkpoints").read(1).meta["sizes"]["metrics.jsonl"]
    os.truncate(file, kept + 10)
    notes = Notes()
    dimat.resume(out, notes)
    (note,) = [n for n in notes.lines if "lines are missing" in n]
    assert "the one before it is used" in note
    assert content(out) == whole


def test_when_all_metrics_are_lost_a_run_begins_anew(in_round_3: Path, whole: Content) -> None:
    out = in_round_3
    (out / "metrics.jsonl").write_text("")
    notes = Notes()
    dimat.resume(out, notes)
    assert [n.rpartition("; ")[2] for n in notes.lines if "missing" in n] == [
        "the one before it is used",
        "there is no other: from anew",
    ]
    assert content(out) == whole


def test_checkpoints_of_other_settings_or_data_are_refused(in_round_3: Path) -> None:
    out = in_round_3
    config = out / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("lr: 0.02", "lr: 0.5"))
    with pytest.raises(ConfigError, match="checkpoints in .* are of other settings or other data"):
        dimat.resume(out)
    config.write_text(text)
    dimat.resume(out)


def test_a_control_that_was_killed_as_it_began_is_begun_again(
    tmp_path: Path, whole: Content
) -> None:
    out = stopped(tmp_path / "run", 36)
    half = out / "controls" / "diloco"
    assert not half.exists()
    (half / "states").mkdir(parents=True)
    (half / "config.yaml").write_text("method: dil")
    dimat.resume(out)
    assert content(out) == whole


def test_two_processes_do_not_run_one_folder(in_round_3: Path) -> None:
    out = in_round_3
    with (
        alone(out / "checkpoints"),
        pytest.raises(RecordError, match="another process runs or resumes the run"),
    ):
        dimat.resume(out)
    dimat.resume(out)


def test_buffers_that_are_in_no_state_are_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, model=f"{__name__}:counting", controls=(), method="wa")
    plain = dimat.run(replace(config, out=str(tmp_path / "a"))).folder
    with pytest.raises(Stopped):
        dimat.run(replace(config, out=str(tmp_path / "b")), callbacks=[StopAfter(20)])
    dimat.resume(tmp_path / "b")
    assert content(tmp_path / "b") == content(plain)


class Counting(nn.Module):
    """Scales its output by how often it was trained: a buffer that no state has."""

    calls: torch.Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        return self.inner(x) * (1 + 0.01 * self.calls)


def counting(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return Counting(noisy(in_channels, num_classes, image_size))


def test_a_half_written_line_is_taken_back(in_round_3: Path, whole: Content) -> None:
    out = in_round_3
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "ag')
    dimat.resume(out)
    assert content(out) == whole


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    config = replace(CONFIG, controls=("local",), rounds=1, out=str(tmp_path / "run"))
    first = dimat.run(config)
    before = {p: p.stat().st_mtime_ns for p in first.folder.rglob("*")}
    again = dimat.resume(first.folder)
    assert (again.main, again.controls) == (first.main, first.controls)
    assert {p: p.stat().st_mtime_ns for p in first.folder.rglob("*")} == before


def test_a_run_does_not_go_on_with_other_settings(tmp_path: Path) -> None:
    config = replace(CONFIG, controls=(), rounds=1, out=str(tmp_path / "run"))
    run_or_resume(config)
    run_or_resume(config)
    with pytest.raises(ConfigError, match=r"was begun with 'seed' 0, not 1"):
        run_or_resume(replace(config, seed=1))
    with pytest.raises(ConfigError, match="'out' is null"):
        run_or_resume(replace(config, out=None))


def test_what_is_no_run_folder_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        dimat.resume(tmp_path)


def test_runs_that_share_pre_training_are_pre_trained_once(tmp_path: Path, whole: Content) -> None:
    shared = tmp_path / "pretrained"
    first = replace(CONFIG, out=str(tmp_path / "a"))
    run_or_resume(first, pretrained=shared)
    assert content(tmp_path / "a") == whole
    kept = sorted(shared.iterdir())
    assert len(kept) == 2  # the agents, and the one that has all images
    notes = Notes()
    second = replace(first, out=str(tmp_path / "b"), controls=(), method="wa", rounds=4)
    result = run_or_resume(second, notes, pretrained=shared)
    assert sorted(shared.iterdir()) == kept
    alone = dimat.run(replace(second, out=str(tmp_path / "c")))
    assert content(result.folder) == content(alone.folder)


def test_agents_of_another_seed_are_not_taken(tmp_path: Path) -> None:
    shared = tmp_path / "pretrained"
    small = replace(CONFIG, controls=(), method="wa", rounds=1)
    for name, changed in {"a": {}, "b": {"seed": 1}, "c": {"batch_size": 16}}.items():
        run_or_resume(replace(small, out=str(tmp_path / name), **changed), pretrained=shared)  # type: ignore[arg-type]
    assert len(list(shared.iterdir())) == 3


@pytest.mark.parametrize(("every", "keep", "expected"), [(1, 1, [3]), (2, 3, [2]), (0, 2, [])])
def test_checkpoints_are_written_as_often_and_kept_as_long_as_asked(
    tmp_path: Path, every: int, keep: int, expected: list[int]
) -> None:
    config = replace(CONFIG, controls=(), checkpoint=CheckpointConfig(every, keep))
    with pytest.raises(Stopped):
        dimat.run(replace(config, out=str(tmp_path / "run")), callbacks=[StopAfter(28)])
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").numbers() == expected


@pytest.mark.parametrize(("takes_s", "expected"), [(0.0, [2, 4, 6, 8]), (1.0, [2, 6])])
def test_by_default_checkpoints_are_ten_seconds_apart_and_20_times_what_one_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_s: float, expected: list[int]
) -> None:
    write = CheckpointFolder.write

    class Clock(Callback):
        """Six seconds a round, and what checkpoints take."""

        def __init__(self) -> None:
            self.kept: list[int] = []
            self.round = 0

        def measured(self, method: str, line: Line) -> None:
            self.round = line["round"]

        def now(self) -> float:
            return 6.0 * self.round + takes_s * len(self.kept)

    clock = Clock()

    def watch(self: CheckpointFolder, checkpoint: Checkpoint) -> None:
        clock.kept += [checkpoint.number] if self.path.parent.name == "run" else []
        write(self, checkpoint)

    monkeypatch.setattr(CheckpointFolder, "write", watch)
    monkeypatch.setattr(rounds, "now", clock.now)
    config = replace(CONFIG, rounds=9, pretrain_epochs=0, method="wa", controls=())
    config = replace(config, checkpoint=CheckpointConfig(), out=str(tmp_path / "run"))
    dimat.run(config, callbacks=[clock])
    assert clock.kept == expected


def test_a_checkpoint_replaces_one_of_its_number(tmp_path: Path) -> None:
    store = CheckpointFolder(tmp_path, keep=2)
    for value in (1.0, 2.0):
        store.write(Checkpoint(5, {"value": value}, {"x": torch.tensor([value])}))
    found = store.latest(lambda _: None)
    assert found is not None
    assert (found.meta, found.tensors["x"].item()) == ({"value": 2.0}, 2.0)
    assert store.numbers() == [5]
