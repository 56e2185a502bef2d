"""Checks of the settings of a merge before anything is read: ranges, names, files.

What needs PyTorch is imported when the rest is found to be right.
"""

from __future__ import annotations

import os
from pathlib import Path

from dimat.errors import ConfigError, look_up
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.validate import check_device_is_here, check_fields, check_model
from dimat.imports import import_modules
from dimat.tools.merge.settings import AlignConfig, MergeConfig


def check(config: AlignConfig) -> None:
    """Refuse settings that nothing can be merged with.

    Raises:
        ConfigError: For the first setting that is out of its range, in no registry, or names a
            device that is not there or a file that must not be written.
        StructureError: If weights are no average.
    """
    check_fields(config)
    if Path(config.out).suffix != ".safetensors":
        raise broken_rule("out", config.out, "a file that ends in .safetensors")
    if isinstance(config, MergeConfig) and len(config.parents) < 2:
        raise broken_rule("parents", list(config.parents), "two or more checkpoint files")
    if not isinstance(config, MergeConfig) and len(config.parents) != 2:
        raise broken_rule("parents", list(config.parents), "two checkpoint files")
    _check_files(config)
    import_modules(config.imports)
    _check_names(config)
    check_device_is_here(config.device)


def _check_names(config: AlignConfig) -> None:
    from dimat.checkpoints import fair_weights
    from dimat.data import SOURCES
    from dimat.matching import MATCHERS
    from dimat.merging import COMBINERS

    check_model(config.model)
    look_up("data", config.data.partition(":")[0], SOURCES)
    look_up("method", config.method, MATCHERS)
    if isinstance(config, MergeConfig):
        look_up("combine", config.combine, COMBINERS)
        fair_weights(config.weights or None, len(config.parents))


def _check_files(config: AlignConfig) -> None:
    taken = {Path(parent).resolve() for parent in config.parents}
    for setting, path in config.outputs.items():
        if path.resolve() in taken:
            raise broken_rule(setting, str(path), "another file than those read and written")
        taken.add(path.resolve())
        _check_new(setting, path, overwrite=config.overwrite)


def _check_new(setting: str, path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise broken_rule(setting, str(path), "a file, not a folder")
    if path.exists() and not overwrite:
        raise ConfigError(f"setting '{setting}': {path} exists: use another, or --overwrite")
    if not path.parent.is_dir():
        raise ConfigError(f"setting '{setting}': there is no folder {path.parent}: make it first")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"setting '{setting}': {path.parent} cannot be written to")
