"""The files of examples/ are run as their page says, and print what they are there to show."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from tests import fork_server

FOLDER = fork_server.ROOT / "examples"
TEXT = (FOLDER / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"`((?:python|torchrun) [^`\n]+)`", TEXT)
PERCENT = r"(\d+\.\d) %"


def printed(name: str, folder: Path) -> str:
    """What an example prints, run as its page says, in an empty folder."""
    [command] = [x for x in COMMANDS if name in x]
    assert f"\n{command}\n" in (FOLDER / name).read_text("utf-8"), "its docstring says the same"
    program, *rest = shlex.split(command.replace("examples/", f"{FOLDER}/"))
    start = {
        "python": ["python"],
        # processes without the seconds of their imports
        "torchrun": [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--run-path", "--start-method", "fork"),
        ],
    }
    done = fork_server.run([*start[program], *rest], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not any(folder.iterdir())
    return done.stdout


def accuracies(text: str) -> list[float]:
    return [float(own) for own in re.findall(PERCENT, text)]


def test_checkpoints_that_are_matched_merge_better_than_as_they_are(tmp_path: Path) -> None:
    plain, matched, fitted, *parents = accuracies(printed("merge_checkpoints.py", tmp_path))
    assert len(parents) == 2
    assert min(matched, fitted) > plain + 1
    assert max(matched, fitted) > min(parents) - 1


def test_agents_in_a_loop_of_ones_own_merge_with_each_other(tmp_path: Path) -> None:
    out = printed("own_loop.py", tmp_path)
    said = re.findall(r"agent (\d): (\d+) merges, (\d+) states heard", out)
    assert sorted(said) == [("0", "4", "4"), ("1", "4", "4")]
    assert min(accuracies(out)) > 85


def test_a_method_of_ones_own_is_compared_with_others(tmp_path: Path) -> None:
    out = printed("own_method.py", tmp_path)
    sent = {name: float(mb) for name, mb in re.findall(r"^(\w+): .*, (\S+) MB", out, re.MULTILINE)}
    assert list(sent) == ["half", "wa", "local"]
    assert sent["local"] == 0 < sent["half"] < 0.6 * sent["wa"]
    half, wa, local = accuracies(out)
    assert min(half, wa) > local


@pytest.mark.slow
def test_the_torchrun_line_of_the_page_runs(tmp_path: Path) -> None:
    [line] = re.findall(r"```sh\n(.*)\n```", TEXT)
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:]]
    done = fork_server.run(words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run folder: runs/" in done.stdout


def test_every_example_is_on_the_page_and_short() -> None:
    files = sorted(FOLDER.glob("*.py"))
    assert len(files) == len(COMMANDS) >= 3
    for file in files:
        assert f"]({file.name})" in TEXT
        assert len(file.read_text("utf-8").splitlines()) < 60, file


def test_the_loop_of_the_readme_is_that_of_the_example() -> None:
    readme = (fork_server.ROOT / "README.md").read_text("utf-8")
    [loop] = re.findall(r"```py\n(.*?)```", readme, re.DOTALL)
    assert loop in (FOLDER / "own_loop.py").read_text("utf-8")
