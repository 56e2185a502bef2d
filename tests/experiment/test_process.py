"""Whoever calls from Python finds the process as it was, whether the call went well or not."""

from __future__ import annotations

import importlib
import os
import platform
import random
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError, DimatError, ModelError, TrainingError
from dimat.experiment.config.config import DataConfig, OptimizerConfig
from dimat.experiment.running.process import borrowed
from dimat.experiment.setup import make_setup
from dimat.experiment.single_agent.run import AgentSite, run_agent
from dimat.models import build_model
from dimat.state import save_state, state_of
from dimat.tools.estimate.forecast import forecast
from dimat.tools.merge.run import align_checkpoints, measure_checkpoint, merge_checkpoints
from dimat.tools.merge.settings import AlignConfig, MergeConfig, StatisticsConfig

importlib.import_module("sympy")  # it sets a filter of warnings, whoever imports it first
ON_IMPORT = "KMP_", "TORCHINDUCTOR_"  # scikit-learn and PyTorch set these when first imported
OURS, THEIRS = 3, 1  # threads before the call, and in it
SMALL = RunConfig(
    agents=2,
    rounds=1,
    pretrain_epochs=0,
    local_steps=1,
    width=0.1,
    threads=THEIRS,
    controls=(),
    data=DataConfig(split="iid", train_images=100),
)


def shape() -> dict[str, object]:
    """All that is one for a whole process and can be looked at."""
    return {
        "threads": torch.get_num_threads(),
        "interop": torch.get_num_interop_threads(),
        "draws": torch.random.get_rng_state().tolist(),
        "numpy": [str(part) for part in np.random.get_state()],
        "random": random.getstate(),
        "folder": Path.cwd(),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(ON_IMPORT)},
        "path": list(sys.path),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


@pytest.fixture(autouse=True)
def _in_a_folder_with_two_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        model = build_model("mlp", in_channels=1, num_classes=10, image_size=(8, 8), width=0.1)
        save_state(state_of(model), Path(f"{name}.safetensors"))
    before = torch.get_num_threads()
    torch.set_num_threads(OURS)
    yield
    torch.set_num_threads(before)


def diverging() -> None:
    steep = OptimizerConfig("sgd", 1e30)
    with pytest.raises(TrainingError):
        dimat.run(replace(SMALL, optimizer=steep, local_steps=20))


def resumed() -> None:
    dimat.run(replace(SMALL, out="again"))
    dimat.resume(Path("again"))


def alone() -> None:
    with pytest.raises(ConfigError):
        run_agent(SMALL, 0, AgentSite(Path("nowhere.yaml")))


def merged(**settings: int | str) -> None:
    own = {"width": 0.1, "images": 50, "threads": THEIRS, **settings}
    merge_checkpoints(MergeConfig(("a.safetensors", "b.safetensors"), "m.safetensors", **own))  # type: ignore[arg-type]


CALLS: dict[str, Callable[[], object]] = {
    "a run": lambda: dimat.run(replace(SMALL, device="cpu")),
    "a run that diverges": diverging,
    "a run that goes on": resumed,
    "an agent by itself": alone,
    "an estimate": lambda: forecast(make_setup(SMALL), 0.0, calibrate=False),
    "a merge": lambda: merged(model="mlp", data="digits"),
    "a merge of what does not fit": lambda: merged(model="cnn", data="digits"),
    "an alignment": lambda: align_checkpoints(
        AlignConfig(
            ("a.safetensors", "b.safetensors"),
            "m.safetensors",
            model="mlp",
            data="digits",
            width=0.1,
            threads=THEIRS,
        )
    ),
    "a measurement": lambda: measure_checkpoint(
        StatisticsConfig(
            ("a.safetensors",),
            "s.safetensors",
            model="mlp",
            data="digits",
            width=0.1,
            threads=THEIRS,
        )
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_process_is_left_as_it_was_found(call: Callable[[], object]) -> None:
    before = shape()
    with suppress(DimatError):
        call()
    assert shape() == before


def test_what_is_drawn_inside_is_drawn_again_outside() -> None:
    with borrowed(THEIRS):
        inside = torch.rand(1).item(), np.random.rand(), random.random()
        assert torch.get_num_threads() == THEIRS
    assert inside == (torch.rand(1).item(), np.random.rand(), random.random())


TAKEN = """
import ctypes
import sys
import dimat
from dimat.experiment.running.allocator import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(x, ctypes.c_size_t) for x in "arena ord small hblks hblkhd u f o k l".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p

def returned():
    "Whether a block of 64 MB is the system's own, which it gets back when it is freed."
    before = libc.mallinfo2().hblks
    libc.malloc(ctypes.c_size_t(2**26))
    return libc.mallinfo2().hblks > before

size = {"agents": 2, "rounds": 1, "pretrain_epochs": 0, "local_steps": 1}
dimat.run(dimat.RunConfig(**size, method="wa", controls=()))
after_run = returned()
keep_freed_memory()
print(after_run, returned())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_is_kept_as_before_by_a_run_from_python() -> None:
    """In a process of its own, and shown to be seen where the command line asks for it."""
    done = subprocess.run([sys.executable, "-c", TAKEN], check=True, capture_output=True, text=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize(
    ("given", "told"), [(None, "PASSIVE"), pytest.param("active", "ACTIVE", marks=pytest.mark.slow)]
)
def test_threads_of_a_command_sleep_while_they_wait_unless_the_user_says_otherwise(
    given: str | None, told: str
) -> None:
    """As OpenMP itself reports it: it looks once, when PyTorch is loaded."""
    fixed = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    shown = fixed | {"OMP_DISPLAY_ENV": "true"} | ({"OMP_WAIT_POLICY": given} if given else {})
    command = [sys.executable, "-m", "dimat", "topology", "ring", "--model", "mlp"]
    err = subprocess.run(command, env=shown, check=True, capture_output=True, text=True).stderr
    found = re.findall(r"OMP_WAIT_POLICY\s*=\s*'(\w+)'", err)
    assert set(found) == {told} or "OMP_WAIT_POLICY" not in err


@pytest.mark.parametrize(
    "set_otherwise", [torch.no_grad, torch.inference_mode, lambda: default_dtype(torch.float64)]
)
def test_a_run_is_the_same_whatever_the_caller_has_set(
    tmp_path: Path, set_otherwise: Callable[[], AbstractContextManager[object]]
) -> None:
    """Under ``no_grad``, or with tensors of another type by default, it broke in its first step."""
    found = []
    for number, around in enumerate((nullcontext, set_otherwise)):
        with around():
            before = torch.is_grad_enabled(), torch.get_default_dtype()
            config = replace(SMALL, out=str(tmp_path / str(number)))
            found.append(dimat.run(config, progress=False).main.agents)
            assert before == (torch.is_grad_enabled(), torch.get_default_dtype())
    assert found[0] == found[1]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def frozen(in_features: int, num_outputs: int) -> torch.nn.Module:
    return torch.nn.Linear(in_features, num_outputs).requires_grad_(requires_grad=False)


@pytest.mark.parametrize("model", [frozen, torch.nn.Identity])
def test_a_model_of_which_nothing_can_be_trained_is_refused(model: Any) -> None:
    data = torch.randn(60, 3), torch.arange(60) % 3
    with pytest.raises(ModelError, match="no parameter that requires a gradient"):
        dimat.run(model=model, data=data, agents=2, rounds=1, progress=False, batch_size=8)
