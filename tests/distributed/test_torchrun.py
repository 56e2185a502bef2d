"""A run on several processes has the numbers of a run in one, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.experiment.test_resume import Content, StopAfter, Stopped, content
from torch import nn

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError
from dimat.exchange.crew import Alone
from dimat.experiment.checkpoint import Store
from dimat.experiment.config import (
    DataConfig,
    DiagnosticsConfig,
    MatchingConfig,
    OptimizerConfig,
    TopologyConfig,
)
from dimat.experiment.settings import config_to_yaml

ROOT = Path(__file__).parent.parent.parent
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
    optimizer=OptimizerConfig(on_merge="mix"),
)
LONG = replace(CONFIG, model="mlp", rounds=25, controls=())
SLOW = pytest.mark.slow


@contextmanager
def launched(
    processes: int, command: list[str], *, restarts: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """``torchrun -m dimat``, ended with all its processes if the test is done before it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval=0.1"]
    own = [f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*torchrun, *own, "-m", "dimat", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for pid in (process.pid, *children(process.pid)):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def children(pid: int) -> list[int]:
    """Its processes, by what Linux says."""
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


@pytest.mark.parametrize(
    "processes", [pytest.param(1, marks=SLOW), 2, 3, pytest.param(5, marks=SLOW)]
)
def test_any_number_of_processes_leaves_what_one_leaves(
    tmp_path: Path, here: Path, whole: Content, processes: int
) -> None:
    with launched(processes, saved(on_graph(CONFIG, here), tmp_path)) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = content(tmp_path / "run")
    assert [*found] == [*whole]
    for name in whole:
        assert found[name] == whole[name], name
    assert out.count("Test accuracy in %") == out.count("run folder: ") == 1


def test_lost_edges_pairwise_alignment_and_mixed_memories_are_the_same_on_two_processes(
    tmp_path: Path, here: Path
) -> None:
    config = on_graph(PAIRWISE, here)
    # In round 2 only agents 0 and 1 meet: none of the second process does.
    config = replace(config, topology=replace(config.topology, dropout=0.6, seed=7))
    alone = content(dimat.run(replace(config, out=str(tmp_path / "alone"))).folder)
    with launched(2, saved(config, tmp_path)) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert content(tmp_path / "run") == alone


@pytest.mark.parametrize("lines", [pytest.param(3, marks=SLOW), 17])
def test_what_was_stopped_in_one_process_goes_on_in_two(
    tmp_path: Path, here: Path, whole: Content, lines: int
) -> None:
    config = replace(on_graph(CONFIG, here), out=str(tmp_path / "run"))
    with pytest.raises(Stopped):
        dimat.run(config, callbacks=[StopAfter(lines)])
    with launched(2, ["resume", str(tmp_path / "run")]) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert content(tmp_path / "run") == whole


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(x.decode().partition("=")[::2] for x in variables if x).get("RANK", "")


@pytest.mark.parametrize("victim", [pytest.param(0, marks=SLOW), 1])
def test_a_killed_process_is_started_again_and_the_run_has_the_same_numbers(
    tmp_path: Path, here: Path, victim: int
) -> None:
    config = on_graph(LONG, here)
    alone = content(dimat.run(replace(config, out=str(tmp_path / "alone"))).folder)
    kept = Store(tmp_path / "run" / "checkpoints")
    with launched(2, saved(config, tmp_path), restarts=1) as process:
        end = time.monotonic() + 60
        while max(kept.numbers(), default=0) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        ranks = {rank_of(pid): pid for pid in children(process.pid)}
        os.kill(ranks[str(victim)], signal.SIGKILL)
        assert not (tmp_path / "run" / "summary.json").exists(), "too late to be killed"
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
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
    size = in_channels * image_size[0] * image_size[1]
    return Broken(nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes)))


def test_an_error_in_one_process_is_said_and_ends_them_all_at_once(
    tmp_path: Path, here: Path
) -> None:
    model = "tests.distributed.test_torchrun:broken"
    config = replace(on_graph(LONG, here), method="wa", controls=(), model=model)
    with launched(2, saved(config, tmp_path)) as process:
        _, err = process.communicate(timeout=25)
    assert process.returncode not in (0, None)
    assert "agent 3: the training loss is not finite" in err


def test_more_processes_than_agents_are_refused_with_the_way_out(tmp_path: Path) -> None:
    config = replace(CONFIG, topology=TopologyConfig("ring"), out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"'agents' is 5, and 6 processes .*-per-node 5\)"):
        dimat.run(config, crew=Alone(0, 6))
    assert not (tmp_path / "run").exists()
