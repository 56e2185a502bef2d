"""Curve and busy time have one definition: whoever reads a run folder finds the same."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from tests.experiment.report_folders import AGENTS, make_run, metrics, write_lines

from dimat import RunConfig
from dimat.tools.compare.rows import numbers_of
from dimat.tools.compare.spec import Cell
from dimat.tools.compare.trial import read_cell
from dimat.tools.records.curve import busy_s
from dimat.tools.records.sources import read_sources
from dimat.tools.report.compared import compare
from dimat.tools.report.totals import total


def test_a_phase_lasts_as_long_as_its_slowest_agent() -> None:
    assert busy_s([{0: 2.0, 1: 3.0}, {0: 6.0, 1: 4.0}, {0: 6.5, 1: 8.0}]) == [3.0, 7.0, 11.0]
    assert busy_s([]) == []


def test_alone_an_agent_is_busy_for_as_long_as_it_says() -> None:
    assert busy_s([{0: 2.0}, {0: 2.5}, {0: 7.0}]) == [2.0, 2.5, 7.0]


def test_what_one_agent_did_not_record_is_not_known_from_then_on() -> None:
    assert busy_s([{0: 1.0, 1: 1.0}, {0: 2.0, 1: None}, {0: 3.0, 1: 3.0}]) == [1.0, None, None]


@pytest.mark.parametrize("method", ["dimat", "cdsgd"])
def test_compare_and_report_call_the_same_number_busy(tmp_path: Path, method: str) -> None:
    folder, rng = make_run(tmp_path / "run", method), random.Random(0)
    lines, now = metrics(method, 0, 4), 0.0
    for line in lines:  # who is slowest changes
        now += rng.uniform(0.1, 2.0)
        line["busy_s"] = now
    write_lines(folder / "metrics.jsonl", [*lines[-3:], *lines])  # a resumed run writes some twice
    [series] = compare(read_sources([str(folder)])).series
    [cell] = read_cell(folder, Cell("seed=0", {}, 0, RunConfig(method=method, controls=())))
    assert total(series).busy_s == numbers_of(cell)["busy_s"]
    by_phase = np.array([line["busy_s"] for line in lines], float).reshape(-1, AGENTS)
    expected = np.diff(by_phase, axis=0, prepend=0).max(1).sum()
    assert total(series).busy_s == pytest.approx(expected)


@pytest.mark.parametrize("method", ["dimat", "cdsgd"])
def test_compare_and_report_read_the_same_curve(tmp_path: Path, method: str) -> None:
    folder = make_run(tmp_path / "run", method)
    [series] = compare(read_sources([str(folder)])).series
    [cell] = read_cell(folder, Cell("seed=0", {}, 0, RunConfig(method=method, controls=())))
    assert [run.curve for run in series.runs] == [cell.run.curve]
    assert total(series).sent_bytes == numbers_of(cell)["sent_bytes"]
