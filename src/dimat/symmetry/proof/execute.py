"""A graph run on redrawn values, node by node, in double precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from dimat.graph.interpreter import Recorder
from dimat.graph.trace import Trace, operator_name

# A recurrent state may begin as zeros, and then what it is multiplied by has no influence.
# Their labels say no more than that they are constant: further draws have another constant.
ZEROS = frozenset(
    {"aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.full", "aten.full_like"}
)
_NO_ZERO = 0.7


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
    recorder = Recorder(t, arguments, keep=keep)
    for position, node in enumerate(t.graph.nodes):
        if node.op == "output":
            return
        with _double(), _seeded(node, position):
            value = recorder.run_node(node)
        if not zeros and operator_name(node.target) in ZEROS and _is_zero(value):
            value = torch.full_like(value, _NO_ZERO)
        recorder.env[node] = value
        yield node, value, recorder
        if not keep:
            for done in recorder.user_to_last_uses.get(node, []):
                recorder.env.pop(done, None)


def rerun(recorder: Recorder, node: fx.Node, operands: Mapping[fx.Node, Any]) -> Any:
    """What an operator gives now, with some of its operands replaced; with the same random numbers.

    None if it cannot be run on them.
    """

    def load(n: fx.Node) -> Any:
        return operands[n] if n in operands else recorder.env[n]

    args, kwargs = fx.node.map_arg(node.args, load), fx.node.map_arg(node.kwargs, load)
    try:
        with _double(), _seeded(node, recorder.position[node]):
            return recorder.call_function(node.target, args, kwargs)
    except (RuntimeError, IndexError, ValueError):
        return None


@contextmanager
def _double() -> Iterator[None]:
    """Whole numbers become float64, as everything else is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def _seeded(node: fx.Node, seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[], enabled=_is_random(node)):
        if _is_random(node):
            torch.manual_seed(seed)
        yield


def wide(value: Tensor) -> Tensor:
    """The tensor in double precision, if it holds real or complex numbers."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _is_zero(value: Tensor) -> bool:
    return value.is_floating_point() and not bool(value.any())


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
