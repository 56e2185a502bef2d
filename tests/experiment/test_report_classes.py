"""Recall, gains and confusion in a report: means by hand, and what too many classes come to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.experiment import report_folders as folders
from tests.experiment.report_folders import AGENTS, CLASSES, make_comparison, make_run, write_lines

from dimat.errors import RecordError
from dimat.tools.records.read import read_run
from dimat.tools.records.sources import read_sources
from dimat.tools.report.compared import Compared, compare
from dimat.tools.report.differences import side_by_side
from dimat.tools.report.figures.classes import class_differences, gains, recalls
from dimat.tools.report.figures.confusion import confusions, worst_pairs
from dimat.tools.report.figures.figure import Panel
from dimat.tools.report.page import page, sections

Recalls = Mapping[tuple[int, str, int], Sequence[float | None]]


def report(*paths: Path) -> Compared:
    return compare(read_sources([str(path) for path in paths]))


def cells(panel: Panel | None, choice: int = 0) -> list[list[float | None]]:
    assert panel is not None
    [figure] = panel.choices[choice].figures
    z = figure.traces[0]["z"]
    assert isinstance(z, list)
    return z


def recorded(folder: Path) -> Recalls:
    found = [json.loads(line) for line in (folder / "classes.jsonl").read_text().splitlines()]
    return {(x["round"], x["phase"], x["agent"]): x["recall"] for x in found}


def test_recall_is_the_mean_over_agents_and_seeds_after_the_first_phase_of_a_round(
    tmp_path: Path,
) -> None:
    found = report(make_comparison(tmp_path, methods=("dimat", "local"), seeds=(0, 1)))
    panel = recalls(found)
    assert panel is not None
    assert [choice.label for choice in panel.choices] == ["dimat", "local"]
    for choice, series in enumerate(found.series):
        z, own = cells(panel, choice), [recorded(Path(run.folder)) for run in series.runs]
        assert (len(z), len(z[0])) == (CLASSES, 5)
        phase = "merged" if series.method == "dimat" else "trained"
        for number, name in ((0, "trained"), (3, phase)):
            each = [own[seed][number, name, agent][2] for seed in (0, 1) for agent in range(AGENTS)]
            assert z[2][number] == pytest.approx(100 * statistics.fmean(each), abs=0.051)  # type: ignore[type-var]
        assert set(z[CLASSES - 1]) == {None}


def test_a_gain_is_recall_after_the_last_merge_less_that_after_the_training_before(
    tmp_path: Path,
) -> None:
    folder = make_run(tmp_path / "a")
    z, own = cells(gains(report(folder))), recorded(folder)
    for agent in range(AGENTS):
        after, before = own[4, "merged", agent], own[3, "trained", agent]
        pairs = list(zip(after, before, strict=True))[:-1]
        assert z[agent][:-1] == pytest.approx([100 * (x - y) for x, y in pairs], abs=0.051)  # type: ignore[operator]
        assert z[agent][-1] is None


def test_where_the_round_before_was_not_measured_there_is_no_gain(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    lines = folders.classes("dimat", 0, folders.metrics("dimat", 0, 4))
    write_lines(folder / "classes.jsonl", [x for x in lines if x["round"] in (0, 2, 4)])
    assert gains(report(folder)) is None
    assert recalls(report(folder)) is not None
    assert gains(report(make_run(tmp_path / "local", "local"))) is None


def test_confusion_is_that_of_the_merged_networks_of_all_seeds(tmp_path: Path) -> None:
    found = report(make_comparison(tmp_path, methods=("dimat", "local"), seeds=(0, 1)))
    panel = confusions(found)
    assert panel is not None
    labels = [choice.label for choice in panel.choices]
    assert labels == ["dimat, after merging", "local, after training"]
    both = [run.confusion["merged"] for run in found.series[0].runs]
    row = [a + b for a, b in zip(both[0][3], both[1][3], strict=True)]
    assert cells(panel)[3] == pytest.approx([100 * x / sum(row) for x in row], abs=0.051)
    assert set(cells(panel)[CLASSES - 1]) == {None}
    assert worst_pairs(found) == []


def test_of_two_series_the_difference_of_every_class_is_that_of_their_recall_after_one_phase(
    tmp_path: Path,
) -> None:
    found = report(make_comparison(tmp_path, methods=("dimat", "local"), seeds=(0, 1)))
    panel = class_differences(found)
    assert panel is not None
    assert [choice.label for choice in panel.choices] == ["after training"]  # local never merges
    [bars] = panel.choices[0].figures[0].traces
    assert bars["y"] == [str(i) for i in range(CLASSES - 1)]  # the last has no test images
    means = []
    for series in found.series:
        own = [recorded(Path(run.folder)) for run in series.runs]
        each = [seed[4, "trained", agent][5] for seed in own for agent in range(AGENTS)]
        means.append(statistics.fmean(x for x in each if x is not None))
    values = bars["x"]
    assert isinstance(values, list)
    assert values[5] == pytest.approx(100 * (means[1] - means[0]), abs=0.051)


def test_three_series_are_not_set_side_by_side(tmp_path: Path) -> None:
    found = report(make_comparison(tmp_path))
    assert (class_differences(found), side_by_side(found)) == (None, [])


def test_of_two_runs_what_differs_and_their_numbers_stand_side_by_side(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    other = {"topology": {"name": "full"}}
    found = report(first, make_run(tmp_path / "b", "local", 1, settings=other))
    rows = {row.name: (row.first, row.second, row.difference) for row in side_by_side(found)}
    assert rows["method"] == ("dimat", "local", "")
    assert rows["topology.name"] == ("ring", "full", "")
    a, b = (series.runs[0] for series in found.series)
    assert a.score is not None
    assert b.score is not None
    said = f"{100 * a.score:.1f}", f"{100 * b.score:.1f}", f"{100 * (b.score - a.score):+.1f}"
    assert rows["test accuracy (%)"] == said
    assert rows["after merging (%)"][1:] == ("–", "–")
    assert rows["bytes sent"] == ("1.6 MB", "0 B", "–")
    assert rows["busy"][2].startswith("× ")
    assert "Side by side" in page(found)
    for name in ("classes.jsonl", "confusion.json"):
        (first / name).unlink()
    told = page(report(first, tmp_path / "b"))
    assert "Side by side" in told
    assert "Not recorded" not in told.partition("</h2>")[2].partition("Accuracy</h2>")[0]


def test_of_many_classes_the_worst_are_shown(tmp_path: Path) -> None:
    many, folder = 150, make_run(tmp_path / "a")
    lines = folders.classes("dimat", 0, folders.metrics("dimat", 0, 4), many)
    for line in lines:
        line["recall"] = [0.01 * abs(i - 20) for i in range(many)]
    write_lines(folder / "classes.jsonl", lines)
    counts = [[90 * (i == j) + (j == 0) for j in range(many)] for i in range(many)]
    counts[7] = [0, 30, *[0] * (many - 2)]
    text = json.dumps({"round": 4, "merged": counts})
    (folder / "confusion.json").write_text(text)
    found = report(folder)
    assert len(cells(recalls(found))) == 100
    assert confusions(found) is None
    pairs = worst_pairs(found)
    assert [(x.true, x.taken, x.share) for x in pairs[:1]] == [("7", "1", 1.0)]
    assert len(pairs) == 10
    told = page(found)
    assert "Of 150 classes, the 100 with the lowest recall at the end." in told
    assert 'data-label="Share (%)">100.0</td>' in told


def test_a_run_without_records_of_classes_has_no_section_of_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    assert "classes" in [section.name for section in sections(report(folder))]
    for name in ("classes.jsonl", "confusion.json"):
        (folder / name).unlink()
    assert "classes" not in [section.name for section in sections(report(folder))]
    assert 'href="#classes"' not in page(report(folder))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classes.jsonl", '{"round": 0, "agent": 0, "phase": "x"}\n', "line 1: 'phase' is 'x'"),
        (
            "classes.jsonl",
            '{"round": 0, "agent": 0, "phase": "merged", "recall": ["a"]}\n',
            "line 1: 'recall' is 'a': must be a number",
        ),
        (
            "classes.jsonl",
            '{"round": 0, "agent": 0, "phase": "merged", "recall": [1, null]}\n'
            '{"round": 0, "agent": 1, "phase": "merged", "recall": [1]}\n',
            "line 2: 'recall' has not as many classes as the first line",
        ),
        ("confusion.json", '{"round": 1, "merged": [[1, 2]]}', "'merged' is not square"),
        ("confusion.json", '{"round": 1, "trained": 3}', "'trained' is 3: must be a list of lists"),
    ],
)
def test_a_broken_record_of_classes_is_named(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    folder = make_run(tmp_path / "a")
    (folder / file).write_text(text)
    with pytest.raises(RecordError, match=f"{file}.*{message}"):
        read_run(folder)
