"""The run folder: all that a run leaves behind.

    config.yaml       every setting; ``dimat run --config`` runs it again
    environment.json  versions, hardware, threads, git commit
    topology.json     graph and mixing matrix
    shards.json       images of every class at every agent
    metrics.jsonl     one line per agent, round and phase
    diagnostics.jsonl one line per round: what an observer of all agents measures
    incidents.jsonl   one line per exchange that did not count, of an agent by itself
    states/           agent-000.safetensors, …
    summary.json      the numbers of the last round; it appears last, when all is done
    controls/NAME/    the same for every control
    checkpoints/      what an unfinished run goes on from
    tensorboard/      event files, if asked for

Whole files appear at once (written under another name, then renamed); metrics grow line by line,
each on disk before the next, so that an interrupted run can be read up to where it came.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

from torch import Tensor

from dimat.errors import ConfigError, StructureError
from dimat.experiment.checkpoint import flush
from dimat.experiment.complaints import setting_types
from dimat.experiment.config import RunConfig
from dimat.experiment.environment import environment
from dimat.experiment.settings import config_to_yaml, load_config
from dimat.state import save_state

_SIGNS = ("config.yaml", "environment.json")  # what every run folder has from its first moment
_FIRST = {name + end for name in _SIGNS for end in ("", ".partial")}
_LINES = ("metrics.jsonl", "diagnostics.jsonl", "incidents.jsonl")
_CONTENTS = (
    *_SIGNS,
    *_LINES,
    "topology.json",
    "shards.json",
    "summary.json",
    "faults.jsonl",
    "states",
    "controls",
    "checkpoints",
    "tensorboard",
)
# What changes no result, and may be another one when a run goes on.
_LINKS = {f"exchange.{name}" for name in ("timeout_s", "patience_s", "interface")}
Line = dict[str, Any]


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

    @classmethod
    def open(cls, path: Path, config: RunConfig, method: str) -> RunFolder:
        """The folder of a run that was begun, to go on with it; a new one if there is none.

        Raises:
            ConfigError: If it was begun with other settings; names the first that differs.
        """
        if not is_run_folder(path):
            clear_false_start(path)
            return cls.create(path, config, method)
        folder = cls(path, dataclasses.replace(config, method=method))
        check_same_settings(path, _recipe(folder.config))
        (path / "states").mkdir(exist_ok=True)
        return folder

    def control(self, method: str) -> RunFolder:
        """The folder ``controls/METHOD`` for a control, which has no controls of its own."""
        config = dataclasses.replace(self.config, controls=())
        return RunFolder.open(self.path / "controls" / method, config, method)

    def append(self, line: Mapping[str, object], name: str = "metrics") -> Line:
        """Add one line to ``metrics.jsonl``, or another; a number that is not finite becomes null.

        Returns:
            The line as it will be read.
        """
        text = to_json(line)
        with (self.path / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        read: Line = json.loads(text)
        return read

    def sizes(self) -> dict[str, int]:
        """How long the files are that grow line by line."""
        return {n: (self.path / n).stat().st_size for n in _LINES if (self.path / n).exists()}

    def flush(self) -> None:
        """See that all lines are on disk, before a checkpoint says that they are."""
        for name in self.sizes():
            flush(self.path / name)

    def check_lines(self, sizes: Mapping[str, int]) -> None:
        """Refuse a moment from before which lines are missing.

        Args:
            sizes: What :meth:`sizes` was then.

        Raises:
            StructureError: Naming the file.
        """
        now = self.sizes()
        for name, size in sizes.items():
            if now.get(name, 0) < size:
                raise StructureError(
                    f"{self.path / name} is {now.get(name, 0)} bytes long, and was {size} when a "
                    "checkpoint was written: lines are missing"
                )

    def rewind(self, sizes: Mapping[str, int]) -> list[Line]:
        """Take back all lines after a moment, and return the metrics until then.

        Args:
            sizes: What :meth:`sizes` was then; none: take back all.
        """
        for name, now in self.sizes().items():
            if now > sizes.get(name, 0):
                os.truncate(self.path / name, sizes.get(name, 0))
        return self.lines()

    def lines(self, name: str = "metrics") -> list[Line]:
        """All metrics, or another file of lines."""
        file = self.path / f"{name}.jsonl"
        text = file.read_text("utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def summary(self) -> dict[str, object] | None:
        """What ``summary.json`` holds; None if the run is not finished."""
        file = self.path / "summary.json"
        if not file.is_file():
            return None
        found: dict[str, object] = json.loads(file.read_text("utf-8"))
        return found

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def write_json(self, name: str, value: Mapping[str, object]) -> None:
        """Write ``NAME.json``."""
        self._write(f"{name}.json", to_json(value, indent=2 if name == "summary" else None) + "\n")

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
    if path.exists() and not is_run_folder(path):
        raise ConfigError(
            f"setting 'out': {path} is not a run folder (it lacks {' or '.join(_SIGNS)}) "
            "and is not replaced: use another"
        )


def is_run_folder(path: Path) -> bool:
    """Whether a run was begun here."""
    return all((path / name).is_file() for name in _SIGNS)


def clear_false_start(path: Path) -> None:
    """Remove a run folder whose run was killed before it had its first files."""
    files = {inside.name for inside in path.rglob("*") if not inside.is_dir()}
    if path.is_dir() and not is_run_folder(path) and files <= _FIRST:
        shutil.rmtree(path, ignore_errors=True)


def check_same_settings(path: Path, expected: RunConfig) -> None:
    """Refuse a folder whose ``config.yaml`` is not of these settings.

    Raises:
        ConfigError: Naming the first setting that differs.
    """
    found = load_config(path / "config.yaml")
    for name in [own for own in setting_types() if own not in _LINKS]:
        here, there = (reduce(getattr, name.split("."), c) for c in (found, expected))
        if here != there:
            raise ConfigError(
                f"run folder {path} was begun with '{name}' {here!r}, not {there!r}: use another "
                "folder, or --overwrite true"
            )


def _new_path(method: str) -> Path:
    """A folder under ``runs/`` that is not there yet."""
    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{method}"
    path, number = Path("runs", stem), 1
    while path.exists():
        path, number = Path("runs", f"{stem}-{number + 1}"), number + 1
    return path


def _recipe(config: RunConfig) -> RunConfig:
    """The config without where it was written to, so that running it again replaces nothing.

    And without when it is to stop: whoever goes on with it says that anew.
    """
    return dataclasses.replace(config, out=None, overwrite=False, max_wall_s=None)


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
