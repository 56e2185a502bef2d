"""Plans of faults, and when each strikes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dimat.errors import ConfigError
from dimat.exchange.wire import pack
from dimat.testing.faults import Fault, Faults, Rehearsal


def rehearsal(plan: Faults, folder: Path) -> tuple[Rehearsal, Any]:
    hood = SimpleNamespace(tamper={}, cuts=[])
    hood.cut = hood.cuts.append
    return Rehearsal(plan, 0, folder / "faults.jsonl", hood), hood


def struck(folder: Path) -> list[str]:
    file = folder / "faults.jsonl"
    return [json.loads(x)["kind"] for x in file.read_text().splitlines()] if file.exists() else []


def send(hood: Any, neighbor: int) -> None:
    hood.tamper.pop(neighbor)(*pack({"x": torch.ones(3)}, None))


def test_a_plan_that_was_saved_is_read_as_it_was(tmp_path: Path) -> None:
    plan = Faults().crash(agent=2, round=3).cut(agent=0, round=1, neighbor=4)
    plan.save(tmp_path / "plan.json")
    assert Faults.load(tmp_path / "plan.json").planned == plan.planned


def test_an_unknown_kind_of_fault_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('[{"agent": 0, "round": 1, "kind": "flood"}]')
    with pytest.raises(ConfigError, match="'flood' must be one of crash, freeze"):
        Faults.load(tmp_path / "plan.json")


def test_a_fault_strikes_once_even_if_the_process_is_another_one(tmp_path: Path) -> None:
    plan = Faults().cut(agent=0, round=2, neighbor=1).cut(agent=3, round=2, neighbor=1)
    first, hood = rehearsal(plan, tmp_path)
    first.strike(1)
    assert hood.cuts == []
    first.strike(2)
    first.strike(3)
    assert hood.cuts == [1]
    second, hood = rehearsal(plan, tmp_path)
    second.strike(2)
    assert hood.cuts == []


def test_of_two_messages_to_spoil_the_second_is_the_next_one(tmp_path: Path) -> None:
    plan = Faults([Fault(0, 2, "corrupt", 1), Fault(0, 3, "poison", 1), Fault(0, 3, "inflate", 2)])
    own, hood = rehearsal(plan, tmp_path)
    own.strike(3)
    assert struck(tmp_path) == []  # nothing was sent yet
    send(hood, 1)
    send(hood, 2)
    assert struck(tmp_path) == ["corrupt", "inflate"]
    assert hood.tamper == {}
    own.strike(4)
    send(hood, 1)
    assert struck(tmp_path) == ["corrupt", "inflate", "poison"]


def test_delays_that_were_due_while_an_agent_was_away_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    plan = Faults()
    for number in range(1, 9):
        plan = plan.delay(agent=0, round=number, seconds=0.05)
    own, _ = rehearsal(plan, tmp_path)
    own.strike(8)
    assert slept == [0.05]
    assert struck(tmp_path) == ["delay"] * 8


@pytest.mark.parametrize(
    "changed",
    [{"agent": "x"}, {"round": -1}, {"neighbor": 1.5}, {"seconds": "y"}, {"seconds": 1e9}],
)
def test_a_fault_without_sound_numbers_is_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    fault = {"agent": 0, "round": 1, "kind": "delay", "seconds": 1.0, **changed}
    (tmp_path / "plan.json").write_text(json.dumps([fault]))
    with pytest.raises(ConfigError, match="must have numbers of agents and of a round"):
        Faults.load(tmp_path / "plan.json")


def test_a_plan_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"plan\.json is no plan of faults"):
        Faults.load(tmp_path / "plan.json")
