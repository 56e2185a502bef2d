"""The numbers of README and docs that are cheap to get, made anew where they stand.

.venv/bin/python -m benchmarks.claims             # all: 35 minutes of processor time
.venv/bin/python -m benchmarks.claims docs/what_it_can.md   # those of one page

A block of a page is marked with the command that prints it and the commit that it was printed at:

    <!-- claims: python -m benchmarks.digits @ 1c3ae0c -->
    ...
    <!-- /claims -->

What stands between is replaced by what the command prints; fences around it stay. Commands run in
an empty folder (so nothing that was run before is taken for new) that has ``configs/`` in it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(
    r"<!-- claims: (?P<command>[^@\n]+) @ (?P<commit>\w+) -->\n(?P<text>.*?)<!-- /claims -->",
    re.DOTALL,
)
_FENCED = re.compile(r"(\n*```\w*\n)(.*?)(```\n*)", re.DOTALL)
_FOLDER = re.compile(
    r"^(comparison|run folder|report): .*\n?", re.MULTILINE
)  # of the temporary one


@dataclass(frozen=True)
class Block:
    """A marked part of a page.

    Args:
        command: What prints it.
        commit: What it was printed at.
        text: What stands there.
    """

    command: str
    commit: str
    text: str


def blocks(page: str) -> list[Block]:
    """The marked parts of a page, in their order."""
    return [Block(**found.groupdict()) for found in _BLOCK.finditer(page)]


def renewed(page: str, commit: str, run: Callable[[str], str]) -> str:
    """The page with every marked part as ``run`` gives it for its command."""

    def block(found: re.Match[str]) -> str:
        own, told = Block(**found.groupdict()), _FOLDER.sub("", run(found["command"]))
        lines = "\n".join(line.rstrip() for line in told.strip("\n").splitlines()) + "\n"
        fence = _FENCED.fullmatch(own.text)
        text = f"{fence[1]}{lines}{fence[3]}" if fence else f"\n{lines}\n"
        return f"<!-- claims: {own.command} @ {commit} -->\n{text}<!-- /claims -->"

    return _BLOCK.sub(block, page)


def argv(command: str) -> list[str]:
    """The command line, in this Python.

    >>> argv("dimat compare a.yaml")[1:]
    ['-m', 'dimat', 'compare', 'a.yaml']
    >>> argv("python -m benchmarks.digits --ways")[1:]
    ['-m', 'benchmarks.digits', '--ways']
    """
    program, *rest = shlex.split(command)
    if program == "dimat":
        return [sys.executable, "-m", "dimat", *rest]
    if program != "python" or rest[:1] != ["-m"]:
        raise ValueError(f"a claim is made by 'dimat …' or 'python -m …', not by '{command}'")
    return [sys.executable, *rest]


def printed(command: str) -> str:
    """What a command prints, run in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("configs", "benchmarks"):
            Path(folder, name).symlink_to(ROOT / name)
        quiet = {"OMP_WAIT_POLICY": "passive", **os.environ}  # as `dimat` has it; cores are shared
        command_line = argv(command)
        done = subprocess.run(
            command_line, cwd=folder, env=quiet, check=True, stdout=subprocess.PIPE
        )
    print(f"$ {command}\n{done.stdout.decode()}", flush=True)
    return done.stdout.decode()


def commit() -> str:
    """What is checked out; refused if there are changes that the numbers would be of."""
    git = ["git", "-C", str(ROOT)]
    changed = [*git, "status", "--porcelain", "--", "src", "benchmarks", "configs"]
    if subprocess.run(changed, check=True, capture_output=True).stdout:
        raise SystemExit("commit src/, benchmarks/ and configs/ first: numbers are of a commit")
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True)
    return head.stdout.decode().strip()


def main() -> None:
    head = commit()
    pages = [Path(name) for name in sys.argv[1:]] or list(PAGES)
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    commands = list(dict.fromkeys(own.command for text in texts.values() for own in blocks(text)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each is a process of its own
        told = dict(zip(commands, pool.map(printed, commands), strict=True))
    for page, text in texts.items():
        new = renewed(text, head, told.__getitem__)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page}: written", flush=True)


if __name__ == "__main__":
    main()
