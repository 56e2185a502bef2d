"""``dimat.run`` and ``dimat.resume``: a whole run, from settings to results."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dimat.data.dataset import Tell
from dimat.errors import ConfigError, check_kind, shown
from dimat.exchange.world import SINGLE_PROCESS, World
from dimat.experiment.callbacks.callback import Callback
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.parse import config_from, load_config, read_yaml
from dimat.experiment.config.presets import PRESETS
from dimat.experiment.config.task import has_default_split
from dimat.experiment.config.validate import validate
from dimat.experiment.given import Given, check_same, given_of, is_object
from dimat.experiment.progress import LiveProgress, Progress, Silent, reading
from dimat.experiment.record.results import RunResult
from dimat.experiment.record.run_folder import (
    check_out,
    check_place,
    is_false_start,
    is_run_folder,
    refuse_of_agent,
)
from dimat.experiment.running.runner import Runner
from dimat.symmetry import Symmetry


def run(
    config: RunConfig | Mapping[str, object] | str | os.PathLike[str] | None = None,
    progress: bool | Progress | None = True,
    *,
    callbacks: Sequence[Callback] = (),
    world: World = SINGLE_PROCESS,
    symmetry: Symmetry | None = None,
    model: object = None,
    data: object = None,
    **settings: object,
) -> RunResult:
    """Train, match, merge and evaluate; the same as the command ``dimat run``.

    Agents are pre-trained once; the method and every control set out from the same pre-trained
    agents, with the same batches in the same order. Nothing is written unless the settings, the
    data, the model and the graph are all usable.

    Args:
        config: Every setting: a :class:`RunConfig`, settings by name as in a YAML file, the path
            of such a file, or the name of a preset (``"paper"``); what is not given has its
            default.
        progress: Whether stderr shows the progress of the run, as ``dimat run`` does: a bar in a
            terminal or a notebook, else a line a round. Or an object with the methods of
            ``dimat.experiment.progress.Progress``, which receives it instead.
        callbacks: Receive the measurements.
        world: The processes that agents are spread over; by default this one alone. Every process
            calls this with the same settings, and gets the same result; that of agent 0 writes.
        symmetry: The symmetry of the model, given by hand (``Symmetry.from_axes``) where the model
            cannot be exported; it is proved by running the model. Method and controls must then
            not need the model's graph: wm, wa.
        model: The setting ``model``; or a function or class that builds a model, called with those
            of ``num_outputs``, ``input_shape`` and the like that it asks for; or a module, of which
            every agent begins with a copy.
        data: The setting ``data``; or samples as objects, for all agents or a list with those of
            each: arrays (x, y) or {"x": …, "y": …}, a map-style data set of PyTorch or Hugging
            Face, a ``DataLoader``, or a pair of those, (train, test) or {"train": …, "test": …};
            ``docs/tasks.md`` has examples. They are dealt out evenly unless
            ``**{"data.split": ...}`` says otherwise, and read by index, batch by batch, if they
            take more than a GiB (``data.storage``).
        settings: Settings by name, which override ``config``: ``dimat.run(rounds=3,
            topology="full")``; a dict overrides the named parts of a group.

    Returns:
        Accuracies per agent and method, and the path of the run folder.

    Raises:
        ConfigError, DataError, ModelError, TopologyError: If something cannot be used.
        TrainingError: If a loss is not finite; the run folder is kept.
        Stopped: If ``config.max_wall_s`` seconds have passed and there is more to do.
    """
    receiver = _progress_of(progress)
    with _shown(receiver, world) as tell:
        config, given = _with_objects(config, {**settings, "model": model, "data": data}, tell)
    validate(config)
    callbacks = _checked(callbacks, symmetry)
    if world.rank == 0:
        if config.out is None:
            check_place(Path("runs", "new"))
        else:
            check_out(Path(config.out), overwrite=config.overwrite)
    return Runner(config, receiver, callbacks, world, symmetry=symmetry, given=given).run(
        fresh=True
    )


def _with_objects(
    config: RunConfig | Mapping[str, object] | str | os.PathLike[str] | None,
    settings: Mapping[str, object],
    tell: Tell,
) -> tuple[RunConfig, Given]:
    """The settings of a run, and what of them is an object."""
    told = {k: v for k, v in settings.items() if k not in ("model", "data") or v is not None}
    objects = {name: value for name, value in told.items() if is_object(name, value)}
    plain = {name: value for name, value in told.items() if name not in objects}
    data = objects.get("data")
    if isinstance(data, list) and "agents" not in plain:
        plain["agents"] = len(data)
    if data is not None:
        base = config_from(config, plain)
        split = _said_split(config, plain)
        if isinstance(data, list) and split is not None:
            raise ConfigError(
                f"setting 'data.split' is {split!r}, and 'data' is a list with the data of each "
                "agent, of which nothing is dealt out: leave data.split away, or give one data set"
            )
        if split is None and has_default_split(base, base.data.split):
            plain["data.split"] = "iid"  # that of the demo is for digits
    return given_of(config_from(config, plain), objects, tell)


@contextmanager
def _shown(progress: Progress, world: World) -> Iterator[Tell]:
    """A listener to the reading of data, which shows it in agent 0's process."""
    try:
        yield reading(progress if world.rank == 0 else Silent())
    except BaseException:
        progress.close()
        raise


def _said_split(config: object, plain: Mapping[str, object]) -> object:
    """What settings by name say of ``data.split``; None if they say nothing."""
    if isinstance(config, (str, os.PathLike)):  # read before, so it is a file of settings
        config = read_yaml(PRESETS.get(str(config), Path(config)))
    given = {**(config if isinstance(config, Mapping) else {}), **plain}
    group = given.get("data")
    own = group.get("split") if isinstance(group, Mapping) else getattr(group, "split", None)
    said = given.get("data.split", own)
    return None if said == "auto" else said


def resume(
    folder: str | os.PathLike[str],
    progress: bool | Progress | None = True,
    *,
    callbacks: Sequence[Callback] = (),
    world: World = SINGLE_PROCESS,
    max_wall_s: float | None = None,
    symmetry: Symmetry | None = None,
    model: object = None,
    data: object = None,
) -> RunResult:
    """Resume a run that was stopped from its last checkpoint; the same as ``dimat resume``.

    On the CPU the numbers and states are those of a run that was never stopped, to the last bit.

    Args:
        folder: The run folder.
        progress: As in :func:`run`.
        callbacks: Receive the measurements from here on.
        world: As in :func:`run`; the number of processes may be another one than before.
        max_wall_s: Wall time in seconds, > 0, after which the run stops again; None: no limit.
        symmetry: The same symmetry as :func:`run` was given.
        model: The same object as :func:`run` was given, if one was.
        data: Likewise; other training data are refused.

    Raises:
        ConfigError: If the folder is no run folder, or lines of its metrics are missing.
        DataError, ModelError, TopologyError, TrainingError, Stopped: As :func:`run` does.
    """
    check_kind("folder", folder, (str, os.PathLike), "the path of a run folder")
    objects = {"model": model, "data": data}
    there = {name: value for name, value in objects.items() if value is not None}
    for name, value in there.items():
        if not is_object(name, value):
            raise ConfigError(f"'{name}' is {shown(value)}: must be the object of the run, or None")
    config = begun(Path(folder), max_wall_s)
    receiver = _progress_of(progress)
    with _shown(receiver, world) as tell:
        again, given = given_of(config, there, tell)
    check_same(config, again)
    callbacks = _checked(callbacks, symmetry)
    return Runner(config, receiver, callbacks, world, symmetry=symmetry, given=given).run(
        fresh=False
    )


def _progress_of(progress: bool | Progress | None) -> Progress:
    """The receiver of a run's progress: the given one, a bar, or a silent one."""
    if isinstance(progress, bool) or progress is None:
        return LiveProgress() if progress else Silent()
    if isinstance(progress, type) or not hasattr(progress, "stage"):
        rule = "True, False, or an observer, with the methods of dimat.experiment.progress.Progress"
        raise ConfigError(f"'progress' is {shown(progress)}: must be {rule}")
    return progress


def _checked(callbacks: object, symmetry: object) -> Sequence[Callback]:
    """The callbacks as a list, checked, as is the symmetry; a single callback is a list of one."""
    if symmetry is not None:
        check_kind("symmetry", symmetry, Symmetry, "what dimat.Symmetry.from_axes gave")
    needs = ("started", "measured", "finished")
    own: list[Any] = [*callbacks] if isinstance(callbacks, (list, tuple)) else [callbacks]
    for callback in own:
        missing = [name for name in needs if not hasattr(callback, name)]
        if missing or isinstance(callback, type):
            why = "is" if isinstance(callback, type) else f"has no '{missing[0]}'; it is"
            raise ConfigError(
                f"one of 'callbacks' {why} {shown(callback)}: must be an object with the methods "
                f"{', '.join(needs)}"
            )
    return own


def begun(folder: Path, max_wall_s: float | None = None) -> RunConfig:
    """The settings of a run that was begun, for resuming it.

    Args:
        folder: The run folder.
        max_wall_s: Wall time in seconds after which the run stops again; None: no limit.

    Raises:
        ConfigError: If the folder is no run folder, or its settings cannot be used.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a run folder: there is no such folder")
    if is_false_start(folder):
        raise ConfigError(
            f"{folder} is not a run folder: a run was killed there before it began, and the "
            "command that began it begins it again"
        )
    if not is_run_folder(folder):
        raise ConfigError(f"{folder} is not a run folder: it lacks config.yaml or environment.json")
    refuse_of_agent(folder)
    read = load_config(folder / "config.yaml")
    config = dataclasses.replace(read, out=str(folder), max_wall_s=max_wall_s)
    validate(config)
    return config


def run_or_resume(
    config: RunConfig,
    progress: Progress | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    pretrained: Path | None = None,
    world: World = SINGLE_PROCESS,
) -> RunResult:
    """Resume the run in ``config.out`` if it was begun, else begin it; a finished run is only read.

    Args:
        config: Every setting; ``out`` must be given.
        progress: Receives the progress of the run; nobody if None.
        callbacks: Receive the measurements.
        pretrained: A folder of pre-trained agents that runs share: agents whose pre-training
            depends on the same settings and data are pre-trained once.
        world: As in :func:`run`.

    Raises:
        ConfigError: If the folder is of a run with other settings; and as :func:`run` does.
    """
    validate(config)
    if config.out is None:
        raise ConfigError("setting 'out' is null: must be the folder to go on in")
    fresh = not is_run_folder(Path(config.out))
    if fresh and world.rank == 0:
        check_out(Path(config.out), overwrite=config.overwrite)
    return Runner(config, progress, callbacks, world, pretrained).run(fresh=fresh)
