"""Places in a model's graph where units are observed, and the recording of them for any state.

Units are observed at nodes of the exported graph, at the inputs of contracting operators (after the
nonlinearity), so models without modules to hook work as well. Every sample and every place (pixel,
token) is one observation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx

from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import Trace, operator_name
from dimat.symmetry import Analysis
from dimat.symmetry.labels.units import Ints
from dimat.symmetry.unit_axes import UnitAxes, outer_groups, unit_axes

CONTRACTING = frozenset(
    {"aten.linear", "aten.matmul", "aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", "aten.mv",
     "aten.einsum", "aten.bilinear", "aten.conv1d", "aten.conv2d", "aten.conv3d",
     "aten.convolution", "aten.conv_transpose1d", "aten.conv_transpose2d",
     "aten.conv_transpose3d", "aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu",
     "aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell",
     "aten.scaled_dot_product_attention"}
)  # fmt: skip


# The places at which a group is observed: all of them, or only the last or the first in the graph.
Layers = Literal["all", "last", "first"]


@dataclass(frozen=True, eq=False)
class Observation:
    """A place in the graph where all units of a group are observed.

    Args:
        group: Name of the group.
        node: Name of the node.
        axes: The axes of the node's value that the units lie on, in order.
        index: (units, times) positions along those axes, flattened, units in cell order; a unit is
            there several times where the axis has places of its own, as after flattening.
        among: Further axes that other groups move. Their order differs between models, so units are
            compared by the mean square over them.
        mixed: Whether other groups move the times too: the mean square is over these as well.
    """

    group: str
    node: str
    axes: tuple[int, ...]
    index: Ints
    among: tuple[int, ...] = ()
    mixed: bool = False

    @property
    def blurred(self) -> bool:
        """Whether only mean squares can be compared."""
        return self.mixed or bool(self.among)

    def units(self, value: Tensor, per_sample: int | None = None) -> Tensor:
        """(observations, units) of the node's value.

        Args:
            value: Value of the node.
            per_sample: At most about this many places of every sample, in even strides that visit
                all places over the samples; all if None.
        """
        if value.is_complex():  # real and imaginary parts are observations of two places
            value = torch.view_as_real(value.resolve_conj())
        if self.blurred:
            value = value.abs().float().square()
        elif value.is_complex():  # two observations: what is real, and what is not
            return torch.cat([self.units(x, per_sample) for x in (value.real, value.imag)])
        if self.among:
            value = value.mean(self.among, keepdim=True)
        moved = value.movedim(self.axes, tuple(range(-len(self.axes), 0)))
        moved = moved if moved.dim() > len(self.axes) else moved[None]
        lead = moved.shape[: moved.dim() - len(self.axes)]
        index, times = self.index, 1 if self.mixed else self.index.shape[1]
        step = _stride(math.prod(lead[1:]) * times, per_sample)
        if times > 1 and step > 1:
            index, step = index[:, :: min(step, times)], -(-step // times)
        rows = _every(moved, lead, step).flatten(1)
        seen = rows if self._is_all(rows) else rows[:, self._columns(index, rows.device)]
        if seen.dim() == 2:
            return seen
        return seen.mean(2) if self.mixed else seen.transpose(1, 2).flatten(0, 1)

    def _is_all(self, rows: Tensor) -> bool:
        return rows.shape[1] == self.index.size and self._in_order

    @cached_property
    def _in_order(self) -> bool:
        return np.array_equal(self.index, np.arange(self.index.size)[:, None])

    def _columns(self, index: Ints, device: torch.device) -> Tensor:
        columns = torch.from_numpy(np.ascontiguousarray(index)).to(device)
        return columns[:, 0] if columns.shape[1] == 1 else columns


def _stride(places: int, per_sample: int | None) -> int:
    """The step between places at which about ``per_sample`` of them are observed."""
    return 1 if per_sample is None else max(1, places // per_sample)


def _every(value: Tensor, lead: Sequence[int], step: int) -> Tensor:
    """Every ``step``-th entry over the leading axes, flattened into one."""
    places = math.prod(lead[1:])
    if step <= 1 or places <= 1:
        return value.flatten(0, len(lead) - 1) if len(lead) > 1 else value
    while math.gcd(step, places) > 1:  # or the same places of every sample would be visited
        step += 1
    picked = torch.arange(0, math.prod(lead), step, device=value.device)
    return value[torch.unravel_index(picked, tuple(lead))]


@lru_cache(maxsize=8)
def observations(analysis: Analysis, layers: Layers = "all") -> tuple[Observation, ...]:
    """The places where each group is observed, in the order of the graph.

    These are the inputs of contracting operators. A group that none of them shows is observed at
    the last node of the graph that does, in this order of preference: unit by unit; by mean
    squares; at nodes that are computed from parameters alone.

    Args:
        analysis: Analysis of the model.
        layers: Whether all places of a group are kept, or only its last or first.
    """
    nodes = _Nodes(analysis)
    found = [o for node in nodes.fed for o in nodes.seen(node) if not o.blurred]
    later: list[tuple[Iterable[fx.Node], bool, bool]] = [
        (nodes.dependent, False, True),
        (nodes.fed, True, False),
        (nodes.dependent, True, True),
        (nodes.every, False, True),
        (nodes.every, True, True),
    ]
    for where, blurred, last in later:
        missing = nodes.missing(found)
        if missing:
            more = [o for n in where for o in nodes.seen(n) if o.group in missing]
            more = [o for o in more if o.blurred == blurred]
            found += {o.group: o for o in more}.values() if last else more
    found.sort(key=lambda o: nodes.position[o.node])
    if layers == "all":
        return tuple(found)
    one = {o.group: o for o in (found if layers == "last" else reversed(found))}
    return tuple(one.values())


class _Nodes:
    """The nodes of a graph where units may be looked for, without repeats.

    Attributes:
        every: All nodes that carry labels.
        dependent: Operators among them that depend on the model's inputs.
        fed: Nodes among the dependent ones that enter a contracting operator.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.symmetry, self.labels = analysis.symmetry, analysis.labels
        graph = analysis.trace.graph
        self.position = {node.name: k for k, node in enumerate(graph.nodes)}
        dependent: set[fx.Node] = set()
        for node in graph.nodes:
            if node.name in analysis.trace.inputs or dependent & set(node.all_input_nodes):
                dependent.add(node)
        self.every = [node for node in graph.nodes if node.name in self.labels]
        self.dependent = [n for n in self.every if n in dependent and n.op == "call_function"]
        entering = {
            source: None
            for node in graph.nodes
            if node.op == "call_function" and operator_name(node.target) in CONTRACTING
            for source in node.all_input_nodes
        }
        self.fed = [n for n in entering if n in set(self.dependent)]

    def missing(self, found: Iterable[Observation]) -> set[str]:
        """Groups that are not observed, and that have no group inside that is."""
        outer = outer_groups(self.symmetry)
        return set(self.symmetry.names).difference(*({o.group} | outer[o.group] for o in found))

    def seen(self, node: fx.Node) -> list[Observation]:
        """An observation of every group on a node's value."""
        return [_observation(node, own) for own in unit_axes(self.symmetry, self.labels[node.name])]


def _observation(node: fx.Node, own: UnitAxes) -> Observation:
    among = tuple(axis for axis, groups in own.rest.items() if groups)
    return Observation(own.group, node.name, own.axes, own.index, among, bool(own.beside))


# The activations of one model on one batch: (observations, units) by group and node.
Seen = dict[tuple[str, str], Tensor]


class ActivationRecorder:
    """The recording of activations: runs a graph up to the observed nodes, for any state.

    Args:
        t: The graph.
        places: The observations to make.
        per_sample: At most about this many places of every sample; all if None.
    """

    def __init__(
        self, t: Trace, places: Sequence[Observation], per_sample: int | None = None
    ) -> None:
        self.trace, self.per_sample = t, per_sample
        own = {(o.group, o.node): o for o in places}
        self.places = [
            (node, here)
            for node in t.graph.nodes
            if (here := {key: o for key, o in own.items() if o.node == node.name})
        ]

    def each(
        self, state: Mapping[str, Tensor], inputs: Any
    ) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """The activations place by place; no value is kept longer than the graph reads it."""
        run = PartialInterpreter(self.trace, state, inputs)
        for node, here in self.places:
            run.advance(node)
            for key, o in here.items():
                yield key, o.units(run.value(node), self.per_sample)
