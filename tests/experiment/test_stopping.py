"""A run that stops when its time is up goes on to the same bits, however short its times are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.experiment.test_resume import CONFIG, Content, content

import dimat
from dimat.cli import main
from dimat.errors import ConfigError, Stopped
from dimat.exchange.world import SINGLE_PROCESS
from dimat.experiment.config.config import CheckpointConfig, DataConfig
from dimat.experiment.config.validate import validate
from dimat.experiment.record import writer as writer
from dimat.experiment.record.checkpoint import CheckpointFolder
from dimat.experiment.run import begun, run_or_resume
from dimat.experiment.running import time_limit as time_limit
from dimat.experiment.setup import make_setup
from dimat.experiment.single_agent.run import AgentSite, run_agent
from dimat.tools.compare.run import check
from dimat.tools.compare.spec import Spec, expand
from dimat.training.trainer import LocalTrainer

# Agents take their turns, so that their steps are counted one by one.
SHORT = replace(CONFIG, rounds=3, controls=("sgp", "centralized"), vectorize=1)
QUICK = ["--agents=3", "--rounds=2", "--pretrain_epochs=2", "--controls=[]", "--threads=1"]
QUICK += [
    "--vectorize=1",
    "--width=0.25",
    "--data.train_images=300",
    "--method=wa",
    "--data.split=iid",
]


class Clock:
    """Shows how many training steps were taken, by whichever agent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        update = LocalTrainer.update

        def counted(*args: object, **kwargs: object) -> None:
            self.steps += 1
            update(*args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(LocalTrainer, "update", counted)
        monkeypatch.setattr(time_limit, "now", lambda: self.steps)
        timer = SimpleNamespace(perf_counter=lambda: self.steps)
        monkeypatch.setattr(writer, "time", timer)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, dict[str, int]]:
    """The run that nobody stopped, and how many steps each method took."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        Clock(patch)
        dimat.run(replace(SHORT, out=str(out)))
    return content(out), spent(out)


def spent(out: Path) -> dict[str, int]:
    """What the summaries say of how long it took, by the clock of the test."""
    files = [out / "summary.json", *sorted(out.glob("controls/*/summary.json"))]
    summaries = [json.loads(file.read_text()) for file in files]
    return {own["method"]: own["wall_s"] for own in summaries}


def piece(out: Path, limit: float) -> str | None:
    """What is said when time is up; None if it is not."""
    try:
        if out.exists():
            dimat.resume(out, max_wall_s=limit)
        else:
            dimat.run(replace(SHORT, out=str(out), max_wall_s=limit))
    except Stopped as stopped:
        return str(stopped)
    return None


def stops(out: Path, limit: float) -> list[str]:
    """What is said at every stop until the run is done."""
    said: list[str] = []
    while (end := piece(out, limit)) is not None:
        said.append(end)
        assert len(said) < 30, "it does not get on"
    return said


@pytest.mark.parametrize(("limit", "least"), [(7, 3), (20, 1)])
def test_a_run_in_pieces_has_the_bits_and_the_time_of_a_whole_one(
    tmp_path: Path, clock: Clock, whole: tuple[Content, dict[str, int]], limit: float, least: int
) -> None:
    out = tmp_path / "run"
    assert len(stops(out, limit)) >= least
    assert (content(out), spent(out)) == whole


def test_in_the_shortest_time_it_does_an_epoch_or_a_round(
    tmp_path: Path,
    clock: Clock,
    whole: tuple[Content, dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Time is up even after a method was only read, as it was done before.
    limits = property(lambda own: own.seconds is not None)
    monkeypatch.setattr(time_limit.TimeLimit, "is_up", limits)
    out = tmp_path / "run"
    said = [line.partition("done: ")[2].partition(";")[0] for line in stops(out, 0.5)]
    rounds = ["round 1 of 3", "round 2 of 3", "all rounds"]
    epochs = ["pre-training, epoch 1 of 2", "pre-training, epoch 2 of 2"]
    assert (
        said
        == [
            *epochs,
            *(f"dimat, {own}" for own in rounds),
            *(f"sgp, {own}" for own in rounds),
            *epochs,  # of the one agent that has all images
            *(f"centralized, {own}" for own in rounds[:2]),
        ]
    )
    assert (content(out), spent(out)) == whole


def test_it_says_how_long_it_took_and_how_to_go_on(tmp_path: Path, clock: Clock) -> None:
    out = tmp_path / "run"
    steps = sum(make_setup(SHORT).pretrain_steps(i) for i in range(3)) // 2
    with pytest.raises(Stopped) as caught:
        dimat.run(replace(SHORT, out=str(out), max_wall_s=3))
    assert str(caught.value) == (
        f"stopped after {steps:.1f} s (max_wall_s 3), done: pre-training, epoch 1 of 2; "
        f"'dimat resume {out}' goes on"
    )


def test_without_a_limit_it_goes_on_to_the_end(tmp_path: Path, clock: Clock) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        dimat.run(replace(SHORT, controls=(), out=str(out), max_wall_s=1))
    assert begun(out).max_wall_s is None
    dimat.resume(out)
    assert (out / "summary.json").exists()


def test_the_limit_of_a_run_is_none_of_its_settings(tmp_path: Path, clock: Clock) -> None:
    config = replace(SHORT, controls=(), out=str(tmp_path / "run"))
    for limit in (1.0, 2.0):
        with pytest.raises(Stopped):
            run_or_resume(replace(config, max_wall_s=limit))
    run_or_resume(config)


def test_it_keeps_the_round_it_stops_after_though_that_was_not_due(
    tmp_path: Path, clock: Clock
) -> None:
    config = replace(SHORT, controls=(), pretrain_epochs=0, checkpoint=CheckpointConfig(every=100))
    with pytest.raises(Stopped, match="round 1 of 3"):
        dimat.run(replace(config, out=str(tmp_path / "run"), max_wall_s=1))
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").numbers() == [1]


def test_agents_do_not_ask_whether_time_is_up_where_there_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "now", lambda: float("nan"))
    asked: list[object] = []
    monkeypatch.setattr(time_limit.TimeLimit, "end", lambda *own: asked.append(own))
    dimat.run(
        replace(SHORT, rounds=1, controls=(), out=str(tmp_path / "run")), world=SINGLE_PROCESS
    )
    assert asked == []


def test_a_limit_needs_checkpoints_and_is_more_than_nothing() -> None:
    none = CheckpointConfig(every=0)
    with pytest.raises(ConfigError, match=r"'checkpoint.every' is 0: .* --checkpoint.every 1"):
        validate(replace(SHORT, max_wall_s=5, checkpoint=none))
    for value in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="'max_wall_s' is .*: must be > 0 and finite"):
            validate(replace(SHORT, max_wall_s=value))


def test_comparisons_and_agents_apart_know_no_limit() -> None:
    config = replace(CONFIG, model="mlp", max_wall_s=5.0)
    with pytest.raises(ConfigError, match="'max_wall_s' is 5.0: must be null: stop a comparison"):
        check(expand(Spec(config, ("wa",), (0,), {})))
    with pytest.raises(ConfigError, match="'max_wall_s' is 5.0: must be null: stop an agent"):
        run_agent(config, 0, AgentSite(Path("nowhere.yaml")))


def test_the_command_line_says_so_with_exit_code_3_until_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "run"
    assert main(["run", *QUICK, f"--out={plain}"]) == 0
    assert main(["run", *QUICK, f"--out={out}", "--max_wall_s=1e-9"]) == 3
    captured = capsys.readouterr()
    assert f"'dimat resume {out}' goes on" in captured.err.splitlines()[-1]
    assert "run folder: " not in captured.out.partition(str(plain))[2]
    codes = [main(["run", "--resume", str(out), "--max_wall_s", "1e-9"])]
    while codes[-1] == 3:
        assert len(codes) < 5
        codes.append(main(["resume", str(out), "--max-wall-s", "1e-9"]))
    assert codes == [3, 3, 0]  # epoch 2, round 1, round 2
    assert content(out) == content(plain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "setting 'resume' has no value: write --resume RUN"),
        (["--resume="], "setting 'resume' has no value"),
        (["--resume", "--max_wall_s", "3"], "setting 'resume' has no value"),
        (["--resume", "nowhere"], "nowhere is not a run folder"),
        (["--resume", "nowhere", "--seed", "3"], "unknown setting 'seed'"),
        (["--resume=nowhere", "--max_wall_s", "soon"], "'max_wall_s' is 'soon': must be a number"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_limit_that_is_not_more_than_nothing_is_refused_on_going_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(SHORT, model="mlp", method="local", controls=(), rounds=0, pretrain_epochs=0)
    small = DataConfig(train_images=100)
    dimat.run(replace(config, data=small, batch_size=8, out=str(tmp_path / "run")))
    assert main(["resume", str(tmp_path / "run"), "--max_wall_s", "0"]) == 2
    assert "'max_wall_s' is 0.0: must be > 0" in capsys.readouterr().err
