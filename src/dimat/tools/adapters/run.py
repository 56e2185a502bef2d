"""A merge of adapters, from settings to the merged one; nothing is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dimat.checkpoints import fair_weights
from dimat.checkpoints.formats.adapter_folders import AdapterFolder, module_name, read_adapter
from dimat.errors import StructureError, shown
from dimat.experiment.progress import Progress, Silent
from dimat.merging import mix
from dimat.merging.adapters import WAYS, FactorKeys, Factors, Way, product, product_error
from dimat.state import State, num_bytes
from dimat.text import brief
from dimat.tools.adapters.settings import AdaptersConfig, check

_ALIKE = ("base_model_name_or_path", "task_type", "target_modules")
_OF_THE_BASE = ("pissa", "olora", "loftq", "corda")  # inits that change the base, too


@dataclass(frozen=True)
class WayResult:
    """One way to combine the adapters, and what it gives.

    Args:
        name: Name of the way.
        factors: The merged factors by module; empty if it cannot be used.
        state: All merged entries.
        error: Distance from the exact average of products over its norm, all modules together; NaN
            if it cannot be used.
        why: Why it cannot be used; empty if it can.
    """

    name: str
    factors: Mapping[str, Factors]
    state: State
    error: float = math.nan
    why: str = ""

    __repr__ = brief

    @property
    def ranks(self) -> list[int]:
        """The ranks of its modules that occur, in order."""
        return sorted({own.rank for own in self.factors.values()})

    @property
    def num_bytes(self) -> int:
        """Bytes of its entries."""
        return num_bytes(self.state)


@dataclass(frozen=True)
class AdaptersResult:
    """The result of a merge of adapters.

    Args:
        config: Every setting.
        ways: All ways to combine them.
        chosen: The one that the settings say.
        written: The configuration of the merged adapter.
        notes: What was seen on the way.
    """

    config: AdaptersConfig
    ways: Sequence[WayResult]
    chosen: WayResult
    written: Mapping[str, Any]
    notes: Sequence[str]

    __repr__ = brief


def merge_adapters(config: AdaptersConfig, progress: Progress | None = None) -> AdaptersResult:
    """Combine adapters in every way, and choose that of the settings.

    Args:
        config: Every setting.
        progress: Receives the ways; nobody if None.

    Raises:
        ConfigError, StructureError: If something cannot be used.
    """
    check(config)
    weights = fair_weights(config.weights or None, len(config.adapters))
    adapters = [read_adapter(Path(path)) for path in config.adapters]
    for other in adapters[1:]:
        _check_alike(adapters[0], other)
    told = progress or Silent()
    told.stage("combining", len(WAYS))
    found = []
    try:
        for name, way in WAYS.items():
            own = partial(product, rank=config.rank) if name == "product" else way
            found.append(_combined(name, own, adapters, weights))
            told.advance()
    finally:
        told.close()
    chosen = next(own for own in found if own.name == config.combine)
    if chosen.why:
        raise StructureError(chosen.why)
    return AdaptersResult(
        config, found, chosen, _configuration(adapters[0], chosen), _notes(adapters)
    )


def _combined(
    name: str, way: Way, adapters: Sequence[AdapterFolder], weights: Sequence[float]
) -> WayResult:
    """The adapters combined in one way, all at the scale of the first one."""
    first = adapters[0]
    keep = first.state.keys() - {key for own in first.factors for key in (own.a, own.b)}
    rest = mix([{k: own.state[k] for k in sorted(keep)} for own in adapters], weights)
    found, apart, norm = {}, [], []
    state: State = dict(rest)
    for keys in first.factors:
        each = [_scaled(own, keys, first.scale(keys)) for own in adapters]
        try:
            own = way(each, weights)
        except StructureError as error:
            return WayResult(name, {}, {}, why=str(error))
        found[keys.module] = own
        state |= keys.written(own, first.state)
        away, size = product_error(own, each, weights)
        apart.append(away * first.scale(keys))
        norm.append(size * first.scale(keys))
    size = math.hypot(*norm)
    return WayResult(name, found, state, math.hypot(*apart) / size if size else 0.0)


def _scaled(adapter: AdapterFolder, keys: FactorKeys, scale: float) -> Factors:
    """The factors of an adapter whose product is to be scaled by another one's scale."""
    own = keys.read(adapter.state)
    return Factors(own.a, own.b * (adapter.scale(keys) / scale))


def _check_alike(first: AdapterFolder, other: AdapterFolder) -> None:
    """Refuse an adapter of another base or of other modules.

    Raises:
        StructureError: Naming what differs.
    """
    who = f"{other.path} does not go with {first.path}"
    for name in _ALIKE:
        ours, theirs = (_listed(own.config.get(name)) for own in (first, other))
        if ours != theirs:
            raise StructureError(
                f"{who}: '{name}' is {shown(str(theirs), 100)} there and {shown(str(ours), 100)} "
                "here: adapters are merged that were trained on one base, for one task"
            )
    ranked = {key: own for own in first.factors for key in (own.a, own.b)}
    for key in sorted(first.state.keys() ^ other.state.keys()):
        which = "lacks" if key in first.state else "has, beyond those of the first,"
        raise StructureError(f"{who}: it {which} '{shown(key, 100)}'")
    for key, value in first.state.items():
        shape = [list(x.shape) for x in (value, other.state[key])]
        if key in ranked:  # the axis of the rank may differ
            for own in shape:
                del own[0 if key == ranked[key].a else 1]
        if shape[0] != shape[1]:
            raise StructureError(
                f"{who}: '{shown(key, 100)}' has shape {tuple(other.state[key].shape)} there and "
                f"{tuple(value.shape)} here"
            )


def _listed(value: Any) -> Any:
    """A setting whose order means nothing, in order."""
    return sorted(map(str, value)) if isinstance(value, list) else value


def _configuration(first: AdapterFolder, chosen: WayResult) -> dict[str, Any]:
    """The first adapter's configuration, of the merged ranks, with alpha for the same scale."""
    root = bool(first.config.get("use_rslora"))
    ranks, alphas = {}, {}
    for keys in first.factors:
        rank = chosen.factors[keys.module].rank
        alpha = first.scale(keys) * (math.sqrt(rank) if root else rank)
        ranks[module_name(keys)] = rank
        alphas[module_name(keys)] = int(alpha) if alpha == int(alpha) else alpha
    rank, alpha = Counter(ranks.values()).most_common(1)[0][0], 0.0
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        **first.config,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _notes(adapters: Sequence[AdapterFolder]) -> list[str]:
    base = adapters[0].config.get("base_model_name_or_path")
    named = f"all name '{shown(str(base), 100)}'" if base else "none names its base"
    notes = [f"bases are not in these folders and were not compared: {named}"]
    for own in adapters:
        init = str(own.config.get("init_lora_weights", "")).lower()
        if init.startswith(_OF_THE_BASE):
            notes.append(
                f"{own.path} was begun by {shown(init, 40)}, which changes the base as well: it is "
                "an adapter of the base as changed"
            )
    return notes
