"""Proof by execution: every entry is redrawn and permuted, and every node of the graph compared.

A node is *unproved* if no draw could have shown a wrong label there. It is treated like a node that
is wrong: a symmetry may be too small, never too large.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, fx

from dimat.errors import StructureError
from dimat.graph.interpreter import Recorder, from_draw
from dimat.graph.trace import Trace, operator_name
from dimat.symmetry.constants import redrawn_alike
from dimat.symmetry.labels.operator_call import Result, as_tuple, tensors_in
from dimat.symmetry.labels.positions import Sources, take
from dimat.symmetry.labels.solve import Solution
from dimat.symmetry.labels.units import Ints, Labels, Special
from dimat.symmetry.proof.elements import Element, alike, random_moves, swaps
from dimat.symmetry.proof.evidence import (
    Evidence,
    add_draw,
    close_to,
    computes,
    is_constant,
    lacking,
    numbered,
)
from dimat.symmetry.proof.execute import ZEROS, Step, rerun, run, steps
from dimat.symmetry.proof.redraw import DRAWS, LEAST_DRAWS, draw


@dataclass(frozen=True)
class ProofFault:
    """The first node whose value does not, or may not, move as its labels say.

    Args:
        node: Name of the node.
        operator: Name of its operator.
        why: The reason, also of the pins that follow from it.
    """

    node: str
    operator: str
    why: str


class Proof:
    """Draws of one model's graphs and the evidence in them, on which labels are proved or refuted.

    Args:
        traces: The graphs of the model.
        state: The given state.
        inputs: Flattened user inputs.
        level: The values that may be drawn for an input, one of
            :data:`dimat.symmetry.proof.redraw.LEVELS`.
        constants: Keys of the entries in which equal numbers stay equal.

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
        # Graphs that compute the same, as eval and training mode often do, are run once.
        self._first = [next(i for i, b in enumerate(traces) if _same(a, b)) for a in traces]
        self._drawn: dict[int, tuple[Mapping[str, Tensor], Sequence[Any]]] = {}
        drawn, fed = self._draw(0)
        runs = {i: run(traces[i], drawn, fed) for i in sorted(set(self._first))}
        self.examples = [runs[i] for i in self._first]
        self._evidence: list[dict[str, Evidence]] = [{} for _ in traces]
        self._looked_at = 0
        self._unusable: set[int] = set()

    def first_fault(
        self, labels: Sequence[Mapping[str, Result]], states: Mapping[str, Labels], s: Solution
    ) -> ProofFault | None:
        """The first node that does not move as labeled, or that is unproved; None: all are proved.

        The elements that are tried move every unit that can move: a random element may well leave
        a group of two units as it is.

        Args:
            labels: Labels of the nodes of each graph.
            states: Labels of the state's entries.
            s: The solution that the labels were solved to.
        """
        random = np.random.default_rng(1)
        every = random_moves(s, random)
        unproved, number = None, 0
        while number < max(LEAST_DRAWS, self._looked_at):
            elements = [Element(random_moves(s, random))]
            if number == LEAST_DRAWS - 1:  # on generic values
                elements += [
                    Element(x) for x in swaps(s, random, self._meetings(labels, states, s))
                ]
            if number not in self._unusable:
                found = self._fault_in(number, labels, states, s, elements)
                if found is not None:
                    return found
            number += 1
            if number == LEAST_DRAWS:
                unproved = self._unproved(labels, s, every)
        return unproved

    def _fault_in(
        self,
        number: int,
        labels: Sequence[Mapping[str, Result]],
        states: Mapping[str, Labels],
        s: Solution,
        elements: Sequence[Element],
    ) -> ProofFault | None:
        """The first node that does not move as labeled in one draw.

        If nobody has looked at that draw yet, its evidence is added on the way, as to draw the
        entries takes longer than many an operator on them.
        """
        new = number == self._looked_at
        shown = list(self._evidence)
        for k in sorted(set(self._first)):
            ways = [own for i, own in zip(self._first, labels, strict=True) if i == k]
            steps_ = self._steps(number, k)
            if new:
                shown[k] = {name: own.copy() for name, own in self._evidence[k].items()}
                steps_ = self._adding(shown[k], steps_, k)
            found = _compare(self.traces[k], steps_, ways, states, s, elements)
            if found is not None:
                return found
        if new:
            self._evidence = [shown[k] for k in self._first]
            self._looked_at += 1
        return None

    def _meetings(
        self, labels: Sequence[Mapping[str, Result]], states: Mapping[str, Labels], s: Solution
    ) -> set[frozenset[int]]:
        """For each operator the families of the units on its operands, its results and its draw."""

        @cache
        def families(name: str, k: int) -> frozenset[int]:
            every = [x for own in as_tuple(labels[k].get(name, ())) for x in own]
            every += states.get(self.traces[k].draws.get(name, ""), ())
            units = [s.of(x).ravel() for x in every if not isinstance(x, Special)]
            return frozenset(s.structure.family_of[np.concatenate(units)].tolist() if units else ())

        return {
            frozenset().union(*(families(n.name, k) for n in (node, *node.all_input_nodes)))
            for k, t in enumerate(self.traces)
            for node in t.graph.nodes
            if computes(node)
        }

    def _draw(self, number: int) -> tuple[Mapping[str, Tensor], Sequence[Any]]:
        """The redrawn state and inputs of one draw, constants redrawn alike."""
        if number not in self._drawn:
            state, inputs = draw(number, *self._given, self._level)
            given = {key: self._given[0][key].detach().cpu() for key in self._constants}
            alike = {key: redrawn_alike(value, state[key]) for key, value in given.items()}
            state.hold(alike)
            first = {k: own for k, own in self._drawn.items() if k == 0}
            self._drawn = {**first, number: (state, inputs)}  # each holds some memory
        return self._drawn[number]

    def _steps(self, number: int, k: int) -> Iterable[Step]:
        """The run of graph ``k``, the first of those that compute the same, on one draw."""
        example, t = self.examples[k], self.traces[k]
        if number == 0 and not t.writes:
            return example.steps
        state, inputs = (example.state, example.inputs) if number == 0 else self._draw(number)
        return steps(t, state, inputs, zeros=number < LEAST_DRAWS)

    def _unproved(
        self, labels: Sequence[Mapping[str, Result]], s: Solution, moves: Ints
    ) -> ProofFault | None:
        """The first unproved node; None if the draws tell of every node.

        Draws are added until they do, as many as there are :data:`DRAWS`.
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
        """Add the evidence of one more draw; none, if the graph cannot be run on its values.

        A further draw may fail, as values far from the given ones may be refused (by a Cholesky
        decomposition, say); the first ones must not.
        """
        number = self._looked_at
        try:
            shown = {k: self._shown(number, k) for k in sorted(set(self._first))}
        except (RuntimeError, IndexError, ValueError):
            self._unusable.add(number)
        else:
            self._evidence = [shown[k] for k in self._first]
        self._looked_at += 1

    def _shown(self, number: int, k: int) -> dict[str, Evidence]:
        """The evidence of graph ``k`` by node, with that of one more draw."""
        found = {name: own.copy() for name, own in self._evidence[k].items()}
        for _ in self._adding(found, self._steps(number, k), k):
            pass
        return found

    def _adding(
        self, evidence: dict[str, Evidence], steps_: Iterable[Step], k: int
    ) -> Iterator[Step]:
        """The steps of a run of graph ``k``, while their evidence is added."""
        first = self.examples[k].recorder
        for node, value, recorder in steps_:
            if computes(node) and tensors_in(value):
                own = evidence.setdefault(node.name, Evidence())
                add_draw(own, node, value, first, recorder)
            yield node, value, recorder


def _same(a: Trace, b: Trace) -> bool:
    """Whether two graphs have the same values on every draw."""
    return a is b or a.same_values(b)


def _first_unproved(
    t: Trace,
    labels: Mapping[str, Result],
    evidence: Mapping[str, Evidence],
    s: Solution,
    moves: Ints,
) -> ProofFault | None:
    for node in t.graph.nodes:
        if not computes(node) or is_constant(node) or node.name in t.draws:
            continue
        why = lacking(node, labels, evidence.get(node.name, Evidence()), s, moves)
        if why is not None:
            return ProofFault(node.name, operator_name(node.target), why)
    return None


def _compare(
    t: Trace,
    steps_: Iterable[Step],
    labels: Sequence[Mapping[str, Result]],
    states: Mapping[str, Labels],
    s: Solution,
    elements: Sequence[Element],
) -> ProofFault | None:
    """The first node that does not move as labeled when its operands move as labeled.

    The graph may be labeled in several ways, of which each is compared; those that move the values
    of a node alike are one. Every operator is run anew by itself, on the permuted values of the
    plain run: so a wrong rule is blamed where it is wrong, not further down, and rounding does not
    add up over the graph.
    """
    for node, value, recorder in steps_:
        if not computes(node) or not tensors_in(value):
            continue
        if operator_name(node.target) in ZEROS:  # further draws have another constant there
            continue
        ways = []
        for way in labels:
            own = [numbered(x, s) for x in as_tuple(way[node.name])]
            read = {
                n: numbered(as_tuple(way[n.name])[0], s)
                for n in node.all_input_nodes
                if recorder.is_tensor(n)
            }
            ways.append((own, read))
        drawn = numbered(states[t.draws[node.name]], s) if node.name in t.draws else None
        for element in elements:
            done: list[Sequence[Sources]] = []
            for own, read in ways:
                every = element.sources_of([*own, *read.values()])
                if every is not None:
                    if all(axis is None for tensor in every for axis in tensor):
                        continue
                    if any(alike(every, other) for other in done):
                        continue
                    done.append(every)
                    operands = dict(zip(read, every[len(own) :], strict=True))
                    if _agrees(node, value, recorder, every[: len(own)], operands, drawn, element):
                        continue
                return ProofFault(
                    node.name, operator_name(node.target), "its rule failed verification"
                )
    return None


def _agrees(
    node: fx.Node,
    value: Any,
    recorder: Recorder,
    own: Sequence[Sources],
    read: Mapping[fx.Node, Sources],
    drawn: Labels | None,
    element: Element,
) -> bool:
    """Whether a node's value moves as labeled when its operands and its random draw do."""
    try:
        # What is taken lies in memory in another way, and some views need it in order.
        moved = {n: take(recorder.value(n), x).contiguous() for n, x in read.items()}
        if drawn is None:
            found = tensors_in(rerun(recorder, node, moved))
        else:
            draw_ = element.take(recorder.given[node.name], drawn)
            found = [from_draw(node, draw_, moved)]
        pairs = zip(tensors_in(value), found, own, strict=False)
        return bool(found) and all(close_to(take(x, a), y) for x, y, a in pairs)
    except (StructureError, RuntimeError, IndexError, ValueError):  # labels of another shape
        return False
