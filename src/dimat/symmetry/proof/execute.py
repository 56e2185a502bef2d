"""A run of a graph on redrawn values, node by node, in double precision.

In float64, since a proof has to tell a wrong label from rounding: sums in another order differ by
some 1e-15 of their terms there, a wrong label changes generic values by about their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from dimat.graph.interpreter import Recorder, wide
from dimat.graph.trace import Trace, operator_name

# A recurrent state may begin as zeros, and then what it is multiplied by has no influence.
# Their labels say no more than that they are constant: further draws have another constant.
ZEROS = frozenset(
    {"aten.zeros", "aten.zeros_like", "aten.new_zeros", "aten.full", "aten.full_like"}
)
_NO_ZERO = 0.7
Step = tuple[fx.Node, Any, Recorder]  # a node, its value, and the run of the graph so far


@dataclass(frozen=True)
class Example:
    """One run of a graph on redrawn values, in float64.

    Args:
        state: The redrawn state.
        inputs: The redrawn user inputs, flattened.
        values: The value of every node that is no entry of the state, by name.
        steps: The steps of the run, whose recorder holds these values.
    """

    state: Mapping[str, Tensor]
    inputs: Sequence[Any]
    values: Mapping[str, Any]
    steps: Sequence[Step]

    @property
    def recorder(self) -> Recorder:
        """The run, with its values."""
        return self.steps[-1][2]


def run(t: Trace, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> Example:
    """A run of a graph in float64, in which the value of every node is kept.

    Args:
        t: The graph.
        state: Redrawn entries.
        inputs: Redrawn inputs, flattened.
    """
    done = list(steps(t, state, inputs, keep=True))
    return Example(state, inputs, {node.name: value for node, value, _ in done}, done)


def steps(
    t: Trace,
    state: Mapping[str, Tensor],
    inputs: Sequence[Any],
    *,
    keep: bool = False,
    zeros: bool = True,
) -> Iterator[Step]:
    """Every node but the entries of the state, with its value and the recorder that ran it.

    They are in the order of the graph. A random operator is seeded by its position, so that it
    draws the same when it is run again.

    Args:
        t: The graph.
        state: Redrawn entries, each of which is read whenever an operator needs it.
        inputs: Redrawn inputs, flattened.
        keep: Whether values are kept when nothing reads them any more.
        zeros: Whether zeros that the graph makes are zeros, or another constant.
    """
    arguments = {
        key: wide(value) if isinstance(value, Tensor) else value
        for key, value in t.arguments(state, inputs).items()
    }
    recorder = Recorder(t, state, arguments, keep=keep)
    for position, node in enumerate(t.graph.nodes):
        if node.op == "output":
            return
        if node.name in t.states:
            continue
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
    """The value of a node with some of its operands replaced, on the same random numbers.

    Args:
        recorder: The run of the node, with the values of all operands.
        node: A node that computes.
        operands: The values that replace those of some operands.

    Returns:
        The value; None if the operator cannot be run on these operands.
    """

    def load(n: fx.Node) -> Any:
        return operands[n] if n in operands else recorder.value(n)

    args, kwargs = fx.node.map_arg(node.args, load), fx.node.map_arg(node.kwargs, load)
    try:
        with _double(), _seeded(node, recorder.position[node]):
            return recorder.call_function(node.target, args, kwargs)
    except (RuntimeError, IndexError, ValueError):
        return None


@contextmanager
def _double() -> Iterator[None]:
    """A context in which what is made from whole numbers (arange, division) is float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def _seeded(node: fx.Node, seed: int) -> Iterator[None]:
    """A context in which a random operator draws by this seed; nothing else is touched."""
    with torch.random.fork_rng(devices=[], enabled=_is_random(node)):
        if _is_random(node):
            torch.manual_seed(seed)
        yield


def _is_zero(value: Tensor) -> bool:
    return value.is_floating_point() and not bool(value.any())


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
