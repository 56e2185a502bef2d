"""Equal budgets on hand-made histories, statistics against SciPy, and the tables they end in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dimat import RunConfig
from dimat.errors import RecordError
from dimat.tasks import CLASSIFICATION
from dimat.tools.compare.budget import at_equal, budget, reached
from dimat.tools.compare.rows import csv_head, csv_rows, numbers_of
from dimat.tools.compare.spec import Cell, Spec, expand
from dimat.tools.compare.table import Point, as_text, points_of
from dimat.tools.compare.trial import MethodRun, read_cell
from dimat.tools.format import interval
from dimat.tools.records.curve import Curve, Line, Measurement, curve_of
from dimat.tools.records.run import Run
from dimat.tools.statistics import paired, spread


def lines(accuracies: Sequence[float | None], sent: Sequence[float]) -> tuple[Line, ...]:
    """Metrics of one agent by rounds; steps are 100 a round, busy time is not recorded."""
    return tuple(
        Line(r, 0, "trained", a, sent_bytes=s, steps=100.0 * r)
        for r, (a, s) in enumerate(zip(accuracies, sent, strict=True))
    )


def curve(accuracies: Sequence[float | None], sent: Sequence[float]) -> Curve:
    return curve_of(lines(accuracies, sent))


LINES = {
    "dimat": lines([0.1, 0.5, 0.7, 0.8], [0, 10, 20, 30]),
    "cdsgd": lines([0.1, 0.6, 0.9], [0, 25, 100]),
    "local": lines([0.1, 0.3, 0.2], [0, 0, 0]),
}
DIMAT, CDSGD, LOCAL = map(curve_of, LINES.values())


def test_the_budget_is_the_smallest_total_of_those_that_use_the_resource() -> None:
    assert budget([DIMAT, CDSGD, LOCAL], "sent_bytes") == 30
    assert budget([DIMAT, CDSGD, LOCAL], "steps") == 200
    assert budget([LOCAL], "sent_bytes") is None
    assert budget([DIMAT, CDSGD], "busy_s") is None
    assert budget([], "steps") is None


def test_at_a_budget_the_last_round_within_it_counts_and_nothing_between() -> None:
    assert [reached(CDSGD, "sent_bytes", limit) for limit in (24, 25, 98.9, 99.9, 1e9)] == [
        *(0.1, 0.6, 0.6, 0.9, 0.9)
    ]
    assert reached(curve([0.5], [7]), "sent_bytes", 6) is None
    assert reached(LOCAL, "sent_bytes", None) is None
    assert reached(LOCAL, "busy_s", 3.0) is None
    assert reached(curve([0.5, None], [0, 1]), "sent_bytes", 1) is None


def test_uses_that_were_summed_in_another_order_are_equal() -> None:
    assert reached(curve([0.5], [0.1 + 0.2]), "sent_bytes", 0.3) == 0.5


def test_methods_of_a_cell_share_one_budget() -> None:
    found = at_equal({"dimat": DIMAT, "cdsgd": CDSGD, "local": LOCAL})
    assert found["dimat"] == {"sent_bytes": 0.8, "steps": 0.7, "busy_s": None}
    assert found["cdsgd"] == {"sent_bytes": 0.6, "steps": 0.9, "busy_s": None}
    assert found["local"] == {"sent_bytes": 0.2, "steps": 0.2, "busy_s": None}


def test_a_curve_is_read_where_the_accuracy_was_measured() -> None:
    found = curve_of(
        [
            Line(0, 0, "trained", 0.2, sent_bytes=0, steps=10, busy_s=2.0),
            Line(0, 1, "trained", 0.4, sent_bytes=0, steps=20, busy_s=4.0),
            Line(2, 0, "merged", 0.5, sent_bytes=10, steps=30, busy_s=5.0),
            Line(2, 1, "merged", 0.7, sent_bytes=20, steps=40, busy_s=6.0),
            Line(2, 0, "trained", 0.9, sent_bytes=10, steps=50, busy_s=7.0),
            Line(2, 1, "trained", 0.9, sent_bytes=20, steps=60, busy_s=9.0),
        ]
    )
    assert [(m.round, m.score) for m in found.rounds] == [
        (0, pytest.approx(0.3)),
        (2, pytest.approx(0.6)),
    ]
    # The others wait for the slowest: 4, then 3 (of agent 0), then 3 (of agent 1).
    assert [(m.sent_bytes, m.steps, m.busy_s) for m in (*found.rounds, found.end)] == [
        (0, 30, 4.0),
        (30, 70, 7.0),
        (30, 110, 10.0),
    ]
    assert (found.after("trained", 0), found.after("merged"), found.after("trained")) == (
        pytest.approx(0.3),
        pytest.approx(0.6),
        pytest.approx(0.9),
    )


def test_steps_that_were_rounded_for_agents_that_step_together_are_equal() -> None:
    def one(accuracy: float, steps: float) -> Curve:
        return Curve((Measurement(1, "trained", {0: accuracy}, steps=steps),))

    found = at_equal({"cdsgd": one(0.9, 1006), "wa": one(0.8, 1000)})
    assert (found["cdsgd"]["steps"], found["wa"]["steps"]) == (0.9, 0.8)
    found = at_equal({"cdsgd": one(0.9, 1020), "wa": one(0.8, 1000)})
    assert found["cdsgd"]["steps"] is None


def test_a_number_that_an_agent_lacks_is_no_number() -> None:
    found = curve_of([Line(0, 0, "trained", None, sent_bytes=0), Line(0, 1, "trained", 0.4, 0)])
    assert found.rounds[0].score is None
    assert (found.end.sent_bytes, found.end.steps, found.end.busy_s) == (0, None, None)
    assert found.measured == ()


def test_a_mean_of_some_agents_is_no_accuracy_of_the_run() -> None:
    whole = [Line(0, agent, "trained", 0.4, sent_bytes=1) for agent in (0, 1)]
    found = curve_of([*whole, Line(1, 0, "trained", 0.9, sent_bytes=1)])
    assert [m.score for m in found.rounds] == [0.4, None]
    assert reached(found, "sent_bytes", 5) is None


def test_a_record_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    cell = Cell("seed=0", {}, 0, RunConfig(controls=()))
    metrics, summary = tmp_path / "metrics.jsonl", tmp_path / "summary.json"
    summary.write_text("{}")
    with pytest.raises(RecordError, match=r"metrics.jsonl ends early, though its run is finished"):
        read_cell(tmp_path, cell)
    good = json.dumps({"round": 0, "agent": 0, "phase": "trained"})
    for text, message in [
        (f'{good}\n{{"round": 1', " ends early, though its run is finished"),
        (f'{good}\n{{"round": 1\n', ", line 2: not JSON"),
        (f"{good}\n{{}}\n", ", line 2: 'phase' is missing"),
    ]:
        metrics.write_text(text)
        with pytest.raises(RecordError, match=f"metrics.jsonl{message}"):
            read_cell(tmp_path, cell)
    metrics.write_text(f"{good}\n")
    assert len(read_cell(tmp_path, cell)) == 1
    summary.write_text("{")
    with pytest.raises(RecordError, match=r"summary.json, line 1: not a JSON object"):
        read_cell(tmp_path, cell)


def test_a_spread_is_numpys_mean_and_sample_deviation() -> None:
    values = np.random.default_rng(0).random(7)
    found = spread([*values])
    assert found is not None
    assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert spread([0.5]) == spread([None, 0.5])
    assert spread([None]) is None


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_of_a_paired_difference_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    ours, theirs = rng.random(n), rng.random(n)
    found = paired([*ours], [*theirs])
    assert found is not None
    oracle = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert found.n == n


def test_the_interval_by_hand() -> None:
    found = paired([3.0, 5.0, 7.0], [1.0, 2.0, 3.0])  # differences 2, 3, 4; t of 2 is 4.302653
    assert found is not None
    half = 4.302653 * 1 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))


def test_one_pair_has_no_interval() -> None:
    assert paired([1.0], [2.0]) is None
    assert paired([1.0, None], [2.0, 3.0]) is None


SPEC = Spec(RunConfig(), ("dimat", "local"), (0, 1, 2), {"topology.name": ("ring", "[b]star")})
CELLS = expand(SPEC)
EQUAL = at_equal({"dimat": DIMAT, "local": LOCAL})


def method_run(method: str, **summary: object) -> MethodRun:
    run = Run("", "", method, 0, {}, summary=summary, lines=LINES[method])
    return MethodRun(method, run, EQUAL[method])


def trials(*names: str) -> dict[str, list[MethodRun]]:
    """Finished cells: dimat has 0.8 + seed/100, local half of it."""
    found = {}
    for cell in CELLS:
        if cell.name in names:
            best = 0.8 + cell.seed / 100
            found[cell.name] = [
                method_run(
                    m,
                    test_accuracy_mean=a,
                    rounds=3,
                    start_accuracy_mean=0.9,
                    merged_accuracy_mean=merged,
                    trained_accuracy_mean=best / 2 if m == "local" else 0.45,
                )
                for m, a, merged in (("dimat", best, best), ("local", best / 2, None))
            ]
    return found


def test_an_unfinished_cell_is_left_out_of_the_means_and_said(tmp_path: Path) -> None:
    points = points_of(SPEC, CELLS, trials(*(c.name for c in CELLS[:2]), CELLS[3].name))
    text = as_text(points)
    first, second = text.split("topology.name=[b]star")
    assert "topology.name=ring · n = 2 of 3 seeds · unfinished: seed 2" in first
    assert " · n = 1 of 3 seeds · unfinished: seed 1, 2" in second
    row = next(x for x in first.splitlines() if x.lstrip().startswith("dimat"))
    assert row.split()[1:5] == ["merging", "80.5", "±", "0.7"]
    rows = [x.split() for x in second.splitlines() if x.startswith("local")]
    accuracies, costs = ["local", "training", "40.0", "–"], ["20.0", "20.0", "–", "0", "B", "–"]
    assert rows == [accuracies, ["local", *costs]]


def test_both_phases_and_the_start_are_shown_and_like_is_compared_with_like() -> None:
    """What trains alone is not set beside what has just merged, but what has trained as long."""
    text = as_text(points_of(SPEC, CELLS, trials(*(c.name for c in CELLS))))
    rows = [x.split() for x in text.splitlines()]
    at = next(i for i, row in enumerate(rows) if row[:1] == ["dimat"])
    assert rows[at - 1] == ["(all)", "pre-training", "90.0", "±", "0.0"]
    assert rows[at][:5] == ["dimat", "merging", "81.0", "±", "1.0"]
    assert rows[at + 1] == ["training", "45.0", "±", "0.0", "–"]
    assert rows[at + 2][:6] == ["local", "training", "40.5", "±", "0.5", "-4.5"]


def test_a_run_of_an_older_version_is_shown_after_the_phase_that_it_reports() -> None:
    found = numbers_of(method_run("dimat", test_accuracy_mean=0.7, phase="merged"))
    assert (found["merged_accuracy_mean"], found["trained_accuracy_mean"]) == (0.7, None)


def test_differences_are_paired_by_seed_and_to_the_first_method() -> None:
    text = as_text(points_of(SPEC, CELLS, trials(*(c.name for c in CELLS))))
    rows = [x.split() for x in text.splitlines() if x.lstrip().startswith("local")]
    interval = stats.t.ppf(0.975, 2) * 0.005 / 3**0.5
    low, high = 100 * (-0.045 - interval), 100 * (-0.045 + interval)
    assert rows[0][5:8] == ["-4.5", f"[{low:.1f},", f"{high:.1f}]"]


def test_the_tables_of_long_names_fit_80_columns_and_break_no_number() -> None:
    long = "package.module_of_methods:weighted_gossip_with_momentum"
    numbers = {
        "start_accuracy_mean": [1.0, 1.0, 1.0],
        "test_accuracy_mean": [0.5, 0.9, 0.1],
        "merged_accuracy_mean": [0.5, 0.9, 0.1],
        "trained_accuracy_mean": [0.9, 0.1, 0.9],
        "at_equal_bytes": [0.25, 0.25, None],
        "sent_bytes": [123.4e9] * 3,
        "busy_s": [12345.0] * 3,
    }
    first = {**numbers, "trained_accuracy_mean": [0.1, 0.9, 0.5]}
    name = ", ".join(f"optimizer.learning_rate_of_group_{i}=0.01" for i in range(4))
    point = Point(name, 4, (3,), {"gradient-tracking": first, long: numbers})
    text = as_text([point])
    assert max(map(len, text.splitlines())) <= 80
    pair = paired(numbers["trained_accuracy_mean"], first["trained_accuracy_mean"])
    versus = interval(pair, CLASSIFICATION.metrics[0])
    whole = ("100.0 ± 0.0", "50.0 ± 40.0", versus, "25.0 (n=2)", "123.4 GB", "3 h 25 min")
    assert [cell for cell in whole if cell not in text] == []
    assert long in "".join(line.split(" ")[0] for line in text.splitlines())  # folded, not cut


def test_the_csv_has_a_row_for_every_cell_and_method() -> None:
    runs = trials(CELLS[1].name)
    lines = [csv_rows(SPEC, cell, runs.get(cell.name, ())) for cell in CELLS]
    text = csv_head(SPEC) + "".join(lines)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["cell"], r["method"]) for r in rows] == [
        (cell.name, method) for cell in CELLS for method in SPEC.methods
    ]
    assert [r["finished"] for r in rows[:5]] == ["false", "false", "true", "true", "false"]
    row = rows[2]
    assert (row["topology.name"], row["seed"], row["test_accuracy_mean"]) == ("ring", "1", "0.81")
    assert (row["rounds"], row["sent_bytes"], row["at_equal_bytes"]) == ("3", "30", "0.8")
    assert (row["busy_s"], row["at_equal_time"], row["test_accuracy_min"]) == ("", "", "")
    assert rows[0]["test_accuracy_mean"] == ""
