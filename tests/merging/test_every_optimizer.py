"""Every optimizer of PyTorch follows its units: its memory moves, or is forgotten with a word."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tests.analyses import analyze
from torch import Tensor, nn
from torch.testing import assert_close

from dimat import Permutation, Symmetry
from dimat.errors import StructureError
from dimat.merging import permute_optimizer, reset_optimizer
from dimat.merging.optimizer import load_memory, memory_of, mix_memory, plan_memory

FORGETS = {"LBFGS"}  # its history is one vector for all parameters together
SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adam": {"amsgrad": True},
    "LBFGS": {"history_size": 3, "max_iter": 2},
}
KINDS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and kind is not torch.optim.Optimizer
)


class Words(nn.Module):
    """Matrices only, two of them square, the first with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, sparse=True)
        self.mix, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.mix(torch.tanh(self.embed(ids)))))
        return out


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in ("Muon", "SparseAdam"):
        return Words().double()
    layers = [nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 3)).double()


def images(model: nn.Module, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (12,), generator=random)
    if isinstance(model, Words):
        return torch.randint(7, (12,), generator=random), y
    return torch.randn(12, 1, 3, 3, generator=random, dtype=torch.float64), y


def optimizer_of(name: str, model: nn.Module) -> Any:
    if name == "SparseAdam":
        return torch.optim.SparseAdam(model.embed.parameters(), 0.05)  # type: ignore[union-attr]
    if name == "Muon" and isinstance(model, Words):  # it takes no sparse gradients
        parameters: Iterable[Tensor] = [*model.mix.parameters(), *model.head.parameters()]
    else:
        parameters = model.parameters()
    return getattr(torch.optim, name)(parameters, **SETTINGS.get(name, {}), lr=0.05)


def train(model: nn.Module, optimizer: Any, seed: int, steps: int = 3) -> None:
    def loss() -> Tensor:
        optimizer.zero_grad()
        x, y = images(model, seed + k)
        found = nn.functional.cross_entropy(model(x), y)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    for k in range(steps):  # noqa: B007 - the closure reads it
        optimizer.step(loss)


def symmetry_of(model: nn.Module) -> tuple[Symmetry, Permutation]:
    symmetry = analyze(model, (images(model, 0)[0][:2],)).symmetry
    assert symmetry.groups
    return symmetry, symmetry.random(torch.Generator().manual_seed(4))


def pair(name: str) -> tuple[tuple[nn.Module, Any], tuple[nn.Module, Any], Any]:
    """A trained network, its copy in another unit order, and how the one becomes the other."""
    model = network(name)
    symmetry, p = symmetry_of(model)
    optimizer = optimizer_of(name, model)
    train(model, optimizer, 1)
    twin = copy.deepcopy(model)
    twin.load_state_dict(symmetry.apply(p, model.state_dict()))
    other = optimizer_of(name, twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def move(entries: Any) -> Any:
        return symmetry.apply(p, entries)

    return (model, optimizer), (twin, other), move


@pytest.mark.parametrize("name", KINDS)
def test_training_on_in_another_unit_order_is_the_same_training(name: str) -> None:
    (model, optimizer), (twin, other), move = pair(name)
    permute_optimizer(other, twin, move)
    if name in FORGETS:
        reset_optimizer(optimizer)
    train(model, optimizer, 2)
    train(twin, other, 2)
    # Muon computes in bfloat16 inside
    rtol, atol = (1e-2, 1e-2) if name == "Muon" else (1e-6, 1e-8)
    assert_close(dict(twin.state_dict()), move(dict(model.state_dict())), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", KINDS)
def test_what_was_put_in_place_can_be_taken_back(name: str) -> None:
    (_, _), (twin, other), move = pair(name)
    before = copy.deepcopy(other.state_dict())
    plan = plan_memory(other, twin, move)
    assert_close(other.state_dict()["state"], before["state"], rtol=0, atol=0)
    plan.swap()
    plan.swap()
    assert_close(other.state_dict()["state"], before["state"], rtol=0, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_an_optimizer_that_was_reset_trains_as_a_new_one(name: str) -> None:
    (model, optimizer), _, _ = pair(name)
    twin = copy.deepcopy(model)
    reset_optimizer(optimizer)
    train(model, optimizer, 2)
    train(twin, optimizer_of(name, twin), 2)
    assert_close(dict(model.state_dict()), dict(twin.state_dict()), rtol=0, atol=0)


def test_factored_moments_move_along_the_axes_that_they_have() -> None:
    (_, optimizer), (twin, other), move = pair("Adafactor")
    permute_optimizer(other, twin, move)
    shapes = set()
    for ours, theirs in zip(optimizer.param_groups[0]["params"], twin.parameters(), strict=True):
        name = next(name for name, own in twin.named_parameters() if own is theirs)
        for kind in ("row_var", "col_var"):
            value = optimizer.state[ours].get(kind)
            if value is not None:
                shapes.add(tuple(value.shape))
                full = move({name: value.expand(ours.shape)})[name]
                assert_close(other.state[theirs][kind].expand(ours.shape), full, rtol=0, atol=0)
    assert {(6, 1), (1, 16), (4, 1, 2, 1), (4, 1, 1, 2)} <= shapes


def test_what_cannot_be_moved_is_forgotten_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (_, _), (twin, other), move = pair("LBFGS")
    with caplog.at_level(logging.WARNING, "dimat"):
        permute_optimizer(other, twin, move)
        train(twin, other, 2)
        permute_optimizer(other, twin, move)
    assert not other.state
    (said,) = (own for own in caplog.records if own.name == "dimat")
    assert "LBFGS: 'd' of '0.weight' cannot be moved with the units" in said.getMessage()


class Square(torch.optim.Optimizer):
    """Remembers a left and a right matrix of every parameter, as Shampoo does, from the start."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p] = {"left": torch.eye(p.shape[0]), "momentum": torch.zeros_like(p)}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["left"] += torch.outer(p.flatten(1).sum(1), p.flatten(1).sum(1))
            self.state[p]["momentum"] += p


def test_a_square_matrix_of_a_square_parameter_is_not_taken_for_a_momentum() -> None:
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    symmetry = analyze(model, (torch.zeros(2, 6),)).symmetry
    p = symmetry.random(torch.Generator().manual_seed(0))
    optimizer = Square(model.parameters())
    with torch.no_grad():
        optimizer.step()
    permute_optimizer(optimizer, model, lambda entries: symmetry.apply(p, entries))
    for parameter in model.parameters():
        own = optimizer.state[parameter]  # as in a new one
        assert_close(own["left"], torch.eye(len(parameter)), rtol=0, atol=0)
        assert_close(own["momentum"], torch.zeros_like(parameter), rtol=0, atol=0)
    with torch.no_grad():
        optimizer.step()


class Odd(torch.optim.Optimizer):
    """Keeps a list, and no second one of its kind can be made."""

    def __init__(self, params: Any, needed: int) -> None:
        super().__init__(params, {})
        for p in self.param_groups[0]["params"]:
            self.state[p] = {"history": [torch.zeros(3)] * needed, "momentum": torch.ones_like(p)}


def test_what_can_be_neither_moved_nor_forgotten_is_refused_and_nothing_is_changed() -> None:
    model = network("SGD")
    symmetry, p = symmetry_of(model)
    optimizer = Odd(model.parameters(), 2)
    with torch.no_grad():
        for own in optimizer.state.values():
            own["momentum"].copy_(torch.randn_like(own["momentum"]))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(StructureError, match=r"Odd: its memory would have to be forgotten, and no"):
        permute_optimizer(optimizer, model, lambda entries: symmetry.apply(p, entries))
    assert_close(optimizer.state_dict()["state"], before["state"], rtol=0, atol=0)


def test_what_is_remembered_of_parameters_outside_the_model_stays() -> None:
    model, temperature = network("Adam"), nn.Parameter(torch.ones(()).double())
    optimizer = torch.optim.Adam([*model.parameters(), temperature], 0.05)
    x, y = images(model, 0)
    nn.functional.cross_entropy(model(x) * temperature, y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    symmetry, p = symmetry_of(model)
    ours = memory_of(optimizer, model)
    outside = copy.deepcopy(optimizer.state[temperature])
    permute_optimizer(optimizer, model, lambda entries: symmetry.apply(p, entries))
    assert_close(optimizer.state[temperature], outside, rtol=0, atol=0)
    moved = {kind: symmetry.apply(p, own) for kind, own in ours.items()}
    assert_close(memory_of(optimizer, model), moved, rtol=0, atol=0)
    assert ours.keys() == {"exp_avg", "exp_avg_sq"}
    assert ours["exp_avg"].keys() == dict(model.named_parameters()).keys()


def test_a_memory_that_is_no_number_for_every_weight_is_not_mixed() -> None:
    for name, kind in (("Adafactor", "row_var"), ("LBFGS", "d")):
        (model, optimizer), _, _ = pair(name)
        with pytest.raises(StructureError, match=rf"{name}: '{kind}' of '.*' is no number for ev"):
            memory_of(optimizer, model)


def test_memories_that_do_not_fit_are_refused_and_nothing_is_changed() -> None:
    (model, adam), _, _ = pair("Adam")
    sgd = optimizer_of("SGD", model)
    train(model, sgd, 1)
    ours, theirs = memory_of(adam, model), memory_of(sgd, model)
    with pytest.raises(StructureError, match="memory 1 does not fit: 'exp_avg' is remembered by"):
        mix_memory([ours, theirs], [0.5, 0.5])
    with pytest.raises(StructureError, match=r"a memory does not fit Adam: 'exp_avg' of '0\.weig"):
        load_memory(adam, model, theirs)
    short = {kind: dict(own) for kind, own in ours.items()}
    short["exp_avg_sq"]["5.bias"] = torch.zeros(2).double()
    short["exp_avg"]["0.weight"] = torch.zeros_like(short["exp_avg"]["0.weight"])
    with pytest.raises(StructureError, match=r"'5\.bias' is of shape \(2,\), expected shape \(3,"):
        load_memory(adam, model, short)
    assert_close(memory_of(adam, model), ours, rtol=0, atol=0)
