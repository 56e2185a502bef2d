"""A model is captured in silence, left as it was, and of its outputs the tensors count."""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as modes_of_dispatch

import dimat
from dimat.errors import ModelError
from dimat.graph.calls import RecordedCalls
from dimat.graph.trace import trace, trace_modes


class Cache:
    """What a language model hands on to its next call; no container that PyTorch knows."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


@dataclass
class Output:
    """As libraries of models return it."""

    logits: Tensor
    cache: Any = None
    hidden: Any = None


class Net(nn.Module):
    """Two layers; what it returns is made by ``give``."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.fc1, self.fc2, self.give = nn.Linear(3, 6), nn.Linear(6, 2), give

    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        hidden = self.fc1(x).relu()
        return self.give(self.fc2(hidden) * scale, hidden)


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "give",
    [
        lambda out, hidden: (out, Cache(hidden)),
        lambda out, hidden: {"logits": out, "past": Cache(hidden), "name": "net"},
        lambda out, hidden: Output(out, Cache(hidden)),
        lambda out, hidden: [None, Output(out), 3],
    ],
)
def test_what_is_no_tensor_in_the_outputs_is_left_alone(give: Any) -> None:
    plain = dimat.find_symmetry(Net(lambda out, hidden: out), (X,))
    found = dimat.find_symmetry(Net(give), (X,))
    assert found.digest == plain.digest
    assert [group.size for group in found.groups] == [6]
    assert dimat.find_symmetry(Net(give), (), {"scale": 2.0, "x": X}).groups == plain.groups


@pytest.mark.parametrize(
    "give",
    [
        lambda out, hidden: Output(out, Cache(out), hidden),
        lambda out, hidden: Output(out, None, {"all": [hidden]}),
        lambda out, hidden: (Cache(out), {"past": (hidden,)}, out),
    ],
)
def test_a_tensor_in_a_usual_container_is_an_output_whatever_else_is_there(give: Any) -> None:
    found = dimat.find_symmetry(Net(give), (X,))
    assert found.groups == ()  # the hidden units are seen from outside


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Net.forward returns no tensor, .* but a Cache"):
        dimat.find_symmetry(Net(lambda out, hidden: Cache(out)), (X,))


def test_where_a_model_with_a_cache_cannot_be_captured_the_cache_is_named() -> None:
    def give(out: Tensor, hidden: Tensor) -> Any:
        return (out if hidden.sum() > 0 else -out), Cache(hidden)

    with pytest.raises(ModelError, match=r"let its forward make no Cache \(use_cache=False"):
        dimat.find_symmetry(Net(give), (X,))


class Wants(Net):
    """Computes its loss itself, from targets that it wants in training mode only."""

    def __init__(self) -> None:
        super().__init__(lambda out, hidden: out)

    def forward(self, x: Tensor, targets: Any = None) -> Any:
        out = super().forward(x)
        if self.training:
            assert targets is not None, "targets should not be None"
            return {"loss": nn.functional.cross_entropy(out, targets)}
        return out


def test_a_forward_that_wants_more_in_training_mode_is_told_of_that_mode() -> None:
    with pytest.raises(
        ModelError, match=r"do not fit Wants\.forward in training mode: targets should not be None"
    ):
        dimat.find_symmetry(Wants(), (X,))
    found = dimat.find_symmetry(Wants(), (X, torch.tensor([0, 1])))
    assert [group.size for group in found.groups] == [6]


@pytest.mark.parametrize("training", [True, False])
def test_a_model_and_its_random_numbers_are_as_before(training: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    model.train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    dimat.find_symmetry(model, (X,))
    assert_close(torch.rand(2), expected, rtol=0, atol=0)
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(module.training is training for module in model.modules())


def test_what_pytorch_says_meanwhile_is_not_heard_and_later_is() -> None:
    own, others = (
        logging.getLogger(name) for name in ("torch.fx.experimental.symbolic_shapes", "mine")
    )
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    for logger in (logging.getLogger("torch"), own, logging.getLogger()):
        logger.addHandler(handler)

    class Talks(Net):
        def forward(self, x: Tensor, scale: float = 1.0) -> Any:
            own.warning("_maybe_guard_rel() was called on a non-relation")
            others.warning("said by the model")
            warnings.warn("a warning of PyTorch's", stacklevel=2)
            return super().forward(x, scale)

    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            dimat.find_symmetry(Talks(lambda out, hidden: out), (X,))
        assert "non-relation" not in heard.getvalue()
        assert "said by the model" in heard.getvalue()
        assert [str(w.message) for w in warned if "of PyTorch" in str(w.message)] == []
        own.warning("heard again")
        assert "heard again" in heard.getvalue()
    finally:
        for logger in (logging.getLogger("torch"), own, logging.getLogger()):
            logger.removeHandler(handler)


class Convolution(nn.Module):
    """Two layers on a graph: features of nodes, and edges."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.a(x).relu()
        out: Tensor = self.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))
        return out


def test_inputs_that_lead_with_different_sizes_are_free_in_all_that_the_model_does_not_fix() -> (
    None
):
    found = trace(Convolution(), (torch.randn(40, 5), torch.randint(0, 40, (2, 70))))
    assert found.sizes == [(None, 5), (None, None)]
    assert trace(Net(lambda out, hidden: out), (X,)).sizes == [(None, 3)]


# --- two modes ----------------------------------------------------------------------------------


class Odd(nn.Module):
    """Two layers, with something that the mode may or may not change."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.flag = what, True
        self.fc1, self.fc2 = nn.Linear(3, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.zeros(6))
        self.plain = (torch.ones(6), torch.full((6,), 2.0))
        self.off, self.on = nn.Dropout(0.0), nn.Dropout(0.5)

    def train(self, mode: bool = True) -> Odd:
        self.flag = mode  # what the forward pass may read in place of the mode itself
        return super().train(mode)

    def forward(self, x: Tensor) -> Any:
        what, training = self.what, self.training
        if what == "raises" and RecordedCalls in map(type, modes_of_dispatch()):
            raise RuntimeError
        h = self.fc1(x).relu()
        h = {"dropout": self.on, "none": self.off}.get(what, nn.Identity())(h)
        new = 0.9 * self.mean + h.mean(0)
        if what == "written" or (what == "written in training" and training):
            self.mean = new
        elif what == "another is written":
            self.mean = new if training else 0.9 * self.mean
        h = h * (2.0 if what == "number" and training else 1.0)
        h = h + (self.plain[training] if what == "constant" else self.plain[0])
        h = h + torch.tensor([0.5 if what == "made" and training else 0.25])
        h = h.sigmoid() if what == "flag" and self.flag else h
        h = h + torch.rand_like(h) if what == "drawn" else h
        weight = self.fc2.weight
        out = h @ (weight.detach() if what == "view" and training else weight).T + self.fc2.bias
        return (out, h) if what == "outputs" and training else out


@pytest.mark.parametrize("what", ["", "none", "written"])
def test_modes_that_are_alike_are_exported_once_and_have_the_graphs_of_two_exports(
    what: str,
) -> None:
    model = Odd(what)
    both = trace_modes(model, (X,))
    assert both[0].module is both[1].module
    for own, training in zip(both, (False, True), strict=True):
        alone = trace(model, (X,), training=training)
        assert own.training is training
        assert own.outputs == alone.outputs
        assert own.mutated == alone.mutated
        if what != "none":  # the text of an export tells the modes of a dropout that drops nothing
            assert own.digest() == alone.digest()


@pytest.mark.parametrize(
    "what",
    ["dropout", "written in training", "another is written", "number", "constant", "made", "flag",
     "drawn", "view", "outputs", "raises"],
)  # fmt: skip
def test_modes_that_differ_are_exported_twice(what: str) -> None:
    model = Odd(what)
    both = trace_modes(model, (X,))
    assert both[0].module is not both[1].module
    for own, training in zip(both, (False, True), strict=True):
        assert own.digest() == trace(model, (X,), training=training).digest()
