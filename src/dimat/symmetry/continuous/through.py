"""Proof by execution that matrices on units go through the operators of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, fx

from dimat.graph.interpreter import Recorder
from dimat.graph.trace import Trace, operator_name
from dimat.symmetry.continuous.group import Act, Kind, mapped
from dimat.symmetry.permutation import Group
from dimat.symmetry.proof.evidence import REARRANGING, TOLERANCE
from dimat.symmetry.proof.execute import rerun
from dimat.symmetry.unit_axes import UnitAxes

_MOST_SLOTS = 6  # units of one group on the operands of one operator; each doubles what is tried

# A tensor of the graph, by the name of its node or its state key, the axes of units on it, and
# which of their places. It is multiplied by M (role 1) or by the inverse transposed (-1).
Slot = tuple[str, tuple[int, ...], int]


@dataclass(frozen=True)
class UnitStream:
    """The part of a graph through which the units of one group flow.

    Args:
        group: The permutation group of the units.
        slots: The units of the group on each node that carries some.
        nodes: The operators that read a carrying node, in the order of the graph.
    """

    group: Group
    slots: Mapping[str, Sequence[tuple[int, UnitAxes]]]
    nodes: Sequence[fx.Node]


class Roles:
    """The roles of slots relative to each other, found one fact at a time.

    A union of slots with a sign each: two slots of one set have equal or opposite roles.
    """

    def __init__(self) -> None:
        self._above: dict[Slot, tuple[Slot, int]] = {}

    def root(self, slot: Slot) -> tuple[Slot, int]:
        """The representative of a slot's set, and the slot's sign relative to it."""
        above, sign = self._above.setdefault(slot, (slot, 1))
        if above == slot:
            return slot, 1
        top, further = self.root(above)
        self._above[slot] = top, sign * further
        return self._above[slot]

    def tie(self, a: Slot, b: Slot, sign: int) -> bool:
        """Record that ``b`` has ``sign`` times the role of ``a``; False if it cannot."""
        (one, own), (two, other) = self.root(a), self.root(b)
        if one == two:
            return own * other == sign
        self._above[two] = one, own * other * sign
        return True


def roles_through(
    trace: Trace, draws: Sequence[Recorder], stream: UnitStream, kind: Kind
) -> dict[Slot, int] | None:
    """The roles with which random matrices of a kind go through a stream; None if they do not.

    Every operator is run anew by itself on operands that are multiplied, so that nothing further
    down can hide a difference; every operand must be seen to matter.

    Args:
        trace: The graph.
        draws: Runs of it on redrawn values, all values kept.
        stream: The part of the graph.
        kind: The kind of matrices.
    """
    found, random = Roles(), torch.Generator().manual_seed(0)
    for node in stream.nodes:
        tries = [_Try(trace, recorder, stream, node, kind, random).facts() for recorder in draws]
        facts = tries[0]
        if facts is None or any(other != facts for other in tries[1:]):
            return None
        if not all(found.tie(a, b, sign) for a, b, sign in facts):
            return None
    slots = sorted(found._above)
    if len({found.root(slot)[0] for slot in slots}) != 1:
        return None
    return {slot: found.root(slot)[1] for slot in slots}


Fact = tuple[Slot, Slot, int]


class _Try:
    """One operator of a stream, run on multiplied operands."""

    def __init__(
        self,
        trace: Trace,
        recorder: Recorder,
        stream: UnitStream,
        node: fx.Node,
        kind: Kind,
        random: torch.Generator,
    ) -> None:
        self.trace, self.recorder, self.stream, self.node = trace, recorder, stream, node
        self.random = random
        self.signs = (1,) if kind.startswith("orthogonal") else (1, -1)
        group = stream.group
        self.shape = group.cells, group.size
        self.acts = drawn_element(kind, *self.shape, random)
        self.value = recorder.value(node)
        self.inner = [(n, own) for n in operands(node) for own in stream.slots.get(n.name, ())]
        self.outer = [(node, own) for own in stream.slots.get(node.name, ())]

    def facts(self) -> list[Fact] | None:
        """The relative roles that are the same in all that fit; None if none do."""
        slots = (*self.inner, *self.outer)
        if not self.inner or len(slots) > _MOST_SLOTS or not self._real():
            return None
        if not self.outer and self._selects():
            return []  # a part of the operand in which there are none of the units
        held = list(self._working())
        if not held or not (self._selects() or self._all_matter()):
            return None
        names = [slot_of(self.trace, n, own) for n, own in slots]
        signs = {(i, j): {r[i] * r[j] for r in held} for i, j in combinations(range(len(names)), 2)}
        ties = {pair: own.pop() for pair, own in signs.items() if len(own) == 1}
        return [
            *((name, name, 1) for name in names),
            *((names[i], names[j], sign) for (i, j), sign in ties.items()),
        ]

    def _real(self) -> bool:
        """Whether matrices can multiply what is multiplied: real numbers."""
        values = (self.value, *(self.recorder.value(n) for n, _ in self.inner))
        return all(isinstance(x, Tensor) and x.is_floating_point() for x in values)

    def _selects(self) -> bool:
        name = operator_name(self.node.target)
        return name in REARRANGING or name == "getitem"

    def _working(self) -> Iterator[tuple[int, ...]]:
        """The roles that fit; that of the first slot is 1, as M is any matrix."""
        for given in product((1,), *[self.signs] * (len(self.inner) - 1)):
            found = self._run(given)
            for made in product(*[self.signs] * len(self.outer)):
                if found is not None and _equal(self._expected(made), found):
                    yield (*given, *made)

    def _all_matter(self) -> bool:
        """Whether the result tells when units of any one operand alone are scaled."""
        scale, _ = drawn_element("scaling", *self.shape, self.random)
        for n, (_, own) in self.inner:
            value = self.recorder.value(n)
            scaled = mapped(value, own.axes, own.index, self.shape, scale).contiguous()
            found = value_of(self.recorder, self.node, {n: scaled})
            if isinstance(found, Tensor) and _equal(self.value, found):
                return False
        return True

    def _run(self, roles: Sequence[int]) -> Tensor | None:
        replaced: dict[fx.Node, Any] = {}
        for (n, (_, own)), role in zip(self.inner, roles, strict=True):
            value = replaced.get(n, self.recorder.value(n))
            replaced[n] = self._times(value, own, role)
        found = value_of(self.recorder, self.node, replaced)
        return found if isinstance(found, Tensor) and found.shape == self.value.shape else None

    def _expected(self, roles: Sequence[int]) -> Tensor:
        value: Tensor = self.value
        for (_, (_, own)), role in zip(self.outer, roles, strict=True):
            value = self._times(value, own, role)
        return value

    def _times(self, value: Tensor, own: UnitAxes, role: int) -> Tensor:
        act = self.acts[0 if role > 0 else 1]
        return mapped(value, own.axes, own.index, self.shape, act).contiguous()


def drawn_element(kind: Kind, cells: int, n: int, generator: torch.Generator) -> tuple[Act, Act]:
    r"""The action of a random element M of a kind, and that of its inverse transposed.

    Of :math:`M = I + u v^\top`, which costs n multiplications where a full matrix costs n². What is
    analytic and holds for one that is drawn holds for all such, and so for what they generate:
    reflections all orthogonal matrices, others all invertible ones.

    Args:
        kind: The kind of matrices.
        cells: Number of sets of units.
        n: Number of units in each.
        generator: Draws it.
    """
    drawn = torch.randn(2, cells, n, 1, generator=generator, dtype=torch.float64)
    if kind == "scaling":
        scales = 3.0 ** drawn[0].clamp(-1, 1)
        return (lambda x: scales * x), (lambda x: x / scales)
    v = drawn[0] - drawn[0].mean(1, keepdim=True) if kind == "orthogonal with mean" else drawn[0]
    v = v / v.norm(dim=1, keepdim=True).clamp_min(1e-12)
    u = -2 * v
    if kind == "linear":
        u = drawn[1] / n**0.5
        u = torch.where((u * v).sum(1, keepdim=True) < -0.5, -u, u)  # not near a singular one
    size = 1 + (u * v).sum(1, keepdim=True)
    return (lambda x: x + u * (v * x).sum(-2, keepdim=True)), (
        lambda x: x - v / size * (u * x).sum(-2, keepdim=True)
    )


def operands(node: fx.Node) -> list[fx.Node]:
    """The operands of a node, past those that it absorbs."""
    return list(_first(node).all_input_nodes)


def passes(node: fx.Node, allowed: frozenset[str]) -> bool:
    """Whether the operators of a node, and of what it absorbs, are among the allowed ones."""
    return all(operator_name(n.target) in allowed for n in (node, _first(node)))


def absorbed(node: fx.Node) -> bool:
    """Whether a node is proved together with those that read it.

    A result of several parts has no units of its own; of squares only the sum is known.
    """
    return bool(node.users) and all(_first(user) is node for user in node.users)


def value_of(recorder: Recorder, node: fx.Node, replaced: Mapping[fx.Node, Any]) -> Any:
    """The value of a node with some of its :func:`operands` replaced."""
    first = _first(node)
    found = rerun(recorder, first, replaced)
    if first is node or found is None:
        return found
    if operator_name(node.target) == "getitem":
        index = node.args[1]
        assert isinstance(index, int)
        return found[index]
    return rerun(recorder, node, {first: found})


def _first(node: fx.Node) -> fx.Node:
    """The node at which a proof of this node begins."""
    name = operator_name(node.target)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_function":
        return node
    if name == "getitem":
        return source
    squares = operator_name(source.target) in ("aten.pow", "aten.square") or (
        operator_name(source.target) == "aten.mul" and len(source.all_input_nodes) == 1
    )
    return source if squares and name in ("aten.mean", "aten.sum") else node


def slot_of(trace: Trace, node: fx.Node, placed: tuple[int, UnitAxes]) -> Slot:
    """The slot of units on a node's value: all placeholders of one state entry have one."""
    key, (place, own) = trace.states.get(node.name), placed
    name = f"state {trace.aliases.get(key, key)}" if key is not None else node.name
    return name, own.axes, place


def _equal(expected: Tensor, found: Tensor) -> bool:
    """Whether two results of one operator are equal but for rounding."""
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(expected, found)
    apart = (expected - found).abs().max()
    return bool(apart <= TOLERANCE * expected.abs().max())  # False where one is not finite
