"""One network of all agents of a run, with a head that no split of the classes can spoil.

The agents' networks are summed up once, without training in between: weights, and the moments of
every BatchNorm on each agent's own images. Then each agent sums the features of that one network
over its own images, and the sums of all give the head (:mod:`dimat.merging.layerwise.ridge_head`).
No image travels.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import nn

from dimat.data import Rows
from dimat.errors import ConfigError, RecordError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.parse import load_config
from dimat.experiment.config.validate import validate
from dimat.experiment.progress import Progress, Silent
from dimat.experiment.record.run_folder import is_run_folder, refuse_of_agent
from dimat.experiment.setup import Setup, make_setup
from dimat.merging import calibrated_norms, mix
from dimat.merging.layerwise.ridge_head import feature_sums, head_of, with_ridge_head
from dimat.methods import METHODS
from dimat.state import State, check_same_structure, load_state, num_bytes, state_of
from dimat.tasks import TASKS
from dimat.text import counted
from dimat.tools.records.read import is_finished
from dimat.training.trainer import LocalTrainer

UNTRAINED = "untrained"
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_ROWS = 500  # images of a forward pass


@dataclass(frozen=True)
class Finished:
    """The network that a method's agents end in, and what it is worth.

    Args:
        name: The method, or ``untrained``: features of a new network, never trained.
        agents: Mean test accuracy of its agents as the run left them; None of what is untrained.
        mean: Test accuracy of their mean, with its own head.
        head: Test accuracy of that network with the closed-form head.
        ridge: The ridge, of a few, with the best accuracy on all agents' validation images; the
            smallest if no images were held out.
        state: The network with the closed-form head.
        sent_bytes: Bytes that all agents together send for it, along a tree and back.
    """

    name: str
    agents: float | None
    mean: float
    head: float
    ridge: float
    state: State
    sent_bytes: int


def finish(folder: str | Path, progress: Progress | None = None) -> list[Finished]:
    """The method of a run and its controls, finished; the last is the untrained control.

    Args:
        folder: A run folder; the run is done, and its data are where they were.
        progress: Receives the progress; nobody if None.

    Raises:
        RecordError: If the folder has no states of all agents.
        ConfigError, DataError, ModelError: If data, model or head cannot be used.
    """
    folder, progress = Path(folder), progress or Silent()
    if not is_run_folder(folder):
        raise RecordError(f"'{folder}' is no run folder: give one that dimat run has written")
    refuse_of_agent(folder)
    config = load_config(folder / "config.yaml")
    validate(config)
    if not TASKS[config.task].has_classes:
        raise ConfigError(
            f"'{folder}' is a run of task '{config.task}': its head is fitted to classes, of which "
            "the task has none; only runs of classification can be finished. What this run has "
            f"merged is in '{folder / 'states'}', a network for each agent"
        )
    controls = [name for name in config.controls if name != config.method]
    folders = {config.method: folder, **{name: folder / "controls" / name for name in controls}}
    found = {name: _states(own, name, config) for name, own in folders.items()}
    # The mean network's BatchNorm statistics are measured, whatever the run did in its rounds.
    everywhere = replace(config.recalibration, methods=("all",))
    setup = make_setup(replace(config, recalibration=everywhere), progress)
    agents = [setup.new_agent(i, pretraining=False) for i in range(config.agents)]
    done = []
    progress.stage("finishing", len(found) + 1)
    for name, states in found.items():
        done.append(_finished(setup, agents, name, states))
        progress.advance()
    done.append(_finished(setup, agents, UNTRAINED, [state_of(setup.new_model(0))]))
    progress.advance()
    return done


def _states(folder: Path, method: str, config: RunConfig) -> list[State]:
    """The last states of all agents of a run; that of one agent where it learns of all images."""
    paths = sorted((folder / "states").glob("agent-*.safetensors"))
    agents = 1 if METHODS[method].scope == "pooled" else config.agents
    if len(paths) != agents or not is_finished(folder):
        raise RecordError(
            f"'{folder}' has states of {counted(len(paths), 'agent')}, of {agents}: give the "
            "folder of a run that is done (dimat resume goes on with one that is not)"
        )
    return [load_state(path) for path in paths]


def _finished(
    setup: Setup, agents: Sequence[LocalTrainer], name: str, states: Sequence[State]
) -> Finished:
    test = setup.test
    trained = [_accuracy(agents[0], state, *test) for state in states]
    mean = _in_consensus(agents, mix(states, [1 / len(states)] * len(states)))
    head = head_of(setup.analysis, mean)
    sums = reduce(
        add,
        (feature_sums(setup.analysis, head, mean, own.shard.in_order(_ROWS)) for own in agents),
    )
    heads = {ridge: with_ridge_head(head, mean, sums, ridge) for ridge in _RIDGES}
    ridge = max(_RIDGES, key=lambda own: _validated(agents, heads[own]))
    return Finished(
        name,
        None if name == UNTRAINED else statistics.fmean(trained),
        _accuracy(agents[0], mean, *test),
        _accuracy(agents[0], heads[ridge], *test),
        ridge,
        heads[ridge],
        2 * (len(agents) - 1) * (num_bytes(mean) + sums.num_bytes),
    )


def _in_consensus(agents: Sequence[LocalTrainer], mean: State) -> State:
    """The mean network, with the BatchNorm statistics of all agents' images together."""
    images, parts = [float(len(own.shard)) for own in agents], []
    for own in agents:
        check_same_structure(own.state(), mean, "the mean of the states")
        own.load(mean)
        own.recalibrate(1)
        parts.append(own.state())
    return pooled_moments(agents[0].model, parts, [n / sum(images) for n in images])


def pooled_moments(
    model: nn.Module, states: Sequence[Mapping[str, torch.Tensor]], shares: Sequence[float]
) -> State:
    r"""The state whose running statistics are those of all images, of states that differ in them.

    .. math:: \mu = \sum_i s_i \mu_i, \qquad
        \sigma^2 = \sum_i s_i (\sigma_i^2 + \mu_i^2) - \mu^2

    within and between agents. Layers after the first see other inputs at every agent, so theirs are
    close to those of one pass over all images, not equal to them.

    Args:
        model: Any model of these states, for the places of its norms.
        states: Equal but for running statistics.
        shares: Of all images, of each state; sums to 1.
    """
    found = dict(states[0])
    norms = set(calibrated_norms(model))
    for name in (name for name, module in model.named_modules() if module in norms):
        mean, variance = (f"{name}.running_{kind}" for kind in ("mean", "var"))
        pairs = list(zip(shares, states, strict=True))
        center = sum((s * own[mean].double() for s, own in pairs), torch.zeros(()))
        square = sum(
            (s * (own[variance].double() + own[mean].double().square()) for s, own in pairs),
            torch.zeros(()),
        )
        found[mean] = center.to(found[mean])
        found[variance] = (square - center.square()).clamp_min(0).to(found[variance])
    return found


def _accuracy(agent: LocalTrainer, state: State, x: Rows, y: Rows) -> float:
    agent.load(state)
    return agent.evaluate(x, y)["accuracy"]


def _validated(agents: Sequence[LocalTrainer], state: State) -> float:
    """Accuracy on the validation images of all agents; 0 if no images were held out."""
    images = [own.shard.validation() for own in agents]
    hits = [len(y) * _accuracy(agents[0], state, x, y) for x, y in images if len(y)]
    return sum(hits) / max(1, sum(len(y) for _, y in images))
