"""The short help of ``dimat run`` and ``dimat agent``, and the long one behind ``--help all``."""

from __future__ import annotations

import re
from functools import reduce

import pytest

from dimat import RunConfig
from dimat.cli import _COMMANDS, main
from dimat.cli.helping import FIRST
from dimat.experiment.config.config import DataConfig
from dimat.experiment.config.messages import setting_types
from dimat.experiment.config.spelling import spelled


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "agent"])
@pytest.mark.parametrize("columns", [80, 120])
def test_the_short_help_fits_on_a_screen(
    command: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = told(capsys, command, "--help").splitlines()
    assert max(map(len, lines)) < columns
    assert len(lines) <= 50
    assert f"'dimat {command} --help all' explains each:" in "\n".join(lines)


def test_the_short_help_says_first_what_is_used_first_with_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = told(capsys, "run", "--help")
    assert 10 <= len(FIRST) <= 16
    for name, line in FIRST.items():
        found = re.search(rf"^  --{re.escape(name)} (\S+) +{re.escape(line)}$", out, re.MULTILINE)
        assert found, name
        setting = spelled(name, setting_types())
        if setting not in ("config", "out"):
            default = reduce(getattr, setting.split("."), RunConfig())
            if setting == "data.split":  # which the task decides
                default = DataConfig.split
            assert found[1] == (",".join(default) if isinstance(default, tuple) else str(default))


def test_the_short_help_of_an_agent_shows_what_only_an_agent_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = told(capsys, "agent", "--help")
    for option in ("--insecure", "--trusted-network", "--check"):  # flags have no value to show
        assert re.search(rf"^  {option} {{3,}}\w", out, re.MULTILINE), option
    for option in ("--id ID", "--certificates FOLDER", "--metrics HOST:PORT", "--events FILE"):
        assert re.search(rf"^  {option} {{2,}}\w", out, re.MULTILINE), option
    assert "in it; runs/apart" in out


def test_the_short_help_names_every_setting_in_its_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = " ".join(told(capsys, "run", "--help").partition("explains each:")[2].split())
    for setting in setting_types():
        group, dot, name = setting.rpartition(".")
        after = out.partition(f" {group}{dot} ")[2] if group else out
        names = re.match(r"[\w ,]*", after)
        assert names
        assert name in re.split(r",? ", names[0]), setting


@pytest.mark.parametrize("command", ["run", "agent", "compare", "merge", "statistics", "topology"])
def test_help_all_explains_everything_in_either_order(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = told(capsys, command, "--help", "all")
    assert long == told(capsys, "help", command, "all")
    assert "options:" in long
    short = told(capsys, command, "--help")
    assert (len(short) < len(long) / 4) == (command in ("run", "agent"))


def test_help_is_found_behind_other_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "run", "--agents", "3", "-h") == told(capsys, "run", "--help")


@pytest.mark.parametrize("command", _COMMANDS)
def test_the_long_help_of_a_command_is_narrow_and_has_no_types_of_python(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = told(capsys, command, "--help", "all")
    assert max(map(len, text.splitlines())) < 80
    assert not re.search(
        r"tuple\[|Literal\[|\(type: (str|int|float|bool)|\| null|default: \(", text
    )
    assert f"usage: dimat {command} " in text
