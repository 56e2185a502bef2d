"""Checks of the settings of a merge before anything is read: ranges, names, files.

Modules that need PyTorch are imported after the other checks.
"""

from __future__ import annotations

import os
from pathlib import Path

from dimat.errors import ConfigError, look_up
from dimat.experiment.config.places import AGENT
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.task import check_scale
from dimat.experiment.config.validate import check_device_is_here, check_fields, check_model
from dimat.imports import import_modules
from dimat.tools.merge.settings import (
    AlignConfig,
    MergeConfig,
    ParentsConfig,
    StatisticsConfig,
)

_PARENTS = {  # least and largest number of checkpoints, and the rule
    MergeConfig: (2, None, "two or more checkpoint files"),
    AlignConfig: (2, 2, "two checkpoint files"),
    StatisticsConfig: (1, 1, "one checkpoint file"),
}


def check(config: ParentsConfig) -> None:
    """Refuse settings that a merge, an alignment or a measurement cannot use.

    Args:
        config: Settings of the merge, alignment or measurement.

    Raises:
        ConfigError: For the first setting that is out of its range, in no registry, or names a
            missing device or a file that must not be written.
        StructureError: If the weights do not make an average.
    """
    check_fields(config)
    least, most, rule = _PARENTS[type(config)]
    if not least <= len(config.parents) <= (most or len(config.parents)):
        raise broken_rule("parents", list(config.parents), rule)
    _check_layout(config)
    _check_data(config)
    _check_files(config)
    import_modules(config.imports)
    _check_names(config)
    check_device_is_here(config.device)


def _check_layout(config: ParentsConfig) -> None:
    """Refuse a folder to write where no folder tells its layout."""
    rule = "a file that ends in .safetensors"
    if isinstance(config, StatisticsConfig) and Path(config.out).suffix != ".safetensors":
        raise broken_rule("out", config.out, rule)
    for _, layout in config.written:
        if layout is not None and not Path(layout).is_dir():
            raise broken_rule(
                "out",
                config.out,
                f"{rule}, or, if {layout} were a Hugging Face folder, a new folder like it",
            )


def _check_data(config: ParentsConfig) -> None:
    """Refuse to do without data where not all that they are for is known otherwise."""
    if config.data is not None and AGENT in config.data:
        raise broken_rule("data", config.data, f"the data of one agent, with no {AGENT} in it")
    if config.data is not None:
        return
    if not isinstance(config, MergeConfig):
        raise ConfigError("setting 'data' is missing: see --help")
    if not config.statistics:
        raise ConfigError(
            "setting 'data' is missing: give --data SOURCE; or, to merge by --combine gram without "
            "any data, the --statistics that the owner of each checkpoint has measured"
        )
    if config.classes is None:
        raise ConfigError(
            "setting 'classes' is null: without --data, from whose labels it is known otherwise, "
            "give the width of the model's output"
        )


def _check_names(config: ParentsConfig) -> None:
    from dimat.checkpoints import fair_weights, with_statistics
    from dimat.data import SOURCES
    from dimat.matching import MATCHERS
    from dimat.merging import COMBINERS, combiner_for
    from dimat.tasks import TASKS

    check_model(config.model)
    task = look_up("task", config.task, TASKS)
    check_scale(config.task, config)
    if config.data is not None:
        look_up("data", config.data.partition(":")[0], SOURCES)
    if isinstance(config, AlignConfig):
        matcher = look_up("method", config.method, MATCHERS)
        if config.data is None and matcher.needs_batches:
            without = [name for name, own in MATCHERS.items() if not own.needs_batches]
            rule = f"{' or '.join(without)}, without --data to compare units on"
            raise broken_rule("method", config.method, rule)
    if isinstance(config, MergeConfig):
        look_up("combine", config.combine, COMBINERS)
        combiner_for(config.combine, task)
        fair_weights(config.weights or None, len(config.parents))
        if config.heads == "keep" and config.labeled and config.data is not None:
            rule = "merge, unless --no-evaluate: heads of their own answer questions of their own"
            raise broken_rule("heads", config.heads, rule)
    if isinstance(config, StatisticsConfig) or (
        isinstance(config, MergeConfig) and config.statistics
    ):
        with_statistics(config.combine)
        combiner_for(config.combine, task)


def _check_files(config: ParentsConfig) -> None:
    taken = {Path(path).resolve() for path in config.inputs}
    folder = any(layout is not None for _, layout in config.written)
    for setting, path in config.outputs:
        if path.resolve() in taken:
            raise broken_rule(setting, str(path), "another file than those read and written")
        taken.add(path.resolve())
        if setting == "out" and folder:
            _check_new_folder(path)
        else:
            _check_new(setting, path, overwrite=config.overwrite)


def _check_new_folder(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"setting 'out': {path} exists: use another; folders are not replaced")
    _check_parent("out", path)


def _check_new(setting: str, path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise broken_rule(setting, str(path), "a file, not a folder")
    if path.exists() and not overwrite:
        raise ConfigError(f"setting '{setting}': {path} exists: use another, or --overwrite")
    _check_parent(setting, path)


def _check_parent(setting: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"setting '{setting}': there is no folder {path.parent}: make it first")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"setting '{setting}': {path.parent} cannot be written to")
