"""Proof by execution: redraw every entry, permute, and compare every node of the graph.

A node of which the draws cannot show that it moves as labeled is *unproved*, and treated like one
that does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

from dimat.errors import StructureError
from dimat.symmetry.call import Result, as_tuple, tensors_in
from dimat.symmetry.constants import redrawn_alike
from dimat.symmetry.evidence import (
    Evidence,
    add_draw,
    close_to,
    computes,
    is_constant,
    lacking,
    numbered,
)
from dimat.symmetry.execute import Example, run, steps
from dimat.symmetry.positions import sources, take
from dimat.symmetry.redraw import DRAWS, LEAST_DRAWS, draw
from dimat.symmetry.solve import Solution
from dimat.symmetry.structure import cycles
from dimat.symmetry.trace import Trace, operator_name
from dimat.symmetry.units import Ints, Labels


@dataclass(frozen=True)
class Fault:
    """The first node whose value is not, or may not be, what its labels promise.

    Args:
        node: Its name.
        operator: Its operator.
        why: What is wrong: the reason of the pins that follow.
    """

    node: str
    operator: str
    why: str


class Proof:
    """Draws of one model's graphs, and what they showed; it proves labels or finds a fault.

    Args:
        traces: The graphs.
        state: The given state.
        inputs: Flattened user inputs.
        level: What may stand for an input: :data:`dimat.symmetry.redraw.LEVELS`.
        constants: Keys of entries in which what is equal stays equal.

    Attributes:
        examples: Each graph's values in the first draw, near the given ones.
    """

    def __init__(
        self,
        traces: Sequence[Trace],
        state: Mapping[str, Tensor],
        inputs: Sequence[Any],
        level: str,
        constants: Collection[str] = (),
    ) -> None:
        self.traces, self._given, self._level = traces, (state, inputs), level
        self._constants = constants
        drawn, fed = self._draw(0)
        self.examples = [Example(drawn, fed, run(t, drawn, fed)) for t in traces]
        self._evidence: list[dict[fx.Node, Evidence]] = [{} for _ in traces]
        self._looked_at = 0

    def first_fault(
        self, labels: Sequence[Mapping[str, Result]], states: Mapping[str, Labels], s: Solution
    ) -> Fault | None:
        """The first node that does not move as labeled, or of which that was not shown.

        The elements move every unit that can move: a random one may leave a group of two in peace.

        Args:
            labels: Of the nodes of each graph.
            states: Of the state's entries.
            s: The units' numbers and structure.
        """
        random = np.random.default_rng(1)
        movable = random_moves(s, random)
        unproved = self._unproved(labels, s, movable)
        for number in range(self._looked_at):
            moves, (state, inputs) = random_moves(s, random), self._draw(number)
            zeros = number < LEAST_DRAWS
            moved = {
                key: take(value, sources(numbered(states[key], s), moves))
                for key, value in state.items()
            }
            for t, nodes in zip(self.traces, labels, strict=True):
                before, after = (steps(t, x, inputs, zeros=zeros) for x in (state, moved))
                found = _compare(before, after, nodes, s, moves)
                if found is not None:
                    return found
        return unproved

    def _draw(self, number: int) -> tuple[Mapping[str, Tensor], Sequence[Any]]:
        state, inputs = draw(number, *self._given, self._level)
        given = {key: self._given[0][key].detach().cpu() for key in self._constants}
        alike = {key: redrawn_alike(value, state[key]) for key, value in given.items()}
        return {**state, **alike}, inputs

    def _unproved(
        self, labels: Sequence[Mapping[str, Result]], s: Solution, moves: Ints
    ) -> Fault | None:
        """The first node of which the draws cannot tell whether it moves as labeled.

        There are as many draws as it takes to tell of all, if :data:`DRAWS` are enough for that.
        """
        while True:
            pairs = zip(self.traces, labels, self._evidence, strict=True)
            faults = (_first_unproved(*pair, s, moves) for pair in pairs)
            found = next((own for own in faults if own is not None), None)
            enough = LEAST_DRAWS if found is None else len(DRAWS)
            if self._looked_at >= enough:
                return found
            self._look()

    def _look(self) -> None:
        """Add what one more draw shows."""
        state, inputs = self._draw(self._looked_at)
        for t, example, evidence in zip(self.traces, self.examples, self._evidence, strict=True):
            zeros = self._looked_at < LEAST_DRAWS
            for node, value, recorder in steps(t, state, inputs, zeros=zeros):
                if computes(node) and tensors_in(value):
                    own = evidence.setdefault(node, Evidence())
                    add_draw(own, node, value, example.values, recorder)
        self._looked_at += 1


def _first_unproved(
    t: Trace,
    labels: Mapping[str, Result],
    evidence: Mapping[fx.Node, Evidence],
    s: Solution,
    moves: Ints,
) -> Fault | None:
    for node in t.graph.nodes:
        if not computes(node) or is_constant(node):
            continue
        why = lacking(node, labels, evidence.get(node, Evidence()), s, moves)
        if why is not None:
            return Fault(node.name, operator_name(node.target), why)
    return None


def random_moves(solution: Solution, generator: np.random.Generator) -> Ints:
    """A random element of the whole group that moves everything it can."""
    families = enumerate(solution.structure.families)
    return solution.structure.moves(
        {k: cycles(f.cells.shape, generator) for k, f in families if f.size > 1}
    )


def _compare(
    before: Iterable[tuple[fx.Node, Any, Any]],
    after: Iterator[tuple[fx.Node, Any, Any]],
    labels: Mapping[str, Result],
    s: Solution,
    moves: Ints,
) -> Fault | None:
    """The first node whose value, run beside the permuted one, does not move as labeled."""
    for node, value, _ in before:
        try:
            _, moved, _ = next(after)
        except (RuntimeError, IndexError, ValueError):  # what it got was in its place before
            moved = None
        if node.op != "call_function" or not tensors_in(value):
            continue
        own = [numbered(x, s) for x in as_tuple(labels[node.name])]
        pairs = zip(tensors_in(value), tensors_in(moved), own, strict=True)
        if moved is None or not all(_agrees(*x, moves) for x in pairs):
            return Fault(node.name, operator_name(node.target), "its rule failed verification")
    return None


def _agrees(before: Tensor, after: Tensor, labels: Labels, moves: Ints) -> bool:
    try:
        return close_to(take(before, sources(labels, moves)), after)
    except StructureError:
        return False
