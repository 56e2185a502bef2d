"""Ctrl-C at every stage of a run: what is said of how to go on is true, word for word."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.exchange.threads import peers_file

from dimat.cli import main
from dimat.cli.launch import world_of
from dimat.errors import Interrupted, if_interrupted, in_words
from dimat.exchange import torchrun
from dimat.experiment.config.config import RunConfig
from dimat.experiment.progress import LiveProgress
from dimat.experiment.single_agent.rounds import SingleAgentRun

QUICK = ["--agents=2", "--rounds=1", "--pretrain_epochs=1", "--local_steps=2", "--controls=none"]
QUICK += ["--method=wa", "--data.split=iid", "--data.train_images=200", "--threads=1"]
AGENT = ["agent", *QUICK, "--id=1", "--peers=peers.yaml", "--insecure"]
AGENT += ["--out=apart"]
BEGUN_NOT = "dimat: interrupted; no run was begun yet: the same command begins it\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    peers_file(tmp_path, 2)


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as own:
        yield own


def interrupt_at(patch: pytest.MonkeyPatch, stage: str) -> None:
    """Ctrl-C when a run comes to a stage of that name."""

    def comes_to(self: LiveProgress, description: str, total: int) -> None:
        if description == stage:
            raise KeyboardInterrupt

    patch.setattr(LiveProgress, "stage", comes_to)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What an interrupted command says: one line, exit code 130."""
    assert main(words) == 130
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


def test_before_the_folder_there_is_nothing_to_go_on_with(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    patch.setattr("dimat.experiment.running.runner.make_setup", lambda *own, **more: raise_())
    assert said(capsys, "run", *QUICK, "--out=here") == BEGUN_NOT
    assert said(capsys, "run", *QUICK) == BEGUN_NOT
    assert [own.name for own in Path().iterdir()] == ["peers.yaml"]


def test_a_folder_without_its_first_files_is_no_run(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    patch.setattr("dimat.experiment.record.run_folder.environment", lambda: raise_())
    assert said(capsys, "run", *QUICK, "--out=here") == BEGUN_NOT
    assert main(["resume", "here"]) == 2


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("pre-training", "there is no checkpoint yet in my run: {} begins the run again"),
        ("wa", "what was recorded is kept in my run: {} goes on from its last checkpoint"),
    ],
)
def test_the_command_that_is_named_goes_on(
    stage: str, message: str, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    interrupt_at(patch, stage)
    command = "'dimat resume 'my run''"
    expected = f"dimat: interrupted; {message.format(command)}\n"
    assert said(capsys, "run", *QUICK, "--out=my run") == expected
    assert said(capsys, "resume", "my run") == expected
    patch.undo()
    assert main(shlex.split(command[1:-1])[1:]) == 0
    assert Path("my run/summary.json").exists()


def test_a_run_without_a_name_is_named(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    interrupt_at(patch, "pre-training")
    assert main(["run", *QUICK]) == 130
    [folder] = Path("runs").iterdir()
    assert f"'dimat resume {folder}' begins the run again" in capsys.readouterr().err


def test_an_agent_goes_on_by_the_same_command(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    patch.setattr("dimat.experiment.single_agent.run.make_setup", lambda *own, **more: raise_())
    assert said(capsys, *AGENT) == BEGUN_NOT
    patch.undo()
    patch.setattr(SingleAgentRun, "run", lambda *own, **more: raise_())
    again = "the same command{} begins the run again\n"
    found = "dimat: interrupted; there is no checkpoint yet in apart/agent-001: "
    assert said(capsys, *AGENT) == said(capsys, *AGENT) == found + again.format("")
    replaced = said(capsys, *AGENT, "--overwrite")
    assert replaced == found + again.format(", without overwrite,")


def test_a_comparison_goes_on_by_the_same_command(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    Path("c.yaml").write_text("agents: 2\n")
    patch.setattr("dimat.tools.compare.run.open_folder", lambda *own, **more: raise_())
    assert said(capsys, "compare", "c.yaml", "--out=all") == BEGUN_NOT
    patch.undo()
    patch.setattr("dimat.experiment.run.run_or_resume", lambda *own, **more: raise_())
    kept = "dimat: interrupted; what was recorded is kept in all: the same command goes on\n"
    assert main(["compare", "c.yaml", "--out=all"]) == 130
    assert capsys.readouterr().err.endswith(kept)


def test_what_keeps_nothing_says_no_more(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    patch.setattr("dimat.experiment.network.build_network", lambda *own, **more: raise_())
    assert said(capsys, "topology", "ring") == "dimat: interrupted\n"


def test_of_several_processes_that_of_agent_0_alone_says_it(patch: pytest.MonkeyPatch) -> None:
    class World:
        rank = 1

        def close(self) -> None: ...

    patch.setattr(torchrun, "launched", lambda: True)
    patch.setattr(torchrun, "world", lambda **own: World())
    with pytest.raises(SystemExit) as caught, world_of(RunConfig()):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    World.rank = 0
    with pytest.raises(KeyboardInterrupt), world_of(RunConfig()):
        raise KeyboardInterrupt


def raise_() -> None:
    raise KeyboardInterrupt


def test_an_error_that_an_interrupt_caused_is_an_interrupt(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    def build(*own: object, **more: object) -> None:
        try:
            raise_()
        except KeyboardInterrupt as interrupt:  # as Python does where a class is being made
            raise RuntimeError("Error calling __set_name__") from interrupt

    patch.setattr("dimat.experiment.network.build_network", build)
    assert said(capsys, "topology", "ring") == "dimat: interrupted\n"
    patch.setattr("dimat.experiment.network.build_network", lambda *own, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["topology", "ring"])


def test_before_all_is_imported_there_is_no_traceback_either() -> None:
    script = (
        "import sys\n"
        "from dimat.__main__ import main\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'dimat.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", script, "topology", "ring"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "dimat: interrupted\n")


def test_an_interrupt_that_leaves_a_lock_in_disorder_is_an_interrupt() -> None:
    lock = threading.Lock()

    def work() -> None:
        with in_words("the merge"), lock:
            lock.release()  # as Condition.wait does, and was interrupted then
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="again"), if_interrupted(lambda: "again"):
        work()
    with pytest.raises(ValueError, match="x"), if_interrupted(lambda: "again"):
        raise ValueError("x")


def test_a_run_that_is_terminated_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> None:
    def terminated(self: LiveProgress, description: str, total: int) -> None:
        if description == "wa":
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    patch.setattr(LiveProgress, "stage", terminated)
    assert said(capsys, "run", *QUICK, "--out=here").endswith(
        "kept in here: 'dimat resume here' goes on from its last checkpoint\n"
    )
    assert signal.getsignal(signal.SIGTERM) == before
