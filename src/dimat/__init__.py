"""Decentralized deep learning by iterative merging and training.

Agents train on their own data; every so often each merges with its neighbors in a graph, after
aligning their units, because two networks that compute the same thing rarely keep their units in
the same order.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dimat.agent.agent import Agent
    from dimat.checkpoints import Merge, Statistics, load, match, merge, statistics, widen
    from dimat.data import SOURCES, SPLITS
    from dimat.errors import DimatError
    from dimat.experiment.callbacks import LOGS
    from dimat.experiment.config.config import RunConfig
    from dimat.experiment.record.results import RunResult
    from dimat.experiment.run import resume, run
    from dimat.matching import MATCHERS
    from dimat.merging import COMBINERS
    from dimat.methods import METHODS
    from dimat.symmetry import Permutation, Symmetry, check_symmetry, find_symmetry
    from dimat.symmetry.continuous import ContinuousSymmetry, find_continuous_symmetry
    from dimat.tasks import TASKS
    from dimat.tools.report.write import report
    from dimat.topology import TOPOLOGIES, Topology, build_topology

_HOMES = {
    "COMBINERS": "dimat.merging",
    "LOGS": "dimat.experiment.callbacks",
    "MATCHERS": "dimat.matching",
    "METHODS": "dimat.methods",
    "SOURCES": "dimat.data",
    "SPLITS": "dimat.data",
    "TASKS": "dimat.tasks",
    "TOPOLOGIES": "dimat.topology",
    "Agent": "dimat.agent.agent",
    "ContinuousSymmetry": "dimat.symmetry.continuous",
    "DimatError": "dimat.errors",
    "Merge": "dimat.checkpoints",
    "Permutation": "dimat.symmetry",
    "RunConfig": "dimat.experiment.config.config",
    "RunResult": "dimat.experiment.record.results",
    "Statistics": "dimat.checkpoints",
    "Symmetry": "dimat.symmetry",
    "Topology": "dimat.topology",
    "build_topology": "dimat.topology",
    "check_symmetry": "dimat.symmetry",
    "find_continuous_symmetry": "dimat.symmetry.continuous",
    "find_symmetry": "dimat.symmetry",
    "load": "dimat.checkpoints",
    "match": "dimat.checkpoints",
    "merge": "dimat.checkpoints",
    "report": "dimat.tools.report.write",
    "resume": "dimat.experiment.run",
    "run": "dimat.experiment.run",
    "statistics": "dimat.checkpoints",
    "widen": "dimat.checkpoints",
}

# Packages that pages name: ``import dimat`` is enough for ``dimat.losses.local_loss``.
_PACKAGES = (
    *("data", "identity", "integrations", "losses", "matching", "merging", "methods"),
    *("symmetry", "tasks", "testing", "topology"),
)

__all__ = [
    "COMBINERS",
    "LOGS",
    "MATCHERS",
    "METHODS",
    "SOURCES",
    "SPLITS",
    "TASKS",
    "TOPOLOGIES",
    "Agent",
    "ContinuousSymmetry",
    "DimatError",
    "Merge",
    "Permutation",
    "RunConfig",
    "RunResult",
    "Statistics",
    "Symmetry",
    "Topology",
    "build_topology",
    "check_symmetry",
    "find_continuous_symmetry",
    "find_symmetry",
    "load",
    "match",
    "merge",
    "report",
    "resume",
    "run",
    "statistics",
    "widen",
]


def __getattr__(name: str) -> object:
    """Public names are imported when first used, so that ``dimat --help`` answers at once."""
    if name == "__version__":
        return import_module("importlib.metadata").version("dimat")
    if name in _PACKAGES:
        return import_module(f"dimat.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'dimat' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Public names, those that are not imported yet too."""
    return [*__all__, *_PACKAGES, "__version__"]
