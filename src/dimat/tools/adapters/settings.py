"""The settings of a merge of adapters, and their checks before anything is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dimat.errors import ConfigError
from dimat.experiment.config import kinds
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.validate import check_fields


@dataclass(frozen=True)
class AdaptersConfig:
    """The settings of a merge of low-rank adapters.

    Args:
        adapters: Folders of adapters as PEFT saves them, of one base.
        out: The folder to write.
        combine: naive (average of the factors), aligned (the same, each rotated onto the first),
            product (best factors of the average product), stacked (exact: ranks add up) or frozen-a
            (average of B, where all have one A).
        rank: Rank of the product; that of the first adapter if null.
        weights: Weight of each adapter, >= 0, summing to 1; equal weights if empty.
    """

    adapters: tuple[kinds.FilePath, ...]
    out: kinds.FilePath
    combine: Literal["naive", "aligned", "product", "stacked", "frozen-a"] = "product"
    rank: kinds.PositiveCount | None = None
    weights: tuple[float, ...] = ()


def check(config: AdaptersConfig) -> None:
    """Refuse settings that no merge of adapters can use.

    Raises:
        ConfigError: For the first that is out of its range, or names a folder that must not be
            written.
    """
    check_fields(config)
    if len(config.adapters) < 2:
        raise broken_rule("adapters", list(config.adapters), "two or more folders")
    if config.rank is not None and config.combine != "product":
        rule = f"null with combine {config.combine}, whose rank follows; or use combine product"
        raise broken_rule("rank", config.rank, rule)
    out = Path(config.out)
    if out.resolve() in {Path(path).resolve() for path in config.adapters}:
        raise broken_rule("out", config.out, "another folder than those read")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"setting 'out': {out} exists: use another; folders are not replaced")
    if not out.parent.is_dir():
        raise ConfigError(f"setting 'out': there is no folder {out.parent}: make it first")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"setting 'out': {out.parent} cannot be written to")
