"""Topologies as settings of a run and as they are printed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimat.cli import main
from dimat.errors import ConfigError
from dimat.experiment.config.config import RunConfig, TopologyConfig
from dimat.experiment.config.validate import validate
from dimat.experiment.network import build_network
from dimat.topology import MIXING, TOPOLOGIES, Dropout, GraphOptions, build_topology


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degree": 0}, "'topology.degree' is 0: must be >= 1"),
        ({"probability": 0}, r"'topology.probability' is 0: must be in \(0, 1\]"),
        ({"probability": 1.5}, r"must be in \(0, 1\]"),
        ({"dropout": 1.0}, r"'topology.dropout' is 1.0: must be in \[0, 1\)"),
        ({"dropout": float("nan")}, r"must be in \[0, 1\)"),
        ({"seed": -1}, "'topology.seed' is -1: must be >= 0"),
        ({"seed": 2**63}, r"must be < 2\^63"),
        ({"mixing": "pus"}, "did you mean 'push'?"),
        ({"directed": True}, "must be false unless topology.name is 'edges'"),
        ({"name": "directed-rng"}, "did you mean 'directed-ring'?"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig(topology=TopologyConfig(**settings)))


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name != "edges"])
def test_every_name_is_a_setting(name: str) -> None:
    validate(RunConfig(topology=TopologyConfig(name, dropout=0.5, seed=2**62)))


def test_settings_reach_the_graph(tmp_path: Path) -> None:
    regular = build_network(TopologyConfig("random-regular", degree=4, seed=7), 9)
    expected = build_topology("random-regular", 9, options=GraphOptions(degree=4, seed=7))
    np.testing.assert_array_equal(regular.at(0).pi, expected.at(0).pi)
    assert build_network(TopologyConfig("erdos-renyi", probability=1), 5).contraction < 1e-12
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 0\n")
    assert build_network(TopologyConfig("edges", str(path), directed=True), 2).directed
    weighted = build_network(TopologyConfig(mixing="shard-size"), 3, [1, 2, 3])
    assert not weighted.doubly_stochastic
    lossy = build_network(TopologyConfig(dropout=0.25, seed=3), 5)
    assert isinstance(lossy, Dropout)
    assert (lossy.probability, lossy.seed) == (0.25, 3)


def test_every_name_and_setting_is_in_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text()
    options = [f"topology.{field.name}" for field in fields(TopologyConfig)]
    names = [*TOPOLOGIES, *MIXING, "auto", *options]
    assert [name for name in names if f"`{name}`" not in page] == []


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> list[list[str]]:
    assert main(["topology", *command]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return [line.split() for line in out.splitlines()]


def test_of_a_varying_network_the_first_times_and_the_contraction_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys, "one-peer-exponential", "--agents", "16", "--model", "mlp")
    assert ["period", "4", "times"] in lines
    assert ["contraction", "0.0000"] in lines
    assert ["edges", "64,", "directed"] in lines
    assert ["0", "15", "14", "12"] in lines  # whom agent 0 hears
    assert [line for line in lines if line[:1] == ["Π"]] == [
        ["Π", "at", "time", str(time)] for time in range(3)
    ]


def test_bytes_a_time_are_those_of_the_edges_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def sent(*command: str) -> float:
        rows = printed(capsys, *command, "--model", "mlp", "--agents", "8")
        row = next(row for row in rows if row[:1] == ["bytes"])
        return float(row[3]) * {"kB": 1, "MB": 1000}[row[4].strip(",")]

    ring = sent("ring")
    assert sent("directed-ring") == pytest.approx(ring / 2, rel=0.01)
    assert sent("alternating-matchings") == pytest.approx(ring / 2, rel=0.01)
    assert sent("ring", "--dropout", "0.5") == pytest.approx(ring / 2, rel=0.1)


def test_a_directed_graph_is_printed_with_who_hears_whom(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 2\n2 0\n0 2\n")
    lines = printed(capsys, "edges", "--path", str(path), "--directed", "--agents", "3")
    assert lines[0][:2] == ["edges,", "push;"]
    assert ["edges", "4,", "directed"] in lines
    assert lines[[row[:1] for row in lines].index(["agent"]) + 2][:4] == ["0", "2", "1,", "2"]
    assert any(row[:2] == ["keeps", "the"] for row in lines)
