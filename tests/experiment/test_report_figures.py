"""Figures show the numbers that were recorded, and plotly's own schema accepts them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
import pytest
from tests.experiment import report_folders as folders
from tests.experiment.report_folders import AGENTS, GROUPS, make_comparison, make_run

from dimat.tools.records.curve import Measurement
from dimat.tools.records.sources import read_sources
from dimat.tools.report.compared import Compared, Series, compare
from dimat.tools.report.figures.costs import costs
from dimat.tools.report.figures.diagnostics import consensus, units
from dimat.tools.report.figures.figure import Figure, Panel, Trace
from dimat.tools.report.figures.graph import topologies
from dimat.tools.report.figures.scores import by_agent, by_cost, by_round
from dimat.tools.report.figures.shards import shards
from dimat.tools.report.page import sections


def report(*paths: Path) -> Compared:
    return compare(read_sources([str(path) for path in paths]))


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """Two finished seeds of three methods, and half a third of one."""
    comparison = make_comparison(tmp_path / "c", seeds=(0, 1))
    return report(comparison, make_run(tmp_path / "half", "wa", 2, recorded=2))


def figure_of(panel: Panel | None, label: str | None = None, place: int = 0) -> Figure:
    assert panel is not None
    labels = [choice.label for choice in panel.choices]
    return panel.choices[0 if label is None else labels.index(label)].figures[place]


def line_of(figure: Figure, series: Series) -> Trace:
    """The mean line of a series: not its band, nor an unfinished run."""
    [line] = [
        trace
        for trace in figure.traces
        if trace.get("meta") == series.index and looks(trace, "line")["width"] == 2
    ]
    return line


def looks(trace: Trace, name: str) -> Mapping[str, object]:
    found = trace[name]
    assert isinstance(found, dict)
    return found


def numbers(trace: Trace, name: str) -> Sequence[float]:
    found = trace[name]
    assert isinstance(found, list)
    return found


def curves(series: Series) -> list[tuple[Measurement, ...]]:
    return [run.curve.measured for run in series.finished]


def test_plotly_accepts_every_figure_and_json_holds_it(compared: Compared, tmp_path: Path) -> None:
    varying = report(make_run(tmp_path / "peer", topology=folders.one_peer(8)))
    panels = [p for own in (compared, varying) for s in sections(own) for p in s.panels]
    figures = [f for panel in panels for choice in panel.choices for f in choice.figures]
    assert len(figures) > 30
    for figure in figures:
        go.Figure(figure.to_json())  # raises for a property that it does not know
        assert json.loads(json.dumps(figure.to_json(), allow_nan=False))


def test_a_line_is_the_mean_over_finished_seeds_in_percent(compared: Compared) -> None:
    figure = figure_of(by_round(compared))
    for series in compared.series:
        line, (first, second) = line_of(figure, series), curves(series)
        assert numbers(line, "x") == [0, 1, 2, 3, 4]
        expected = [50 * (a.score + b.score) for a, b in zip(first, second, strict=True)]
        assert numbers(line, "y") == pytest.approx(expected)


def test_a_band_reaches_from_the_lowest_seed_to_the_highest(compared: Compared) -> None:
    figure = figure_of(by_round(compared))
    for series in compared.series:
        [area] = [t for t in figure.traces if t.get("meta") == series.index and "fill" in t]
        pairs = list(zip(*curves(series), strict=True))
        high = [100 * max(a.score, b.score) for a, b in pairs]
        low = [100 * min(a.score, b.score) for a, b in pairs]
        assert numbers(area, "y") == pytest.approx([*high, *reversed(low)])
        assert numbers(area, "x") == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]


def test_an_unfinished_run_is_a_line_of_its_own_that_ends_where_it_does(compared: Compared) -> None:
    wa = compared.series[1]
    figure = figure_of(by_round(compared))
    [line] = [t for t in figure.traces if "unfinished" in str(t.get("hovertemplate"))]
    assert line["meta"] == wa.index
    assert numbers(line, "x") == [0, 1, 2]
    [half] = wa.unfinished
    assert numbers(line, "y") == pytest.approx([100 * x.score for x in half.curve.measured])
    panel = by_round(compared)
    assert panel is not None
    assert "unfinished" in panel.caption


def test_a_method_of_which_no_run_is_finished_has_no_mean(tmp_path: Path) -> None:
    halves = [make_run(tmp_path / str(i), "local", i, recorded=1 + i) for i in range(2)]
    found = report(*halves, make_run(tmp_path / "wa", "wa"))
    figure = figure_of(by_round(found))
    local = [t for t in figure.traces if t["meta"] == 0]
    assert [(looks(t, "line")["width"], numbers(t, "x")) for t in local] == [
        (1, [0, 1]),
        (1, [0, 1, 2]),
    ]
    assert all(t["meta"] != 0 for t in figure_of(by_cost(found), "bytes sent").traces)


def test_bytes_are_those_of_the_line_that_the_accuracy_is_of(compared: Compared) -> None:
    figure = figure_of(by_cost(compared), "bytes sent")
    dimat = compared.series[0]
    line, (first, second) = line_of(figure, dimat), curves(dimat)
    assert figure.layout["xaxis"]["type"] == "log"
    sent = [x.sent_bytes for x in first if x.sent_bytes]
    assert numbers(line, "x") == sent == [x.sent_bytes for x in second if x.sent_bytes]
    assert len(sent) == 4  # round 0 sent nothing, and a logarithm has no place for that


def test_a_method_that_sends_nothing_is_a_line_from_end_to_end(compared: Compared) -> None:
    figure = figure_of(by_cost(compared), "bytes sent")
    local = compared.series[2]
    line = line_of(figure, local)
    final = 100 * statistics.fmean(own[-1].score for own in curves(local))
    assert numbers(line, "y") == pytest.approx([final, final])
    others = [x for t in figure.traces if t["meta"] != local.index for x in numbers(t, "x")]
    assert numbers(line, "x") == [min(others), max(others)]


@pytest.mark.parametrize("label", ["seconds computed", "epochs"])
def test_accuracy_is_shown_against_time_and_epochs(compared: Compared, label: str) -> None:
    figure = figure_of(by_cost(compared), label)
    for series in compared.series:
        own = curves(series)[0]
        places = [x.busy_s if label == "seconds computed" else x.epochs for x in own]
        assert numbers(line_of(figure, series), "x") == pytest.approx(places)


def test_what_was_not_recorded_cannot_be_chosen(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "local", rounds=1)
    lines = folders.metrics("local", 0, 1)
    gone = ("busy_s", "epochs", "sent_bytes")
    old = [{k: v for k, v in x.items() if k not in gone} for x in lines]
    folders.write_lines(folder / "metrics.jsonl", old)
    (folder / "shards.json").unlink()
    (folder / "topology.json").unlink()
    found = report(folder)
    assert by_cost(found) is None
    assert by_round(found) is not None
    assert (consensus(found), units(found), shards(found), topologies(found)) == (
        None,
        None,
        None,
        [],
    )


def test_every_agent_has_a_line(compared: Compared) -> None:
    figure = figure_of(by_agent(compared), "wa, seed 1")
    own = compared.series[1].runs[1].curve.measured
    assert len(figure.traces) == AGENTS + 1
    for agent in range(AGENTS):
        expected = [100 * x.scores[agent] for x in own]
        assert numbers(figure.traces[agent], "y") == pytest.approx(expected, abs=1e-4)
    assert numbers(figure.traces[-1], "y") == pytest.approx([100 * x.score for x in own])


def test_agents_of_an_unfinished_run_are_labeled_as_such(compared: Compared) -> None:
    figure = figure_of(by_agent(compared), "wa, seed 2 (unfinished)")
    assert numbers(figure.traces[0], "x") == [0, 1, 2]


def test_consensus_distance_falls_at_a_merge(compared: Compared) -> None:
    figure = figure_of(consensus(compared), "consensus distance")
    line = line_of(figure, compared.series[0])
    assert numbers(line, "x") == [1, 1, 2, 2, 3, 3, 4, 4]
    lines = [folders.diagnostics("dimat", seed, 4) for seed in (0, 1)]
    sides = ("consensus_before", "consensus_after")
    expected = [
        (float(str(a[side])) + float(str(b[side]))) / 2
        for a, b in zip(*lines, strict=True)
        for side in sides
    ]
    assert numbers(line, "y") == pytest.approx(expected)
    assert {t["meta"] for t in figure.traces} == {0, 1}  # local has no diagnostics


def test_units_moved_are_shown_in_percent_by_group_and_round(compared: Compared) -> None:
    [trace] = figure_of(units(compared), "dimat: units moved").traces
    lines = [folders.diagnostics("dimat", seed, 4) for seed in (0, 1)]
    moved = [[x["units_moved"] for x in own] for own in lines]
    assert numbers(trace, "x") == [1, 2, 3, 4]
    assert trace["y"] == [*GROUPS]
    z = trace["z"]
    assert isinstance(z, list)
    for row, group in zip(z, GROUPS, strict=True):
        expected = [50 * (a[group] + b[group]) for a, b in zip(*moved, strict=True)]
        assert row == pytest.approx(expected)


def test_a_round_without_matching_is_a_hole(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    lines = [{"round": 1, "units_moved": {"g": 0.5}}, {"round": 2, "units_moved": {}}]
    folders.write_lines(folder / "diagnostics.jsonl", lines)
    [trace] = figure_of(units(report(folder))).traces
    assert (trace["x"], trace["z"]) == ([1, 2], [[50.0, None]])


def test_the_graph_has_its_edges_and_the_matrix_its_weights(tmp_path: Path) -> None:
    [panel] = topologies(report(make_run(tmp_path / "a")))
    drawing, matrix = panel.choices[0].figures
    lines, middles, nodes = drawing.traces
    places = dict(zip(nodes["text"], zip(nodes["x"], nodes["y"], strict=True), strict=True))
    ends = list(zip(lines["x"], lines["y"], strict=True))
    drawn = {frozenset(ends[i : i + 2]) for i in range(0, len(ends), 3)}
    ring = {frozenset((places[str(i)], places[str((i + 1) % AGENTS)])) for i in range(AGENTS)}
    assert drawn == ring
    assert "0 hears 1: 0.3333<br>1 hears 0: 0.3333" in {
        "<br>".join(sorted(str(words).split("<br>"))) for words in middles["hovertext"]
    }
    z = matrix.traces[0]["z"]
    expected = [[w or None for w in row] for row in folders.ring(AGENTS)["pi"]]
    assert z == expected
    assert drawing.layout["annotations"] == []


def test_an_arrow_points_from_who_is_heard_to_who_hears_at_every_time(tmp_path: Path) -> None:
    [panel] = topologies(report(make_run(tmp_path / "a", topology=folders.one_peer(8))))
    assert panel.ordered
    assert [choice.label for choice in panel.choices] == ["0", "1", "2"]
    for time, choice in enumerate(panel.choices):
        drawing = choice.figures[0]
        nodes = drawing.traces[-1]
        places = list(zip(nodes["x"], nodes["y"], strict=True))
        arrows = drawing.layout["annotations"]
        assert isinstance(arrows, list)
        drawn = {(places.index((a["ax"], a["ay"])), places.index((a["x"], a["y"]))) for a in arrows}
        assert drawn == {((i - 2**time) % 8, i) for i in range(8)}


def test_one_agent_alone_has_no_topology(tmp_path: Path) -> None:
    alone = {"name": "ring", "directed": False, "edges": [], "pi": [[1.0]]}
    assert topologies(report(make_run(tmp_path / "a", topology=alone))) == []


def test_a_graph_in_parts_is_drawn_too(tmp_path: Path) -> None:
    apart = {"name": "x", "edges": [[0, 1]], "pi": [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]}
    [panel] = topologies(report(make_run(tmp_path / "a", topology=apart)))
    nodes = panel.choices[0].figures[0].traces[-1]
    assert all(math.isfinite(x) for x in numbers(nodes, "x"))


def test_shards_are_shown_before_and_after_where_they_differ(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    panel = shards(report(folder))
    before, after = (figure_of(panel, place=i).traces[0] for i in (0, 1))
    assert before["z"] == [[14] * 10] * AGENTS
    expected = [[x or None for x in row] for row in folders.shards(AGENTS)["rounds"]]
    assert after["z"] == expected
    assert before["zmax"] == after["zmax"] == 140  # one scale of colors
    same = {"classes": ["cat", "dog"], "pretrain": [[1, 2]], "rounds": [[1, 2]]}
    (folder / "shards.json").write_text(json.dumps(same))
    panel = shards(report(folder))
    assert panel is not None
    [trace] = panel.choices[0].figures[0].traces
    assert len(panel.choices[0].figures) == 1
    assert trace["x"] == ["cat", "dog"]


def test_bars_are_seconds_and_bytes_by_what_they_were_spent_on(compared: Compared) -> None:
    seconds, sent = (figure_of(costs(compared), place=i) for i in (0, 1))
    bars = {str(t["name"]): numbers(t, "x") for t in seconds.traces}
    assert list(bars) == ["matching", "merging", "training"]
    assert bars["matching"] == pytest.approx([0.3 * 4 * AGENTS, 0, 0])
    assert bars["training"] == pytest.approx([0.8 * 5 * AGENTS] * 3)
    moved = {str(t["name"]): numbers(t, "x") for t in sent.traces}
    each = 4 * AGENTS * 2 * folders.STATE_BYTES
    assert moved == {"merging": [each, each, 0], "training": [0, 0, 0]}
    assert seconds.traces[0]["y"] == ["dimat", "wa", "local"]
