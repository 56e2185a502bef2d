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
from dimat.symmetry.structure import Structure
from dimat.symmetry.trace import Trace, flatten_inputs, operator_name
from dimat.symmetry.units import Ints, Label, Special

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
        flat = moved.flatten(-len(self.axes)).flatten(0, -2)
        if self.order == tuple(range(flat.shape[1])):
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
    seen = [x for i in range(len(labels)) for x in _seen_on(analysis.symmetry, node, labels[i])]
    over = {g.name: g.over for g in analysis.symmetry.groups}
    outer = {name for x in seen for name in over[x.group]}
    return [x for x in seen if x.group not in outer]  # heads are compared by what is inside them


def _seen_on(symmetry: Symmetry, node: fx.Node, label: Label) -> list[Observation]:
    """The groups all of whose units lie on an axis, perhaps beside others."""
    if isinstance(label, Special):
        return []
    structure = symmetry.structure
    axes = tuple(i for i, n in enumerate(label.shape) if n > 1)
    seen = []
    for number, standing in sorted(_standing_for(structure, label.ravel()).items()):
        cells = structure.families[number].cells.ravel()
        places = np.flatnonzero(standing >= 0)
        complete = np.array_equal(np.sort(standing[places]), np.sort(cells))
        if number in symmetry.group_families and complete:
            position = np.empty(structure.count, np.int64)
            position[standing[places]] = places
            name = symmetry.names[symmetry.group_families.index(number)]
            seen.append(Observation(name, node.name, axes, tuple(position[cells].tolist())))
    return seen


def _standing_for(structure: Structure, units: Ints) -> dict[int, Ints]:
    """For each family that permutes, its units that these stand for (or -1).

    A unit stands for itself, or, if it only follows, for its owners.
    """
    found: dict[int, Ints] = {}

    def note(family: int, places: Ints, own: Ints) -> None:
        row = found.setdefault(family, np.full(len(units), -1, np.int64))
        row[places] = own

    for number in np.unique(structure.family_of[units]):
        family = structure.families[number]
        places = np.flatnonzero(structure.family_of[units] == number)
        if family.size > 1:
            note(int(number), places, units[places])
            continue
        for k in range(family.owners.shape[1]):
            owners = family.owners[structure.cell_of[units[places]], k]
            for owner, own in _standing_for(structure, owners).items():
                note(owner, places[own >= 0], own[own >= 0])
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
