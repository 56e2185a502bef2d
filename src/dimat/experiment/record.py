"""The run folder: all that a run leaves behind.

    config.yaml       every setting; ``dimat run --config`` runs it again
    environment.json  versions, hardware, threads, git commit
    metrics.jsonl     one line per agent, round and phase
    summary.json      the numbers of the last round
    states/           agent-000.safetensors, …
    controls/NAME/    the same for every control

Whole files appear at once (written under another name, then renamed); metrics grow line by line,
each on disk before the next, so that an interrupted run can be read up to where it came.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from dimat.errors import ConfigError
from dimat.experiment.config import RunConfig
from dimat.experiment.settings import config_to_yaml
from dimat.state import save_state

_SIGNS = ("config.yaml", "environment.json")  # what every run folder has from its first moment
_CONTENTS = (*_SIGNS, "metrics.jsonl", "summary.json", "states", "controls")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that one run of one method is written to.

    Args:
        path: The folder, which exists.
        config: The settings of the run.
    """

    path: Path
    config: RunConfig

    @classmethod
    def create(cls, path: Path | None, config: RunConfig, method: str) -> RunFolder:
        """Make the folder and write ``config.yaml`` and ``environment.json``.

        Args:
            path: The folder; a new one under ``runs/``, named after time and method, if None.
            config: The settings; ``overwrite`` says whether an earlier run may be replaced.
            method: The method that is run, recorded in place of ``config.method``.

        Raises:
            ConfigError: If the folder exists and must not be replaced, or cannot be written.
        """
        path = path or _new_path(method)
        try:
            check_out(path, overwrite=config.overwrite)
            _clear(path)
            (path / "states").mkdir(parents=True)
            folder = cls(path, dataclasses.replace(config, method=method))
            folder._write("config.yaml", config_to_yaml(_recipe(folder.config)))
            folder._write("environment.json", to_json(environment(), indent=2))
        except OSError as error:
            raise ConfigError(
                f"setting 'out': {path} cannot be written: {error.strerror}"
            ) from error
        return folder

    def control(self, method: str) -> RunFolder:
        """The folder ``controls/METHOD`` for a control, which has no controls of its own."""
        config = dataclasses.replace(self.config, controls=())
        return RunFolder.create(self.path / "controls" / method, config, method)

    def append(self, metrics: Mapping[str, object]) -> None:
        """Add one line to ``metrics.jsonl``; a number that is not finite becomes null."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(to_json(metrics) + "\n")

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write ``summary.json``."""
        self._write("summary.json", to_json(summary, indent=2) + "\n")

    def write_state(self, agent: int, state: Mapping[str, Tensor]) -> None:
        """Write ``states/agent-000.safetensors`` for agent 0, and so on."""
        save_state(state, self.path / "states" / f"agent-{agent:03d}.safetensors")

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f"{name}.partial"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)


def check_out(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that exists, unless it is of an earlier run and may be replaced.

    Raises:
        ConfigError: If it may not be written to.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() and not overwrite:
        raise ConfigError(f"setting 'out': {path} exists: use another, or --overwrite true")
    if path.exists() and not all((path / name).is_file() for name in _SIGNS):
        raise ConfigError(
            f"setting 'out': {path} is not a run folder (it lacks {' or '.join(_SIGNS)}) "
            "and is not replaced: use another"
        )


def environment() -> dict[str, object]:
    """Versions, hardware, threads and the git commit of the working directory (null if none)."""
    changes = _git("status", "--porcelain")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in ("numpy", "scipy", "dimat")},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
    }


def _new_path(method: str) -> Path:
    """A folder under ``runs/`` that is not there yet."""
    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{method}"
    path, number = Path("runs", stem), 1
    while path.exists():
        path, number = Path("runs", f"{stem}-{number + 1}"), number + 1
    return path


def _recipe(config: RunConfig) -> RunConfig:
    """The config without where it was written to, so that running it again replaces nothing."""
    return dataclasses.replace(config, out=None, overwrite=False)


def _clear(path: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    for name in _CONTENTS:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def to_json(value: Mapping[str, object], indent: int | None = None) -> str:
    """JSON with null for every number that is not finite."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent, ensure_ascii=False)


def _finite(value: object) -> object:
    """``value`` with null for every number that is not finite, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *command], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
