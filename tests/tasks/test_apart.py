"""An agent in a process of its own, of a task without classes, on its own data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.exchange.threads import peers_file
from tests.tasks.test_runs import lines, settings

from dimat.cli.agents import status_table
from dimat.exchange.network.status import Answer
from dimat.experiment.single_agent.run import AgentSite, run_agent
from dimat.experiment.tables import single_agent_table


def test_an_agent_with_a_table_of_its_own_is_measured_by_the_metric_of_the_task(
    tmp_path: Path,
) -> None:
    config = settings("regression", tmp_path)
    own = replace(config.data, split="own", test_source=config.data.source)
    config = replace(config, agents=2, rounds=1, data=own, controls=(), topology="ring")  # type: ignore[arg-type]
    soon = replace(config.exchange, timeout_s=0.01)  # nobody else ever comes
    site = AgentSite(peers_file(tmp_path, 2), insecure=True)
    events = tmp_path / "events.jsonl"
    result = run_agent(replace(config, exchange=soon), 0, site, events=str(events))
    found = lines(result.folder)
    assert {"test_r2", "validation_r2", "own_r2"} <= set(found[-1])
    assert result.trained == found[-1]["test_r2"]
    assert result.metric.name == "r2"
    assert "test r2 – merged" in str(single_agent_table(result).title)
    summary = json.loads((result.folder / "summary.json").read_text())
    assert "metric" not in summary
    assert json.loads((result.folder / "task.json").read_text())["task"] == "regression"
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert [x["r2"] for x in told if x["event"] == "trained"][-1] == found[-1]["test_r2"]


@pytest.mark.parametrize(
    ("said", "cell"),
    [
        ({"accuracy": 0.5}, "50.0"),
        ({"metric": "r2", "score": 0.12345}, "r2 0.123"),
        ({"metric": "r2", "score": None}, "r2 –"),
        ({"metric": "x" * 99, "score": "many"}, "xxxxxxxxxxx… –"),
        ({}, "–"),
    ],
)
def test_the_status_of_an_agent_names_another_metric_than_accuracy(
    said: dict[str, Any], cell: str
) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(status_table("run", [Answer(0, "here", said, "")]))
    assert cell in capture.get()
