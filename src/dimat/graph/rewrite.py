"""Rewrites of an exported graph: other operators that compute the same, and show more of it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
_WRITE = ("self", "src", "dim", "start", "end", "step")
_ENDLESS = 2**62  # what a slice without an end has as its end
_STACKED = {
    aten.lstm.input: 2,
    aten.gru.input: 1,
    aten.rnn_tanh.input: 1,
    aten.rnn_relu.input: 1,
}  # with the number of their states
_NAMES = (
    *("input", "hx", "params", "has_biases", "num_layers"),
    *("dropout", "train", "bidirectional", "batch_first"),
)


def rewrite(graph: fx.Graph) -> dict[str, str]:
    """Take stacked recurrent operators apart, and leave out writes to all of a tensor.

    Args:
        graph: An exported graph; changed in place.

    Returns:
        For each node that was read and is gone the name of the one that has its value.
    """
    return {**_unstack(graph), **_leave_out_whole_writes(graph)}


def _unstack(graph: fx.Graph) -> dict[str, str]:
    """Put an operator for each layer in place of every LSTM, GRU or RNN of several layers.

    Operators compute the same, with dropout between them in training. Activations inside a stacked
    operator are not values of the graph: units of all layers but the last would be matched by what
    else is known of them, their biases. Left as they are: those with states that are given, which
    the rule of the whole takes apart by layers, and a slice of them would not.
    """
    names = {}
    for node in list(graph.nodes):
        num_states = _STACKED.get(node.target)
        if not num_states or len(node.args) != len(_NAMES) or node.args[4] < 2:
            continue
        states = node.args[1] if num_states == 2 else [node.args[1]]
        if all(state.target is aten.zeros.default for state in states):
            results = _layers(node, num_states)
            for user in list(node.users):
                names[user.name] = _replace(user, results[user.args[1]]())
            graph.erase_node(node)
    return names


def _leave_out_whole_writes(graph: fx.Graph) -> dict[str, str]:
    """Put what is written in place of a write to a whole axis, as of ``h[:, :] = h.relu()``.

    Nothing of the tensor that is written to is left, so a proof finds no influence of what the rule
    of a write ties together, and pins it. Left as they are: writes of what lies otherwise in
    memory, whose result is laid out as the tensor; and of placeholders, which may be written later.
    """
    names: dict[str, str] = {}
    for node in list(graph.nodes):
        if node.target is not aten.slice_scatter.default:
            continue
        given: dict[str, Any] = dict(zip(_WRITE, node.args, strict=False))
        source, own = given["src"], given["self"].meta["val"]
        ends = _reaches(given.get("end"), own.shape[given.get("dim", 0)])
        begins = given.get("start") in (None, 0) and given.get("step", 1) == 1
        value = source.meta["val"]
        alike = value.dtype == own.dtype and value.stride() == own.stride()
        if begins and ends and alike and source.op == "call_function":
            names = {k: source.name if v == node.name else v for k, v in names.items()}
            names[node.name] = _replace(node, source)
    return names


def _reaches(end: object, size: int | torch.SymInt) -> bool:
    """Whether a slice reaches the end of its axis; how long one of free size is, nobody knows."""
    least = size if isinstance(size, int) else _ENDLESS
    return end is None or (isinstance(end, int) and end >= least)


def _replace(node: fx.Node, value: fx.Node) -> str:
    """Put another node in place of one, whose value it has; returns its name."""
    node.replace_all_uses_with(value)
    node.graph.erase_node(node)
    return value.name


def _layers(node: fx.Node, num_states: int) -> list[Callable[[], fx.Node]]:
    """The layers of an operator; makers of its results, of which most models read the first."""
    given: dict[str, Any] = dict(zip(_NAMES, node.args, strict=True))
    layers, directions = given["num_layers"], 2 if given["bidirectional"] else 1
    states = given["hx"] if num_states == 2 else [given["hx"]]
    params = given["params"]
    per, values = len(params) // layers, given["input"]
    output, *ends = node.meta["val"]
    shapes = (output, *(end[:directions] for end in ends))  # every layer has these
    finals: list[list[fx.Node]] = [[] for _ in states]
    for k in range(layers):
        if k and given["dropout"] and given["train"]:
            dropout = (values, given["dropout"], True)
            values = _call(node, aten.dropout.default, dropout, output)
        hx = []
        for state in states:
            own = (state, 0, k * directions, (k + 1) * directions)
            part = state.meta["val"][own[2] : own[3]]
            hx.append(_call(node, aten.slice.Tensor, own, part))
        weights = [*params[k * per : (k + 1) * per]]
        rest = (given["has_biases"], 1, 0.0, *(given[name] for name in _NAMES[6:]))
        call = (values, hx if num_states == 2 else hx[0], weights, *rest)
        layer = _call(node, node.target, call, shapes)
        values, *own_finals = (
            _call(node, operator.getitem, (layer, i), shape) for i, shape in enumerate(shapes)
        )
        for found, final in zip(finals, own_finals, strict=True):
            found.append(final)
    joined = [
        partial(_call, node, aten.cat.default, (own, 0), end)
        for own, end in zip(finals, ends, strict=True)
    ]
    return [lambda: values, *joined]


def _call(node: fx.Node, target: Any, args: tuple[Any, ...], value: object) -> fx.Node:
    """A call in place of a part of a node, with its value on the example inputs."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args)
    made.meta = {**node.meta, "val": value}
    return made
