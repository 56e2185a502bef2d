"""LSTM, GRU and plain RNN layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dimat.graph.trace import operator_name
from dimat.symmetry.labels.operator_call import Call, Operand
from dimat.symmetry.labels.units import FIXED, Label, Labels, Special
from dimat.symmetry.rules.registry import rule

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}


@rule(*_GATES)
def recurrent(call: Call) -> tuple[Labels, ...]:
    """One hidden permutation a layer and direction, repeated over the gates."""
    gates = _GATES[operator_name(call.node.target)]
    x: Operand = call["input"]
    states = call["hx"] if isinstance(call["hx"], Sequence) else [call["hx"]]
    directions = 2 if call["bidirectional"] else 1
    layers = int(call["num_layers"]) * directions
    weights: list[Operand] = list(call["params"])
    per = len(weights) // layers
    time = 1 if call["batch_first"] else 0
    call.pin(x, [time], "time has an order")
    features = _vector(call, x, x.rank - 1)
    width = x.shape[-1]
    hidden: list[tuple[Label, ...]] = []
    for layer in range(0, layers, directions):
        outputs: list[Label] = []
        for k in range(layer, layer + directions):
            own = weights[k * per : (k + 1) * per]
            initial = [_state(call, s, k) for s in states]
            label = _cell(call, own, features, width, gates, initial, bool(call["has_biases"]))
            hidden.append(label)
            outputs.append(label[0])
        size = int(states[0].shape[-1])
        features = outputs[0]
        if directions == 2:
            (features,) = call.units.join([(h,) for h in outputs], [(size,), (size,)], 0)
        width = size * directions
    return _results(call, features, hidden)


def _vector(call: Call, x: Operand, axis: int) -> Label:
    """The label of one axis as that of a vector."""
    (label,) = call.einsum([(x, list(range(x.rank)))], [axis])
    return label


def _state(call: Call, state: Operand, k: int) -> Label:
    """The units of layer ``k`` of an initial state."""
    if state.shape[0] > 1:
        call.want(state, state.rank - 1, 0)
    labels = call.units.take(state.labels, 0, np.asarray([k]))
    shape = (1, *state.shape[1:])
    letters = list(range(state.rank))
    (label,) = call.einsum([(labels, letters)], letters[-1:], sizes=[shape])
    return label


def _cell(
    call: Call,
    own: Sequence[Operand],
    features: Label,
    width: int,
    gates: int,
    initial: Sequence[Label],
    biases: bool,
) -> tuple[Label, Label]:
    """Tie the weights of one layer and direction; labels of its output and its cell state."""
    size = own[1].shape[0] // gates
    projected = len(own) > (4 if biases else 2)
    units = call.units
    cell: Label = units.fresh(size) if size > 1 else FIXED
    out = cell
    if projected:
        out = units.fresh(own[-1].shape[0]) if own[-1].shape[0] > 1 else FIXED
        call.einsum(
            [(own[-1], ["p", "h"]), ((out,), ["p"]), ((cell,), ["h"])],
            [],
            sizes=[(own[-1].shape[0],), (size,)],
        )
    out_size = own[1].shape[1]
    inputs = [((features,), width), ((out,), out_size)]
    vectors = own[2:4] if biases else []
    for weight, (label, n) in zip(own[:2], inputs, strict=True):
        split = units.split(weight.labels, weight.shape, 0, [gates, size])
        units.pin(split[0] if gates > 1 else FIXED, "gates have an order")
        call.einsum(
            [(split, ["g", "h", "i"]), (label, ["i"]), ((cell,), ["h"])],
            [],
            sizes=[(gates, size, weight.shape[1]), (n,), (size,)],
        )
    for bias in vectors:
        split = units.split(bias.labels, bias.shape, 0, [gates, size])
        units.pin(split[0] if gates > 1 else FIXED, "gates have an order")
        call.einsum([(split, ["g", "h"]), ((cell,), ["h"])], [], sizes=[(gates, size), (size,)])
    for state, own_label in zip(initial, (out, cell), strict=False):
        units.same(own_label, state)
    return out, cell


def _results(
    call: Call, features: Label, hidden: Sequence[tuple[Label, ...]]
) -> tuple[Labels, ...]:
    output, *finals = call.result
    letters = list(range(output.dim()))
    labels = call.einsum([((features,), letters[-1:])], letters, sizes=[(output.shape[-1],)])
    results = [labels]
    for k, final in enumerate(finals):
        parts = []
        for own in hidden:
            label = own[k]
            shape = [1] * (final.dim() - 1) + [final.shape[-1]]
            last = label if isinstance(label, Special) else label.reshape(shape)
            parts.append((*([FIXED] * (final.dim() - 1)), last))
        sizes = [(1, *final.shape[1:])] * len(parts)
        results.append(call.units.join(parts, sizes, 0))
    return tuple(results)


_CELLS = {"aten.lstm_cell": 4, "aten.gru_cell": 3, "aten.rnn_tanh_cell": 1, "aten.rnn_relu_cell": 1}


@rule(*_CELLS)
def cell(call: Call) -> tuple[Labels, ...] | Labels:
    """One step: the hidden permutation is repeated over the gates."""
    x: Operand = call["input"]
    given = call["hx"]
    states: list[Operand] = list(given) if isinstance(given, Sequence) else [given]
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    own = [x for x in (call.get(name) for name in names) if isinstance(x, Operand)]
    initial = [_vector(call, state, state.rank - 1) for state in states]
    gates, features = _CELLS[operator_name(call.node.target)], _vector(call, x, x.rank - 1)
    label = _cell(call, own, features, x.shape[-1], gates, initial, len(own) == len(names))[0]
    batch = list(range(x.rank - 1))
    operands: list[tuple[Operand | Labels, list[object]]] = [
        (x, [*batch, "i"]),
        *((state, [*batch, "h"]) for state in states),
        ((label,), ["h"]),
    ]
    labels = call.einsum(operands, [*batch, "h"], sizes=[(states[0].shape[-1],)])
    return labels if len(states) == 1 else tuple(labels for _ in states)
