"""Folders of low-rank adapters in PEFT's layout: a configuration, and factors as safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from dimat.errors import StructureError, shown
from dimat.files import read_json, whole_folder
from dimat.merging.adapters import FactorKeys, find_factors
from dimat.state import State, load_state, save_state
from dimat.text import brief

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MOST_CONFIG = 1 << 20  # bytes; one of PEFT has 1 kB
_PREFIX = "base_model.model."
# Settings with which an adapter adds something else than B A, or more than that.
_OTHERS = ("use_dora", "lora_bias", "use_qalora", "use_bdlora", "arrow_config")


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter as PEFT saves it.

    Args:
        path: Its folder.
        config: Its configuration.
        state: Its entries: factors, and modules that were trained as a whole.
    """

    path: Path
    config: Mapping[str, Any]
    state: State

    __repr__ = brief

    @cached_property
    def factors(self) -> list[FactorKeys]:
        """The keys of the factors, a pair for each module."""
        return find_factors(self.state)

    def scale(self, keys: FactorKeys) -> float:
        r"""The factor of the product of a module: :math:`\alpha / r`, or :math:`\alpha / \sqrt r`.

        Args:
            keys: Those of the module.
        """
        rank, name = len(self.state[keys.a]), module_name(keys)
        alpha = _of_module(self.config.get("alpha_pattern"), name, self.config["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def read_adapter(path: Path) -> AdapterFolder:
    """Read an adapter's folder; nothing is unpickled.

    Args:
        path: A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        StructureError: If a file is missing or damaged, the adapter is no plain LoRA, or has other
            ranks than its configuration says.
    """
    if not path.is_dir():
        raise StructureError(f"{path} is no folder: give one with {CONFIG} and {WEIGHTS}")
    config = _config(path)
    if not (path / WEIGHTS).exists():
        pickled = (path / "adapter_model.bin").exists()
        why = " (adapter_model.bin is a pickle, which is not read)" if pickled else ""
        raise StructureError(
            f"{path} has no {WEIGHTS}{why}: save the adapter as safetensors, by "
            "model.save_pretrained(folder)"
        )
    found = AdapterFolder(path, config, load_state(path / WEIGHTS))
    if not found.factors:
        raise StructureError(f"{path / WEIGHTS} has no factors named lora_A and lora_B")
    for keys in found.factors:
        keys.read(found.state)  # refuses what is no product
        expected = _of_module(config.get("rank_pattern"), module_name(keys), config["r"])
        if len(found.state[keys.a]) != expected:
            raise StructureError(
                f"{path}: '{shown(keys.a, 100)}' has rank {len(found.state[keys.a])}, and {CONFIG} "
                f"says {expected:g}: the scale alpha / r would be wrong; save the adapter anew"
            )
    return found


def write_adapter(config: Mapping[str, Any], state: Mapping[str, Tensor], out: Path) -> None:
    """Write an adapter's folder; all or nothing.

    Args:
        config: Its configuration.
        state: Its entries.
        out: The folder to make; it must not be there, or be empty.

    Raises:
        OSError: If it cannot be written; nothing of it is left then.
    """
    with whole_folder(out) as partial:
        text = json.dumps(dict(config), indent=2, sort_keys=True) + "\n"
        (partial / CONFIG).write_text(text, encoding="utf-8")
        save_state(state, partial / WEIGHTS, {"format": "pt"})


def module_name(keys: FactorKeys) -> str:
    """The name that a module has in the base model.

    Args:
        keys: Those of its factors.
    """
    return keys.module.removeprefix(_PREFIX)


def _config(path: Path) -> Mapping[str, Any]:
    """The configuration of a folder, as far as it is looked at checked."""
    file = path / CONFIG
    found = read_json(file, _MOST_CONFIG, StructureError)
    kind = found.get("peft_type") if isinstance(found, dict) else None
    if kind != "LORA":
        raise StructureError(
            f"{file} is of peft_type {shown(repr(kind), 60)}: only LORA adds a product of factors"
        )
    for name in _OTHERS:
        if found.get(name):
            raise StructureError(f"{file} has {name}: the adapter adds more than B A")
    for name in ("r", "lora_alpha"):
        _check_number(file, name, found.get(name))
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = found.get(name) or {}
        if not isinstance(pattern, dict):
            raise StructureError(f"{file}: '{name}' is no mapping of modules to numbers")
        for module, value in pattern.items():
            if not module.replace(".", "").replace("_", "").replace("-", "").isalnum():
                raise StructureError(
                    f"{file}: '{name}' names modules by the pattern '{shown(module, 60)}': only "
                    "names are read"
                )
            _check_number(file, f"{name}.{module}", value)
    return dict(found)


def _check_number(file: Path, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise StructureError(
            f"{file}: '{shown(name, 100)}' is {shown(repr(value), 60)}: must be a number > 0"
        )


def _of_module(pattern: Any, name: str, other: float) -> float:
    """The number of a module: by the first entry that names it or the end of its name."""
    for key, value in (pattern or {}).items():
        if name == key or name.endswith(f".{key}"):
            return float(value)
    return float(other)
