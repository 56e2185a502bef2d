"""Checks of a config before anything is built: each setting by its type, then several together.

What needs PyTorch, as the registries of names do, is imported when the rest is found to be right:
most mistakes are answered at once.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import Any

from dimat.errors import ConfigError, check_known
from dimat.experiment.callbacks import LOGS
from dimat.experiment.config.config import OPTIMIZERS, RunConfig
from dimat.experiment.config.messages import annotated_types
from dimat.experiment.config.places import AGENT, GIVEN
from dimat.experiment.config.rules import broken_rule, check
from dimat.experiment.config.task import check_task
from dimat.imports import import_modules

ONLY_APART = f"only with 'dimat agent', or with {AGENT} in data.source, has each agent its own data"


def validate(config: RunConfig, *, apart: bool = False) -> None:
    """Refuse a config that no run can be made of.

    What depends on the data or the graph is checked where those are built.

    Args:
        config: Every setting.
        apart: Whether they are of one agent in a process of its own, which may have its own data.

    Raises:
        ConfigError: For the first setting that is of the wrong type, out of its range, not in its
            registry, or asks for a device that is not there.
    """
    check_fields(config)
    _check_path(config)
    _check_stop(config)
    _check_stack(config)
    _check_accumulation(config)
    _check_names(config)
    _check_data(config, apart=apart)
    _check_methods(config)
    check_device_is_here(config.device)


def validate_topology(config: RunConfig) -> None:
    """Refuse a config whose graph cannot be made; PyTorch is not imported for it.

    Args:
        config: Every setting; names of other things than the graph are not looked up.

    Raises:
        ConfigError: As :func:`validate`.
    """
    check_fields(config)
    _check_path(config)
    import_modules(config.imports)
    _check_graph(config)


def check_fields(config: Any) -> None:
    """Refuse settings, a dataclass, of which one is not as its type says.

    Raises:
        ConfigError: For the first that is of the wrong type, or breaks a rule of its type.
    """
    for name, kind in annotated_types(config.__class__).items():
        check(name, reduce(getattr, name.split("."), config), kind)


def check_id(config: RunConfig, agent: int) -> None:
    """Refuse an agent that a run does not have.

    Raises:
        ConfigError: With the numbers that agents have.
    """
    if not 0 <= agent < config.agents:
        raise broken_rule("id", agent, f"in 0 … {config.agents - 1}")


def _check_stop(config: RunConfig) -> None:
    if config.max_wall_s is not None and config.checkpoint.every == 0:
        raise ConfigError(
            f"setting 'max_wall_s' is {config.max_wall_s:g}, and 'checkpoint.every' is 0: what is "
            "to stop and go on needs checkpoints, so use --checkpoint.every 1, or no max_wall_s"
        )


def _check_stack(config: RunConfig) -> None:
    """Refuse a stack on a CPU whose convolutions autocast passes by, with another arithmetic."""
    if (config.vectorize or 1) > 1 and config.precision == "bfloat16" and config.device == "cpu":
        rule = "1 with precision bfloat16 on a CPU, where PyTorch leaves a stack in float32"
        raise broken_rule("vectorize", config.vectorize, f"{rule}; or use --precision float32")


def _check_accumulation(config: RunConfig) -> None:
    """Refuse stacks of agents whose batches are run in pieces to save memory."""
    pieces = config.optimizer.accumulate
    if (config.vectorize or 1) > 1 and pieces > 1:
        rule = "1 with vectorize above 1: a stack takes more memory, not less; use --vectorize 1"
        raise broken_rule("optimizer.accumulate", pieces, rule)


def _check_path(config: RunConfig) -> None:
    name, path = config.topology.name, config.topology.path
    if (name == "edges") != (path is not None):
        raise broken_rule("topology.path", path, "a file if topology.name is 'edges', else null")
    if config.topology.directed and name != "edges":
        rule = "false unless topology.name is 'edges'; directed graphs have names, directed-ring"
        raise broken_rule("topology.directed", True, rule)


def _check_graph(config: RunConfig) -> None:
    from dimat.topology import TOPOLOGIES

    check_known("topology.name", config.topology.name, TOPOLOGIES)


def _check_names(config: RunConfig) -> None:
    import_modules(config.imports)
    check_known("optimizer.name", config.optimizer.name, OPTIMIZERS)
    _check_list("log", config.log, LOGS)
    _check_graph(config)
    from dimat.data import OWN, SOURCES, SPLITS
    from dimat.merging import COMBINERS
    from dimat.methods import METHODS
    from dimat.tasks import TASKS

    check_known("task", config.task, TASKS)
    check_known("method", config.method, METHODS)
    _check_list("controls", config.controls, METHODS)
    _check_list("recalibration.methods", config.recalibration.methods, ["all", *METHODS])
    source = config.data.source.partition(":")[0]
    given = [GIVEN] if source == GIVEN else []
    check_known("data.split", config.data.split, [*SPLITS, OWN, *given])
    check_known("merging.combine", config.merging.combine, ["auto", *COMBINERS])
    check_known("data.source", source, [*SOURCES, *given])
    if config.data.test_source is not None:
        check_known("data.test_source", config.data.test_source.partition(":")[0], SOURCES)
    check_model(config.model)


def _check_data(config: RunConfig, *, apart: bool) -> None:
    """Refuse classes that are named twice, and an agent's own data where they cannot be used."""
    from dimat.data import OWN, SPLITS
    from dimat.tasks import TASKS

    data = config.data
    check_task(config)
    if data.storage == "source" and data.source.partition(":")[0] != GIVEN:
        rule = "auto or memory: only data sets that dimat.run(data=…) is given are read by index"
        raise broken_rule("data.storage", data.storage, rule)
    _check_list("data.classes", data.classes, data.classes)
    each = AGENT in data.source
    if each and data.split != OWN:
        rule = f"own with a data.source that has {AGENT}, as nothing is dealt out"
        raise broken_rule("data.split", data.split, rule)
    if data.test_source is not None and AGENT in data.test_source:
        raise broken_rule("data.test_source", data.test_source, "one source, the same for all")
    if data.split != OWN:
        return
    if not apart and not each:
        raise broken_rule("data.split", OWN, f"{' or '.join(SPLITS)}: {ONLY_APART}")
    if TASKS[config.task].has_classes and not data.classes:
        rule = "the names of all classes with data.split 'own', the same at all agents, as in 0,1,2"
        raise broken_rule("data.classes", (), rule)
    if config.topology.mixing == "shard-size":
        rule = "another with data.split 'own', as no agent knows how many images others have"
        raise broken_rule("topology.mixing", "shard-size", rule)


def check_model(name: str) -> None:
    """Refuse the name of a built-in model that there is none of.

    Raises:
        ConfigError: With the closest name.
    """
    from dimat.models import MODELS, TRANSFORMER

    if ":" not in name:
        check_known("model", name, [*MODELS, TRANSFORMER])


def _check_list(setting: str, names: tuple[str, ...], known: Collection[str]) -> None:
    for name in names:
        check_known(setting, name, known)
        if names.count(name) > 1:
            raise ConfigError(f"setting '{setting}' has '{name}' twice: must name each once")


def _check_methods(config: RunConfig) -> None:
    """Refuse a method that cannot be made, or does not work with the optimizer."""
    from dimat.experiment.config.methods import check_options, make_method

    check_options(config)
    for name in (config.method, *config.controls):
        make_method(config, name).check_optimizer(name, config.optimizer.name)


def check_device_is_here(device: str) -> None:
    """Refuse a CUDA device that PyTorch does not find.

    Raises:
        ConfigError: With those that it finds.
    """
    if device == "cpu":
        return
    import torch

    here = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= here:
        raise ConfigError(
            f"setting 'device' is '{device}', but PyTorch finds {here} CUDA devices here: use 'cpu'"
            + (f", or 'cuda:0' up to 'cuda:{here - 1}'" if here else "")
        )
