"""Proof by execution: redraw every entry, permute, and compare every node of the graph.

A comparison proves nothing where nothing could have been seen: where values are not finite, the
same in every draw (a saturated sigmoid, a dead ReLU), the same along an axis that is said to move,
or where an operand has no influence. Such a node is *unproved*, and treated like a wrong one.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from dimat.errors import StructureError
from dimat.symmetry.call import Result, as_tuple, tensors_in
from dimat.symmetry.positions import sources, take
from dimat.symmetry.redraw import DRAWS, LEAST_DRAWS, draw
from dimat.symmetry.rules.registry import is_zero
from dimat.symmetry.solve import Solution
from dimat.symmetry.structure import cycles
from dimat.symmetry.trace import Recorder, Trace, operator_name
from dimat.symmetry.units import Ints, Labels, Special

TOLERANCE = 1e-8  # relative to the largest value of a node, in float64
_MASK = 1e8  # values so much larger than the median are masks, and no measure of the others
# Operands of which only the shape or the dtype is read, by operator; others may have no influence
# on the example's values, and are then unproved.
UNREAD: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (f"aten.{kind}_like" for kind in ("zeros", "ones", "full", "empty", "rand", "randn")),
        frozenset({"self"}),
    ),
    **dict.fromkeys(
        (f"aten.new_{kind}" for kind in ("zeros", "ones", "full", "empty")), frozenset({"self"})
    ),
    **dict.fromkeys(("aten.zero", "aten.fill", "aten.copy", "aten.bernoulli"), frozenset({"self"})),
    **dict.fromkeys(("aten.type_as", "aten.expand_as", "aten.view_as"), frozenset({"other"})),
}
# A recurrent state may begin as zeros, and then what it is multiplied by has no influence.
# Their labels say no more than that they are constant: further draws have another constant.
ZEROS = frozenset(
    {"aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.full", "aten.full_like"}
)
_NO_ZERO = 0.7
FINITENESS = frozenset(
    f"aten.{kind}" for kind in ("isnan", "isinf", "isposinf", "isneginf", "isfinite")
)


@dataclass(frozen=True)
class Example:
    """One run of a graph on redrawn values, in float64.

    Args:
        state: The redrawn state.
        inputs: Flattened user inputs.
        values: The value of every node.
    """

    state: Mapping[str, Tensor]
    inputs: Sequence[Any]
    values: Mapping[str, Any]


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


@dataclass
class Evidence:
    """What the draws showed of one node.

    Args:
        varies: Results that differ between two draws.
        axes: (result, axis) along which values differ.
        reacts: Nodes that it reads, on which its value depends.
    """

    varies: set[int] = field(default_factory=set)
    axes: set[tuple[int, int]] = field(default_factory=set)
    reacts: set[fx.Node] = field(default_factory=set)


def run(t: Trace, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> dict[str, Any]:
    """The value of every node, in float64."""
    return {node.name: value for node, value, _ in steps(t, state, inputs, keep=True)}


def steps(
    t: Trace,
    state: Mapping[str, Tensor],
    inputs: Sequence[Any],
    *,
    keep: bool = False,
    zeros: bool = True,
) -> Iterator[tuple[fx.Node, Any, Recorder]]:
    """Every node with its value and what runs it, one after another.

    Random operators have a seed for each node.

    Args:
        t: The graph.
        state: Redrawn entries.
        inputs: Redrawn inputs.
        keep: Whether values are kept when nothing reads them any more.
        zeros: Whether zeros that the graph makes are zeros, or another constant.
    """
    arguments = {
        key: wide(value) if isinstance(value, Tensor) else value
        for key, value in t.arguments(state, inputs).items()
    }
    recorder = Recorder(t, keep=keep)
    recorder.args_iter = iter(arguments[n.name] for n in t.graph.nodes if n.op == "placeholder")
    for position, node in enumerate(t.graph.nodes):
        if node.op == "output":
            return
        with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=_is_random(node)):
            if _is_random(node):
                torch.manual_seed(position)
            value = recorder.run_node(node)
        if not zeros and operator_name(node.target) in ZEROS and _is_zero(value):
            value = torch.full_like(value, _NO_ZERO)
        recorder.env[node] = value
        yield node, value, recorder
        if not keep:
            for done in recorder.user_to_last_uses.get(node, []):
                recorder.env.pop(done, None)


def wide(value: Tensor) -> Tensor:
    """The tensor in double precision, if it holds real or complex numbers."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _is_zero(value: Tensor) -> bool:
    return value.is_floating_point() and not bool(value.any())


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


class Proof:
    """Draws of one model's graphs, and what they showed; it proves labels or finds a fault.

    Args:
        traces: The graphs.
        state: The given state.
        inputs: Flattened user inputs.
        level: What may stand for an input: :data:`dimat.symmetry.redraw.LEVELS`.

    Attributes:
        examples: Each graph's values in the first draw, near the given ones.
    """

    def __init__(
        self,
        traces: Sequence[Trace],
        state: Mapping[str, Tensor],
        inputs: Sequence[Any],
        level: str,
    ) -> None:
        self.traces, self._given, self._level = traces, (state, inputs), level
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
        return state, inputs

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
                if _computes(node) and tensors_in(value):
                    own = evidence.setdefault(node, Evidence())
                    _add(own, node, value, example.values, recorder)
        self._looked_at += 1


def _computes(node: fx.Node) -> bool:
    """Whether a node is an operator: one that picks a result of another shows nothing new."""
    return node.op == "call_function" and hasattr(node.target, "_schema")


def _add(
    own: Evidence, node: fx.Node, value: Any, first: Mapping[str, Any], recorder: Recorder
) -> None:
    """Add what one draw shows of a node, beside its value in the first draw."""
    for k, x in enumerate(tensors_in(value)):
        own.axes |= {
            (k, i) for i in range(x.dim()) if (k, i) not in own.axes and _differs_along(x, i)
        }
    own.varies |= set(differing(value, first[node.name]))
    read = [n for n in node.all_input_nodes if isinstance(first[n.name], Tensor)]
    if len(read) == 1 and own.varies:
        own.reacts |= set(read)
    for source in set(read) - own.reacts:
        other = first[source.name]
        if differing(recorder.env[source], other):
            own.reacts |= (
                {source} if differing(value, _with(recorder, node, source, other)) else set()
            )


def _with(recorder: Recorder, node: fx.Node, source: fx.Node, other: Tensor) -> Any:
    """The node's value with another one of its operands; None if there is none."""

    def load(n: fx.Node) -> Any:
        return other if n is source else recorder.env[n]

    args, kwargs = fx.node.map_arg(node.args, load), fx.node.map_arg(node.kwargs, load)
    try:
        with torch.no_grad():
            return recorder.call_function(node.target, args, kwargs)
    except (RuntimeError, IndexError, ValueError):
        return None


def differing(a: Any, b: Any) -> list[int]:
    """Numbers of the results in which two values of a node differ where both are finite."""
    pairs = enumerate(zip(tensors_in(a), tensors_in(b), strict=False))
    return [k for k, (x, y) in pairs if x.shape == y.shape and _apart(x, y)]


def _differs_along(x: Tensor, axis: int) -> bool:
    return x.shape[axis] > 1 and _apart(x, x.narrow(axis, 0, 1))


def _apart(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors differ by more than rounding, in an entry where both are finite."""
    if not x.numel():
        return False
    if not (x.is_floating_point() or x.is_complex()):
        return bool((x != y).any())
    finite = x.isfinite() & y.isfinite()
    a, b = x.where(finite, 0.0), y.where(finite, 0.0)
    return bool(((a - b).abs() > TOLERANCE * _scale(a)).any())


def _first_unproved(
    t: Trace,
    labels: Mapping[str, Result],
    evidence: Mapping[fx.Node, Evidence],
    s: Solution,
    moves: Ints,
) -> Fault | None:
    for node in t.graph.nodes:
        if not _computes(node) or _is_constant(node):
            continue
        why = _lacking(node, labels, evidence.get(node, Evidence()), s, moves)
        if why is not None:
            return Fault(node.name, operator_name(node.target), why)
    return None


def _is_constant(node: fx.Node) -> bool:
    """Whether an operator has one value for all finite operands: a test for NaN, or times zero."""
    name = operator_name(node.target)
    return name in FINITENESS or (name == "aten.mul" and any(is_zero(x) for x in node.args))


def _lacking(
    node: fx.Node, labels: Mapping[str, Result], own: Evidence, s: Solution, moves: Ints
) -> str | None:
    """What was not shown of a node that moves, or reads what moves; None if nothing is missing."""
    results = [_moving(x, s, moves) for x in as_tuple(labels.get(node.name, ()))]
    used = _used(node, len(results))
    operands = [n for n in _read(node) if any(_moving(as_tuple(labels[n.name])[0], s, moves))]
    if not operands and not any(results[k] for k in used):
        return None
    for k in used:
        if k not in own.varies and (operands or results[k]):
            return "unproved: it has the same finite values in every draw"
        if any((k, axis) not in own.axes for axis in results[k]):
            return "unproved: its values are the same all along an axis that may move"
    if any(n not in own.reacts for n in operands):
        return "unproved: what moves has no influence on its values"
    return None


def _moving(labels: Labels, s: Solution, moves: Ints) -> list[int]:
    """The axes on which units move."""
    found = enumerate(numbered(labels, s))
    return [i for i, x in found if not isinstance(x, Special) and bool((moves[x] != x).any())]


def _used(node: fx.Node, results: int) -> list[int]:
    """Numbers of the results that something reads."""
    picked = [n.args[1] for n in node.users if n.target is operator.getitem]
    several = isinstance(node.meta.get("val"), (tuple, list))
    return sorted({k for k in picked if isinstance(k, int)}) if several else list(range(results))


def _read(node: fx.Node) -> list[fx.Node]:
    """The operands whose values are read."""
    unread = UNREAD.get(operator_name(node.target), frozenset())
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = [*zip(names, node.args, strict=False), *node.kwargs.items()]
    found: dict[fx.Node, None] = {}
    fx.node.map_arg(
        [value for name, value in given if name not in unread], lambda n: found.setdefault(n)
    )
    return [n for n in found if foreseen(n) is not None]


def foreseen(node: fx.Node) -> Tensor | None:
    """The tensor that the exporter foresaw as a node's value, if it is one."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def random_moves(solution: Solution, generator: np.random.Generator) -> Ints:
    """A random element of the whole group that moves everything it can."""
    families = enumerate(solution.structure.families)
    return solution.structure.moves(
        {k: cycles(f.cells.shape, generator) for k, f in families if f.size > 1}
    )


def numbered(labels: Labels, solution: Solution) -> Labels:
    """Labels in the structure's unit numbers."""
    return tuple(x if isinstance(x, Special) else solution.of(x) for x in labels)


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


def close_to(expected: Tensor, found: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Equal up to rounding in float64, relative to the largest value that is no mask's."""
    if expected.is_complex() and found.is_complex():
        expected, found = torch.view_as_real(expected), torch.view_as_real(found)
    if not expected.is_floating_point():
        return torch.equal(expected, found)
    return torch.allclose(
        expected, found, rtol=tolerance, atol=tolerance * _scale(expected), equal_nan=True
    )


def _scale(value: Tensor) -> float:
    """The largest finite magnitude, leaving out what is beyond any sum with the others."""
    size = value.abs()
    size = size[size.isfinite() & (size > 0)]
    if not size.numel():
        return 1e-30
    return float(size[size <= _MASK * size.median()].max())
