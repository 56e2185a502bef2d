"""What results look like in a shell or a notebook: a line or two, however large they are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

import dimat
from dimat.agent.agent import Exchanged
from dimat.data.dataset import Dataset
from dimat.experiment.config.config import RunConfig
from dimat.experiment.record.results import AgentResult, MethodResult, RunResult
from dimat.matching import Matching, Problem
from dimat.methods import RoundContext, RoundReport, RoundResult
from dimat.state import state_of
from dimat.symmetry.find import analyze
from dimat.symmetry.labels.units import Pin


def results(width: int) -> dict[str, Any]:
    """Everything that a caller gets, of a network and a run of some size."""
    torch.manual_seed(0)
    layers = [nn.Linear(width, width) for _ in range(6)]
    net = nn.Sequential(*(part for own in layers for part in (own, nn.ReLU())), nn.Linear(width, 3))
    inputs, state = torch.randn(8, width), state_of(net)
    merge = dimat.merge(net, [state] * 2, [inputs])
    analysis = analyze(net, (inputs,))
    ring = dimat.build_topology("ring", width)
    permutation = analysis.symmetry.random(torch.Generator().manual_seed(0))
    summary = {f"value_{k}": 0.5 for k in range(width)}
    method = MethodResult("dimat", tuple(AgentResult(k, 0.5, 0.5) for k in range(width)), summary)
    images, labels = torch.zeros(width, 8, 8, 1), torch.zeros(width, dtype=torch.int64)
    return {
        "merge": merge,
        "matching": merge.matchings[1],
        "statistics": dimat.statistics(net, state, [inputs]),
        "symmetry": merge.symmetry,
        "group": merge.symmetry.groups[0],
        "structure": merge.symmetry.structure,
        "permutation": permutation,
        "analysis": analysis,
        "trace": analysis.trace,
        "problem": Problem(analysis, [state] * width, [1 / width] * width, [inputs] * width),
        "merged": RoundResult(
            state,
            permutation,
            report=RoundReport(alignments=dict.fromkeys(range(width), permutation)),
        ),
        "member": RoundContext(
            0, 1, state, ring.at(0), [*state], lambda: analysis, lambda: [inputs]
        ),
        "exchanged": Exchanged(
            1, [*range(width)], (), 0.5, 0.1, 0.1, permutation, analysis.symmetry
        ),
        "topology": ring,
        "varying": dimat.build_topology("one-peer-exponential", width),
        "dropout": dimat.build_topology("full", width, dropout=0.1),
        "run": RunResult(RunConfig(), Path("runs/a"), method, (method,) * 3),
        "data": Dataset("d", images, labels, images, labels),
    }


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return results(64)


def test_every_result_is_shown_in_a_line_or_two_however_large_it_is(large: dict[str, Any]) -> None:
    small = results(4)
    for name, value in large.items():
        shown = repr(value)
        assert len(shown) < 500, (name, shown)
        assert "\n" not in shown
        assert len(shown) < len(repr(small[name])) + 60, name


def test_it_says_how_much_there_is_and_how_well_it_fits(large: dict[str, Any]) -> None:
    symmetry, merge = large["symmetry"], large["merge"]
    assert symmetry.pinned == ()
    assert repr(symmetry) == "Symmetry(6 groups, 384 units)"
    pinned = replace(symmetry, pinned=(Pin("aten.sort", "sort", "ranks"),))
    assert repr(pinned) == "Symmetry(6 groups, 384 units, 1 pin)"
    assert repr(symmetry.identity()) == "Permutation(6 groups, 384 units, 0 % moved)"
    assert repr(large["topology"]) == "Topology('ring', 64 agents, 64 edges)"
    assert "<14 tensors, 25,155 numbers>" in repr(merge)
    assert "<2 Matching>" in repr(merge)
    still = symmetry.identity()
    fit = Matching(still, {"0": np.array([1.0, 0.5]), "2": np.array([0.75])}, {"0": np.zeros(2)})
    assert repr(fit) == f"Matching({still!r}, similarity 0.75, margin 0)"
    assert repr(Matching(still)) == f"Matching({still!r})"
    assert "MethodResult(method='dimat', agents=<64 AgentResult>" in repr(large["run"].main)


def run_of(agents: int, task: str = "classification") -> RunResult:
    """The results of a method that merges and of a control that does not."""
    own = tuple(AgentResult(k, 0.25 + 0.5 * (k % 2), 0.5) for k in range(agents))
    alone = tuple(AgentResult(k, 0.25, None) for k in range(agents))
    both = MethodResult("dimat", own, {}), MethodResult("local", alone, {})
    config = RunConfig(agents=agents, rounds=1, task=task)
    return RunResult(config, Path("runs/<a>"), both[0], both[1:])


def test_results_of_a_run_are_means_in_a_line_and_a_table_in_print_and_notebook() -> None:
    found = run_of(2)
    assert repr(found) == (
        "RunResult(dimat trained 50.0, dimat merged 50.0, local trained 25.0: mean test accuracy "
        "in %; folder 'runs/<a>')"
    )
    title, *rows, folder = str(found).splitlines()
    assert title.startswith("Test accuracy in % after 1 round · 2 agents, ring, ")
    assert [row.split() for row in rows] == [
        ["dimat", "dimat", "local"],
        ["agent", "trained", "merged", "trained"],
        ["0", "25.0", "50.0", "25.0"],
        ["1", "75.0", "50.0", "25.0"],
        ["mean", "50.0", "50.0", "25.0"],
    ]
    assert len({len(row) for row in rows}) == 1
    assert folder == "run folder: runs/<a>"
    html = found._repr_html_()
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", html)
    assert cells[4:8] == ["0", "25.0", "50.0", "25.0"]
    assert cells[-4:] == ["mean", "50.0", "50.0", "25.0"]
    assert html.endswith("<p>run folder: <code>runs/&lt;a&gt;</code></p>")
    ElementTree.fromstring(f"<all>{html.replace('<br>', ' ')}</all>")
    assert "regression" not in str(run_of(2, "regression"))
    assert "mean test r2" in repr(run_of(2, "regression"))


def test_of_many_agents_the_table_has_the_first_and_the_mean_of_all() -> None:
    rows = str(run_of(1001)).splitlines()
    assert len(rows) < 30
    assert rows[-3].split() == ["…"] * 4
    assert rows[-2].split() == ["mean", "50.0", "50.0", "25.0"]
