"""Evidence of redrawn values about a node: whether a wrong label could have been seen there at all.

Nothing can be seen where values are not finite, the same in every draw (a saturated sigmoid, a dead
ReLU) or the same along an axis that is said to move, or where an operand has no influence.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from dimat.compat import arguments_of, has_schema
from dimat.graph.interpreter import Recorder
from dimat.graph.trace import operator_name
from dimat.symmetry.labels.operator_call import Result, as_tuple, tensors_in
from dimat.symmetry.labels.solve import Solution
from dimat.symmetry.labels.units import Ints, Labels, Special
from dimat.symmetry.proof.execute import rerun
from dimat.symmetry.rules.registry import is_zero

# Relative to the largest value of a node. One operator in float64 rounds to some 1e-15 a term, so
# this leaves room for long sums and for cancellation; a wrong label is off by about 1.
TOLERANCE = 1e-8
UNPROVED = "unproved"  # the reasons of unproved nodes begin with it
_FIRST = 8  # indices of each axis in which a difference is looked for first
_MASK = 1e8  # values so much larger than the median are masks, and no measure of the others
# Operands of which only the shape or the dtype is read, by operator. They cannot influence the
# value; a node on which any other operand has no influence is unproved.
UNREAD: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (f"aten.{kind}_like" for kind in ("zeros", "ones", "full", "empty", "rand", "randn")),
        frozenset({"self"}),
    ),
    **dict.fromkeys(
        (f"aten.new_{kind}" for kind in ("zeros", "ones", "full", "empty")), frozenset({"self"})
    ),
    **dict.fromkeys(("aten.zero", "aten.fill", "aten.copy", "aten.bernoulli"), frozenset({"self"})),
    **dict.fromkeys(
        (f"aten.{kind}_as" for kind in ("type", "expand", "view", "reshape")), frozenset({"other"})
    ),
}
# Operators that only rearrange values. If values are the same along an axis after them (a mask that
# is expanded over heads), they were so before, and the node that made them so is examined itself.
REARRANGING = frozenset(
    f"aten.{kind}"
    for kind in (
        *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("view_as", "reshape_as", "ravel", "permute", "transpose", "swapdims", "swapaxes"),
        *("movedim", "moveaxis", "t", "mT", "mH", "matrix_H", "adjoint", "numpy_T"),
        *("expand", "expand_as", "broadcast_to", "slice", "narrow", "select"),
        *("clone", "contiguous"),
    )
)
FINITENESS = frozenset(
    f"aten.{kind}" for kind in ("isnan", "isinf", "isposinf", "isneginf", "isfinite")
)


@dataclass
class Evidence:
    """The evidence of the draws about one node.

    Args:
        varies: Numbers of the results whose values differ between two draws.
        axes: (result, axis) along which values differ.
        reacts: Names of the operands on which the node's value was seen to depend.
    """

    varies: set[int] = field(default_factory=set)
    axes: set[tuple[int, int]] = field(default_factory=set)
    reacts: set[str] = field(default_factory=set)

    def copy(self) -> Evidence:
        """A copy that can be added to."""
        return Evidence(set(self.varies), set(self.axes), set(self.reacts))


def add_draw(own: Evidence, node: fx.Node, value: Any, first: Recorder, recorder: Recorder) -> None:
    """Add the evidence of one draw about a node.

    Args:
        own: The evidence that is added to.
        node: The node.
        value: Value of the node in this draw.
        first: The run of the first draw, with the values of all nodes.
        recorder: The run of this draw.
    """
    for k, x in enumerate(tensors_in(value)):
        own.axes |= {
            (k, i) for i in range(x.dim()) if (k, i) not in own.axes and _differs_along(x, i)
        }
    if value is first.env[node]:  # the first draw itself
        return
    if len(own.varies) < len(tensors_in(value)):
        own.varies |= set(differing(value, first.env[node]))
    read = [n for n in node.all_input_nodes if first.is_tensor(n)]
    if len(read) == 1 and own.varies:
        own.reacts.add(read[0].name)
    for source in [n for n in read if n.name not in own.reacts]:
        other = first.value(source)
        if differing(recorder.value(source), other) and differing(
            value, rerun(recorder, node, {source: other})
        ):
            own.reacts.add(source.name)


def computes(node: fx.Node) -> bool:
    """Whether a node calls an operator: to pick one result of another node computes nothing."""
    return node.op == "call_function" and has_schema(node)


def differing(a: Any, b: Any) -> list[int]:
    """Numbers of the results that differ between two values of a node, where both are finite."""
    pairs = enumerate(zip(tensors_in(a), tensors_in(b), strict=False))
    return [k for k, (x, y) in pairs if x.shape == y.shape and _apart(x, y)]


def _differs_along(x: Tensor, axis: int) -> bool:
    return x.shape[axis] > 1 and _apart(x, x.narrow(axis, 0, 1))


def _apart(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors differ by more than rounding; a NaN differs from nothing."""
    if not x.numel():
        return False
    if not (x.is_floating_point() or x.is_complex()):
        return bool((x != y).any())
    if _first_apart(x, y):
        return True
    if bool((x.isinf() != y.isinf()).any()):  # a mask
        return True
    finite = x.isfinite() & y.isfinite()
    a, b = x.where(finite, 0.0), y.where(finite, 0.0)
    return bool(((a - b).abs() > TOLERANCE * _scale(a)).any())


def _first_apart(x: Tensor, y: Tensor) -> bool:
    """Whether a difference is seen in the first values, measured by the largest of all.

    No value is larger than that, so what differs here does in :func:`_apart`; most values do, and
    need not be looked through.
    """
    if x.is_complex() or y.is_complex():
        return False
    low, high = (float(v) for v in x.aminmax())
    largest = max(-low, high, 1e-30)
    if not math.isfinite(largest):
        return False
    y = y.expand_as(x)
    for axis, n in enumerate(x.shape):
        x, y = (v.narrow(axis, 0, min(n, _FIRST)) for v in (x, y))
    return bool(((x - y).abs() > TOLERANCE * largest).any())


def is_constant(node: fx.Node) -> bool:
    """Whether a node has one value for all finite operands: a test for NaN, a product with zero."""
    name = operator_name(node.target)
    return name in FINITENESS or (name == "aten.mul" and any(is_zero(x) for x in node.args))


def lacking(
    node: fx.Node, labels: Mapping[str, Result], own: Evidence, s: Solution, moves: Ints
) -> str | None:
    """The reason why a node is unproved; None if it is proved or has nothing to do with moves.

    Args:
        node: The node.
        labels: Labels of all nodes.
        own: The evidence about the node.
        s: The solution that the labels were solved to.
        moves: An element that moves every unit that can move.
    """
    results = [moving(x, s, moves) for x in as_tuple(labels.get(node.name, ()))]
    used = _used(node, len(results))
    operands = [n for n in _read(node) if any(moving(as_tuple(labels[n.name])[0], s, moves))]
    operands = [n for n in operands if operator_name(n.target) not in FINITENESS]
    if not used or not (operands or any(results[k] for k in used)):
        return None
    for k in used:
        if k not in own.varies and (operands or results[k]):
            return f"{UNPROVED}: it has the same finite values in every draw"
        alike = any((k, axis) not in own.axes for axis in results[k])
        if alike and operator_name(node.target) not in REARRANGING:
            return f"{UNPROVED}: its values are the same all along an axis that may move"
    if any(n.name not in own.reacts for n in operands):
        return f"{UNPROVED}: what moves has no influence on its values"
    return None


def moving(labels: Labels, s: Solution, moves: Ints) -> list[int]:
    """The axes of a tensor on which some unit moves."""
    found = enumerate(numbered(labels, s))
    return [i for i, x in found if not isinstance(x, Special) and bool((moves[x] != x).any())]


def _used(node: fx.Node, results: int) -> list[int]:
    """Numbers of the results that some node reads."""
    picked = [n.args[1] for n in node.users if n.target is operator.getitem]
    if isinstance(node.meta.get("val"), (tuple, list)):
        return sorted({k for k in picked if isinstance(k, int)})
    read = any(not computes(user) or node in _read(user) for user in node.users)
    return list(range(results)) if read else []


def _read(node: fx.Node) -> list[fx.Node]:
    """The operands whose values the operator reads, not only their shape or dtype."""
    unread = UNREAD.get(operator_name(node.target), frozenset())
    names = [argument.name for argument in arguments_of(node.target)]
    given = [*zip(names, node.args, strict=False), *node.kwargs.items()]
    found: dict[fx.Node, None] = {}
    fx.node.map_arg(
        [value for name, value in given if name not in unread], lambda n: found.setdefault(n)
    )
    return [n for n in found if foreseen(n) is not None]


def foreseen(node: fx.Node) -> Tensor | None:
    """A tensor without data of a node's shape and dtype; None if its value is not one tensor."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def numbered(labels: Labels, solution: Solution) -> Labels:
    """Labels in the structure's unit numbers."""
    return tuple(x if isinstance(x, Special) else solution.of(x) for x in labels)


def _scale(value: Tensor) -> float:
    """The largest finite magnitude, leaving out what is beyond any sum with the others."""
    size = value.abs()
    largest = _near_largest(size)
    if largest is not None:
        return largest
    size = size[size.isfinite() & (size > 0)]
    if not size.numel():
        return 1e-30
    return float(size[size <= _MASK * size.median()].max())


def _near_largest(size: Tensor) -> float | None:
    """The largest magnitude, if the median is seen, without sorting, to be no mask's distance off.

    It is where more than half of the magnitudes are so near.
    """
    largest = float(size.max()) if size.numel() else 0.0
    if not 1e-200 < largest < math.inf:
        return None
    near = int((size >= largest / (_MASK * (1 - 1e-9))).sum())
    return largest if 2 * near > size.numel() else None


def close_to(expected: Tensor, found: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether two tensors are equal up to a tolerance relative to the largest value of the first.

    Values of masks do not count as the largest: -1e9 beside logits would hide every difference.

    Args:
        expected: The tensor that the tolerance is relative to.
        found: The other one, of its shape.
        tolerance: Relative tolerance; the default is for one operator in float64.
    """
    if expected.is_complex() and found.is_complex():
        expected, found = torch.view_as_real(expected), torch.view_as_real(found)
    if not expected.is_floating_point():
        return torch.equal(expected, found)
    atol = tolerance * _scale(expected)
    if expected.numel() and expected.dtype == found.dtype:
        gap = (expected - found).abs_().max()
        if bool(gap <= atol):  # a NaN is not
            return True
    return torch.allclose(expected, found, rtol=tolerance, atol=atol, equal_nan=True)
