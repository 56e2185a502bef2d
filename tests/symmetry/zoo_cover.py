"""What each model of the zoo tests, and a small set of them that tests all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from tests.symmetry.test_mutations import MUTATIONS, forgetful
from tests.symmetry.test_zoo import CASES
from tests.symmetry.zoo import Case

from dimat.graph.trace import Trace, operator_name
from dimat.symmetry import Analysis, find
from dimat.symmetry.labels.operator_call import as_tuple
from dimat.symmetry.labels.units import Special
from dimat.symmetry.rules import RULES, Rule


@dataclass(frozen=True)
class Tested:
    """What one model tests, and the processor seconds it takes."""

    name: str
    what: frozenset[str]
    seconds: float


def mutants() -> Iterator[tuple[str, dict[str, Rule]]]:
    """Broken rules by a name."""
    for i, own in enumerate(MUTATIONS):
        broken = {op: own.mutate(RULES[op]) for op in (own.operator, own.also) if op}
        yield f"{own.operator} {own.mutate.__name__} {i}", broken
    for op, rule in RULES.items():
        yield f"{op} forgets", {op: forgetful(rule)}


def tested(case: Case) -> Tested:
    begun = time.process_time()
    torch.manual_seed(0)
    model, inputs, kwargs = case.build(), case.inputs(), case.kwargs()
    traces = find.trace_modes(model, inputs, kwargs)

    def again(*_: object) -> tuple[Trace, Trace]:
        return traces

    def analysis() -> Analysis:
        find._CACHE.clear()
        return find.analyze(model, inputs, kwargs)

    with mock.patch.object(find, "trace_modes", again):
        right = analysis()
        seconds = time.process_time() - begun
        nodes = [n for own in traces for n in own.graph.nodes if n.op == "call_function"]
        there = {operator_name(node.target) for node in nodes}
        what = set(moving(right))
        for name, broken in mutants():
            if there & broken.keys() and differs(right, broken, analysis):
                what.add(name)
    return Tested(case.name, frozenset(what), seconds)


def differs(right: Analysis, broken: dict[str, Rule], analysis: object) -> bool:
    """Whether a broken rule shows."""
    with mock.patch.dict(RULES, broken):
        try:
            found = analysis()  # type: ignore[operator]
        except Exception:
            return True
    same = found.symmetry.digest == right.symmetry.digest
    return not same or found.distrusted != right.distrusted


def moving(analysis: Analysis) -> Iterator[str]:
    """Operators that units which may move come into or out of."""

    def moves(name: str) -> bool:
        labels = analysis.labels.get(name, ())
        own = [label for axes in as_tuple(labels) for label in axes]
        movable = analysis.symmetry.movable
        return any(not isinstance(x, Special) and bool(movable[x].any()) for x in own)

    for node in analysis.trace.graph.nodes:
        around = [node, *node.all_input_nodes]
        if node.op == "call_function" and any(moves(own.name) for own in around):
            yield operator_name(node.target)


def smallest(all_of_them: list[Tested]) -> list[Tested]:
    """A set of models that tests all that they all test, cheap ones first."""
    left = frozenset().union(*(own.what for own in all_of_them))
    chosen: list[Tested] = []
    while left:
        best = max(all_of_them, key=lambda own: len(left & own.what) / (0.2 + own.seconds))
        chosen.append(best)
        left -= best.what
    for own in list(chosen):
        others = frozenset().union(*(other.what for other in chosen if other is not own))
        if own.what <= others:
            chosen.remove(own)
    return chosen


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sorted(own.name for own in smallest([tested(case) for case in CASES])):
        print(f'"{name}",')
