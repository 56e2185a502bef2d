"""The documentation cannot rot: every command in it is run, every other command line is parsed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from dimat.cli import build_parser, main
from dimat.cli.commands import merge
from dimat.matching import MATCHERS
from dimat.merging import COMBINERS
from dimat.methods import METHODS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "examples" / "README.md"]


def blocks(kind: str, pages: Sequence[Path] = PAGES) -> list[str]:
    """The command lines of all fenced blocks of one kind, continuation lines joined."""
    found = []
    for page in pages:
        for block in re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.DOTALL):
            found += block.replace("\\\n", " ").splitlines()
    return found


@pytest.mark.parametrize(
    "page",
    [pytest.param(x, marks=[pytest.mark.slow] * (x.name != "README.md"), id=x.name) for x in PAGES],
)
def test_the_commands_of_a_page_run_one_after_another_in_one_folder(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(
        r"```(?:yaml|python) title=(\S+)\n(.*?)```", page.read_text(), re.DOTALL
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    for line in blocks("console", [page]):
        if line.startswith("$ dimat"):
            assert main(shlex.split(line)[2:]) == 0, line


@pytest.mark.parametrize("line", [x for x in blocks("sh") if x.startswith("dimat run")])
def test_a_long_command_in_the_docs_is_parsed(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(line)[1:], "--print_config"])
    assert stop.value.code == 0
    assert "optimizer:" in capsys.readouterr().out


@pytest.mark.parametrize("line", [x for x in blocks("sh") if x.startswith("dimat merge")])
def test_a_long_merge_in_the_docs_is_parsed(line: str) -> None:
    assert merge.parser().parse_args(shlex.split(line)[2:]).model


def test_every_option_and_name_of_a_merge_is_in_its_page() -> None:
    page = (ROOT / "docs" / "merging.md").read_text()
    options = set(re.findall(r"--[a-z_-]+", merge.parser().format_help())) - {"--help"}
    names = [f"`{option}`" for option in options if "_" not in option]
    names += [f"`{name}`" for name in (*MATCHERS, *COMBINERS)]
    assert [name for name in names if name not in page] == []


def test_there_is_something_to_check() -> None:
    assert len(blocks("console")) >= 3


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


# What zsh, unlike bash, takes as a pattern even if no file fits, and what any shell reads itself.
READ_BY_SHELLS = set("[]*?~^#'\"<>()|;&!$`")
PROGRAMS = r"(?:pip|dimat|torchrun|python|make|git|tensorboard|\.venv/bin/python) "


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_no_command_needs_quotes(page: Path) -> None:
    lines = [line.removeprefix("$ ") for kind in ("sh", "console") for line in blocks(kind, [page])]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    commands = [line for line in (*lines, *spans) if re.match(PROGRAMS, line)]
    assert [line for line in commands if READ_BY_SHELLS & set(line)] == []


def test_the_readme_can_be_read_at_once() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 150


GLOSSARY = re.findall(
    r"^### ([^\n]+)\n\n(.*?)(?=^### |\Z)",
    (ROOT / "docs" / "glossary.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


def test_the_glossary_is_in_the_order_of_the_alphabet_without_twins() -> None:
    words = [word.lower() for word, _ in GLOSSARY]
    assert len(words) > 50
    assert words == sorted(set(words))


def test_each_word_of_the_glossary_says_where_it_is_used_and_what_others_call_it() -> None:
    for word, text in GLOSSARY:
        assert "*Page*: [" in text, word
        assert re.search(r"In the literature|The field's word|A word of dimat's own", text), word


def test_what_the_glossary_says_is_in_the_code_is_there() -> None:
    source = "\n".join(x.read_text() for x in (ROOT / "src").rglob("*.py"))
    for word, text in GLOSSARY:
        for name in re.findall(r"`(?:dimat\.)?([A-Z]\w+)(?:\.(\w+))?`", text):
            for part in filter(None, name):
                assert re.search(rf"\b(?:class|def) {part}\b|^ *{part}\b *[:=]", source, re.M), word


def script(name: str) -> Any:
    """A script of docs/ as a module."""
    spec = spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_has_a_page_and_it_is_what_its_class_says() -> None:
    pages = script("methods").pages()
    assert set(pages) == {f"{name}.md" for name in METHODS} | {"README.md"}
    for name, text in pages.items():
        assert (ROOT / "docs" / "methods" / name).read_text() == text, "run docs/methods.py"
        assert name == "README.md" or ("*Assumes*" in text and "*Breaks when*" in text), name


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text())
        new |= {(page.parent / link).resolve() for link in links} - reached
    assert reached >= {page.resolve() for page in PAGES}


def test_the_table_of_rules_is_the_registry() -> None:
    module = script("rules")
    assert module.table() in (ROOT / "docs" / "symmetry.md").read_text(), "run docs/rules.py"


def test_every_rule_says_what_it_does() -> None:
    from dimat.symmetry.rules import RULES

    assert [name for name, rule in RULES.items() if not rule.__doc__] == []


def test_the_commands_that_make_demo_names_can_be_run_next() -> None:
    demo = (ROOT / "Makefile").read_text().partition("\ndemo:")[2].partition("\n\n")[0]
    told = re.findall(r"\$\(BIN\)/dimat ((?:report|compare) [^\"\n]+)", demo)
    assert [line.split()[0] for line in told] == ["report", "compare"]
    for line in told:
        assert build_parser().parse_args(shlex.split(line))
    [made] = re.findall(r"dimat run .* --out (\S+)", demo)
    files = re.findall(r"(?:configs|docs)/\S+\.(?:yaml|md)", demo)
    assert f"report {made} " in demo
    assert len(files) == 2
    assert all((ROOT / file).exists() for file in files)
