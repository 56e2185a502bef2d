"""Nothing outside of methods/ asks what a method is called: a method says of itself what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dimat
from dimat.methods import METHODS

SOURCE = Path(dimat.__file__).parent
NAMES = set(METHODS) - {"dimat", "local"}  # the package's own name, and that of local statistics


def asked(tree: ast.AST) -> Iterator[str]:
    """The names that something is compared with, or looked up by."""
    for node in ast.walk(tree):
        inside: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            inside = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            inside = list(node.keys)
        elif isinstance(node, ast.Subscript):
            inside = [node.slice]
        elif isinstance(node, ast.MatchValue):
            inside = [node.value]
        for part in inside:
            found = ast.walk(part) if part is not None else ()
            yield from (x.value for x in found if isinstance(x, ast.Constant) and x.value in NAMES)


def test_no_method_is_known_by_its_name_outside_of_methods() -> None:
    files = [p for p in SOURCE.rglob("*.py") if "methods" not in p.relative_to(SOURCE).parts]
    found = {str(p): [*asked(ast.parse(p.read_text(encoding="utf-8")))] for p in files}
    assert {p: names for p, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code", ['x == "wa"', 'x in ("sgp", y)', '{"cga": 1}', 'T["swarm"]', 'match x:\n case "wm": 1']
)
def test_a_name_that_is_asked_for_would_be_found(code: str) -> None:
    assert [*asked(ast.parse(code))]
