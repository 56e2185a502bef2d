"""The documentation cannot rot: every command in it is run, every other command line is parsed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dimat.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(kind: str) -> list[str]:
    """The command lines of all fenced blocks of one kind, continuation lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.DOTALL):
            found += block.replace("\\\n", " ").splitlines()
    return found


@pytest.mark.parametrize("line", [x[2:] for x in blocks("console") if x.startswith("$ dimat")])
def test_a_command_in_the_docs_runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0


@pytest.mark.parametrize("line", [x for x in blocks("sh") if x.startswith("dimat run")])
def test_a_long_command_in_the_docs_is_parsed(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(line)[1:], "--print_config"])
    assert stop.value.code == 0
    assert "optimizer:" in capsys.readouterr().out


def test_there_is_something_to_check() -> None:
    assert len(blocks("console")) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_table_of_rules_is_the_registry() -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("rules_table", ROOT / "docs" / "rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in (ROOT / "docs" / "symmetry.md").read_text(), "run docs/rules.py"


def test_every_rule_says_what_it_does() -> None:
    from dimat.symmetry.rules import RULES

    assert [name for name, rule in RULES.items() if not rule.__doc__] == []
