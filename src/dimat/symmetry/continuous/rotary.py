"""Planes between queries and keys that rotary position embeddings leave free.

A rotary embedding turns each plane of a head, two of its dimensions, by an angle that grows with
the position. What commutes with it is a rotation of the plane with a scale, the multiplication by
a complex number; queries are multiplied by it and keys by its inverse transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from dimat.graph.interpreter import Recorder
from dimat.graph.trace import Trace, operator_name
from dimat.symmetry.continuous.group import (
    ContinuousGroup,
    Member,
    multiplied,
    random_matrices,
    with_aliases,
)
from dimat.symmetry.continuous.operators import CONTRACTING, ROTARY
from dimat.symmetry.find import Analysis
from dimat.symmetry.labels.units import Ints
from dimat.symmetry.proof.evidence import TOLERANCE
from dimat.symmetry.proof.execute import rerun

_SHARES = (1, 2, 4)  # of a head's dimensions, all, half or a quarter rotate, the first ones


@dataclass(frozen=True)
class _Side:
    """The queries or the keys of an attention: their projections and the columns of each head.

    Args:
        layers: The linear layers, whose results are added.
        heads: (heads, dimensions) columns of their results.
    """

    layers: Sequence[fx.Node]
    heads: Ints


def rotary_groups(
    analysis: Analysis,
    recorder: Recorder,
    further: Callable[[], Sequence[Recorder]],
    others: Sequence[ContinuousGroup],
) -> list[ContinuousGroup]:
    """The planes under rotary embeddings of every attention, where they are proved to be free.

    Proved as a whole: the entries are multiplied in runs on redrawn values, and all that reads them
    is run anew up to where values are the same again, which all must be in the graph.

    Args:
        analysis: Analysis of the model.
        recorder: A run of it on redrawn values, all values kept.
        further: Further runs, in which tokens differ, as equal values hide who attends to whom.
        others: The groups that are known; their units are left out.
    """
    trace, found = analysis.trace, list(others)
    for node in trace.graph.nodes:
        if operator_name(node.target) not in CONTRACTING or len(node.all_input_nodes) < 2:
            continue
        queries, keys = node.all_input_nodes[:2]
        dims = recorder.value(queries).shape[-1]
        sides = [_side(trace, recorder, source, dims) for source in (queries, keys)]
        for group in _candidates(trace, *sides):
            if not _overlaps(group, found) and _is_free(trace, further(), group):
                found.append(group)
                break
    return found[len(others) :]


def _candidates(
    trace: Trace, queries: _Side | None, keys: _Side | None
) -> Iterator[ContinuousGroup]:
    """The planes of a head as they may lie: neighbors or halves, of all its dimensions or some."""
    if queries is None or keys is None or queries.heads.shape[1] != keys.heads.shape[1]:
        return
    (many, dims), few = queries.heads.shape, len(keys.heads)
    if many % few:
        return
    in_turn = (np.arange(many).reshape(few, -1), np.arange(many).reshape(-1, few).T)
    for share in _SHARES:
        turning = dims // share
        if dims % share or turning % 2:
            continue
        for pairs in (
            np.arange(turning).reshape(2, -1).T,  # halves
            np.arange(turning).reshape(-1, 2),  # neighbors
        ):
            for shared in in_turn[: 1 if few in (1, many) else 2]:  # queries of one key
                units = queries.heads[shared][:, :, pairs]  # (keys, queries, planes, 2)
                units = units.transpose(0, 2, 3, 1).reshape(-1, many // few)
                places = (units, keys.heads[:, pairs].reshape(-1, 1))
                members = tuple(
                    Member(trace.states[entry.name], (0,), index, role)
                    for side, index, role in zip((queries, keys), places, (1, -1), strict=True)
                    for layer in side.layers
                    for entry in _entries(trace, layer)
                )
                name = trace.states[queries.layers[0].all_input_nodes[1].name]
                cells = few * len(pairs)
                yield ContinuousGroup(name, "rotary", 2, cells, with_aliases(trace, members))


def _side(trace: Trace, recorder: Recorder, operand: fx.Node, dims: int) -> _Side | None:
    """The linear layers that an operand of a contraction comes from, and its heads of ``dims``."""
    layers: list[fx.Node] = []
    between: list[fx.Node] = []
    waiting, seen = [operand], {operand}
    while waiting:
        node = waiting.pop()
        if node.op != "call_function":
            continue  # positions, angles: what is no unit
        if operator_name(node.target) == "aten.linear":
            layers.append(node)
            continue
        if operator_name(node.target) not in ROTARY:
            continue
        between.append(node)
        new = [n for n in node.all_input_nodes if n not in seen]
        seen.update(new)
        waiting += new
    if not layers or not all(_entries(trace, n) for n in layers):
        return None
    columns = [_columns(recorder, layer, between, operand) for layer in layers]
    if any(not np.array_equal(own, columns[0]) for own in columns) or columns[0].size % dims:
        return None
    return _Side(layers, columns[0].reshape(-1, dims)) if columns[0].size else None


def _entries(trace: Trace, layer: fx.Node) -> list[fx.Node]:
    """Weight and bias of a linear layer; none where one is no entry of the state."""
    own = [n for n in layer.args[1:] if isinstance(n, fx.Node)]
    return own if all(n.name in trace.states for n in own) else []


def _columns(
    recorder: Recorder, layer: fx.Node, between: Sequence[fx.Node], operand: fx.Node
) -> Ints:
    """The columns of a layer's result that reach an operand: its gradient is not zero there."""
    value = recorder.value(layer).detach().requires_grad_()
    reached = _rerun(recorder, {layer: value}, between).get(operand)
    if reached is None or not reached.requires_grad:  # detached on its way
        return np.empty(0, np.int64)
    real = torch.view_as_real(reached) if reached.is_complex() else reached
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(real.shape, generator=random, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((real * weights).sum(), value)
    return np.flatnonzero(gradient.flatten(0, -2).abs().sum(0).numpy())


def _is_free(trace: Trace, runs: Sequence[Recorder], group: ContinuousGroup) -> bool:
    """Whether matrices on a group change no value but those that they reach by analytic steps.

    In some run those on either side alone must be seen: weak or saturated attention shows nothing.
    """
    matrices = random_matrices("rotary", group.cells, 2, torch.Generator().manual_seed(0))
    sides = [[m for m in group.members if m.role == role] for role in (1, -1)]
    return all(_is_hidden(trace, own, group.members, matrices) for own in runs) and any(
        not any(_is_hidden(trace, own, side, matrices) for side in sides) for own in runs
    )


def _is_hidden(
    trace: Trace, recorder: Recorder, members: Sequence[Member], matrices: Tensor
) -> bool:
    """Whether values are the same again soon after what reads multiplied entries."""
    values: dict[fx.Node, Any] = {}
    dual = torch.linalg.inv(matrices).mT
    for node in trace.graph.nodes:
        for own in members:
            if trace.states.get(node.name) == own.key:
                by = matrices if own.role > 0 else dual
                value = values.get(node, recorder.value(node))
                values[node] = multiplied(value, own.axes, own.index, by)
        if not any(n in values for n in node.all_input_nodes):
            continue
        if node.op != "call_function" or operator_name(node.target) not in ROTARY:
            return False
        found = rerun(recorder, node, values)
        if found is None:
            return False
        if not _same(recorder.value(node), found):
            values[node] = found
    return True


def _same(expected: Any, found: Any) -> bool:
    """Whether two values are equal but for rounding; parts one by one."""
    if isinstance(expected, Tensor):
        if not expected.numel():
            return bool(expected.shape == found.shape)
        apart = (expected - found).abs().max()
        return bool(apart <= TOLERANCE * expected.abs().max())  # False where one is not finite
    return all(_same(x, y) for x, y in zip(expected, found, strict=True))


def _overlaps(group: ContinuousGroup, others: Sequence[ContinuousGroup]) -> bool:
    """Whether another group acts on some of the same units already."""
    taken: dict[tuple[str, tuple[int, ...]], set[int]] = {}
    for other in others:
        for own in other.members:
            taken.setdefault((own.key, own.axes), set()).update(own.index.ravel().tolist())
    return any(
        taken.get((own.key, own.axes), set()) & {*own.index.ravel().tolist()}
        for own in group.members
    )


def _rerun(
    recorder: Recorder, replaced: Mapping[fx.Node, Tensor], nodes: Sequence[fx.Node]
) -> dict[fx.Node, Any]:
    """The values of some nodes, in the order of the graph, with others replaced; with gradients."""
    values: dict[fx.Node, Any] = dict(replaced)
    chosen = set(nodes)
    with torch.enable_grad():
        for node in recorder.position:  # in the order of the graph
            if node in chosen:
                args, kwargs = fx.node.map_arg(
                    (node.args, node.kwargs), lambda n: values.get(n, recorder.value(n))
                )
                values[node] = recorder.call_function(node.target, args, kwargs)
    return values
