"""Runs and comparisons are read as they are; what is broken is named, what is missing is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.experiment.report_folders import (
    AGENTS,
    diagnostics,
    make_comparison,
    make_run,
    metrics,
    one_peer,
    ring,
    shards,
    write_lines,
)

from dimat.errors import RecordError
from dimat.tools.records.run import Diagnosis
from dimat.tools.records.sources import read_source, read_sources


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    [run] = read_source(str(make_run(tmp_path / "a", "dimat", 3))).runs
    assert (run.method, run.seed, run.finished, run.begun, run.notes) == (
        "dimat",
        3,
        True,
        True,
        (),
    )
    written = metrics("dimat", 3, 4)
    assert len(run.lines) == len(written)
    for line, own in zip(run.lines, written, strict=True):
        assert all(
            getattr(line, name) == own[name] for name in ("round", "agent", "phase", "busy_s")
        )
        assert line.score == own["test_accuracy"]
    assert run.environment["torch"] == "2.13.0"
    assert run.graph is not None
    assert [list(edge) for edge in run.graph.edges] == ring(AGENTS)["edges"]
    assert run.shards is not None
    assert [list(row) for row in run.shards.rounds] == shards(AGENTS)["rounds"]
    first = diagnostics("dimat", 3, 4)[0]
    assert run.diagnostics[0].numbers["consensus_before"] == first["consensus_before"]
    assert run.diagnostics[0].groups["units_moved"] == first["units_moved"]


def test_settings_that_a_config_lacks_have_their_defaults(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", settings={"topology": {"name": "full"}})
    [run] = read_source(str(folder)).runs
    assert run.settings["topology.name"] == "full"
    assert run.settings["topology.path"] is None
    assert run.settings["agents"] == 5
    assert not {"seed", "method", "out", "controls", "checkpoint.every"} & run.settings.keys()


def test_a_run_needs_no_file_but_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: wa\n")
    [run] = read_source(str(tmp_path)).runs
    assert (run.finished, run.lines, run.diagnostics, run.graph, run.shards) == (
        False,
        (),
        (),
        None,
        None,
    )


def test_fields_that_old_metrics_lack_are_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    old = {"round": 0, "agent": 0, "phase": "trained", "test_accuracy": 0.5, "sent_bytes": 0}
    write_lines(folder / "metrics.jsonl", [old])
    [line] = read_source(str(folder)).runs[0].lines
    assert (line.score, line.busy_s, line.epochs, line.steps) == (0.5, None, None, None)


def test_the_controls_of_a_run_follow_it_in_the_order_of_its_config(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", settings={"controls": ["wa", "local", "sgp"]})
    make_run(folder / "controls" / "local", "local")
    make_run(folder / "controls" / "wa", "wa")
    runs = read_source(str(folder)).runs
    assert [(run.method, run.begun) for run in runs] == [
        ("dimat", True),
        ("wa", True),
        ("local", True),
        ("sgp", False),
    ]


def test_half_a_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", recorded=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "agent": 0, "pha')
    [run] = read_source(str(folder)).runs
    lines = metrics("dimat", 0, 2)
    assert len(run.lines) == len(lines)
    assert run.notes == (
        f"{folder}/metrics.jsonl, line {len(lines) + 1}, is half written and was left out.",
    )


def test_a_line_that_is_cut_within_a_character_is_half_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    with (folder / "diagnostics.jsonl").open("ab") as file:
        file.write('{"round": 9, "units_moved": {"é'.encode()[:-1])
    [run] = read_source(str(folder)).runs
    assert len(run.diagnostics) == 4
    assert "diagnostics.jsonl, line 5, is half written" in run.notes[0]


LINE = {"round": 1, "agent": 0, "phase": "trained"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("{oops", "line 2: not JSON, though it is not half written"),
        ("[1, 2]", "line 2: not a JSON object"),
        (json.dumps({**LINE, "round": None}), "line 2: 'round' is missing: must be a whole"),
        (json.dumps({**LINE, "agent": -1}), "line 2: 'agent' is -1: must be a whole number >= 0"),
        (json.dumps({**LINE, "phase": "x"}), "line 2: 'phase' is 'x': must be 'trained' or"),
        (json.dumps({**LINE, "busy_s": "2"}), "line 2: 'busy_s' is '2': must be a number or null"),
        (
            json.dumps({**LINE, "epochs": True}),
            "line 2: 'epochs' is True: must be a number or null",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: str, message: str) -> None:
    folder = make_run(tmp_path / "a")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[1] = broken
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match="metrics.jsonl, ") as error:
        read_source(str(folder))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", '{\n"a": }', "summary.json, line 2: not a JSON object"),
        ("summary.json", "[]", "summary.json: not a JSON object"),
        ("config.yaml", "a: 1\nb: [", "config.yaml, line 2: not settings as YAML"),
        ("config.yaml", "text", "config.yaml: not settings as YAML"),
        ("topology.json", '{"pi": [[1, 0]]}', "topology.json: 'pi' is not square"),
        ("topology.json", "{}", "topology.json: 'pi' is missing: must be a list of lists"),
        ("topology.json", '{"pi": [[1]], "edges": [[0, 1]]}', "name an agent that 'pi' has no row"),
        ("topology.json", '{"pi": [[1]], "edges": [[0]]}', "must be a list of pairs of agents"),
        (
            "shards.json",
            '{"classes": 3, "rounds": [[1, 2]]}',
            "is not as long as there are classes",
        ),
        ("diagnostics.jsonl", '{"round": 1, "barrier": "x"}\n', "line 1: 'barrier' is 'x'"),
        ("diagnostics.jsonl", '{"round": 1, "margin": 2}\n', "line 1: 'margin' is 2: must be a"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = make_run(tmp_path / "a")
    (folder / name).write_text(text)
    with pytest.raises(RecordError) as error:
        read_source(str(folder))
    assert message in str(error.value)
    assert str(folder) in str(error.value)


def test_a_number_that_is_not_finite_is_not_recorded(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "diagnostics.jsonl").write_text('{"round": 1, "barrier": NaN, "contraction": 0.5}\n')
    assert read_source(str(folder)).runs[0].diagnostics == (Diagnosis(1, {"contraction": 0.5}, {}),)


def test_a_topology_that_changes_is_read_with_its_sequence(tmp_path: Path) -> None:
    [run] = read_source(str(make_run(tmp_path / "a", topology=one_peer(8)))).runs
    assert run.graph is not None
    assert (run.graph.directed, len(run.graph.sequence)) == (True, 3)


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "one")
    with pytest.raises(RecordError, match=r"neither a run \(it has no config.yaml\) nor a compar"):
        read_source(str(tmp_path))
    with pytest.raises(RecordError, match="it holds one: give those"):
        read_source(str(tmp_path))
    with pytest.raises(RecordError, match="'nowhere' is no folder"):
        read_source("nowhere")


def test_a_comparison_has_all_its_cells_in_the_order_of_its_plan(tmp_path: Path) -> None:
    grid = {"topology.name": ["ring", "full"]}
    folder = make_comparison(tmp_path / "c", grid=grid, seeds=(0, 1))
    source = read_source(str(folder))
    assert source.kind == "comparison"
    assert [(x.settings["topology.name"], x.seed, x.method) for x in source.runs] == [
        (name, seed, method)
        for name in ("ring", "full")
        for seed in (0, 1)
        for method in ("dimat", "wa", "local")
    ]
    assert all(run.finished for run in source.runs)


def test_planned_runs_that_are_not_there_have_not_begun(tmp_path: Path) -> None:
    grid = {"topology.name": ["ring", "full"]}
    folder = make_comparison(tmp_path / "c", grid=grid, seeds=(0, 1), begun=3)
    waiting = [run for run in read_source(str(folder)).runs if not run.begun]
    assert [(x.settings["topology.name"], x.seed, x.method) for x in waiting] == [
        ("full", 1, method) for method in ("dimat", "wa", "local")
    ]


def test_a_run_that_a_comparison_does_not_plan_is_shown_too(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "c", seeds=(0,))
    make_run(folder / "cells" / "seed=7", "dimat", 7)
    assert [run.seed for run in read_source(str(folder)).runs] == [0, 0, 0, 7]


def test_a_comparison_in_which_nothing_has_begun_is_refused(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "c", begun=0)
    with pytest.raises(RecordError, match="no run has begun"):
        read_source(str(folder))


def test_a_plan_that_makes_no_sense_leaves_the_runs(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "c", seeds=(0,))
    (folder / "comparison.yaml").write_text(yaml.safe_dump({"methods": 3, "seeds": "x"}))
    assert len(read_source(str(folder)).runs) == 3


def test_a_folder_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "c", seeds=(0, 1))
    cell = folder / "cells" / "seed=0"
    sources = read_sources([str(folder), str(cell), str(cell / ".." / "seed=1"), str(folder)])
    assert [source.path for source in sources] == [str(folder)]


def test_the_accuracy_of_a_round_is_after_its_merge_if_there_was_one(tmp_path: Path) -> None:
    [run] = read_source(str(make_run(tmp_path / "a", "dimat", rounds=2))).runs
    written = metrics("dimat", 0, 2)
    found = run.curve.measured
    assert [(x.round, x.phase) for x in found] == [(0, "trained"), (1, "merged"), (2, "merged")]
    own = [x for x in written if (x["round"], x["phase"]) == (2, "merged")]
    assert found[2].scores == {x["agent"]: x["test_accuracy"] for x in own}
    assert found[2].sent_bytes == sum(int(str(x["sent_bytes"])) for x in own)
    assert found[2].busy_s == pytest.approx(own[0]["busy_s"])


def test_a_round_that_not_all_agents_came_through_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "dimat", rounds=3, recorded=2)
    lines = metrics("dimat", 0, 3)
    write_lines(folder / "metrics.jsonl", lines[: -2 * AGENTS + 2])  # two agents merged in round 3
    [run] = read_source(str(folder)).runs
    assert [x.round for x in run.curve.measured] == [0, 1, 2]


def test_of_lines_that_were_written_twice_the_last_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "local", rounds=1)
    lines = metrics("local", 0, 1)
    write_lines(folder / "metrics.jsonl", [{**lines[-1], "test_accuracy": 0.0}, *lines])
    [run] = read_source(str(folder)).runs
    assert run.curve.measured[-1].scores[AGENTS - 1] == lines[-1]["test_accuracy"]


def test_a_setting_that_is_gone_is_no_difference_where_it_changed_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "dimat", 3)
    config = yaml.safe_load((folder / "config.yaml").read_text()) or {}
    config.setdefault("matching", {})["drift"] = None
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    [run] = read_source(str(folder)).runs
    assert "matching.drift" not in run.settings
