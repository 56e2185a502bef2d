"""Buffers that all states share exactly stay as they are; units are free as far as that goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import dimat
from dimat.checkpoints.reading import read_calls
from dimat.merging import COMBINERS, mix
from dimat.state import State, state_of
from dimat.symmetry import analyze
from dimat.symmetry.constants import redrawn_alike

SCALES = torch.tensor([0.3, 0.3, 0.7, 0.3, 0.7, 1.1, 1.3, 1.7])


class Scaled(nn.Module):
    """Units with a fixed scale each, some of which are equal."""

    def __init__(self, scales: Tensor = SCALES) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("scales", scales.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.into(x)) * self.scales)


class Alibi(nn.Module):
    """Heads with a slope each."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)
        self.register_buffer("slopes", 0.3 ** torch.arange(1.0, 5.0))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 4, 2).permute(2, 0, 3, 1, 4)
        apart = (torch.arange(t)[:, None] - torch.arange(t)).abs()
        weights = (q @ k.transpose(-1, -2) - self.slopes[:, None, None] * apart).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


MODELS = {"scaled": (Scaled, (60, 4), "scales"), "alibi": (Alibi, (60, 5, 8), "slopes")}


def states(make: type[nn.Module], count: int = 3) -> list[State]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(state_of(make()))
    return found


@pytest.mark.parametrize("combine", COMBINERS)
@pytest.mark.parametrize("method", ["activations", "weights"])
@pytest.mark.parametrize("name", MODELS)
def test_a_merge_keeps_a_constant_of_all_parents_to_the_last_bit(
    name: str, method: str, combine: str
) -> None:
    make, shape, key = MODELS[name]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    parents = states(make)
    merged = dimat.merge(make(), parents, [x], method=method, combine=combine)
    assert torch.equal(merged.state[key], parents[0][key])
    for own, aligned in zip(parents, merged.aligned, strict=True):
        assert torch.equal(aligned[key], own[key])
        outputs = functional_call(make(), aligned, x)
        torch.testing.assert_close(outputs, functional_call(make(), own, x))
    assert any(m.permutation.moved > 0 for m in merged.matchings[1:])


def test_units_of_equal_constants_are_free_among_themselves_and_others_stay() -> None:
    torch.manual_seed(0)
    model, x = Scaled(), torch.randn(9, 4)
    symmetry = analyze(model, (x,), constants=dict(model.named_buffers())).symmetry
    assert sorted((g.cells, g.size) for g in symmetry.groups) == [(1, 2), (1, 3)]
    state = state_of(model)
    for seed in range(4):
        moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(seed)), state)
        assert torch.equal(moved["scales"], state["scales"])
        torch.testing.assert_close(functional_call(model, moved, x), model(x))
    free = analyze(model, (x,)).symmetry
    assert [(g.cells, g.size) for g in free.groups] == [(1, 8)]  # where states may differ in it


def test_a_constant_that_does_not_vary_leaves_all_units_free() -> None:
    model = Scaled(torch.full((8,), 0.3))
    symmetry = analyze(model, (torch.zeros(3, 4),), constants=dict(model.named_buffers())).symmetry
    assert [(g.cells, g.size) for g in symmetry.groups] == [(1, 8)]


def test_a_buffer_in_which_parents_differ_moves_with_its_units() -> None:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = Scaled()
    state = state_of(model)
    free = dimat.find_symmetry(model, (x,))
    copy = free.apply(free.random(torch.Generator().manual_seed(2)), state)
    assert not torch.equal(copy["scales"], state["scales"])
    merged = dimat.merge(model, [state, copy], [x])
    torch.testing.assert_close(merged.state, state)


def test_running_statistics_are_no_constants_even_where_they_are_equal() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model(torch.randn(50, 4))
    symmetry = analyze(model, (torch.zeros(3, 4),), constants=state_of(model)).symmetry
    assert [(g.cells, g.size) for g in symmetry.groups] == [(1, 8)]


def test_an_agent_keeps_the_constants_of_its_own_model() -> None:
    torch.manual_seed(0)
    model = Scaled()
    symmetry = read_calls([torch.randn(6, 4)], 10, "cpu").analyze(model).symmetry
    assert sorted(g.size for g in symmetry.groups) == [2, 3]


def test_the_mean_of_equal_entries_is_that_entry_to_the_last_bit() -> None:
    value = torch.randn(1000)
    assert torch.equal(mix([{"a": value}] * 3, [1 / 3] * 3)["a"], value)
    rounded = sum(value * (1 / 3) for _ in range(3))
    assert not torch.equal(torch.as_tensor(rounded), value)


def test_a_constant_is_redrawn_with_its_equal_entries_equal() -> None:
    value = torch.tensor([[1.0, 2.0, 1.0], [3.0, 2.0, 4.0]])
    found = redrawn_alike(value, torch.arange(6.0).reshape(2, 3))
    assert found.tolist() == [[0.0, 1.0, 0.0], [3.0, 1.0, 5.0]]


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0), (3, 0, 5)])
def test_an_empty_entry_holds_nothing(shape: tuple[int, ...]) -> None:
    """Libraries keep empty buffers for what is not in use."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    model.register_buffer("constant", torch.empty(shape))
    model.register_parameter("free", nn.Parameter(torch.empty(shape)))
    states = [state_of(model), {**state_of(model), "0.bias": torch.randn(5)}]
    merged = dimat.merge(model, states, [torch.randn(20, 3)])
    assert "0" in merged.symmetry.names
    assert merged.state["constant"].shape == merged.state["free"].shape == shape
