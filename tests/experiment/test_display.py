"""What a user sees: a table that fits 80 columns, and progress that suits the terminal."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from dimat.experiment.config.config import RunConfig
from dimat.experiment.progress import LiveProgress, Silent
from dimat.experiment.record.results import AgentResult, MethodResult, RunResult
from dimat.experiment.tables import results_table


def method(name: str, agents: int, *, merges: bool = True) -> MethodResult:
    results = (
        AgentResult(i, trained=i / 100, merged=0.9 if merges else None) for i in range(agents)
    )
    return MethodResult(name, tuple(results), {})


def rendered(agents: int) -> list[str]:
    controls = (method("wa", agents), method("local", agents, merges=False))
    result = RunResult(RunConfig(agents=agents), Path("runs/x"), method("dimat", agents), controls)
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(result))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_table_has_agents_mean_and_controls_side_by_side() -> None:
    lines = [line.split() for line in rendered(5)]
    assert ["dimat", "dimat", "wa", "wa", "local"] in lines
    assert ["agent", "trained", "merged", "trained", "merged", "trained"] in lines
    assert ["4", "4.0", "90.0", "4.0", "90.0", "4.0"] in lines
    assert ["mean", "2.0", "90.0", "2.0", "90.0", "2.0"] in lines


def test_the_table_fits_80_columns_with_title_and_caption_on_one_line() -> None:
    lines = rendered(5)
    assert max(map(len, lines)) <= 80
    assert lines[0].strip().startswith("Test accuracy")
    assert lines[0].strip().endswith("iid-then-by-class")
    assert lines[-1].strip().startswith("last round:")


def test_one_agent_is_said_to_merge_with_nobody() -> None:
    lines = rendered(1)
    assert "· 1 agent, ring" in lines[0]
    assert lines[-1].strip().endswith("after local training; one agent merges with nobody")
    assert max(map(len, lines)) <= 80


def test_of_many_agents_the_first_are_shown_and_the_mean_is_over_all() -> None:
    lines = [line.split() for line in rendered(23)]
    assert ["…"] * 6 in lines
    assert not any(line[:1] == ["20"] for line in lines)
    assert ["mean", "11.0", "90.0", "11.0", "90.0", "11.0"] in lines


def test_centralized_has_one_agent_in_the_table_of_three() -> None:
    controls = (method("centralized", 1, merges=False),)
    result = RunResult(RunConfig(agents=3), Path("runs/x"), method("dimat", 3), controls)
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(result))
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["0", "0.0", "90.0", "0.0"] in lines
    assert ["2", "2.0", "90.0", "–"] in lines
    assert ["mean", "1.0", "90.0", "0.0"] in lines


def run_through(console: Console) -> str:
    progress = LiveProgress(console)
    progress.stage("pre-training", 10)
    progress.advance(4)
    progress.note("round 1  [merged] 93.0 %")
    progress.stage("round 2", 3)
    progress.advance()
    progress.close()
    progress.close()
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_terminal_only_notes_are_printed() -> None:
    shown = run_through(Console(file=io.StringIO(), force_terminal=False))
    assert shown == "round 1  [merged] 93.0 %\n"


def test_on_a_terminal_the_bar_counts_the_steps_of_the_stage() -> None:
    shown = run_through(Console(file=io.StringIO(), force_terminal=True, width=80))
    assert "round 1  [merged] 93.0 %" in shown
    assert "pre-training" in shown
    assert "1/3" in shown


def test_the_silent_observer_takes_every_call() -> None:
    silent = Silent()
    silent.stage("pre-training", 1)
    silent.advance()
    silent.note("news")
    silent.close()


def test_what_the_agents_knew_before_round_1_is_said() -> None:
    main = replace(method("dimat", 3), summary={"start_accuracy_mean": 0.926})
    result = RunResult(RunConfig(agents=3), Path("runs/x"), main, ())
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(result))
    assert "before round 1: 92.6 % on average" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_rounds_it_says_what_the_agents_knew_after_pre_training() -> None:
    result = RunResult(RunConfig(agents=3, rounds=0), Path("runs/x"), method("dimat", 3), ())
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(result))
    assert console.file.getvalue().splitlines()[-1].strip() == (  # type: ignore[attr-defined]
        "trained = after pre-training: there was no round"
    )
