"""Write docs/methods/: a page for each method, from the docstring of its class.

.venv/bin/python docs/methods.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from pathlib import Path

from dimat.methods import METHODS, Method

FOLDER = Path(__file__).parent / "methods"
WHEN = {
    "never": "does not exchange",
    "rounds": "exchanges once a round, before local training",
    "steps": "exchanges while it trains",
}
_ROWS, _COLUMNS = "a mixing matrix whose rows sum to 1", "a mixing matrix whose columns sum to 1"
_BOTH, _TWO_WAY = "a doubly stochastic mixing matrix", "edges that carry both ways"
NEEDS = {
    frozenset(): "any graph",
    frozenset({"rows"}): _ROWS,
    frozenset({"rows", "columns"}): _BOTH,
    frozenset({"columns"}): f"{_COLUMNS}: any strongly connected graph, directed or not",
    frozenset({"two-way"}): _TWO_WAY,
    frozenset({"rows", "two-way"}): f"{_ROWS}, and {_TWO_WAY}",
    frozenset({"rows", "columns", "two-way"}): f"{_BOTH}, and {_TWO_WAY}",
}


def pages() -> dict[str, str]:
    """For each file of the folder what it holds."""
    made = {name: kind() for name, kind in METHODS.items()}
    found = {f"{name}.md": page(name, method) for name, method in made.items()}
    rows = "\n".join(
        f"| [`{name}`]({name}.md) | {summary(method)} | {WHEN[method.exchanges]} |"
        for name, method in made.items()
    )
    found["README.md"] = f"""# Methods

One page each: the update rule, what it assumes, when it breaks, where it is from. All are given the
same optimizer, schedule, batches in the same order, augmentation, BatchNorm in training mode, and
(by `recalibration.methods`) the same recalibration in every round in which they average. They are
run by `dimat run --method NAME --controls NAME,NAME`, or compared by `dimat compare`
([compare.md](../compare.md)).

| method | in a sentence | when |
|---|---|---|
{rows}

A method of your own is a class like these: see [extending.md](../extending.md).
"""
    return found


def summary(method: Method) -> str:
    """The first sentence of its docstring."""
    return markdown(inspect.getdoc(type(method)).split("\n\n")[0]).replace("\n", " ")  # type: ignore[union-attr]


def page(name: str, method: Method) -> str:
    """One method's page."""
    file = "/".join(Path(inspect.getfile(type(method))).parts[-2:])
    text = markdown(inspect.getdoc(type(method)) or "", settings(method))
    return (
        f"# {name}\n\n{text}\n\n---\n\nIt {WHEN[method.exchanges]}; it needs "
        f"{NEEDS[method.needs]}. Code: "
        f"[methods/{file}](../../src/dimat/methods/{file}).\n"
    )


def settings(method: Method) -> dict[str, str]:
    """For each parameter where it is set in a run."""
    found = {}
    for own in dataclasses.fields(method):
        name, equals = own.metadata.get("setting"), own.metadata.get("equals")
        value = "" if equals is None else f": {equals}"
        found[own.name] = f"`{name}{value}`" if name else f"`method_options: {own.name}=…`"
    return found


def markdown(text: str, names: Mapping[str, str] | None = None) -> str:
    """A docstring as Markdown; its arguments by other names."""
    text = re.sub(r"(?<!`)``(?!`)", "`", text)
    text = re.sub(r"^\.\. math::[ ]*(.*)\n((?:\n?[ ]+.*\n?)*)", _block, text, flags=re.MULTILINE)
    text = re.sub(r":math:`([^`]*)`", r"$`\1`$", text)
    text = re.sub(
        r"^(Args|References):\n((?:[ ]+.*\n?|\n(?=[ ]))*)",
        lambda found: _section(found, names or {}),
        text,
        flags=re.MULTILINE,
    )
    return text.strip()


def _block(found: re.Match[str]) -> str:
    lines = [found[1], *(line.strip() for line in found[2].splitlines())]
    return "```math\n" + "\n".join(line for line in lines if line) + "\n```\n"


def _section(found: re.Match[str], names: Mapping[str, str]) -> str:
    lines = [line[4:] for line in found[2].splitlines()]
    if found[1] == "References":
        return "## Reference\n\n" + "\n".join(lines) + "\n"
    items = re.sub(
        r"^(\w+): ", lambda m: f"* {names[m[1]]}: ", "\n".join(lines), flags=re.MULTILINE
    )
    return "## Settings\n\n" + items.replace("\n    ", "\n  ") + "\n"


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
