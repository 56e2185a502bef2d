"""Settings from Python in other forms: taken where they have one meaning, else refused in words."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.experiment.test_run import SMALL

import dimat
from dimat.errors import ConfigError
from dimat.experiment.config.config import DataConfig, OptimizerConfig, RunConfig, TopologyConfig
from dimat.experiment.config.parse import config_from, config_to_yaml
from dimat.experiment.network import build_network
from dimat.experiment.progress import LiveProgress
from dimat.topology import GraphOptions, build_topology

TINY = replace(SMALL, agents=2, rounds=1, pretrain_epochs=0, local_steps=1, method="wa")
TINY = replace(TINY, controls=(), topology=TopologyConfig("full"))


def config(**given: Any) -> RunConfig:
    return RunConfig(**given)


# --- one meaning -------------------------------------------------------------------------------

FORMS: list[tuple[dict[str, Any], RunConfig]] = [
    ({"topology": "star"}, RunConfig(topology=TopologyConfig(name="star"))),
    ({"data": "npz:a.npz"}, RunConfig(data=DataConfig(source="npz:a.npz"))),
    ({"optimizer": {"lr": 0.5}}, RunConfig(optimizer=OptimizerConfig(lr=0.5))),
    ({"controls": ["wa"], "out": Path("runs/a")}, RunConfig(controls=("wa",), out="runs/a")),
    ({"agents": np.int64(3), "width": np.float64(0.5)}, RunConfig(agents=3, width=0.5)),
    ({"overwrite": np.True_, "local_steps": np.int32(2)}, RunConfig(overwrite=True, local_steps=2)),
    ({"device": torch.device("cuda", 1)}, RunConfig(device="cuda:1")),
    ({"precision": torch.bfloat16}, RunConfig(precision="bfloat16")),
]


@pytest.mark.parametrize(("given", "meant"), FORMS)
def test_a_form_of_one_meaning_is_that_config(given: dict[str, Any], meant: RunConfig) -> None:
    assert config(**given) == meant
    assert config_to_yaml(config(**given)) == config_to_yaml(meant)  # of the same types
    assert config_from(given, {}) == config_from(None, given) == meant


NETWORKS: list[dict[str, Any]] = [
    {"name": "torus"},
    {"name": "ring", "mixing": "uniform"},
    {"name": "directed-exponential"},
    {"name": "one-peer-exponential"},
    {"name": "random-regular"},
    {"name": "full", "dropout": 0.25, "options": GraphOptions(seed=3)},
]


@pytest.mark.parametrize("given", NETWORKS, ids=lambda given: given["name"])
def test_a_built_topology_is_the_settings_that_build_it(given: dict[str, Any]) -> None:
    network = build_topology(given["name"], 6, **{k: v for k, v in given.items() if k != "name"})
    again = build_network(config(agents=6, topology=network).topology, 6)
    for time in range(5):
        np.testing.assert_array_equal(again.at(time).pi, network.at(time).pi)
        assert again.at(time).graph.edges == network.at(time).graph.edges


def test_settings_come_from_names_files_and_configs_and_names_replace_them(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("rounds: 3\ntopology: {name: full, degree: 4}\n")
    meant = RunConfig(rounds=3, topology=TopologyConfig("full", degree=4))
    names = {"rounds": 3, "topology": "full", "topology.degree": 4}
    for given in (meant, names, file, str(file)):
        assert config_from(given, {}) == meant
        changed = config_from(given, {"pretrain-epochs": 2, "topology": {"seed": 5}})
        assert changed.pretrain_epochs == 2
        assert changed.topology == TopologyConfig("full", degree=4, seed=5)
    assert config_from(None, {}) == RunConfig()


# --- none --------------------------------------------------------------------------------------


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: config(matching=3), "'matching' is 3: must be a MatchingConfig, or a dict with some"),
    (lambda: config(matching=None), "'matching' is None: must be a MatchingConfig"),
    (lambda: config(topology=TopologyConfig), "'topology' is the class TopologyConfig: must be"),
    (lambda: config(topology=7), "'topology' is 7: must be the text of topology.name, a Topo"),
    (lambda: config(matching={"imagse": 3}), "'matching.imagse': did you mean 'images'"),
    (lambda: config(topology=build_topology("ring", 4)), "is of 4 agents, and 'agents' is 5"),
    (
        lambda: config(
            topology=build_topology("ring", 5, mixing="shard-size", shard_sizes=[1, 2, 3, 4, 5])
        ),
        "'topology' is a built 'ring', whose settings cannot be told from it",
    ),
    (
        lambda: dimat.run(3),
        "'config' is 3: must be a RunConfig, settings by name, a preset, or the path",
    ),  # type: ignore[arg-type]
    (lambda: dimat.run(RunConfig), "'config' is the class RunConfig: must be a RunConfig"),  # type: ignore[arg-type]
    (lambda: dimat.run("none.yaml"), "File does not exist: .*none.yaml"),
    (lambda: dimat.run({"rond": 3}), "unknown setting 'rond': did you mean 'rounds'"),
    (lambda: dimat.run({3: 3}), "'name of a setting' is 3: must be text"),  # type: ignore[dict-item]
    (lambda: dimat.run(degree=3), "unknown setting 'degree': did you mean 'topology.degree'"),
    (lambda: dimat.run({"matching": {"imgs": 3}}), "unknown setting 'matching.imgs'"),
    (lambda: dimat.run({"matching": 3, "matching.images": 3}), "'matching' is 3"),
    (lambda: dimat.run(rounds="3"), "'rounds' is '3': must be a whole number"),
    (lambda: dimat.run(data="cifar10"), "'data.source' is 'cifar10', which is unknown"),
    (lambda: dimat.RunConfig(model=torch.nn.Linear(2, 2)), "'model' is of type Linear"),  # type: ignore[arg-type]
    (lambda: dimat.run(TINY, 3), "'progress' is 3: must be True, False, or an observer"),  # type: ignore[arg-type]
    (lambda: dimat.run(TINY, callbacks=3), "'callbacks' has no 'started'; it is 3"),  # type: ignore[arg-type]
    (lambda: dimat.run(TINY, symmetry="h"), "'symmetry' is 'h': must be what"),  # type: ignore[arg-type]
    (lambda: dimat.resume(None), "'folder' is None: must be the path of a run folder"),  # type: ignore[arg-type]
    (lambda: dimat.resume("none"), "none is not a run folder"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_has_no_one_meaning_is_refused_in_words(
    call: Callable[[], Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        call()
    assert not list(tmp_path.iterdir())


# --- progress ----------------------------------------------------------------------------------


def test_a_run_from_python_tells_stderr_what_the_command_line_does_and_is_quiet_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dimat.run(TINY, out=str(tmp_path / "a"))
    out, told = capsys.readouterr()
    assert out == ""
    assert told.startswith("wa     round   1  merged ")
    assert "\x1b" not in told
    for progress in (False, None):
        dimat.run(TINY, progress, out=tmp_path / "b", overwrite=True)
        assert capsys.readouterr() == ("", "")
    dimat.resume(tmp_path / "b", progress=False)
    assert capsys.readouterr() == ("", "")


def test_what_is_printed_meanwhile_stays_on_stdout_where_that_is_a_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = LiveProgress(Console(file=io.StringIO(), force_terminal=True, width=80))
    progress.stage("training", 3)
    print("mine")
    progress.close()
    assert capsys.readouterr().out == "mine\n"


@pytest.mark.parametrize(
    ("given", "meant"), [("none", ()), ("wa", ("wa",)), ("wa, local", ("wa", "local")), ([], ())]
)
def test_a_list_is_given_as_on_the_command_line(given: object, meant: tuple[str, ...]) -> None:
    assert RunConfig(controls=given).controls == meant  # type: ignore[arg-type]
    assert config_from(None, {"controls": given}).controls == meant
