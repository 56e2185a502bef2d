"""A run on several processes has the numbers of a run in one, bit for bit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tests.exchange.threads import together
from tests.experiment.test_resume import Content, StopAfter, Stopped, content
from tests.fork_server import LONG_S, ROOT, run
from torch import nn

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError
from dimat.exchange.world import SingleProcess
from dimat.experiment.config.config import (
    CheckpointConfig,
    DataConfig,
    DiagnosticsConfig,
    MatchingConfig,
    MergingConfig,
    OptimizerConfig,
    TopologyConfig,
)
from dimat.experiment.config.parse import config_to_yaml
from dimat.experiment.record.checkpoint import CheckpointFolder

PAW_AND_TAIL = "0 1\n1 2\n0 2\n2 3\n3 4\n"
CONFIG = RunConfig(
    agents=5,
    rounds=2,
    pretrain_epochs=1,
    batch_size=16,
    width=0.25,
    threads=1,
    model="cnn",
    data=DataConfig(train_images=300, split="iid"),
    controls=("wa", "cdsgd", "gradient-tracking", "fedavg", "centralized"),
    diagnostics=DiagnosticsConfig(barrier_images=20),
)
PAIRWISE = replace(
    CONFIG,
    rounds=4,
    controls=("sgp",),
    eval_every=2,
    matching=MatchingConfig(gauge="pairwise"),
    merging=MergingConfig("gram"),
    optimizer=OptimizerConfig(on_merge="mix"),
)
SHORT = replace(CONFIG, model="mlp", rounds=4, controls=())
SLOW = pytest.mark.slow


class Ended(NamedTuple):
    """How the processes of a run ended, by rank."""

    codes: list[int]
    out: list[str]
    err: list[str]


def spread(processes: int, command: list[str]) -> Ended:
    """``dimat COMMAND`` in processes that find each other as those of ``torchrun`` do."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    place |= {"LOCAL_WORLD_SIZE": str(processes), "PYTHONPATH": str(ROOT)}
    place |= {"RES_OPTIONS": "timeout:1 attempts:1"}  # torch asks for the name of each address

    def rank(k: int) -> subprocess.CompletedProcess[str]:
        return run(["dimat", *command], env={**os.environ, **place, "RANK": str(k)})

    ended = together([lambda k=k: rank(k) for k in range(processes)], LONG_S)  # type: ignore[misc]
    return Ended(
        [own.returncode for own in ended],
        [own.stdout for own in ended],
        [own.stderr for own in ended],
    )


def on_graph(config: RunConfig, folder: Path) -> RunConfig:
    """The config on an irregular graph: a paw, and one more agent behind it."""
    file = folder / "edges.txt"
    file.write_text(PAW_AND_TAIL)
    return replace(config, topology=TopologyConfig("edges", path=str(file)))


def saved(config: RunConfig, folder: Path) -> list[str]:
    """What ``dimat`` is told, to run a config."""
    file = folder / "config.yaml"
    file.write_text(config_to_yaml(config))
    return ["run", f"--config={file}", f"--out={folder / 'run'}"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the file of the graph is, whose name is one of the settings."""
    return tmp_path_factory.mktemp("graph")


@pytest.fixture(scope="module")
def whole(here: Path) -> Content:
    """What a run in one process leaves behind."""
    return content(dimat.run(replace(on_graph(CONFIG, here), out=str(here / "whole"))).folder)


@pytest.mark.parametrize("processes", [*(pytest.param(n, marks=SLOW) for n in (1, 2, 5)), 3])
def test_any_number_of_processes_leaves_what_one_leaves(
    tmp_path: Path, here: Path, whole: Content, processes: int
) -> None:
    ended = spread(processes, saved(on_graph(CONFIG, here), tmp_path))
    assert ended.codes == [0] * processes, ended.err
    found = content(tmp_path / "run")
    assert [*found] == [*whole]
    for name in whole:
        assert found[name] == whole[name], name
    assert ["run folder: " in out for out in ended.out] == [True] + [False] * (processes - 1)
    assert ["Test accuracy in %" in out for out in ended.out] == [True] + [False] * (processes - 1)


def test_lost_edges_pairwise_alignment_grams_and_mixed_memories_are_the_same_on_two_processes(
    tmp_path: Path, here: Path
) -> None:
    config = on_graph(PAIRWISE, here)
    # In round 2 only agents 0 and 1 meet: none of the second process does.
    config = replace(config, topology=replace(config.topology, dropout=0.6, seed=7))
    alone = content(dimat.run(replace(config, out=str(tmp_path / "alone"))).folder)
    ended = spread(2, saved(config, tmp_path))
    assert ended.codes == [0, 0], ended.err
    assert content(tmp_path / "run") == alone


@pytest.mark.parametrize("lines", [pytest.param(3, marks=SLOW), 17])
def test_what_was_stopped_in_one_process_goes_on_in_two(
    tmp_path: Path, here: Path, whole: Content, lines: int
) -> None:
    config = replace(on_graph(CONFIG, here), out=str(tmp_path / "run"))
    with pytest.raises(Stopped):
        dimat.run(config, callbacks=[StopAfter(lines)])
    ended = spread(2, ["resume", str(tmp_path / "run")])
    assert ended.codes == [0, 0], ended.err
    assert content(tmp_path / "run") == whole


class Mortal(nn.Module):
    """Its process is killed in training, once, when there are two checkpoints."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        victim, kept, mark = (os.environ.get(name, "") for name in ("VICTIM", "KEPT", "MARK"))
        mine = self.training and victim and os.environ["RANK"] == victim
        if mine and not Path(mark).exists() and len(CheckpointFolder(Path(kept)).numbers()) >= 2:
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        found: torch.Tensor = self.inner(x)
        return found


def mortal(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return Mortal(flat(in_channels, num_classes, image_size))


def flat(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    size = in_channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes))


@pytest.mark.parametrize("victim", [pytest.param(0, marks=SLOW), 1])
def test_a_killed_process_is_started_again_and_the_run_has_the_same_numbers(
    tmp_path: Path, here: Path, victim: int
) -> None:
    model = "tests.distributed.test_torchrun:mortal"
    config = replace(on_graph(SHORT, here), method="wa", model=model)
    config = replace(config, checkpoint=CheckpointConfig(every=1))
    alone = content(dimat.run(replace(config, out=str(tmp_path / "alone"))).folder)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
    # the same as without these two, but for the seconds of imports
    torchrun += ["--run-path", "--start-method=fork", "--nproc-per-node=2", "--monitor-interval=.1"]
    kept, mark = tmp_path / "run" / "checkpoints", tmp_path / "killed"
    mortals = {"VICTIM": str(victim), "KEPT": str(kept), "MARK": str(mark)}
    done = run(
        [*torchrun, str(ROOT / "src/dimat/__main__.py"), *saved(config, tmp_path)],
        env={**os.environ, **mortals, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    assert content(tmp_path / "run") == alone


class Broken(nn.Module):
    """Loses its mind in training, in one of the processes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lost = self.training and os.environ.get("RANK") == "1"
        found: torch.Tensor = self.inner(x)
        return found * float("nan") if lost else found


def broken(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return Broken(flat(in_channels, num_classes, image_size))


def test_an_error_in_one_process_is_said_and_ends_them_all(tmp_path: Path, here: Path) -> None:
    model = "tests.distributed.test_torchrun:broken"
    config = replace(on_graph(SHORT, here), rounds=10**6, method="wa", model=model)
    ended = spread(2, saved(config, tmp_path))
    assert ended.codes == [1, 1]
    assert "agent 3: the training loss is not finite" in ended.err[1]
    assert "rank 1 is lost" in ended.err[0]


def test_more_processes_than_agents_are_refused_with_the_way_out(tmp_path: Path) -> None:
    config = replace(CONFIG, topology=TopologyConfig("ring"), out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"'agents' is 5, and 6 processes .*-per-node 5\)"):
        dimat.run(config, world=SingleProcess(0, 6))
    assert not (tmp_path / "run").exists()
