"""Rewritten graphs: a recurrent operator for each layer, and no writes to all of a tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.analyses import analyze
from torch import Tensor, nn

import dimat
from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.rewrite import _reaches
from dimat.graph.trace import Trace, operator_name, trace
from dimat.matching.unit_activations import observations
from dimat.state import clone


class Stacked(nn.Module):
    """A recurrent network that is read out from its sequence and from its last states."""

    def __init__(self, kind: str, layers: int, *, states: bool = False, **own: object) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, 8, num_layers=layers, **own)
        self.time = 1 if own.get("batch_first") else 0
        width = own.get("proj_size") or 8
        self.head = nn.Linear((1 + bool(own.get("bidirectional"))) * width, 3)
        self.last = nn.Linear(width, 3) if states else None
        learned, number = states and kind != "LSTM", len(self.rnn._all_weights)
        self.start = nn.Parameter(torch.randn(number, 1, width)) if learned else None

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
    "gru, sequence": ("GRU", 2, {"bidirectional": True}),
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
    layers = KINDS[name][1]
    assert layers_of(found) == ([1] * layers if model.start is None else [layers])
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


@pytest.mark.parametrize("name", ["lstm", "gru, sequence", "rnn", "lstm, no biases"])
def test_units_of_every_layer_are_observed_where_inputs_are_seen(name: str) -> None:
    model, x = made(name)
    analysis = analyze(model, (x,))
    groups = {group.name for group in analysis.symmetry.groups}
    assert len(groups) >= KINDS[name][1]
    at = {o.group: o.node for o in observations(analysis)}
    assert at.keys() == groups
    assert not set(at.values()) & set(analysis.trace.states)


def test_layers_are_matched_by_what_they_compute() -> None:
    """The biases, which are all that is seen of a layer inside an operator, tell another order."""
    model, _ = made("lstm")
    torch.manual_seed(1)
    other, x = Stacked("LSTM", 2, batch_first=True), torch.randn(200, 6, 5)
    analysis, state = analyze(model, (x[:2],)), model.state_dict()
    moved = analysis.symmetry.random(torch.Generator().manual_seed(1))
    copy = analysis.symmetry.apply(moved, state)
    near = {key: value + 0.02 * torch.randn_like(value) for key, value in copy.items()}
    near |= {key: value for key, value in other.state_dict().items() if "rnn.bias" in key}
    merged = dimat.merge(model, [state, near], x.split(50))
    for key in ("rnn.weight_hh_l0", "rnn.weight_hh_l1"):
        torch.testing.assert_close(merged.aligned[1][key], state[key], atol=0.1, rtol=0)


class Written(nn.Module):
    """A network with a write to its hidden values in place."""

    def __init__(self, write: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.into, self.out, self.write = nn.Linear(5, 8), nn.Linear(8, 3), write

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.write(self.into(x)))


def clamped(h: Tensor) -> Tensor:
    h[:, :].clamp_(min=0)
    return h


def doubled(h: Tensor) -> Tensor:
    h[:, 0:8].mul_(2)
    return h.relu()


def replaced(h: Tensor) -> Tensor:
    h[:] = h.relu()
    h[:, :] = h.sin()
    return h


def half(h: Tensor) -> Tensor:
    h[:, :4] = h[:, :4].relu()
    return h


@pytest.mark.parametrize("write", [clamped, doubled, replaced])
def test_a_write_to_all_of_a_tensor_pins_nothing(write: Callable[[Tensor], Tensor]) -> None:
    symmetry = dimat.find_symmetry(Written(write), torch.randn(4, 5))
    assert [(group.size, tuple(sorted(group.members))) for group in symmetry.groups] == [
        (8, (("into.bias", 0), ("into.weight", 0), ("out.weight", 1)))
    ]
    assert not symmetry.pinned


def test_a_write_to_a_part_stays_a_write() -> None:
    symmetry = dimat.find_symmetry(Written(half), torch.randn(4, 5))
    assert sorted(group.size for group in symmetry.groups) == [4, 4]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_outputs_that_are_rewritten_are_outputs_still(kind: str) -> None:
    torch.manual_seed(0)
    model, x = getattr(nn, kind)(5, 8, num_layers=2), torch.randn(6, 4, 5)
    found = trace(model, (x,))
    run = PartialInterpreter(found, model.state_dict(), (x,))
    values, states = model(x)
    expected = [values, *(states if isinstance(states, tuple) else (states,))]
    nodes = {node.name: node for node in found.graph.nodes}
    assert len(found.outputs) == len(expected)
    for name, value in zip(found.outputs, expected, strict=True):
        run.advance(nodes[name])
        torch.testing.assert_close(run.value(nodes[name]), value)


def test_a_slice_of_free_size_reaches_its_end_only_if_it_has_none() -> None:
    free = torch.export.Dim("batch", min=2)
    program = torch.export.export(nn.ReLU(), (torch.randn(4, 5),), dynamic_shapes=({0: free},))
    batch, width = next(iter(program.graph.nodes)).meta["val"].shape
    assert not isinstance(batch, int)
    assert [_reaches(end, batch) for end in (None, 2**63 - 1, 4, 5)] == [True, True, False, False]
    assert [_reaches(end, width) for end in (None, 2**63 - 1, 4, 5)] == [True, True, False, True]


class Transposed(nn.Module):
    """A write of what lies otherwise in memory than the tensor, which is looked at flat then."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)[:, :, None] * self.b(x)[:, None, :]
        g = torch.slice_scatter(torch.zeros_like(h), h.transpose(1, 2), 1)
        return self.out(g.view(-1, 16).relu())


def test_what_is_written_otherwise_in_memory_stays_a_write() -> None:
    symmetry = dimat.find_symmetry(Transposed(), torch.randn(4, 5))
    assert sorted(group.size for group in symmetry.groups) == [4, 4]


class ReadsBefore(nn.Module):
    """A copy of running statistics, which are written after it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(4, track_running_stats=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.slice_scatter(torch.zeros(4), self.norm.running_mean, 0)
        normed = self.norm(x)
        return before * 2, normed  # reads the copy when what it is of has been written


def test_a_copy_of_what_is_written_later_stays_a_copy() -> None:
    model, x = ReadsBefore(), 5 + torch.randn(4, 4, 6)
    found = trace(model, (x,), training=True)
    run = PartialInterpreter(found, clone(model.state_dict()), (x,))
    node = next(n for n in found.graph.nodes if n.name == found.outputs[0])
    run.advance(node)
    torch.testing.assert_close(run.value(node), torch.zeros(4))
