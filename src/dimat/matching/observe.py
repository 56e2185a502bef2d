"""Where units can be seen in a model's graph, and a runner that looks at them for any state.

Units are observed at nodes of the exported graph, at the inputs of contracting operators (after the
nonlinearity), so models without modules to hook work as well. Every sample and every place (pixel,
token) is one observation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx

from dimat.symmetry import Analysis, Symmetry
from dimat.symmetry.places import standing_for, unit_places
from dimat.symmetry.trace import Trace, flatten_inputs, operator_name
from dimat.symmetry.units import Ints, Label, Special

CONTRACTING = frozenset(
    {"aten.linear", "aten.matmul", "aten.mm", "aten.bmm", "aten.addmm", "aten.bilinear",
     "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution", "aten.lstm", "aten.gru",
     "aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d",
     "aten.scaled_dot_product_attention"}
)  # fmt: skip


# Which places a group is observed at: all of them, or only the last or the first in the graph.
Layers = Literal["all", "last", "first"]


@dataclass(frozen=True, eq=False)
class Observation:
    """A place in the graph where all units of a group can be seen.

    Args:
        group: Name of the group.
        node: Name of the node.
        axes: The axes of its value that the units lie on, in order.
        index: (units, times) positions along those axes, flattened, units in cell order; more than
            once where the axis has places of its own, as after flattening.
    """

    group: str
    node: str
    axes: tuple[int, ...]
    index: Ints

    def units(self, value: Tensor, per_sample: int | None = None) -> Tensor:
        """(observations, units) from the node's value.

        Args:
            value: Of the node.
            per_sample: At most about this many places of every sample, in even strides that visit
                all places over the samples; all if None.
        """
        moved = value.movedim(self.axes, tuple(range(-len(self.axes), 0)))
        lead = moved.shape[: moved.dim() - len(self.axes)]
        times = self.index.shape[1]
        step = _stride(math.prod(lead[1:]) * times, per_sample)
        index = self.index
        if times > 1 and step > 1:
            index, step = index[:, :: min(step, times)], -(-step // times)
        rows = _every(moved, lead, step).flatten(1)
        seen = rows if self._in_order else rows[:, self._columns(index, rows.device)]
        return seen if seen.dim() == 2 else seen.transpose(1, 2).flatten(0, 1)

    @cached_property
    def _in_order(self) -> bool:
        return np.array_equal(self.index, np.arange(self.index.size)[:, None])

    def _columns(self, index: Ints, device: torch.device) -> Tensor:
        columns = torch.from_numpy(np.ascontiguousarray(index)).to(device)
        return columns[:, 0] if columns.shape[1] == 1 else columns


def _stride(places: int, per_sample: int | None) -> int:
    return 1 if per_sample is None else max(1, places // per_sample)


def _every(value: Tensor, lead: Sequence[int], step: int) -> Tensor:
    """Every ``step``-th entry over the leading axes, flattened into one."""
    places = math.prod(lead[1:])
    if step <= 1 or places <= 1:
        return value.flatten(0, len(lead) - 1) if len(lead) > 1 else value
    while math.gcd(step, places) > 1:  # or it would visit the same places of every sample
        step += 1
    picked = torch.arange(0, math.prod(lead), step, device=value.device)
    return value[torch.unravel_index(picked, tuple(lead))]


def observations(analysis: Analysis, layers: Layers = "all") -> tuple[Observation, ...]:
    """Where each group is observed, in the order of the graph."""
    found: dict[tuple[str, str], Observation] = {}
    for node in analysis.trace.graph.nodes:
        if node.op == "call_function" and operator_name(node.target) in CONTRACTING:
            for source in node.all_input_nodes:
                for seen in _seen_at(analysis, source):
                    found.setdefault((seen.group, seen.node), seen)
    if layers == "all":
        return tuple(found.values())
    ordered = list(found.values())
    one = {o.group: o for o in (ordered if layers == "last" else reversed(ordered))}
    return tuple(one.values())


def _seen_at(analysis: Analysis, node: fx.Node) -> list[Observation]:
    if node.op == "placeholder" or node.name not in analysis.labels:
        return []
    labels = analysis.labels[node.name]
    seen = [x for i in range(len(labels)) for x in _seen_on(analysis.symmetry, node, labels[i])]
    over = {g.name: g.over for g in analysis.symmetry.groups}
    outer = {name for x in seen for name in over[x.group]}
    return [x for x in seen if x.group not in outer]  # heads are compared by what is inside them


def _seen_on(symmetry: Symmetry, node: fx.Node, label: Label) -> list[Observation]:
    """The groups all of whose units lie on an axis, perhaps beside others."""
    if isinstance(label, Special):
        return []
    units = label.ravel()
    axes = tuple(i for i, n in enumerate(label.shape) if n > 1)
    seen = []
    for number, standing in sorted(standing_for(symmetry.structure, units).items()):
        if number not in symmetry.group_families:
            continue
        index = unit_places(symmetry.structure, number, units, standing)
        if index is not None:
            name = symmetry.names[symmetry.group_families.index(number)]
            seen.append(Observation(name, node.name, axes, index))
    return seen


class Observer:
    """Runs the part of a graph that leads to the observed nodes, for any state."""

    def __init__(self, t: Trace, nodes: Sequence[str]) -> None:
        self.trace = t
        self.nodes = tuple(nodes)
        self.module, self.placeholders = _truncate(t, self.nodes)

    def __call__(self, state: Mapping[str, Tensor], inputs: Any) -> dict[str, Tensor]:
        """The value of every observed node."""
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        values = self.trace.arguments(state, flatten_inputs(args))
        with torch.no_grad():
            outputs = self.module(*(values[name] for name in self.placeholders))
        return dict(zip(self.nodes, outputs, strict=True))


def _truncate(t: Trace, nodes: Sequence[str]) -> tuple[fx.GraphModule, list[str]]:
    """A module that computes only ``nodes``."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in t.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    by_name = {node.name: copy for node, copy in copies.items()}
    graph.output(tuple(by_name[name] for name in nodes))
    graph.eliminate_dead_code()
    names = [node.name for node in t.graph.nodes if node.op == "placeholder"]
    return fx.GraphModule(t.module, graph), names
