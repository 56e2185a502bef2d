"""Run a graph on one batch, node by node, stopping anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx

from dimat.symmetry.trace import Trace, flatten_inputs

# An exported graph may view what was contiguous in the example; batches need not be (images with
# channels last), and then the same values have to be copied.
_IN_ANY_LAYOUT: dict[object, Any] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


class Run:
    """One state's run on one batch, as far as it has got.

    A value is kept only until its last reader has run. Of random draws all entries are their mean:
    what is random in one model says nothing of another.

    Args:
        trace: The graph.
        state: Entries by key; read when an operator that needs them runs, so they may be changed
            before it does.
        inputs: A tensor, or a tuple of the model's arguments.
    """

    def __init__(self, trace: Trace, state: Mapping[str, Tensor], inputs: Any) -> None:
        self.state = state
        self.done = 0
        self._nodes, self._position, self._last = _order(trace.graph)
        self._keys, self._draws = trace.states, trace.draws
        device = next((value.device for value in state.values()), torch.device("cpu"))
        self._given = {name: value.to(device) for name, value in trace.constants.items()}
        call = flatten_inputs(inputs if isinstance(inputs, tuple) else (inputs,))
        self._given.update(zip(trace.inputs, call, strict=True))
        self._values: dict[fx.Node, Any] = {}
        self._kept: fx.Node | None = None

    def advance(self, node: fx.Node, *, inclusive: bool = True) -> None:
        """Run every operator before ``node``, and it too; its value is kept until the next call."""
        released, self._kept = self._kept, node
        if released is not None and self._last[released] < self.done:
            self._values.pop(released, None)
        stop = self._position[node] + inclusive
        with torch.no_grad():
            while self.done < stop:
                self._step(self._nodes[self.done])

    def value(self, node: fx.Node) -> Any:
        """Its value; of an operator that has run and will still be read, or was kept."""
        if node.op != "placeholder":
            return self._values[node]
        key = self._keys.get(node.name)
        return self._given[node.name] if key is None else self.state[key]

    def call(self, node: fx.Node, without: Sequence[fx.Node] = ()) -> Any:
        """What an operator gives now, some of its operands left out (None)."""

        def value(source: fx.Node) -> Any:
            return None if source in without else self.value(source)

        args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
        with torch.no_grad():
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
    """Nodes, their positions, and the position of each one's last reader."""
    nodes = list(graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    last = {n: max((position[u] for u in n.users), default=-1) for n in nodes}
    return nodes, position, last
