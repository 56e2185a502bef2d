"""Activation matching: run both models on the same inputs and correlate their units.

Every sample and every spatial position is one observation. Units are observed at nodes of the
exported graph, at the inputs of contracting operators (after the nonlinearity), so models without
modules to hook work as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from dimat.matching.assignment import Floats
from dimat.matching.statistics import CrossMoments
from dimat.symmetry import Analysis, Symmetry
from dimat.symmetry.solve import Structure
from dimat.symmetry.trace import Trace, flatten_inputs, operator_name
from dimat.symmetry.units import Ints, Labels, Special

CONTRACTING = frozenset(
    {"aten.linear", "aten.matmul", "aten.mm", "aten.bmm", "aten.addmm", "aten.bilinear",
     "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution", "aten.lstm", "aten.gru",
     "aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d",
     "aten.scaled_dot_product_attention"}
)  # fmt: skip


@dataclass(frozen=True)
class Observation:
    """A place in the graph where all units of a group can be seen.

    Args:
        group: Name of the group.
        node: Name of the node.
        axes: The axes of its value that the units lie on, in order.
        order: For the i-th unit in cell order, its position along those axes, flattened.
    """

    group: str
    node: str
    axes: tuple[int, ...]
    order: tuple[int, ...]

    def units(self, value: Tensor) -> Tensor:
        """(observations, units) from the node's value."""
        moved = value.movedim(self.axes, tuple(range(-len(self.axes), 0)))
        flat = moved.reshape(-1, len(self.order))
        if self.order == tuple(range(len(self.order))):
            return flat
        return flat[:, torch.tensor(self.order, device=flat.device)]


def observations(analysis: Analysis) -> tuple[Observation, ...]:
    """Where each group is observed."""
    found: dict[tuple[str, str], Observation] = {}
    for node in analysis.trace.graph.nodes:
        if node.op == "call_function" and operator_name(node.target) in CONTRACTING:
            for source in node.all_input_nodes:
                for seen in _seen_at(analysis, source):
                    found.setdefault((seen.group, seen.node), seen)
    return tuple(found.values())


def _seen_at(analysis: Analysis, node: fx.Node) -> list[Observation]:
    if node.op == "placeholder" or node.name not in analysis.labels:
        return []
    labels = analysis.labels[node.name]
    found = [_seen_on(analysis.symmetry, node.name, labels, axis) for axis in range(len(labels))]
    seen = [x for x in found if x is not None]
    over = {g.name: g.over for g in analysis.symmetry.groups}
    outer = {name for x in seen for name in over[x.group]}
    return [x for x in seen if x.group not in outer]  # heads are compared by what is inside them


def _seen_on(symmetry: Symmetry, node: str, labels: Labels, axis: int) -> Observation | None:
    label = labels[axis]
    if isinstance(label, Special):
        return None
    structure = symmetry.structure
    axes = tuple(i for i, n in enumerate(label.shape) if n > 1)
    standing = _standing_for(structure, label)
    for number in sorted(set(standing) & set(symmetry.group_families), reverse=True):
        units = standing[number]
        cells = structure.families[number].cells.ravel()
        if len(units) == len(cells) and np.array_equal(np.sort(units), np.sort(cells)):
            position = np.empty(structure.count, np.int64)
            position[units] = np.arange(len(units))
            name = symmetry.names[symmetry.group_families.index(number)]
            return Observation(name, node, axes, tuple(position[cells].tolist()))
    return None


def _standing_for(structure: Structure, units: Ints) -> dict[int, Ints]:
    """For families that permute, their units that these stand for: themselves, or their owners."""
    units = units.ravel()
    numbers = np.unique(structure.family_of[units])
    if len(numbers) != 1:
        return {}
    number = int(numbers[0])
    family = structure.families[number]
    if family.size > 1:
        return {number: units}
    found: dict[int, Ints] = {}
    for k in range(family.owners.shape[1]):
        owners = family.owners[structure.cell_of[units], k]
        for owner, own in _standing_for(structure, owners).items():
            found.setdefault(owner, own)
    return found


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


def activation_scores(
    analysis: Analysis,
    ours: Sequence[Mapping[str, Tensor]],
    theirs: Mapping[str, Tensor],
    batches: Iterable[Any],
) -> list[dict[str, Floats]]:
    """Scores of each of ``ours`` with ``theirs``, from one pass over the batches.

    Args:
        analysis: Of the model's architecture.
        ours: ``n >= 1`` states whose unit order is the reference, one after another.
        theirs: The state to be put in their order.
        batches: Inputs, the same for all models.

    Returns:
        For each of ``ours`` and each observed group an (N, N) matrix of correlations, averaged over
        the places where the group is observed.
    """
    places = observations(analysis)
    observer = Observer(analysis.trace, sorted({o.node for o in places}))
    moments = [{(o.group, o.node): CrossMoments() for o in places} for _ in ours]
    for inputs in batches:
        their_values = observer(theirs, inputs)
        columns = {(o.group, o.node): o.units(their_values[o.node]) for o in places}
        for state, own in zip(ours, moments, strict=True):
            our_values = observer(state, inputs)
            for o in places:
                key = (o.group, o.node)
                own[key].update(o.units(our_values[o.node]), columns[key])
    return [_average(places, own) for own in moments]


def _average(
    places: Sequence[Observation], moments: Mapping[tuple[str, str], CrossMoments]
) -> dict[str, Floats]:
    scores: dict[str, list[Floats]] = {}
    for o in places:
        correlation = moments[o.group, o.node].correlation()
        scores.setdefault(o.group, []).append(correlation.cpu().numpy())
    return {group: np.mean(parts, axis=0) for group, parts in scores.items()}
