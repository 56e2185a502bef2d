"""Numbers in README and docs that say which command and commit they are of."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
from benchmarks.claims import PAGES, ROOT, argv, blocks, renewed
from tests import fork_server

from dimat.cli.commands import compare
from dimat.tools.compare.read import read_spec

BLOCKS = [block for page in PAGES for block in blocks(page.read_text())]
PAGE = """before
<!-- claims: python -m benchmarks.digits @ 0000000 -->

| old | 1.0 |

<!-- /claims -->
between
<!-- claims: dimat compare a.yaml @ 0000000 -->
```text
old
```
<!-- /claims -->
after
"""


def test_a_marked_block_is_what_its_command_prints_and_nothing_else_changes() -> None:
    def stub(command: str) -> str:
        return f"\n| {command} |  \n\ncomparison: /tmp/x/runs/a\n"

    once = renewed(PAGE, "abc1234", stub)
    assert once == (
        "before\n<!-- claims: python -m benchmarks.digits @ abc1234 -->\n\n"
        "| python -m benchmarks.digits |\n\n<!-- /claims -->\nbetween\n"
        "<!-- claims: dimat compare a.yaml @ abc1234 -->\n```text\n| dimat compare a.yaml |\n```\n"
        "<!-- /claims -->\nafter\n"
    )
    assert renewed(once, "abc1234", stub) == once


def test_a_page_without_marks_stays() -> None:
    assert renewed("<!-- a comment -->\n", "abc1234", lambda command: "never") == (
        "<!-- a comment -->\n"
    )


def test_there_are_claims_and_every_mark_is_whole() -> None:
    assert len(BLOCKS) >= 3
    marks = [re.findall(r"<!-- /?claims\b", page.read_text()) for page in PAGES]
    assert sum(map(len, marks)) == 2 * len(BLOCKS)


def test_the_picture_shows_what_the_page_says_of_its_run() -> None:
    """One seed, so within three sample deviations and a point; docs/picture.py draws it."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", (ROOT / "docs/demo.svg").read_text(), re.DOTALL)
    words = [re.sub(r"<[^>]+>|&#160;", "", text).strip() for text in texts]
    start = words.index("mean")
    trained, merged, wa_trained, wa_merged, alone = map(float, words[start + 1 : start + 6])
    page = (ROOT / "docs/what_it_can.md").read_text()
    line = next(x for x in page.splitlines() if x.startswith("| by class from scratch |"))
    said = re.findall(r"([\d.]+) ± ([\d.]+)", line)[1:]
    shown = (merged, trained, wa_merged, wa_trained, alone)
    for (mean, sd), own in zip(said, shown, strict=True):
        assert abs(own - float(mean)) <= 3 * float(sd) + 1


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.command)
def test_the_command_of_a_marked_block_is_one_that_can_be_run(block: object) -> None:
    words = argv(block.command)[2:]  # type: ignore[attr-defined]
    if words[0] == "dimat":
        options = {"compare": compare}[words[1]].parser().parse_args(words[2:])
        assert read_spec(ROOT / options["base"]).num_cells > 0
        return
    assert find_spec(words[0]) is not None
    done = fork_server.run(["python", "-m", words[0], "--help"], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert all(word in told for word in words[1:] if word.startswith("--"))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.command)
def test_a_marked_block_names_a_commit(block: object) -> None:
    assert re.fullmatch(r"[0-9a-f]{7,40}", block.commit)  # type: ignore[attr-defined]


def test_the_numbers_of_the_readme_are_those_of_the_page_that_it_names() -> None:
    readme, page = ((ROOT / x).read_text() for x in ("README.md", "docs/what_it_can.md"))
    said = re.findall(r"\b\d+\.\d\b", readme.partition("## What it can")[2].partition("\n## ")[0])
    made = "".join(block.text for block in blocks(page))
    assert len(said) >= 3
    assert [number for number in said if number not in made] == []


def test_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match="not by 'rm -r x'"):
        argv("rm -r x")
