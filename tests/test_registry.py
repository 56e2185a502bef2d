"""Registries: names are free or taken, what packages add is imported when it is asked for."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from tests.laws.graphs import PAW

import dimat
from dimat.data import SOURCES, SPLITS
from dimat.errors import ConfigError, TopologyError, look_up
from dimat.exchange import Talk
from dimat.experiment.config.validate import validate
from dimat.matching import MATCHERS, Activations, IdentityMatcher
from dimat.merging import COMBINERS
from dimat.methods import METHODS, Method, RoundContext, RoundResult
from dimat.registry import Registry, a_function, added_names, an_object
from dimat.topology import TOPOLOGIES, build_topology

GROUP = "dimat.tests"
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Has a package installed that adds to the registry of this test."""

    def installed(**points: str) -> None:
        (tmp_path / "plugged.py").write_text("thing = 1\nLOADED = True\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "plugged", raising=False)
        found = [EntryPoint(name, value, GROUP) for name, value in points.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: found)

    return installed


def registry(**own: Any) -> Registry[Any]:
    return Registry("color", GROUP, own)


def test_what_a_package_adds_is_listed_at_once_and_imported_when_asked_for(
    install: Install,
) -> None:
    install(blue="plugged:thing")
    own = registry(red=0)
    assert list(own) == ["red", "blue"]
    assert (len(own), "blue" in own, "green" in own, own.added) == (2, True, False, ["blue"])
    assert added_names(GROUP) == ["blue"]
    assert "plugged" not in sys.modules
    assert look_up("color", "blue", own) == 1
    assert "plugged" in sys.modules


def test_what_a_package_adds_is_known_before_the_registry_is_there(install: Install) -> None:
    install(blue="plugged:thing")
    from dimat import registry as module

    module._REGISTRIES.pop(GROUP, None)
    assert added_names(GROUP) == ["blue"]


@pytest.mark.parametrize("value", ["plugged:nothing", "nowhere_at_all:thing"])
def test_what_cannot_be_imported_is_an_error_where_it_is_asked_for(
    install: Install, value: str
) -> None:
    install(blue=value)
    own = registry(red=0)
    assert own["red"] == 0
    with pytest.raises(ConfigError, match=f"'blue' .'color'. is {value} of .* cannot be imported"):
        look_up("color", "blue", own)


def test_a_package_does_not_take_a_name_of_dimats_and_it_is_said(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(red="plugged:thing")
    own = registry(red=0)
    with caplog.at_level(logging.WARNING, "dimat"):
        assert list(own) == ["red"]
    assert own["red"] == 0
    assert "entry point 'red'" in caplog.text


def test_an_unknown_name_says_the_closest_of_all(install: Install) -> None:
    install(blue="plugged:thing")
    with pytest.raises(ConfigError, match="did you mean 'blue'. There are blue, red"):
        look_up("color", "blu", registry(red=0))


def test_a_name_that_is_taken_is_not_replaced_but_by_the_same_definition() -> None:
    own = registry()

    def shade() -> int:
        return 1

    first = own.register("shade")(shade)
    assert own.register("shade", first) is first
    with pytest.raises(ConfigError, match="'color' has a 'shade' already"):
        own.register("shade", lambda: 2)
    own["shade"] = 3  # as in any dict
    with pytest.raises(ConfigError, match="already"):
        own.register("shade", 4)
    assert own["shade"] == 3
    del own["shade"]
    assert dict(own) == {}


@pytest.mark.parametrize("name", ["", "a,b", "a/b", "none", "all", "-a", "a b", 3])
def test_a_name_can_stand_in_a_list_and_be_a_folder(name: Any) -> None:
    with pytest.raises(ConfigError, match="name for 'color' is .*must be letters, digits"):
        registry().register(name, 1)


def test_of_one_definition_that_is_run_twice_the_second_is_kept() -> None:
    """As when a notebook's cell is run again; two objects of one class are two."""
    own, code = registry(), "class Shade:\n    pass"
    found: list[Any] = []
    for _ in range(2):
        cell: dict[str, Any] = {"__name__": "cell"}
        exec(code, cell)
        found.append(cell["Shade"])
        own.register("shade", cell["Shade"])
    assert own["shade"] is found[1]
    own.register("sharp", lambda: 1)
    with pytest.raises(ConfigError, match="'color' has a 'sharp' already"):
        own.register("sharp", lambda: 2)
    matchers: Registry[Any] = Registry("method", GROUP, {"own": Activations()})
    matchers.register("own", Activations())
    with pytest.raises(ConfigError, match="'method' has a 'own' already"):
        matchers.register("own", Activations("covariance"))


def test_a_class_stands_for_its_object_where_objects_are_kept() -> None:
    prepare = an_object("match")
    assert isinstance(prepare("own", IdentityMatcher), IdentityMatcher)
    with pytest.raises(ConfigError, match="'own' is the class int, which has no 'match'"):
        prepare("own", int)
    with pytest.raises(ConfigError, match="'own' is 3: must be a function"):
        a_function()("own", 3)


def test_a_topology_that_is_added_is_a_setting_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TOPOLOGIES, "line", nx.path_graph)
    config = dimat.RunConfig(topology="line")
    validate(config)
    assert build_topology("line", 4).graph.number_of_edges() == 3
    monkeypatch.delitem(TOPOLOGIES, "line")
    with pytest.raises(ConfigError, match="topology.name' is 'line', which is unknown"):
        validate(config)


def test_a_topology_may_ask_for_options_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(agents: int, options: Any) -> list[Any]:
        return [nx.cycle_graph(agents), nx.circulant_graph(agents, [options.degree])]

    monkeypatch.setitem(TOPOLOGIES, "two", two)
    assert build_topology("two", 7).period == 2


@pytest.mark.parametrize(
    ("graph", "rule"),
    [
        (nx.relabel_nodes(PAW, lambda i: i + 1), "must be a networkx graph of the nodes 0 … 3"),
        (nx.Graph([(0, 1), (1, 2), (2, 3), (3, 3)]), "agent 3 has an edge to itself"),
        ([None], "must be a networkx graph"),
    ],
)
def test_a_topology_that_is_no_graph_of_the_agents_is_refused(
    monkeypatch: pytest.MonkeyPatch, graph: Any, rule: str
) -> None:
    monkeypatch.setitem(TOPOLOGIES, "own", lambda agents: graph)
    with pytest.raises(TopologyError, match=rule):
        build_topology("own", 4)


@pytest.mark.parametrize(
    ("table", "setting"),
    [(SPLITS, "data.split"), (SOURCES, "data.source"), (COMBINERS, "merging.combine")],
)
def test_what_is_added_is_a_setting_at_once(
    monkeypatch: pytest.MonkeyPatch, table: Registry[Any], setting: str
) -> None:
    group, _, part = setting.partition(".")
    base = dimat.RunConfig()
    config = replace(base, **{group: replace(getattr(base, group), **{part: "mine"})})
    with pytest.raises(ConfigError, match=f"{setting}' is 'mine', which is unknown"):
        validate(config)
    monkeypatch.setitem(table, "mine", next(iter(table.values())))
    validate(config)


def test_a_matcher_that_is_added_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MATCHERS, "own", IdentityMatcher)
    assert isinstance(look_up("method", "own", MATCHERS), IdentityMatcher)


def merges(self: Method, me: RoundContext) -> Talk[RoundResult]:
    return (yield from Method.merge(self, me))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"merge": merges}, 'it has a merge, which is never called: say exchanges = "rounds"'),
        (
            {"exchanges": "round", "merge": merges},
            "exchanges is 'round': must be 'never', 'rounds'",
        ),
        (
            {"exchanges": "rounds", "merg": merges},
            "exchanges in rounds, and has no merge of its own",
        ),
        ({"exchanges": "steps"}, "it exchanges in steps, and has no step of its own"),
    ],
)
def test_a_method_whose_part_would_never_be_called_is_refused(
    body: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"method 'own': .*{re.escape(message)}"):
        METHODS.register("own", type("Own", (Method,), body))
    assert "own" not in METHODS
