"""A setting that nothing of a run reads is told, and one that something reads is not."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import networkx as nx
import pytest

from dimat import RunConfig
from dimat.cli import main
from dimat.experiment.config.config import MatchingConfig
from dimat.experiment.config.parse import config_from
from dimat.experiment.progress import Silent
from dimat.experiment.setup import make_setup
from dimat.experiment.unread import unread
from dimat.methods import METHODS
from dimat.topology import TOPOLOGIES


def told(**settings: Any) -> list[str]:
    """The settings that are told, by name; ``a__b`` is a.b."""
    config = config_from(None, {name.replace("__", "."): own for name, own in settings.items()})
    return [note.split("'")[1] for note in unread(config)]


@pytest.mark.parametrize(
    ("settings", "idle", "read"),
    [
        ({"data__alpha": 0.1}, "data.alpha", {"data__split": "dirichlet"}),
        ({"topology__degree": 4}, "topology.degree", {"topology__name": "random-regular"}),
        (
            {"topology__probability": 0.4},
            "topology.probability",
            {"topology__name": "erdos-renyi"},
        ),
        ({"outer__lr": 0.5}, "outer.lr", {"controls": ["noloco"]}),
        ({"consensus__quiet_steps": 2}, "consensus.quiet_steps", {"method": "swarm"}),
        ({"mixing__steps": 2, "method": "local"}, "mixing.steps", {"controls": ["wa"]}),
        ({"merging__combine": "gram", "method": "wm"}, "merging.combine", {"method": "dimat"}),
        ({"optimizer__momentum": 0.5}, "optimizer.momentum", {"optimizer__name": "msgd"}),
        (
            {"optimizer__momentum": 0.5, "optimizer__name": "sgd"},
            "optimizer.momentum",
            {"method": "qg-momentum"},
        ),
        ({"matching__sweeps": 1}, "matching.sweeps", {"matching__gauge": "tree"}),
        ({"matching__sweeps": 1}, "matching.sweeps", {"controls": ["final-merge"]}),
        (
            {"matching__null_margin": 0.1, "matching__gauge": "pairwise"},
            "matching.null_margin",
            {"matching__gauge": "tree"},
        ),
    ],
)
def test_what_nothing_reads_is_told_until_something_does(
    settings: dict[str, Any], idle: str, read: dict[str, Any]
) -> None:
    base = {"controls": [], **settings}
    assert told(**base) == [idle]
    assert told(**{**base, **read}) == []


def test_defaults_are_not_told_and_neither_is_what_is_left_to_a_graph_of_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert told() == [] == told(data__alpha=0.5)
    assert told(matching__gauge="pairwise", matching__null_margin=None) == []
    monkeypatch.setitem(TOPOLOGIES, "own", lambda agents, options: nx.cycle_graph(agents))
    assert told(topology__name="own", topology__degree=2, topology__probability=0.1) == []


def test_each_setting_of_matching_is_told_where_nobody_matches() -> None:
    changed = MatchingConfig(7, "tree", "pooled", 1, 2, 0.1, True)
    of_methods = {own.metadata.get("setting") for kind in METHODS.values() for own in fields(kind)}
    assert len(fields(MatchingConfig)) == 7
    config = RunConfig(method="local", controls=(), matching=changed)
    found = {note.split("'")[1] for note in unread(config)}
    assert found == {name for name in of_methods if name and name.startswith("matching.")}


def test_a_run_and_a_graph_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    notes = list[str]()

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    config = RunConfig(agents=2)
    make_setup(replace(config, data=replace(config.data, alpha=0.1)), Told())
    [note] = [own for own in notes if "nothing reads" in own]
    assert note == (
        "ATTENTION: setting 'data.alpha' is 0.1, and nothing reads it here: it is of data.split "
        "dirichlet"
    )
    assert main(["topology", "ring", "--agents", "5", "--degree", "4"]) == 0
    assert "'topology.degree' is 4, and nothing reads it" in capsys.readouterr().err
