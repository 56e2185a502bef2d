"""Stacked recurrent layers: one operator a layer, and units matched by what they compute."""

from __future__ import annotations

import pytest
import torch
from tests.analyses import analyze
from torch import Tensor, nn

import dimat
from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import Trace, operator_name, trace
from dimat.matching.unit_activations import observations


class Stacked(nn.Module):
    """A recurrent network that is read out from its sequence and from its last states."""

    def __init__(self, kind: str, layers: int, *, states: bool = False, **own: object) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, 8, num_layers=layers, **own)
        self.time = 1 if own.get("batch_first") else 0
        width = own.get("proj_size") or 8
        self.head = nn.Linear((1 + bool(own.get("bidirectional"))) * width, 3)
        self.last = nn.Linear(width, 3) if states else None
        lstm, number = kind == "LSTM", len(self.rnn._all_weights)
        self.start = None if lstm else nn.Parameter(torch.randn(number, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1 - self.time]
        start = None if self.start is None else self.start.expand(-1, size, -1)
        values, states = self.rnn(x, start)
        found = self.head(values.mean(self.time))
        for state in states if isinstance(states, tuple) else (states,):
            if self.last is not None and state.shape[-1] == self.last.in_features:
                found = found + self.last(state[0]) + self.last(state[-1])
        return found


KINDS = {
    "lstm": ("LSTM", 2, {"batch_first": True}),
    "lstm, states": ("LSTM", 3, {"bidirectional": True, "states": True}),
    "lstm, projected": ("LSTM", 2, {"proj_size": 4, "bidirectional": True, "batch_first": True}),
    "lstm, no biases": ("LSTM", 2, {"bias": False}),
    "gru": ("GRU", 2, {"bidirectional": True, "states": True}),
    "gru of one": ("GRU", 1, {"batch_first": True}),
    "rnn": ("RNN", 3, {"nonlinearity": "relu", "batch_first": True}),
    "rnn, dropout": ("RNN", 2, {"dropout": 0.5}),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    kind, layers, own = KINDS[name]
    x = torch.randn(4, 6, 5)
    return Stacked(kind, layers, **own).eval(), x if own.get("batch_first") else x.transpose(0, 1)


def layers_of(found: Trace) -> list[int]:
    kinds = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
    return [n.args[4] for n in found.graph.nodes if operator_name(n.target) in kinds]


@pytest.mark.parametrize("name", KINDS)
def test_the_graph_has_an_operator_a_layer_and_computes_what_the_model_does(name: str) -> None:
    model, x = made(name)
    found = trace(model, (x,))
    assert layers_of(found) == [1] * KINDS[name][1]
    run = PartialInterpreter(found, model.state_dict(), (x,))
    for node in found.graph.nodes:
        if node.name == found.outputs[0]:
            run.advance(node)
            torch.testing.assert_close(run.value(node), model(x))


def test_dropout_is_between_layers_in_training_alone() -> None:
    model, x = made("rnn, dropout")
    dropouts = [
        [n for n in trace(model, (x,), training=training).graph.nodes if "dropout" in n.name]
        for training in (False, True)
    ]
    assert [len(own) for own in dropouts] == [0, 1]
    assert dropouts[1][0].args[1:] == (0.5, True)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "lstm, no biases"])
def test_units_of_every_layer_are_observed_where_inputs_are_seen(name: str) -> None:
    model, x = made(name)
    analysis = analyze(model, (x,))
    groups = {group.name for group in analysis.symmetry.groups}
    assert len(groups) >= 1
    at = {o.group: o.node for o in observations(analysis)}
    assert at.keys() == groups
    assert not set(at.values()) & set(analysis.trace.states)


def test_layers_of_different_networks_are_matched_by_what_they_compute() -> None:
    """Two networks whose biases say nothing: those of one are another order of the other's."""
    torch.manual_seed(0)
    model, other = (nn.LSTM(5, 8, num_layers=2, batch_first=True) for _ in range(2))
    x = torch.randn(200, 6, 5)
    analysis = analyze(model, (x[:2],))
    moved = analysis.symmetry.random(torch.Generator().manual_seed(1))
    copy = analysis.symmetry.apply(moved, model.state_dict())
    noise = {k: v + 0.02 * torch.randn_like(v) for k, v in copy.items()}
    for k in noise:  # what biases tell is another order
        if "bias" in k:
            noise[k] = other.state_dict()[k].clone()
    merged = dimat.merge(model, [model.state_dict(), noise], x.split(50))
    for key in ("weight_hh_l0", "weight_hh_l1"):
        torch.testing.assert_close(
            merged.aligned[1][key], model.state_dict()[key], atol=0.1, rtol=0
        )
