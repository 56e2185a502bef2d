"""The run folder: all files of a run.

    config.yaml       every setting; ``dimat run --config`` runs it again
    environment.json  versions, hardware, threads, git commit; of an agent by itself its
                      number, and what protected its connections
    topology.json     graph and mixing matrix
    shards.json       images of every class at every agent
    chosen.json       what settings that were left to dimat (auto) came to
    metrics.jsonl     one line per agent, round and phase
    diagnostics.jsonl one line per round: measurements over all agents
    classes.jsonl     one line per agent, round and phase: recall of every class
    confusion.json    test samples of each class taken for each class in the last round
    incidents.jsonl   incidents of an agent that runs by itself, equal ones in a row in few lines
    states/           agent-000.safetensors, …
    summary.json      the numbers of the last round; written last, when all rounds are done
    controls/NAME/    the same for every control
    .begins           exists until the run has begun: the folder may be replaced
    checkpoints/      checkpoints of an unfinished run, and a lock while it runs
    tensorboard/      and the like: metrics in other forms, if setting ``log`` asks for them

Whole files appear at once (written under another name, then renamed); metrics grow line by line,
each on disk before the next, so that an interrupted run can be read up to its last line. Nothing is
changed before the folder is locked, and a run that is killed as it begins can be begun again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import reduce
from pathlib import Path

from torch import Tensor, nn

from dimat.errors import ConfigError, RecordError, WriteError, reason, writing
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.messages import setting_types
from dimat.experiment.config.parse import config_to_yaml, load_config
from dimat.experiment.recipe import recipe
from dimat.experiment.record.environment import environment
from dimat.experiment.record.lines import LINES, LineFiles, to_json
from dimat.experiment.record.locks import HOLDER, LOCK, alone
from dimat.files import read_json, read_regular
from dimat.state import load_state, put_into, save_state

OVERWRITE = "--overwrite true (in Python overwrite=True)"  # the setting, in error messages
_SIGNS = ("config.yaml", "environment.json")  # files that every run folder has once it is begun
_MOST_FACTS = 1 << 20  # bytes of environment.json
_BEGINS = ".begins"  # a file that exists while a run folder is made, or an earlier run removed
_LOCKS = (LOCK, HOLDER)
# Contents, folders with a slash, of a run that was killed before it had written ``.begins``, and of
# one of an earlier version, which wrote none, that was killed before it had its first files.
_FIRST = {"checkpoints/", *(f"checkpoints/{name}" for name in _LOCKS)}
_FIRST_OF_OLD = {*_FIRST, "states/", *(name + end for name in _SIGNS for end in ("", ".partial"))}
_CONTENTS = (
    *_SIGNS,
    *LINES,
    "topology.json",
    "shards.json",
    "task.json",
    "chosen.json",
    "confusion.json",
    "summary.json",
    "faults.jsonl",
    "controls",
    "tensorboard",
    "metrics.csv",
    "diagnostics.csv",
    "mlflow.json",
    "wandb.json",
    "wandb",
    "states",
    "checkpoints",
)


@dataclasses.dataclass(frozen=True)
class RunFolder(LineFiles):
    """The folder that one run of one method is written to.

    Args:
        path: The folder, which exists.
        config: The settings of the run.
    """

    config: RunConfig

    @classmethod
    @contextmanager
    def held(
        cls,
        path: Path | None,
        config: RunConfig,
        *,
        fresh: bool,
        by: str,
        resumed: Callable[[Path], str],
    ) -> Iterator[RunFolder]:
        """The folder of a new or resumed run, locked against other processes.

        Args:
            path: The folder; a new one under ``runs/`` if None.
            config: The settings, as for :meth:`create`.
            fresh: Whether the run must be new; else one that was begun there is resumed.
            by: What a process that holds the folder is doing, for the message.
            resumed: What resumes the run in a folder, for the message.

        Raises:
            ConfigError: As :meth:`create` and :meth:`open`.
            RecordError: If another process holds the folder; names it. Nothing is changed then.
            WriteError: If the folder cannot be written; says what resumes it.
        """
        if path is None:
            path = _new_path(config.method)
        elif fresh or not is_run_folder(path):
            check_out(path, overwrite=config.overwrite)
            _make(path)
        try:
            with alone(_home(path) / "checkpoints", otherwise=f"another process {by}"):
                yield (cls.create if fresh else cls.open)(path, config, config.method)
        except WriteError as error:
            again = resumed(path) if is_run_folder(path) else "the same command"
            raise WriteError(f"{error}; once it can be, {again} goes on") from error

    @classmethod
    def create(cls, path: Path | None, config: RunConfig, method: str) -> RunFolder:
        """Make the folder and write ``config.yaml`` and ``environment.json``.

        Args:
            path: The folder; a new one under ``runs/``, named after time and method, if None.
            config: The settings; ``overwrite`` says whether an earlier run may be replaced.
            method: The method that is run, recorded in place of ``config.method``.

        Raises:
            ConfigError: If the folder exists and must not be replaced, or cannot be made.
            WriteError: If the folder cannot be written to.
        """
        if path is None:
            path = _new_path(method)
        check_out(path, overwrite=config.overwrite)
        _make(path)
        folder = cls(path, dataclasses.replace(config, method=method))
        with writing(path):
            (path / _BEGINS).touch()
            _clear(path)
            (path / "states").mkdir()
            folder._write("config.yaml", config_to_yaml(_recorded(folder.config)))
            folder._write("environment.json", to_json(environment(), indent=2))
            (path / _BEGINS).unlink()
        return folder

    @classmethod
    def open(cls, path: Path, config: RunConfig, method: str) -> RunFolder:
        """The folder of a run that was begun, to resume it; a new one if no run was begun there.

        Args:
            path: The folder.
            config: The settings of the run.
            method: The method that is run, in place of ``config.method``.

        Raises:
            ConfigError: If the run was begun with other settings; names the first that differs.
        """
        if not is_run_folder(path):
            return cls.create(path, config, method)
        folder = cls(path, dataclasses.replace(config, method=method))
        check_same_settings(path, folder.config)
        with writing(path / "states"):
            (path / "states").mkdir(exist_ok=True)
        return folder

    def control(self, method: str) -> RunFolder:
        """The folder ``controls/METHOD`` of a control, which has no controls of its own.

        Args:
            method: Registry name of the control.
        """
        config = dataclasses.replace(self.config, controls=())
        return RunFolder.open(self.path / "controls" / method, config, method)

    def summary(self) -> dict[str, object] | None:
        """The content of ``summary.json``; None if the run is not finished.

        Raises:
            RecordError: If the file cannot be read.
        """
        file = self.path / "summary.json"
        return read_summary(file) if file.is_file() else None

    def finish(self) -> None:
        """Remove the checkpoints, which only an unfinished run needs."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def note_agent(self, number: int) -> None:
        """Note in ``environment.json`` that the run is of one agent, which runs by itself."""
        found = self._environment()
        if found.get("agent") != number:
            self._write("environment.json", to_json({**found, "agent": number}, indent=2))

    def note_connections(self, kind: str) -> str:
        """Note in ``environment.json`` what protects the connections to other agents from now on.

        Args:
            kind: The protection, in words.

        Returns:
            Every protection that the run has had since it was begun.
        """
        found = self._environment()
        known = [*filter(None, str(found.get("connections", "")).split("; "))]
        if kind not in known:
            known.append(kind)
            own = {**found, "connections": "; ".join(known)}
            self._write("environment.json", to_json(own, indent=2))
        return "; ".join(known)

    def _environment(self) -> dict[str, object]:
        path = self.path / "environment.json"
        try:
            found = json.loads(read_regular(path))
        except (OSError, ValueError, RecursionError) as error:
            raise RecordError(f"'{path}' cannot be read: {error}") from error
        return _as_object(found, path)

    def write_json(self, name: str, value: Mapping[str, object]) -> None:
        """Write ``NAME.json``, whole or not at all.

        Args:
            name: The file's name without its suffix.
            value: Its content.
        """
        self._write(f"{name}.json", to_json(value, indent=2 if name == "summary" else None) + "\n")

    def write_state(self, agent: int, state: Mapping[str, Tensor]) -> None:
        """Write an agent's state: ``states/agent-000.safetensors`` for agent 0, and so on.

        Args:
            agent: The agent's number.
            state: The agent's state.
        """
        path = self.path / "states" / f"agent-{agent:03d}.safetensors"
        with writing(path):
            save_state(state, path)

    def check_model(self, model: nn.Module) -> None:
        """Refuse another model than that of the states, if there are any.

        Args:
            model: The model; its entries become those of agent 0.

        Raises:
            StructureError: If the states are of another model, or cannot be read.
        """
        path = self.path / "states" / "agent-000.safetensors"
        if path.is_file():
            put_into(model, load_state(path))

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f"{name}.partial"
        with writing(self.path / name):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path / name)


def read_summary(path: Path) -> dict[str, object]:
    """The content of a ``summary.json``.

    Args:
        path: The file.

    Raises:
        RecordError: If the file cannot be read.
    """
    try:
        summary = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(summary, dict):
        raise RecordError(f"'{path}' holds no summary")
    return summary


def check_place(path: Path) -> None:
    """Refuse a folder that is not there and cannot be made, or cannot be written to.

    Raises:
        ConfigError: If so.
    """
    try:
        place = next(own for own in (path, *path.absolute().parents) if own.exists())
        is_folder = place.is_dir()
    except OSError as error:
        raise ConfigError(f"setting 'out': {path} cannot be written: {reason(error)}") from error
    if place != path and not is_folder:
        raise ConfigError(f"setting 'out': {path} cannot be written: {place} is a file")
    if is_folder and not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"setting 'out': {place} may not be written to: use another")


def check_out(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that cannot be written to, or that is not empty.

    A run may begin again where an earlier one was killed as it began, and with ``overwrite`` in any
    run folder.

    Args:
        path: The folder, which may be missing.
        overwrite: Whether an earlier run may be replaced.

    Raises:
        ConfigError: If the folder may not be written to.
    """
    check_place(path)
    if path.is_dir() and (not any(path.iterdir()) or is_false_start(path)):
        return
    if path.exists() and not overwrite:
        open_run = is_run_folder(path) and not is_of_agent(path) and _is_open(path)
        way = f"; 'dimat resume {path}' goes on with the run in it" if open_run else ""
        raise ConfigError(f"setting 'out': {path} exists: use another, or {OVERWRITE}{way}")
    if path.exists() and not is_run_folder(path):
        raise ConfigError(
            f"setting 'out': {path} is not a run folder (it lacks {' or '.join(_SIGNS)}) "
            "and is not replaced: use another"
        )


def is_run_folder(path: Path) -> bool:
    """Whether a run was begun in a folder."""
    begun = all((path / name).is_file() for name in _SIGNS)
    return begun and not (path / _BEGINS).exists()


def _is_open(path: Path) -> bool:
    """Whether a method of the run in a folder is not done."""
    homes = [path, *(path / "controls" / name for name in load_config(path / _SIGNS[0]).controls)]
    return not all((home / "summary.json").exists() for home in homes)


def is_of_agent(path: Path) -> bool:
    """Whether a run folder is that of an agent that runs by itself.

    Raises:
        RecordError: If its environment cannot be read.
    """
    facts = read_json(path / "environment.json", _MOST_FACTS, RecordError)
    return not {"agent", "connections"}.isdisjoint(_as_object(facts, path / "environment.json"))


def _as_object(value: object, path: Path) -> dict[str, object]:
    """What was read of a file, if it is a JSON object.

    Raises:
        RecordError: If it is something else.
    """
    if not isinstance(value, dict):
        raise RecordError(f"'{path}' cannot be read: it is no JSON object")
    return value


def refuse_of_agent(path: Path) -> None:
    """Refuse the folder of an agent that runs by itself, where that of a whole run is asked for.

    Raises:
        ConfigError: If it is one.
    """
    if is_of_agent(path):
        raise ConfigError(
            f"{path} is of one agent, which the 'dimat agent' command that began it goes on with; "
            "its network is in its states/"
        )


def is_false_start(path: Path) -> bool:
    """Whether a run was killed in a folder before it had written its first files.

    Without a file ``.begins`` that says so, the folder may hold nothing but the first files of a
    run.
    """
    if (path / _BEGINS).is_file():
        return True
    found = set()
    for inside in path.rglob("*"):
        found.add(f"{inside.relative_to(path)}{'/' * inside.is_dir()}")
        if len(found) > len(_FIRST_OF_OLD):  # do not walk through a large folder
            return False
    if "states/" not in found or is_run_folder(path):
        return bool(found) and found <= _FIRST
    return found <= _FIRST_OF_OLD and _is_config(path / "config.yaml")


def _is_config(path: Path) -> bool:
    """Whether a file is missing or holds settings of a run, unlike that of another program."""
    try:
        return not path.exists() or bool(load_config(path))
    except ConfigError:
        return False


def way_on(folder: Path | None, again: Callable[[Path], str]) -> str:
    """A message on how to resume a run that was interrupted.

    Args:
        folder: The run folder; None if it was not chosen yet.
        again: What resumes the run in a folder.
    """
    if folder is None or not is_run_folder(folder):
        return "no run was begun yet: the same command begins it"
    if any((folder / "checkpoints").rglob("meta.json")):
        end = "goes on from its last checkpoint"
        return f"what was recorded is kept in {folder}: {again(folder)} {end}"
    return f"there is no checkpoint yet in {folder}: {again(folder)} begins the run again"


def check_same_settings(path: Path, expected: RunConfig) -> None:
    """Refuse a folder whose ``config.yaml`` has other settings that results depend on.

    Args:
        path: The run folder.
        expected: The settings that the file should have.

    Raises:
        ConfigError: Names the first setting that differs.
    """
    found, expected = recipe(load_config(path / "config.yaml")), recipe(expected)
    for name in setting_types():
        here, there = (reduce(getattr, name.split("."), c) for c in (found, expected))
        if here != there:
            raise ConfigError(
                f"run folder {path} was begun with '{name}' {here!r}, not {there!r}: use another "
                f"folder, or {OVERWRITE}"
            )


def _new_path(method: str) -> Path:
    """Make a new folder under ``runs/``, named after time and method."""
    stem = f"{datetime.now():%Y-%m-%d-%H%M%S}-{method}"
    path, number = Path("runs", stem), 1
    while not _make(path):
        path, number = Path("runs", f"{stem}-{number + 1}"), number + 1
    return path


def _home(path: Path) -> Path:
    """The folder to lock for a run folder: for that of a control, the folder of the whole run."""
    around = path.parent.parent
    return around if path.parent.name == "controls" and is_run_folder(around) else path


def _make(path: Path) -> bool:
    """Make an output folder if it is missing; returns whether it was.

    Raises:
        ConfigError: If the folder cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if path.is_dir():
            return False
        raise ConfigError(f"setting 'out': {path} cannot be written: {error.strerror}") from error
    return True


def _recorded(config: RunConfig) -> RunConfig:
    """The settings without output folder and time limit, as they are recorded.

    Running them again then replaces nothing, and a time limit is for one process only.
    """
    return dataclasses.replace(config, out=None, overwrite=False, max_wall_s=None)


def _clear(path: Path) -> None:
    """Remove the files of an earlier run, and nothing else; the lock that this run holds stays."""
    own = [path / name for name in _CONTENTS if name != "checkpoints"]
    own += [inside for inside in (path / "checkpoints").glob("*") if inside.name not in _LOCKS]
    for old in own:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
