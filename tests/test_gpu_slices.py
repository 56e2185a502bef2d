"""``python -m benchmarks.gpu`` goes on where its last slice stopped, and hides no failure."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from benchmarks.gpu import STOPPED, Outcome, Step, execute, main, recorded, steps_on, work


def step(name: str, limit_s: float = 100, **rest: object) -> Step:
    return Step(name, f"what {name} shows", ("-c", "pass"), limit_s, **rest)  # type: ignore[arg-type]


STEPS = [
    step("first"),
    step("second"),
    step("third", 300),
    step("long", 50, in_slices=True),
]


@dataclass
class Machine:
    """A clock, and steps that take as long, and end so, as it is said."""

    takes: dict[str, float] = field(default_factory=dict)
    ends: dict[str, list[str]] = field(default_factory=dict)
    now: float = 1000.0
    ran: list[tuple[str, float]] = field(default_factory=list)

    def run(self, own: Step, limit_s: float) -> Outcome:
        self.ran.append((own.name, limit_s))
        seconds = min(self.takes.get(own.name, 60.0), limit_s)
        self.now += seconds
        state = (self.ends.get(own.name) or ["done"]).pop(0)
        return Outcome(own.name, state, 0 if state == "done" else 1, seconds, f"of {own.name}")

    def slice(self, out: Path, steps: list[Step] = STEPS, *, again: bool = False) -> int:
        options = Namespace(out=out, device="cuda", max_wall_s=400.0, again=again)
        return work(steps, options, self.run, lambda: self.now, lambda: "a machine")

    def names(self) -> list[str]:
        found = [name for name, _ in self.ran]
        self.ran.clear()
        return found


def test_a_slice_goes_on_where_the_last_one_stopped_and_nothing_is_run_twice(
    tmp_path: Path,
) -> None:
    machine = Machine({"third": 290, "long": 1e9}, {"long": ["stopped", "stopped", "done"]})
    assert machine.slice(tmp_path) == STOPPED
    # The third, whose limit is 300 s, does not fit into the 280 s that are left; the last one does.
    assert machine.ran == [("first", 100), ("second", 100), ("long", 280)]
    machine.names()
    assert machine.slice(tmp_path) == STOPPED
    assert machine.ran == [("third", 300), ("long", 110)]
    machine.names()
    assert machine.slice(tmp_path) == 0
    assert machine.names() == ["long"]
    assert machine.slice(tmp_path) == 0
    assert machine.names() == []


def test_a_failure_is_recorded_and_said_by_every_slice_until_it_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(ends={"second": ["failed", "done"]})
    short = STEPS[:2]
    assert machine.slice(tmp_path, short) == 1
    assert machine.names() == ["first", "second"]
    capsys.readouterr()
    assert machine.slice(tmp_path, short) == 1
    assert machine.names() == []
    assert "second              failed" in capsys.readouterr().out
    assert machine.slice(tmp_path, short, again=True) == 0
    assert machine.names() == ["second"]
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [(own["step"], own["state"]) for own in lines] == [
        ("first", "done"),
        ("second", "failed"),
        ("second", "done"),
    ]
    assert {own["machine"] for own in lines} == {"a machine"}
    assert lines[1]["tail"] == "of second"


def test_a_step_that_is_longer_than_a_slice_is_begun_at_its_start(tmp_path: Path) -> None:
    machine = Machine()
    assert machine.slice(tmp_path, [step("huge", 1000), step("small")]) == 0
    assert machine.ran == [("huge", 400), ("small", 100)]


def test_a_step_whose_data_are_not_there_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine()
    assert machine.slice(tmp_path, [step("paper", needs="nowhere/at-all.npz")]) == STOPPED
    assert machine.names() == []
    assert "nowhere/at-all.npz is not there" in capsys.readouterr().out


def test_what_was_done_on_a_cpu_is_not_done_on_a_gpu(tmp_path: Path) -> None:
    Machine().slice(tmp_path, STEPS[:1])
    assert recorded(tmp_path / "steps.jsonl", "cuda") == {"first": "done"}
    assert recorded(tmp_path / "steps.jsonl", "cpu") == {}


@pytest.mark.parametrize(
    ("code", "in_slices", "state"),
    [(0, False, "done"), (3, False, "failed"), (3, True, "stopped"), (2, True, "failed")],
)
def test_a_step_is_a_process_whose_last_words_are_kept(
    code: int, in_slices: bool, state: str
) -> None:
    program = f"import sys; print('x' * 9000 + 'so', sys.argv[1:]); sys.exit({code})"
    own = execute(Step("own", "", ("-c", program), 100, in_slices), 100)
    assert (own.state, own.code) == (state, code)
    assert len(own.tail) <= 6000
    assert own.tail.endswith("so ['--max_wall_s', '50']" if in_slices else "so []")


def test_a_step_that_does_not_end_is_killed_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is up once it has started a child, however long that takes."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    child = "import signal; signal.pause()"
    program = (
        "import subprocess, sys, signal\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print(child.pid, flush=True)\n"
        f"open({str(ready)!r}, 'w').close()\n"
        "signal.pause()"
    )
    original = subprocess.Popen.wait

    def wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None:
            return original(process)
        ready.read_bytes()  # blocks until the other end is opened
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    own = execute(Step("endless", "", ("-c", program), 10), 10)
    assert (own.state, own.code) == ("failed", None)
    assert own.tail.endswith("killed after 10 s")
    with suppress(ProcessLookupError):  # it is gone already, and so is its number
        ended = os.pidfd_open(int(own.tail.split()[0]))
        assert select.select([ended], [], [], 60)[0]


def test_without_a_gpu_nothing_is_run_or_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "out")])
    assert main() == 0
    out = capsys.readouterr().out
    assert out.startswith("No GPU is here: nothing was run")
    assert all(own.name in out for own in steps_on("cuda", tmp_path))
    assert not (tmp_path / "out").exists()


def test_an_unknown_step_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "hedline"])
    with pytest.raises(SystemExit):
        main()
    assert "unknown step hedline: one of correctness" in capsys.readouterr().err


def test_the_headline_is_begun_once_and_then_gone_on_with(tmp_path: Path) -> None:
    def words() -> tuple[str, ...]:
        return next(own for own in steps_on("cpu", tmp_path) if own.name == "headline").command

    assert words()[2:4] == ("run", "--config")
    (tmp_path / "headline").mkdir()
    (tmp_path / "headline" / "environment.json").write_text("{}")
    assert words()[2:] == ("resume", str(tmp_path / "headline"))


@pytest.mark.slow
def test_a_real_step_works_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["gpu", "--device", "cpu", "--only", "nccl", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    assert main() == 0
    (line,) = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert "backend gloo: equal" in json.loads(line)["tail"]
