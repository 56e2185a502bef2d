"""The comparisons under configs/: written from one table, and every run of them is valid."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from dimat.experiment.config.parse import load_config
from dimat.tools.compare import read
from dimat.tools.compare.run import check
from dimat.tools.compare.spec import expand
from dimat.topology import build_topology

CONFIGS = Path(__file__).parents[2] / "configs"
HEADLINE = CONFIGS / "paper" / "cifar100-resnet20x8-ring5-iid.yaml"  # for dimat run
FOUND = sorted(path for name in ("small", "paper") for path in (CONFIGS / name).glob("*.yaml"))
FILES = [path for path in FOUND if path != HEADLINE]
PAPER = [path for path in FILES if path.parent.name == "paper"]
CLASSES = {"digits": 10, "npz:cifar10.npz": 10, "npz:cifar100.npz": 100}
CLASSES["npz:tiny-imagenet.npz"] = 200
read_spec = cache(read.read_spec)


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configs", CONFIGS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_papers_files_are_what_the_table_says(make: ModuleType) -> None:
    found = {path.name: path.read_text() for path in (CONFIGS / "paper").glob("*.yaml")}
    assert found == make.files(), "run configs/make.py"
    assert len(found) == 1 + len(make.EXPERIMENTS)


def test_the_headline_is_a_cell_of_the_papers_experiments() -> None:
    headline = load_config(HEADLINE)
    (cell,) = [
        cell.config
        for cell in expand(read_spec(HEADLINE.with_name("cifar100-resnet20-iid.yaml")))
        if cell.seed == 0 and (cell.config.agents, cell.config.topology.name) == (5, "ring")
    ]
    same = replace(headline, precision="float32", eval_every=1, controls=cell.controls)
    assert same == cell


# Those of the paper come from one table.
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path in PAPER[2:]), id=path.stem)
        for path in FILES
    ],
)
def test_every_run_of_a_file_is_valid(path: Path) -> None:
    spec = read_spec(path)
    cells = expand(spec)
    check(cells)
    assert f"dimat compare {path.relative_to(CONFIGS.parent)}" in path.read_text()
    for cell in cells:
        config = cell.config
        assert config.agents <= CLASSES[config.data.source] or config.data.split == "iid"
        assert "cdmsgd" not in spec.methods or config.optimizer.name == "msgd"
    for config in {(c.config.topology, c.config.agents): c.config for c in cells}.values():
        topology = config.topology
        network = build_topology(topology.name, config.agents, mixing=topology.mixing)
        assert network.doubly_stochastic


def test_there_are_files_for_every_data_set_model_and_split_of_the_paper() -> None:
    specs = [read_spec(path) for path in FILES if path.parent.name == "paper"]
    found = {
        (spec.base.data.source, spec.base.model, spec.base.data.split, agents, topology)
        for spec in specs
        for agents in spec.grid["agents"]
        for topology in spec.grid["topology.name"]
    }
    assert len(found) == 2 * (9 * 9 - 3 * 2)  # models x (data, split x agents, graph; see above)
    assert all(spec.base.rounds == spec.base.pretrain_epochs == 100 for spec in specs)
    assert all(spec.base.matching.gauge == "pairwise" for spec in specs)
