"""``dimat agent``: one agent of a run, in a process of its own, where others may be missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dimat.agent.membership import check_lasting
from dimat.errors import ConfigError, if_interrupted
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.methods import make_method
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.validate import check_id, validate
from dimat.experiment.progress import Progress, Silent
from dimat.experiment.record.results import SingleAgentResult
from dimat.experiment.record.run_folder import RunFolder, is_run_folder, way_on
from dimat.experiment.running.process import borrowed
from dimat.experiment.setup import make_setup
from dimat.experiment.single_agent.faults import Faults
from dimat.experiment.single_agent.rounds import Rendezvous, SingleAgentRun
from dimat.methods import Method, check_needs

__all__ = ["Rendezvous", "SingleAgentResult", "run_agent"]


def run_agent(
    config: RunConfig,
    agent: int,
    meeting: Rendezvous,
    observer: Progress | None = None,
    *,
    faults: Faults | None = None,
) -> SingleAgentResult:
    """Run one agent to the last round, or go on with it if its folder says that it was begun.

    Args:
        config: Every setting, the same at all agents but for what is each machine's own; ``out`` is
            the folder that has one for each agent.
        agent: Its number.
        meeting: Where it finds the others.
        observer: Told how it goes.
        faults: Rehearsed; none if None.

    Raises:
        ConfigError, DataError, ModelError, TopologyError: If something cannot be used.
        TrainingError: If its loss is not finite.
        Interrupted: If it is, saying how to go on.
    """
    validate(config)
    if config.max_wall_s is not None:
        rule = "null: stop an agent when you like, the same command goes on"
        raise broken_rule("max_wall_s", config.max_wall_s, rule)
    check_id(config, agent)
    method = _method(config)
    with if_interrupted(lambda: _way_on(config, agent)), borrowed(config.threads, config.device):
        return _run(config, method, agent, meeting, observer or Silent(), faults or Faults())


def _run(
    config: RunConfig,
    method: Method,
    agent: int,
    meeting: Rendezvous,
    observer: Progress,
    faults: Faults,
) -> SingleAgentResult:
    setup = make_setup(config, observer)
    check_lasting(setup.topology)
    check_needs(config.method, method, setup.topology.at(0))
    if method.matches:
        _ = setup.analysis  # a model that cannot be exported ends here, before anything is written
    path = _path(config, agent)
    config = dataclasses.replace(config, controls=())
    fresh = config.overwrite or not is_run_folder(path)
    by, resumed = "runs the agent", "the same command"
    with RunFolder.held(path, config, fresh=fresh, by=by, resumed=resumed) as folder:
        return SingleAgentRun(setup, method, agent, folder, observer).run(meeting, faults)


def _method(config: RunConfig) -> Method:
    """The method, if it does without lost messages."""
    method = make_method(config, apart=True)
    if not method.tolerant:
        raise ConfigError(
            f"setting 'method' is '{config.method}', which needs every message of every agent: "
            "agents that may miss each other can use dimat, wa, wm, final-merge or local; "
            "torchrun runs the others"
        )
    return method


def _way_on(config: RunConfig, agent: int) -> str:
    again = "the same command, without overwrite," if config.overwrite else "the same command"
    return way_on(_path(config, agent), again)


def _path(config: RunConfig, agent: int) -> Path:
    return Path(config.out or "runs/apart") / f"agent-{agent:03d}"
