"""Models and data that a caller of ``dimat.run`` has as objects, in place of names of settings."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimat.data import Dataset, Partition, SourceOptions, content
from dimat.data.dataset import Tell, quiet
from dimat.errors import ConfigError
from dimat.experiment.config.config import DataConfig, RunConfig
from dimat.experiment.config.places import GIVEN
from dimat.experiment.given.data import dataset_of, has_samples
from dimat.experiment.given.model import Build, builder_of, name_of
from dimat.tasks import TASKS

__all__ = [
    "NOTHING",
    "Given",
    "check_same",
    "check_there",
    "given_of",
    "is_object",
    "way_to_resume",
]


@dataclass(frozen=True)
class Given:
    """What a run has as objects.

    Args:
        dataset: The data; None: those of the settings.
        parts: Who has which training samples; None: they are dealt out.
        build: Builds a model; None: the model of the settings.
    """

    dataset: Dataset | None = None
    parts: Partition | None = None
    build: Build | None = None


NOTHING = Given()


def is_object(name: str, value: object) -> bool:
    """Whether the value of a setting is an object in its place."""
    if name == "model":
        return value is not None and not isinstance(value, str)
    if name != "data" or value is None:
        return False
    if isinstance(value, Mapping):
        return has_samples(value)
    return not (isinstance(value, (str, DataConfig)) or hasattr(value, "__fspath__"))


def given_of(
    config: RunConfig, objects: Mapping[str, Any], tell: Tell = quiet
) -> tuple[RunConfig, Given]:
    """The settings of a run with objects, and the objects as a run takes them.

    Args:
        config: The other settings.
        objects: Those of ``model`` and ``data``.
        tell: Listener to passes over samples that are read.

    Raises:
        ConfigError, DataError: If an object cannot be used.
    """
    given = NOTHING
    if "model" in objects:
        model = objects["model"]
        given = replace(given, build=builder_of(model))
        config = replace(config, model=name_of(model))
    if "data" in objects:
        if config.task not in TASKS:
            raise ConfigError(f"setting 'task' is '{config.task}': there are {', '.join(TASKS)}")
        options = SourceOptions(task=TASKS[config.task], test_share=config.data.test_share)
        own = config.data
        data, parts = dataset_of(
            objects["data"], options, own.classes, storage=own.storage, tell=tell
        )
        given = replace(given, dataset=data, parts=parts)
        told = replace(config.data, source=source_of(data))
        if parts is not None:
            told = replace(told, split=GIVEN)
        config = replace(config, data=told)
    return config, given


def source_of(data: Dataset) -> str:
    """The setting that stands for data: the shape of the training inputs, and a digest of all.

    Of samples that are read by index the digest covers their number, shape and type, all targets
    that are in memory, and the content of 64 of each part.
    """
    digest = hashlib.sha256()
    for own in (data.train_x, data.train_y, data.test_x, data.test_y):
        digest.update(content(own))
    shape = "x".join(map(str, data.train_x.shape))
    return f"{GIVEN}:{shape}-{digest.hexdigest()[:12]}"


def check_same(config: RunConfig, again: RunConfig) -> None:
    """Refuse other data than a run was begun with, and a model where its settings name one.

    Two models as objects are told apart later, by their states.

    Raises:
        ConfigError: With the shapes and the digests of both data, or the names of both models.
    """
    before, now = config.data.source, again.data.source
    if before != now:
        raise ConfigError(f"'data' is {now}, and the run was begun with {before}: give the same")
    if again.model != config.model and not config.model.startswith(f"{GIVEN}:"):
        raise ConfigError(
            f"'model' is {again.model}, and the run was begun with {config.model}, which is found "
            "by its name: leave 'model' away"
        )


def check_there(config: RunConfig, given: Given) -> None:
    """Refuse to go on without the objects that a run was begun with.

    Raises:
        ConfigError: With how to give them.
    """
    there = {"model": given.build is not None, "data": given.dataset is not None}
    objects = _objects(config)
    if not all(there[name] for name in objects):
        folder = Path(config.out or "folder")
        raise ConfigError(
            f"the run was begun from Python with objects for {' and '.join(objects)}, which a run "
            f"folder does not hold: give the same ones, in Python {_call(folder, objects)}"
        )
    split = config.data.split == GIVEN
    if split != (given.parts is not None):
        rule = "a list with the data of each agent" if split else "data for all agents together"
        raise ConfigError(f"'data' must be {rule}: the run was begun with those")
    if given.parts is not None and len(given.parts.rounds) != config.agents:
        raise ConfigError(
            f"setting 'agents' is {config.agents}, and 'data' is a list of "
            f"{len(given.parts.rounds)}: must have the data of each agent; leave 'agents' away, or "
            f"say {len(given.parts.rounds)}"
        )


def way_to_resume(folder: Path, config: RunConfig, others: Sequence[str] = ()) -> str:
    """What resumes a run: the command, or a call in Python where it was begun with objects.

    Args:
        folder: The run folder.
        config: The settings of the run.
        others: Further arguments of ``dimat.resume`` that the run was begun with.
    """
    objects = [*_objects(config), *others]
    return _call(folder, objects) if objects else f"'dimat resume {shlex.quote(str(folder))}'"


def _call(folder: Path, objects: Sequence[str]) -> str:
    return f"dimat.resume({str(folder)!r}, {', '.join(f'{name}=…' for name in objects)})"


def _objects(config: RunConfig) -> list[str]:
    """The settings in whose place a run was begun with objects."""
    said = {"model": config.model, "data": config.data.source}
    return [name for name, value in said.items() if value.startswith(f"{GIVEN}:")]
