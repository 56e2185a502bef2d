"""``dimat completion`` prints what has a shell complete commands, options and values."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from dimat.cli import main
from dimat.cli.commands import completion

# What bash does when somebody types the words and then the tabulator key.
TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
COMP_TYPE=9 COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
[[ $(complete -p dimat) =~ -F\\ ([^ ]+) ]]
"${BASH_REMATCH[1]}" dimat "${@: -1}" "${@: -2:1}" 2> /dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dimat.bash"
    file.write_text(script("bash", capsys))
    for typed, expected in {
        "dimat to": ["topology"],
        "dimat run --bat": ["--batch_size"],
        "dimat run --exchange.precision ''": ["float32", "bfloat16"],
        "dimat certificates s": ["sign", "show"],
        "dimat doctor --js": ["--json"],
    }.items():
        words = ["bash", "-c", TAB, "bash", str(file), *shlex.split(typed)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.stdout.split() == expected, (typed, done.stderr)


def test_zsh_is_told_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    said = script("zsh", capsys)
    assert said.startswith("#compdef dimat")
    assert '"--exchange.precision' in said


def test_the_parser_of_this_process_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    script("bash", capsys)
    with pytest.raises(SystemExit) as stop:
        main(["run", "--agents", "3", "--print_config"])
    assert stop.value.code == 0
    assert "agents: 3" in capsys.readouterr().out


def test_other_shells_and_a_missing_package_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["completion", "fish"]) == 2
    assert "'shell' is 'fish', which is unknown" in capsys.readouterr().err
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "dimat[completion]"' in capsys.readouterr().err
