"""Checking a config before anything is built: types, ranges, text, names, device.

What needs PyTorch, as the registries of names do, is imported when the rest is found to be right:
most mistakes are answered at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from functools import reduce
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from dimat.errors import ConfigError, check_known
from dimat.experiment.callbacks.callback import LOGS
from dimat.experiment.config.config import OPTIMIZERS, RunConfig
from dimat.experiment.config.gauge import gauge_of
from dimat.experiment.config.messages import MOST, broken_rule, setting_types, within, wrong_type
from dimat.experiment.config.places import check_host, check_path, check_source
from dimat.imports import import_modules

_AT_LEAST = {
    "agents": 1,
    "rounds": 0,
    "pretrain_epochs": 0,
    "local_epochs": 0,
    "local_steps": 1,
    "batch_size": 1,
    "seed": 0,
    "threads": 1,
    "vectorize": 1,
    "eval_every": 1,
    "topology.degree": 1,
    "topology.seed": 0,
    "data.train_images": 1,
    "matching.images": 1,
    "matching.sweeps": 0,
    "matching.every": 0,
    "consensus.quiet_steps": 0,
    "consensus.mixing_steps": 1,
    "recalibration.images": 1,
    "checkpoint.every": 0,
    "checkpoint.keep": 1,
    "diagnostics.barrier_images": 0,
}

_SEEDS = ("seed", "topology.seed")  # below 2^63, as _RANGES says

# The highest a setting may be, and why; of others it is MOST.
_AT_MOST: dict[str, tuple[float, str]] = {
    **dict.fromkeys(("optimizer.lr", "outer.lr", "optimizer.weight_decay"), (1e38, "a float32")),
    "agents": (5000, "as the graph has up to agents x agents edges"),
    "threads": (1024, "and best the number of cores"),
    "width": (1000, "times the channels of the model as it is"),
    "exchange.timeout_s": (10**6, "which are 11 days"),
    "exchange.patience_s": (10**6, "which are 11 days"),
}

_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "width": ("> 0 and finite", lambda value: 0 < value < math.inf),
    "seed": ("< 2^63", lambda value: value < 2**63),
    "max_wall_s": ("> 0 and finite, or null", lambda value: 0 < value < math.inf),
    "topology.probability": ("in (0, 1]", lambda value: 0 < value <= 1),
    "topology.dropout": ("in [0, 1)", lambda value: 0 <= value < 1),
    "topology.seed": ("< 2^63", lambda value: value < 2**63),
    "data.alpha": ("> 0 and finite", lambda value: 0 < value < math.inf),
    "data.validation": ("in [0, 0.5]", lambda value: 0 <= value <= 0.5),
    "matching.drift": ("in (0, 1], or null", lambda value: 0 < value <= 1),
    "exchange.timeout_s": ("> 0 and finite", lambda value: 0 < value < math.inf),
    "exchange.patience_s": ("> 0 and finite", lambda value: 0 < value < math.inf),
    "exchange.max_norm_ratio": (">= 1, or null", lambda value: 1 <= value < math.inf),
    "outer.lr": ("> 0 and finite", lambda value: 0 < value < math.inf),
    "outer.momentum": ("in [0, 1)", lambda value: 0 <= value < 1),
    "optimizer.lr": ("> 0 and finite", lambda value: 0 < value < math.inf),
    "optimizer.momentum": ("in [0, 1)", lambda value: 0 <= value < 1),
    "optimizer.weight_decay": (">= 0 and finite", lambda value: 0 <= value < math.inf),
}


_DEVICE = r"cpu|cuda(?::\d{1,4})?"


def validate(config: RunConfig) -> None:
    """Refuse a config that no run can be made of.

    What depends on the data or the graph is checked where those are built.

    Raises:
        ConfigError: For the first setting that is of the wrong type, out of its range, not in its
            registry, or asks for a device that is not there.
    """
    for name, kind in setting_types().items():
        if not _is_a(_get(config, name), kind):
            raise wrong_type(name, _get(config, name), kind)
    _check_ranges(config)
    _check_text(config)
    _check_path(config)
    _check_stop(config)
    _check_stack(config)
    gauge_of(config.matching)
    _check_names(config)
    _check_methods(config)
    _check_device(config.device)


def check_id(config: RunConfig, agent: int) -> None:
    """Refuse an agent that a run does not have.

    Raises:
        ConfigError: With the numbers that agents have.
    """
    if not 0 <= agent < config.agents:
        raise ConfigError(f"setting 'id' is {agent}: must be in 0 … {config.agents - 1}")


def _get(config: RunConfig, name: str) -> Any:
    return reduce(getattr, name.split("."), config)


def _is_a(value: object, kind: object) -> bool:
    """Whether ``value`` has the type ``kind``; an int may stand for a float, no bool for an int."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if NoneType in get_args(kind):
        return value is None or any(_is_a(value, part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _check_ranges(config: RunConfig) -> None:
    for name, (rule, holds) in _RANGES.items():
        value = _get(config, name)
        if value is not None and not holds(value):
            raise broken_rule(name, value, rule)
    for name in {**_AT_LEAST, **_RANGES}:
        value = _get(config, name)
        most, why = _AT_MOST.get(name, (MOST, ""))
        if value is not None:
            within(name, value, _AT_LEAST.get(name, 0), math.inf if name in _SEEDS else most, why)


def _check_text(config: RunConfig) -> None:
    """What is to be a file, a folder or an address can be one."""
    if config.out is not None:
        check_path("out", config.out)
    if config.topology.path is not None:
        check_path("topology.path", config.topology.path)
    check_source("data.source", config.data.source)
    if config.exchange.interface is not None:
        check_host("exchange.interface", config.exchange.interface)
    if not re.fullmatch(_DEVICE, config.device):
        raise broken_rule("device", config.device, "cpu, cuda or cuda:N")


def _check_names(config: RunConfig) -> None:
    import_modules(config.imports)
    check_known("optimizer.name", config.optimizer.name, OPTIMIZERS)
    _check_list("log", config.log, LOGS)
    from dimat.topology import TOPOLOGIES

    check_known("topology.name", config.topology.name, TOPOLOGIES)
    from dimat.data import SOURCES, SPLITS
    from dimat.merging import COMBINERS
    from dimat.methods import METHODS
    from dimat.models import MODELS

    check_known("method", config.method, METHODS)
    _check_list("controls", config.controls, METHODS)
    _check_list("recalibration.methods", config.recalibration.methods, ["all", *METHODS])
    check_known("data.split", config.data.split, SPLITS)
    check_known("merging.combine", config.merging.combine, COMBINERS)
    check_known("data.source", config.data.source.partition(":")[0], SOURCES)
    if ":" not in config.model:
        check_known("model", config.model, MODELS)


def _check_list(setting: str, names: tuple[str, ...], known: Collection[str]) -> None:
    for name in names:
        check_known(setting, name, known)
        if names.count(name) > 1:
            raise ConfigError(f"setting '{setting}' has '{name}' twice: must name each once")


def _check_methods(config: RunConfig) -> None:
    """All methods can be made, and work with the optimizer."""
    from dimat.experiment.config.methods import check_options, make_method

    check_options(config)
    for name in (config.method, *config.controls):
        make_method(config, name).check_optimizer(name, config.optimizer.name)


def _check_stop(config: RunConfig) -> None:
    if config.max_wall_s is not None and config.checkpoint.every == 0:
        raise ConfigError(
            f"setting 'max_wall_s' is {config.max_wall_s:g}, and 'checkpoint.every' is 0: what is "
            "to stop and go on needs checkpoints, so use --checkpoint.every 1, or no max_wall_s"
        )


def _check_stack(config: RunConfig) -> None:
    """Autocast passes the convolutions of a stack by on a CPU: its arithmetic would be another."""
    if config.vectorize > 1 and config.precision == "bfloat16" and config.device == "cpu":
        rule = "1 with precision bfloat16 on a CPU, where PyTorch leaves a stack in float32"
        raise broken_rule("vectorize", config.vectorize, f"{rule}; or use --precision float32")


def _check_path(config: RunConfig) -> None:
    name, path = config.topology.name, config.topology.path
    if (name == "edges") != (path is not None):
        raise broken_rule("topology.path", path, "a file if topology.name is 'edges', else null")
    if config.topology.directed and name != "edges":
        rule = "false unless topology.name is 'edges'; directed graphs have names, directed-ring"
        raise broken_rule("topology.directed", True, rule)


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    here = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= here:
        raise ConfigError(
            f"setting 'device' is '{device}', but PyTorch finds {here} CUDA devices here: use 'cpu'"
            + (f", or 'cuda:0' up to 'cuda:{here - 1}'" if here else "")
        )
