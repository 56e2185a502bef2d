"""Runs of a graph node by node: in parts for merging, in double precision for proofs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx

from dimat.compat import arguments_of
from dimat.graph.trace import RANKED, Trace, flatten_inputs, operator_name

# An exported graph may view what was contiguous in the example; batches need not be (images with
# channels last), and then the same values have to be copied.
_IN_ANY_LAYOUT: dict[object, Any] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


class PartialInterpreter:
    """The run of one state on one batch, which can stop after any node and go on.

    A value is kept only until its last reader has run. All entries of a random draw are their mean:
    a draw in one model says nothing of another.

    Args:
        trace: The graph.
        state: Entries by key; read when an operator that needs them runs, so they may be changed
            before it does. Those that it lacks are the graph's frozen ones.
        inputs: A tensor, or a tuple of the model's arguments.
        gradients: Whether operators are recorded, for gradients with respect to the state.
    """

    def __init__(
        self,
        trace: Trace,
        state: Mapping[str, Tensor],
        inputs: Any,
        *,
        gradients: bool = False,
    ) -> None:
        self.state = state
        self._gradients = gradients
        self.done = 0
        self._nodes, self._position, self._last = _order(trace.graph)
        self._keys, self._draws, self._frozen = trace.states, trace.draws, trace.frozen
        self._device = device = next((x.device for x in state.values()), torch.device("cpu"))
        self._given = {name: value.to(device) for name, value in trace.constants.items()}
        call = flatten_inputs(inputs if isinstance(inputs, tuple) else (inputs,))
        self._given.update(zip(trace.inputs, call, strict=True))
        self._values: dict[fx.Node, Any] = {}
        self._kept: fx.Node | None = None

    def advance(self, node: fx.Node, *, inclusive: bool = True) -> None:
        """Run every operator up to a node, whose value is kept until the next call.

        Args:
            node: The node to stop at.
            inclusive: Whether the node itself runs.
        """
        released, self._kept = self._kept, node
        if released is not None and self._last[released] < self.done:
            self._values.pop(released, None)
        stop = self._position[node] + inclusive
        with torch.set_grad_enabled(self._gradients):
            while self.done < stop:
                self._step(self._nodes[self.done])

    def value(self, node: fx.Node) -> Any:
        """The value of a node that has run, and will still be read or was kept.

        Args:
            node: A placeholder or an operator.
        """
        if node.op != "placeholder":
            return self._values[node]
        key = self._keys.get(node.name)
        if key is None:
            return self._given[node.name]
        if key in self._frozen and key not in self.state:
            return self._frozen[key].to(self._device)
        return self.state[key]

    def call(self, node: fx.Node, without: Sequence[fx.Node] = ()) -> Any:
        """The result of an operator on the present values of its operands.

        Args:
            node: The operator.
            without: Operands that are None instead.
        """

        def value(source: fx.Node) -> Any:
            return None if source in without else self.value(source)

        args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
        with torch.set_grad_enabled(self._gradients):
            result = _IN_ANY_LAYOUT.get(node.target, node.target)(*args, **kwargs)
        if node.name in self._draws:
            return result.mean().expand_as(result).contiguous()
        return result

    def _step(self, node: fx.Node) -> None:
        self.done += 1
        if node.op != "call_function":
            return
        self._values[node] = self.call(node)
        for source in (*node.all_input_nodes, node):
            if self._last[source] < self.done and source is not self._kept:
                self._values.pop(source, None)


@lru_cache(maxsize=4)
def _order(graph: fx.Graph) -> tuple[list[fx.Node], dict[fx.Node, int], dict[fx.Node, int]]:
    """The nodes of a graph, their positions, and the position of each one's last reader."""
    nodes = list(graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    last = {n: max((position[u] for u in n.users), default=-1) for n in nodes}
    return nodes, position, last


class Recorder(fx.Interpreter):
    """The interpreter of proofs: it runs a graph's nodes in double precision, without dropout.

    Results of random operators can be given. Positions of sorted values that no node reads are left
    out: where values tie, they are in no order that could be compared. Entries of the state are
    read from it whenever an operator needs them.

    Args:
        trace: The graph.
        state: Entries by key.
        given: Values of all other placeholders, and of random operators, by name.
        keep: Whether values are kept when no node reads them any more.
    """

    def __init__(
        self,
        trace: Trace,
        state: Mapping[str, Tensor],
        given: Mapping[str, Any],
        *,
        keep: bool = True,
    ) -> None:
        super().__init__(trace.module, garbage_collect_values=not keep)
        self.trace, self.state, self.given = trace, state, given
        self.position = {node: k for k, node in enumerate(trace.graph.nodes)}

    def value(self, node: fx.Node) -> Any:
        """The value of an entry of the state, or of a node that has run and is kept.

        Args:
            node: A placeholder or an operator.
        """
        key = self.trace.states.get(node.name)
        return self.env[node] if key is None else wide(self.state[key])

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether the value of a node is one tensor.

        Args:
            node: As :meth:`value` takes it.
        """
        return node.name in self.trace.states or isinstance(self.env[node], Tensor)

    def map_nodes_to_values(self, args: Any, n: fx.Node) -> Any:
        """Arguments with values in place of nodes."""
        return fx.node.map_arg(args, self.value)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, or take its given value or random draw."""
        if n.op == "placeholder":
            return self.given[n.name]
        if n.name in self.trace.draws and n.name in self.given:
            return from_draw(n, self.given[n.name], {x: self.value(x) for x in n.all_input_nodes})
        value = super().run_node(n)
        if operator_name(n.target) not in RANKED or not isinstance(value, tuple):
            return value
        read = {user.args[1] for user in n.users if user.users}
        return value if 1 in read else (value[0], None)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator; dropout passes its input on, and casts go to float64."""
        name = operator_name(target)
        args, kwargs = _in_float64(target, args, kwargs)
        if name in DROPOUT:
            return args[0]
        if name == "aten.native_dropout":
            return args[0], torch.ones_like(args[0], dtype=torch.bool)
        if name == "aten.rrelu":  # of the mean slope, as in eval mode
            return torch.nn.functional.rrelu(*args[:3])
        value = super().call_function(target, args, kwargs)
        if isinstance(value, Tensor):
            value = value.resolve_conj()  # a lazy conjugate cannot be compared
        return torch.zeros_like(value) if name in EMPTY else value


def from_draw(n: fx.Node, drawn: Tensor, operands: Mapping[fx.Node, Any]) -> Tensor:
    """The result of a random operator with a given draw.

    Args:
        n: The operator.
        drawn: Its draw.
        operands: Values of its operands: ``bernoulli`` scales the draw by its probabilities.
    """
    by_entry = n.target is torch.ops.aten.bernoulli.default
    return drawn * operands[n.all_input_nodes[0]] if by_entry else drawn


def wide(value: Tensor) -> Tensor:
    """A tensor of real or complex numbers in double precision; others as they are."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _in_float64(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with every dtype in double precision, and without dropout."""

    def widen(x: Any) -> Any:
        if not isinstance(x, torch.dtype):
            return x
        double = torch.complex128 if x.is_complex else torch.float64
        return double if x.is_complex or x.is_floating_point else x

    names = [argument.name for argument in arguments_of(target)]
    given: list[Any] = [widen(x) for x in args]
    for i, name in enumerate(names[: len(given)]):
        if name in ("dropout", "dropout_p"):
            given[i] = 0.0
    named = {k: 0.0 if k in ("dropout", "dropout_p") else widen(x) for k, x in kwargs.items()}
    return tuple(given), named


# Operators whose result is whatever memory held: zeros stand for it, so that runs can be compared.
EMPTY = frozenset({"aten.new_empty", "aten.empty", "aten.empty_like"})
DROPOUT = frozenset(
    {"aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout"}
)
