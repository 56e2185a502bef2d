"""Run one graph on several batches at once, node by node, stopping anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dimat.symmetry.trace import Trace, flatten_inputs


class Run:
    """One state's run over all batches, as far as it has got.

    Values are kept only until their last reader has run, so memory is that of the widest cut
    through the graph, for all samples.

    Args:
        trace: The graph.
        state: Entries by key; read when an operator that needs them runs, so they may be changed
            before it does.
        batches: Inputs, each a tensor or a tuple of the model's arguments.
    """

    def __init__(self, trace: Trace, state: Mapping[str, Tensor], batches: Sequence[Any]) -> None:
        self.state = state
        self.nodes = list(trace.graph.nodes)
        self.position = {node: i for i, node in enumerate(self.nodes)}
        self.last = {n: max((self.position[u] for u in n.users), default=-1) for n in self.nodes}
        self.done = 0
        self._keys = trace.states
        device = next((value.device for value in state.values()), torch.device("cpu"))
        self._constants = {name: value.to(device) for name, value in trace.constants.items()}
        calls = [flatten_inputs(x if isinstance(x, tuple) else (x,)) for x in batches]
        self._inputs = {name: [call[i] for call in calls] for i, name in enumerate(trace.inputs)}
        self._values: dict[fx.Node, list[Any]] = {}
        self._kept: fx.Node | None = None
        self.count = len(batches)

    def advance(self, node: fx.Node, *, inclusive: bool = True) -> None:
        """Run every operator before ``node``, and it too; its value is kept until the next call."""
        released, self._kept = self._kept, node
        if released is not None and self.last[released] < self.done:
            self._values.pop(released, None)
        stop = self.position[node] + inclusive
        with torch.no_grad():
            while self.done < stop:
                self._step(self.nodes[self.done])

    def value(self, node: fx.Node) -> list[Any]:
        """Its value for every batch."""
        if node.op != "placeholder":
            return self._values[node]
        if node.name in self._inputs:
            return self._inputs[node.name]
        key = self._keys.get(node.name)
        return [self._constants[node.name] if key is None else self.state[key]] * self.count

    def _step(self, node: fx.Node) -> None:
        self.done += 1
        if node.op != "call_function":
            return
        sources = {source: self.value(source) for source in node.all_input_nodes}
        self._values[node] = [call(node, sources, b) for b in range(self.count)]
        for source in (*sources, node):
            if self.last[source] < self.done and source is not self._kept:
                self._values.pop(source, None)


def call(node: fx.Node, sources: Mapping[fx.Node, Sequence[Any]], b: int) -> Any:
    """An operator's result for batch ``b``; nodes that ``sources`` lacks are None."""

    def value(source: fx.Node) -> Any:
        return sources[source][b] if source in sources else None

    args = fx.node.map_arg(node.args, value)
    kwargs = fx.node.map_arg(node.kwargs, value)
    return node.target(*args, **kwargs)  # type: ignore[operator]
