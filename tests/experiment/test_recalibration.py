"""Recalibration is a step of the round: whoever looks changes nothing, and its time counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiment.test_run import lines

import dimat
from dimat import RunConfig
from dimat.exchange import Step, Talk
from dimat.exchange.in_process import InProcess
from dimat.experiment.config.config import (
    DataConfig,
    DiagnosticsConfig,
    MatchingConfig,
    RecalibrationConfig,
    TopologyConfig,
)
from dimat.experiment.running.rounds import Rounds
from dimat.experiment.setup import make_setup
from dimat.methods import Method, RoundContext, RoundReport, RoundResult
from dimat.training import trainer
from dimat.training.round import merge_round

SMALL = RunConfig(
    agents=3,
    rounds=3,
    pretrain_epochs=1,
    batch_size=16,
    model="cnn",
    width=0.25,
    threads=1,
    controls=(),
    topology=TopologyConfig("ring"),
    data=DataConfig(train_images=150, split="iid"),
    matching=MatchingConfig(gauge="pairwise", images=30),
    recalibration=RecalibrationConfig(images=30),
    diagnostics=DiagnosticsConfig(barrier_images=10),
)
TAKES_S = 5.0


def after_every_round(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> list[Mapping[str, torch.Tensor]]:
    """The states of all agents, round by round."""
    found: list[Mapping[str, torch.Tensor]] = []
    original = Rounds._keep_or_stop

    def look(self: Rounds, number: int) -> None:
        found.extend(agent.state() for agent in self.agents)
        original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "_keep_or_stop", look)
        dimat.run(config)
    return found


@pytest.mark.parametrize("method", ["dimat", "wa", "cdsgd"])
def test_agents_are_the_same_after_every_round_however_often_they_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    config = replace(SMALL, method=method)
    often, seldom = (
        after_every_round(replace(config, eval_every=k, out=str(tmp_path / str(k))), monkeypatch)
        for k in (1, 3)
    )
    assert len(often) == len(seldom) == 3 * 3
    for ours, theirs in zip(often, seldom, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    last = [x["test_accuracy"] for x in lines(tmp_path / "1") if x["round"] == 3]
    assert last == [x["test_accuracy"] for x in lines(tmp_path / "3") if x["round"] == 3]


class Clock:
    """Time that passes in recalibrations only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
        self.now, original = 0.0, where.recalibrate

        def slow(*args: Any) -> bool:
            self.now += TAKES_S
            return bool(original(*args))

        monkeypatch.setattr(where, "recalibrate", slow)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


@dataclass(frozen=True)
class Reports(Method):
    """Says what came of a merge."""

    result: RoundResult

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Say it."""
        yield Step()
        return self.result


def test_an_agent_is_busy_while_it_recalibrates_what_a_merge_gave_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = make_setup(SMALL)
    agent = setup.new_agent(0, pretraining=False, method="wa")
    Clock(monkeypatch, trainer)
    method = Reports(RoundResult(agent.state(), disagreement=1.0, report=RoundReport(merge_s=2.0)))
    (result,) = merge_round([agent], method, InProcess([0]), 1)
    assert (agent.traffic.busy_s, result.report.merge_s) == (TAKES_S, 2.0 + TAKES_S)
    method = Reports(RoundResult(agent.state(), disagreement=1.0, calibrated=True))
    (result,) = merge_round([agent], method, InProcess([0]), 1)
    assert (agent.traffic.busy_s, result.report.merge_s) == (TAKES_S, 0.0)
    method = Reports(RoundResult(agent.state()))  # it met nobody
    (result,) = merge_round([agent], method, InProcess([0]), 2)
    assert (agent.traffic.busy_s, result.report.merge_s) == (TAKES_S, 0.0)


@pytest.mark.parametrize(("method", "phase"), [("wa", "merged"), ("cdsgd", "trained")])
def test_the_time_of_recalibration_counts_in_rounds_that_are_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, phase: str
) -> None:
    Clock(monkeypatch, trainer)
    dimat.run(replace(SMALL, method=method, eval_every=3, out=str(tmp_path / "run")))
    last = [x for x in lines(tmp_path / "run") if (x["round"], x["phase"]) == (3, phase)]
    assert [x["busy_s"] for x in last] == [3 * TAKES_S] * 3
    assert [(x["merge_s"], x["train_s"]) for x in last] == [(TAKES_S, 0.0)] * 3
