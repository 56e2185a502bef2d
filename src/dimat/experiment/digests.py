"""Facts and digests of a run that are known before it starts: graph, shards, settings, data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import numpy as np

from dimat.data import content
from dimat.experiment.config.config import (
    DataConfig,
    OptimizerConfig,
    RunConfig,
)
from dimat.experiment.config.methods import gauge_of
from dimat.experiment.config.parse import config_to_yaml
from dimat.experiment.recipe import LATER, recipe
from dimat.experiment.setup import Setup
from dimat.methods import METHODS
from dimat.topology import Network, definite

_MOST_MATRICES = 16
# The settings that pre-training depends on; a cosine schedule adds the length of the run.
_PRETRAIN = (
    *("agents", "pretrain_epochs", "batch_size", "seed", "data", "optimizer", "loss"),
    *("model", "width", "shortcut", "norm", "init", "device", "threads", "precision", "vectorize"),
)
_LENGTH = ("rounds", "local_epochs", "local_steps")


def topology_facts(network: Network) -> dict[str, object]:
    """Graph and mixing matrix; if they vary, the first ones.

    What follows from them is left out: its last bits depend on the machine that computes it.
    """
    shown = min(network.period or _MOST_MATRICES, _MOST_MATRICES)
    sequence = [network.at(time).pi.tolist() for time in range(shown)]
    return {
        "name": network.name,
        "agents": network.num_agents,
        "directed": network.directed,
        "edges": [list(edge) for edge in network.graph.edges],
        "pi": sequence[0],
        **({"sequence": sequence} if network.period != 1 else {}),
    }


def shard_facts(setup: Setup) -> dict[str, object]:
    """The content of ``shards.json``: samples per agent and class, validation samples included.

    Of an agent with its own data it has the counts of that one, which it names. Where there are no
    classes all samples are of one.
    """
    labels, has_classes = setup.labels.numpy(), setup.task.has_classes
    classes = setup.num_outputs if has_classes else 1
    counts = {
        name: [np.bincount(labels[own], minlength=classes).tolist() for own in parts]
        for name, parts in (("pretrain", setup.parts.pretrain), ("rounds", setup.parts.rounds))
    }
    whose = {} if setup.owner is None else {"agent": setup.owner}
    return {"classes": classes if has_classes else ["samples"], **whose, **counts}


def task_facts(setup: Setup) -> dict[str, object]:
    """The content of ``task.json``: the metrics of a task; empty of classification, the default.

    Readers of a run folder need no task for it, which may be of another package.
    """
    if setup.config.task == "classification":
        return {}
    return {"task": setup.config.task, "metrics": [asdict(own) for own in setup.task.metrics]}


def chosen_facts(
    setup: Setup, config: RunConfig, method: str, *, apart: bool = False
) -> dict[str, object]:
    """The content of ``chosen.json``: what settings left to dimat came to, in the rounds.

    Args:
        setup: The setup of the run.
        config: The settings as they were given.
        method: Registry name of the method.
        apart: Whether the agents run in processes of their own, which may miss each other.
    """
    kind, matching = METHODS[method], config.matching
    found: dict[str, object] = {}
    if config.topology.mixing == "auto":
        found["topology.mixing"] = definite("auto", directed=setup.topology.directed)
    if setup.task.has_classes and config.loss.logits == "auto":
        found["loss.logits"] = setup.logits(pretraining=False)
    if config.loss.distill is None:
        found["loss.distill"] = setup.distill(pretraining=False)
    if matching.gauge == "auto" and kind.matches:
        found["matching.gauge"] = gauge_of(matching, apart=apart, once=kind.merges_once)
    if config.merging.combine == "auto":
        found["merging.combine"] = setup.config.merging.combine
    return found


def run_digest(setup: Setup, config: RunConfig) -> str:
    """The digest of all that a run's results depend on: settings and data."""
    settings = config_to_yaml(recipe(config))
    for name, value in LATER.items():
        group, _, last = name.rpartition(".")
        text = "null" if value is None else value
        settings = settings.replace(f"\n{'  ' if group else ''}{last}: {text}\n", "\n", 1)
    digest = hashlib.sha256((settings + pretrain_digest(setup)).encode())
    for indices in setup.parts.rounds:
        digest.update(indices.tobytes())
    return digest.hexdigest()


def data_digest(setup: Setup) -> str:
    """The digest of all training images here, their labels and the partition among the agents."""
    digest = hashlib.sha256()
    for part in (setup.dataset.train_x, setup.dataset.train_y):
        digest.update(content(part))
    for indices in (*setup.parts.pretrain, *setup.parts.rounds):
        digest.update(len(indices).to_bytes(8, "big") + indices.tobytes())
    return digest.hexdigest()


def pretrain_digest(setup: Setup) -> str:
    """The digest of all that pre-training depends on: where equal, so are the trained agents."""
    constant = setup.config.optimizer.schedule == "constant"
    settings = asdict(recipe(setup.config))
    own = {name: settings[name] for name in (*_PRETRAIN, *(() if constant else _LENGTH))}
    own["optimizer"].pop("on_merge")
    for group, defaults in (("data", DataConfig()), ("optimizer", OptimizerConfig())):
        for name, value in asdict(defaults).items():
            if f"{group}.{name}" in LATER and own[group][name] == value:
                own[group].pop(name)
    if setup.config.task != "classification":
        own["task"] = setup.config.task
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
    for part in (setup.dataset.train_x, setup.dataset.train_y):
        digest.update(content(part))
    for indices in setup.parts.pretrain:
        digest.update(indices.tobytes())
    return digest.hexdigest()
