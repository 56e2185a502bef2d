"""Runs side by side: series, bands, totals, and the table of all numbers."""

from __future__ import annotations

import csv
import io
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path

import pytest
from scipy import stats
from tests.experiment.report_folders import (
    AGENTS,
    STATE_BYTES,
    make_comparison,
    make_run,
    one_peer,
    write_lines,
)

from dimat.tools.records.curve import Line
from dimat.tools.records.run import Run
from dimat.tools.records.sources import read_sources
from dimat.tools.report.bands import band
from dimat.tools.report.compared import Compared, compare
from dimat.tools.report.differences import Versus, differences
from dimat.tools.report.groups import distinct
from dimat.tools.report.numbers import numbers
from dimat.tools.report.style import COLORS, MARKERS, style_of
from dimat.tools.report.totals import bytes_sent, seconds, total
from dimat.tools.statistics import Difference, Spread


def report(*folders: Path) -> Compared:
    return compare(read_sources([str(folder) for folder in folders]))


def run_of(points: Mapping[int, tuple[float, float]]) -> Run:
    """A run whose track is what it was made from."""
    return Run("s", "f", "m", 0, {"points": points})


def track(run: Run) -> Mapping[int, tuple[float, float]]:
    points = run.settings["points"]
    assert isinstance(points, dict)
    return points


def test_a_band_is_the_mean_and_the_ends_of_its_runs() -> None:
    runs = [run_of({0: (0, 1), 1: (10, 5)}), run_of({0: (0, 3), 1: (20, 4)})]
    found = band(runs, track)
    assert (found.rounds, found.n) == ((0, 1), 2)
    assert (found.x, found.mean) == ((0, 15), (2, 4.5))
    assert (found.low, found.high) == ((1, 4), (3, 5))


def test_a_band_ends_where_its_shortest_run_does() -> None:
    runs = [run_of({0: (0, 1), 1: (1, 5), 2: (2, 9)}), run_of({0: (0, 3)})]
    assert band(runs, track).rounds == (0,)
    assert band([], track).rounds == ()


def test_seeds_of_one_method_are_one_series(tmp_path: Path) -> None:
    found = report(make_comparison(tmp_path / "c", seeds=(2, 0, 1)))
    assert [(x.label, [run.seed for run in x.runs]) for x in found.series] == [
        (method, [0, 1, 2]) for method in ("dimat", "wa", "local")
    ]
    assert found.differing == ()


def test_a_method_with_other_settings_is_another_series(tmp_path: Path) -> None:
    grid = {"topology.name": ["ring", "full"], "optimizer.lr": [0.001, 0.01]}
    found = report(make_comparison(tmp_path / "c", grid=grid, seeds=(0,), methods=("dimat",)))
    assert found.differing == ("topology.name", "optimizer.lr")
    assert [x.label for x in found.series] == [
        f"dimat · topology={name}, lr={lr}" for name in ("ring", "full") for lr in (0.001, 0.01)
    ]
    assert [dict(x.point) for x in found.series][1] == {
        "topology.name": "ring",
        "optimizer.lr": 0.01,
    }


def test_runs_and_comparisons_go_together(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path / "c", seeds=(0, 1))
    run = make_run(tmp_path / "r", "cdsgd", 0, settings={"controls": ["sgp"]})
    found = report(comparison, run)
    assert found.methods == ("dimat", "wa", "local", "cdsgd", "sgp")
    assert [len(x.runs) for x in found.series] == [2, 2, 2, 1, 1]
    assert [x.kind for x in found.sources] == ["comparison", "run"]


def test_the_same_run_counts_once_and_that_is_said(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    found = report(first, second)
    assert [len(x.runs) for x in found.series] == [1]
    assert found.notes == (f"{second} was left out: it is the same as {first}.",)


def test_of_the_same_run_the_finished_one_counts(tmp_path: Path) -> None:
    half, whole = make_run(tmp_path / "a", recorded=2), make_run(tmp_path / "b")
    [series] = report(half, whole).series
    assert [run.folder for run in series.runs] == [str(whole)]


def test_runs_of_one_seed_with_other_numbers_are_told_apart_by_folder(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    make_run(tmp_path / "other", "dimat", 9)
    shutil.copy(tmp_path / "other" / "metrics.jsonl", second / "metrics.jsonl")
    found = report(first, second)
    assert [x.label for x in found.series] == [
        f"dimat · folder={first}",
        f"dimat · folder={second}",
    ]
    assert found.notes == ()


def test_a_total_is_of_the_finished_runs(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / str(seed), "wa", seed) for seed in range(2)]
    half = make_run(tmp_path / "half", "wa", 2, recorded=1)
    [series] = report(*folders, half).series
    found = total(series)
    finals = [run.curve.measured[-1] for run in series.finished]
    assert (found.n, found.of) == (2, 3)
    assert found.mean == pytest.approx(statistics.fmean(x.score for x in finals))
    assert found.sd == pytest.approx(statistics.stdev(x.score for x in finals))
    when = {"began": (0, "trained"), "merged": (finals[0].round, "merged")}
    for name, at in (when | {"trained": (finals[0].round, "trained")}).items():
        own = [
            statistics.fmean(x.score for x in run.lines if (x.round, x.phase) == at)
            for run in series.finished
        ]
        assert getattr(found, name) == pytest.approx(statistics.fmean(own)), name
    worst = statistics.fmean(min(x.scores.values()) for x in finals)
    assert found.worst == pytest.approx(worst)
    assert found.sent_bytes == 4 * AGENTS * 2 * STATE_BYTES
    assert found.busy_s == pytest.approx(0.8 * 44 + 0.3 * 4)


def test_there_is_no_spread_of_one_and_no_mean_of_none(tmp_path: Path) -> None:
    one = report(make_run(tmp_path / "a", "wa")).series[0]
    none = report(make_run(tmp_path / "b", "wa", 1, recorded=2)).series[0]
    assert total(one).mean is not None
    assert total(one).sd is None
    assert (total(none).mean, total(none).sd, total(none).sent_bytes) == (None, None, None)
    assert (total(none).n, total(none).of) == (0, 1)


def test_the_summary_has_the_last_word_on_the_final_accuracy() -> None:
    lines = (Line(0, 0, "trained", 0.25),)
    assert Run("", "", "m", 0, {}, summary={}, lines=lines).score == 0.25
    known = {"test_accuracy_mean": 0.5}
    assert Run("", "", "m", 0, {}, summary=known, lines=lines).score == 0.5


def test_seconds_are_summed_over_agents_and_rounds(tmp_path: Path) -> None:
    [run] = report(make_run(tmp_path / "a", "dimat", rounds=4)).runs
    found = seconds([run])
    assert found["match_s"] == pytest.approx(0.3 * 4 * AGENTS)
    assert found["merge_s"] == pytest.approx(0.1 * 4 * AGENTS)
    assert found["train_s"] == pytest.approx(0.8 * 5 * AGENTS)
    assert seconds([]) == {"match_s": None, "merge_s": None, "train_s": None}


def test_what_a_resumed_run_wrote_twice_is_spent_once(tmp_path: Path) -> None:
    once, twice = make_run(tmp_path / "a", "dimat"), make_run(tmp_path / "b", "dimat")
    lines = (once / "metrics.jsonl").read_text().splitlines(keepends=True)
    (twice / "metrics.jsonl").write_text("".join([*lines[-7:], *lines]))
    [first], [second] = (report(folder).runs for folder in (once, twice))
    assert seconds([first]) == seconds([second])
    assert bytes_sent([first]) == bytes_sent([second])


def test_bytes_are_of_the_phase_that_they_were_sent_in() -> None:
    steps = [(0, "trained", 0), (1, "merged", 70), (1, "trained", 100), (2, "merged", 150)]
    lines = tuple(Line(r, a, phase, 0.5, sent_bytes=x) for r, phase, x in steps for a in (0, 1))
    run = Run("", "", "m", 0, {}, lines=lines)
    assert bytes_sent([run]) == (2 * (70 + 50), 2 * 30)
    assert bytes_sent([Run("", "", "m", 0, {}, lines=(Line(0, 0, "trained"),))]) == (None, None)


def test_every_series_looks_different_and_the_same_method_has_one_color(tmp_path: Path) -> None:
    grid = {"topology.name": ["ring", "full"]}
    methods = ("dimat", "wa", "local", "cdsgd", "sgp", "cga", "swarm")
    found = report(
        make_comparison(tmp_path / "c", grid=grid, seeds=(0,), methods=methods, rounds=1)
    )
    styles = [style_of(series, found) for series in found.series]
    assert len(set(styles)) == len(styles) == 14
    assert [s.color for s in styles[:7]] == [s.color for s in styles[7:]] == [*COLORS[:7]]
    assert {s.marker for s in styles} == {*MARKERS}
    assert len({s.dash for s in styles[:7]}) == 1  # dashes tell the graph


def test_what_runs_share_is_shown_once_with_whose_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "dimat", 0)
    make_run(tmp_path / "b", "dimat", 1, topology=one_peer(4))
    make_run(tmp_path / "c", "wa", 0)
    found = report(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    graphs = distinct(found, lambda run: run.graph)
    assert [(label, graph.name) for label, graph in graphs] == [
        ("seed 0", "ring"),
        ("dimat, seed 1", "one-peer-exponential"),
    ]
    assert [label for label, _ in distinct(found, lambda run: run.shards)] == ["all runs"]


def test_the_csv_has_every_round_of_every_run(tmp_path: Path) -> None:
    grid = {"topology.name": ["ring", "full"]}
    found = report(make_comparison(tmp_path / "c", grid=grid, seeds=(0, 1), rounds=2))
    rows = list(csv.DictReader(io.StringIO(numbers(found))))
    assert len(rows) == 2 * 2 * 3 * 3
    by_key = {(x["method"], x["topology.name"], x["seed"], x["round"]): x for x in rows}
    for series in found.series:
        for run in series.runs:
            for measured in run.curve.measured:
                name = str(series.point["topology.name"])
                row = by_key[series.method, name, str(run.seed), str(measured.round)]
                assert float(row["test_accuracy_mean"]) == measured.score
                assert float(row["sent_bytes"]) == measured.sent_bytes
                assert row["finished"] == "true"


def test_a_number_that_was_not_recorded_is_empty_in_the_csv(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    write_lines(
        folder / "metrics.jsonl",
        [{"round": 0, "agent": 0, "phase": "trained", "test_accuracy": 0.5}],
    )
    [row] = csv.DictReader(io.StringIO(numbers(report(folder))))
    assert (row["test_accuracy_mean"], row["epochs"], row["busy_s"]) == ("0.5", "", "")


def test_differences_are_paired_by_seed_within_a_grid_point(tmp_path: Path) -> None:
    grid = {"topology.name": ["ring", "full"]}
    folder = make_comparison(tmp_path / "c", methods=("dimat", "wa", "local"), grid=grid)
    (folder / "cells/topology.name=ring,seed=1/controls/wa/summary.json").unlink()
    found = {(x.series.label, x.after): x for x in differences(report(folder))}
    assert len(found) == 10  # two phases of two methods, one of the other, at two points
    wa = found["wa · topology=ring", "training"]
    both = (wa.series, wa.first)
    ours, theirs = ([x.curve.after("trained") for x in series.finished] for series in both)
    assert wa.first.label == "dimat · topology=ring"
    assert wa.difference is not None
    assert (wa.difference.n, wa.score.n) == (2, 2)
    oracle = stats.ttest_rel(ours, [theirs[0], theirs[2]])
    interval = oracle.confidence_interval(0.95)
    assert (wa.difference.low, wa.difference.high) == pytest.approx((interval.low, interval.high))
    assert wa.sure == (oracle.pvalue < 0.05)
    assert found["wa · topology=full", "merging"].first.label == "dimat · topology=full"
    assert found["dimat · topology=ring", "merging"].difference is None


def test_without_two_seeds_of_two_methods_there_are_no_differences(tmp_path: Path) -> None:
    assert differences(report(make_comparison(tmp_path / "one", seeds=(0,)))) == []
    assert differences(report(make_comparison(tmp_path / "alone", methods=("wa",)))) == []
    grid = {"topology.name": ["ring", "full"]}
    assert differences(report(make_comparison(tmp_path / "g", methods=("wa",), grid=grid))) == []


def test_an_interval_that_holds_0_is_not_sure(tmp_path: Path) -> None:
    [series] = report(make_run(tmp_path / "a")).series

    def versus(low: float, high: float) -> Versus:
        one = Difference(2, (low + high) / 2, low, high)
        return Versus(series, series, "training", Spread(2, 0.5, 0.1), one)

    ends = [(-0.1, 0.1), (0.0, 0.1), (0.01, 0.1), (-0.1, -0.01)]
    assert [versus(*each).sure for each in ends] == [False, False, True, True]
