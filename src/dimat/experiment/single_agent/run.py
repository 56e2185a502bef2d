"""``dimat agent``: one agent of a run in a process of its own, among others that may be missing."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

from dimat.agent.membership import check_lasting
from dimat.errors import ConfigError, DimatError, if_interrupted
from dimat.exchange.network.site import AgentSite
from dimat.experiment.callbacks import logs
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.methods import make_method
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.validate import check_id, validate
from dimat.experiment.digests import chosen_facts, shard_facts, task_facts
from dimat.experiment.progress import Progress, Silent
from dimat.experiment.record.events import EventLog
from dimat.experiment.record.results import SingleAgentResult
from dimat.experiment.record.run_folder import (
    RunFolder,
    check_out,
    check_same_settings,
    is_run_folder,
    way_on,
)
from dimat.experiment.running.process import borrowed
from dimat.experiment.setup import Setup, make_setup
from dimat.experiment.single_agent.check import Finding, take_stock
from dimat.experiment.single_agent.rounds import Rehearse, SingleAgentRun
from dimat.methods import Method, check_needs
from dimat.topology import near

__all__ = ["AgentSite", "Finding", "SingleAgentResult", "check_agent", "run_agent"]


def run_agent(
    config: RunConfig,
    agent: int,
    site: AgentSite,
    progress: Progress | None = None,
    *,
    rehearse: Rehearse | None = None,
    metrics: str | None = None,
    events: str | None = None,
) -> SingleAgentResult:
    """Run one agent to the last round; resume it if its folder has a run that was begun.

    Args:
        config: Every setting, the same at all agents but for those of a machine and, with
            ``data.split`` own, of its data; ``out`` is the folder that contains a run folder for
            each agent.
        agent: The agent's number, from 0.
        site: Where the agent and its neighbors are, and what protects their connections.
        progress: Receives the progress of the agent; nobody if None.
        rehearse: Prepares the faults that are to strike the agent, as
            :meth:`dimat.testing.Faults.rehearse` does; None: none are planned.
        metrics: HOST:PORT where Prometheus reads the agent's status; None: nowhere.
        events: File that each event is added to as a line of JSON, ``-`` for standard output; None:
            none is written.

    Returns:
        The results of the agent.

    Raises:
        ConfigError, DataError, ModelError, TopologyError: If something cannot be used.
        TrainingError: If the loss is not finite.
        Interrupted: On Ctrl-C; says how to resume.
    """
    _check(config, agent)
    site.security(agent)  # before data are read, and before what a run folder is in the way of
    site.addresses(agent, [])
    with if_interrupted(lambda: _way_on(config, agent)), borrowed(config.threads, config.device):
        if events is None:
            return _run(config, agent, site, progress or Silent(), rehearse, metrics)
        with closing(EventLog(events)) as log:
            return _run(config, agent, site, progress or Silent(), rehearse, metrics, log)


def check_agent(
    config: RunConfig, agent: int, site: AgentSite, progress: Progress | None = None
) -> list[Finding]:
    """Look whether an agent could run, with all of its neighbors; trains and writes nothing.

    Args:
        config: As for :func:`run_agent`.
        agent: The agent's number, from 0.
        site: Where the agent and its neighbors are, and what protects their connections.
        progress: Receives what is loaded; nobody if None.

    Returns:
        What was found, one by one.

    Raises:
        ConfigError, DataError, ModelError, TopologyError: If the settings, the data or the model
            cannot be used by themselves.
    """
    _check(config, agent)
    with borrowed(config.threads, config.device):
        setup, method = _prepare(config, agent, progress or Silent())
        return [_folder(setup, method, config, agent), *take_stock(setup, method, agent, site)]


def _folder(setup: Setup, method: Method, config: RunConfig, agent: int) -> Finding:
    """What the run folder is found to be: new, or of a run of the same settings and data."""
    path, what = _path(config, agent), "run folder"
    config = dataclasses.replace(config, controls=())
    try:
        if config.overwrite or not is_run_folder(path):
            check_out(path, overwrite=config.overwrite)
            return Finding(what, f"{path}: the run begins there")
        check_same_settings(path, config)
        notes: list[str] = []
        run = SingleAgentRun(setup, method, agent, RunFolder(path, config), Silent())
        found = run.last_checkpoint(notes.append)
    except DimatError as error:
        return Finding(what, str(error), "mend")
    way = "begins again" if found is None else f"goes on from round {found.number}"
    told = "; ".join([f"{path}: the run in it {way}", *notes])
    return Finding(what, told, "note" if notes or found is None else "ok")


def _check(config: RunConfig, agent: int) -> None:
    """Refuse settings that no agent can have, before data are read."""
    validate(config, apart=True)
    if config.max_wall_s is not None:
        rule = "null: stop an agent when you like, the same command goes on"
        raise broken_rule("max_wall_s", config.max_wall_s, rule)
    check_id(config, agent)
    _method(config)


def _prepare(config: RunConfig, agent: int, progress: Progress) -> tuple[Setup, Method]:
    """Data, graph and method of an agent, which fit each other."""
    setup = make_setup(config, progress, agent=agent)
    method = _method(setup.config)  # with what the data decide
    check_lasting(setup.topology)
    setup.check_exchange(config.method, method)
    check_needs(config.method, method, setup.topology.at(0))
    if method.needs_analysis:
        _ = setup.analysis  # raises for a model that cannot be exported, before anything is written
    return setup, method


def _run(
    config: RunConfig,
    agent: int,
    site: AgentSite,
    progress: Progress,
    rehearse: Rehearse | None,
    metrics: str | None,
    event: EventLog | None = None,
) -> SingleAgentResult:
    setup, method = _prepare(config, agent, progress)
    site.place(agent, near(setup.topology, agent))  # before a folder is made
    path = _path(config, agent)
    config = dataclasses.replace(config, controls=())
    fresh = config.overwrite or not is_run_folder(path)
    by = "runs the agent"
    with (
        logs(config.log) as callbacks,
        RunFolder.held(path, config, fresh=fresh, by=by, resumed=_again) as folder,
    ):
        folder.note_agent(agent)
        if not (path / "shards.json").exists():  # of data that changed later it says nothing
            folder.write_json("shards", shard_facts(setup))
            if facts := task_facts(setup):
                folder.write_json("task", facts)
            if facts := chosen_facts(setup, config, config.method, apart=True):
                folder.write_json("chosen", facts)
        run = SingleAgentRun(setup, method, agent, folder, progress, callbacks)
        return run.run(site, rehearse, metrics=metrics, event=event)


def _method(config: RunConfig) -> Method:
    """The method of the settings, checked to tolerate lost messages."""
    method = make_method(config, apart=True)
    if not method.tolerant:
        raise ConfigError(
            f"setting 'method' is '{config.method}', which needs every message of every agent: "
            "agents that may miss each other can use dimat, wa, wm, final-merge or local, without "
            "mixing.chebyshev; torchrun runs the others"
        )
    return method


def _way_on(config: RunConfig, agent: int) -> str:
    without = ", without overwrite," if config.overwrite else ""
    return way_on(_path(config, agent), lambda folder: _again(folder) + without)


def _again(_folder: Path) -> str:
    return "the same command"


def _path(config: RunConfig, agent: int) -> Path:
    return Path(config.out or "runs/apart") / f"agent-{agent:03d}"
