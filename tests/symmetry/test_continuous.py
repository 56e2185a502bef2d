"""Continuous symmetries: found where they are, refused where they are not, a group that acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dimat.symmetry.continuous.find as search
from dimat.errors import StructureError
from dimat.models.transformer import Transformer
from dimat.symmetry import analyze
from dimat.symmetry.continuous import ContinuousSymmetry, find_continuous_symmetry
from dimat.symmetry.continuous.operators import ALLOWED
from dimat.symmetry.continuous.streams import UnitStreams
from dimat.symmetry.continuous.through import _Try, value_of
from dimat.symmetry.proof.redraw import redraw


class LowRank(nn.Module):
    """A linear layer with an adapter of rank 3."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 5)
        self.a, self.b = nn.Linear(6, 3, bias=False), nn.Linear(3, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = self.base(x) + 2 * self.b(self.a(x))
        return adapted


class Residual(nn.Module):
    """Two residual blocks on a stream that ``norm`` normalizes before it is read."""

    def __init__(self, norm: Callable[[], nn.Module], activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.stem, self.head, self.activation = nn.Linear(6, 8), nn.Linear(8, 3), activation
        self.norms = nn.ModuleList(norm() for _ in range(3))
        self.wide = nn.ModuleList(nn.Linear(8, 12) for _ in range(2))
        self.back = nn.ModuleList(nn.Linear(12, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, wide, back in zip(self.norms, self.wide, self.back, strict=False):
            x = x + back(self.activation(wide(norm(x))))
        logits: Tensor = self.head(self.norms[2](x))
        return logits


class HandWrittenNorm(nn.Module):
    """RMSNorm as many write it, operator by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Attention(nn.Module):
    """Attention of two heads, with one projection for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 3 * 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        result: Tensor = self.out(mixed.flatten(2))
        return result


class Tied(nn.Module):
    """An autoencoder without a nonlinearity, whose decoder is its encoder transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x, self.weight), self.weight.t())


def between(middle: Callable[[Tensor], Tensor]) -> nn.Module:
    """Two linear layers with a function between them."""

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(middle(self.first(x)))
            return result

    return Between()


VECTORS, TOKENS = torch.zeros(3, 6), torch.zeros(2, 4, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], Any, list[str]]] = {
    "low rank": (LowRank, VECTORS, ["linear"]),
    "nothing between": (lambda: between(lambda h: h), VECTORS, ["linear"]),
    "a constant factor": (lambda: between(lambda h: 0.5 * h), VECTORS, ["linear"]),
    "relu": (lambda: between(torch.relu), VECTORS, ["scaling"]),
    "max over places": (lambda: between(lambda h: h.amax(1)), TOKENS, ["scaling"]),
    "gelu": (lambda: between(functional.gelu), VECTORS, []),
    "a gate by itself": (lambda: between(lambda h: h * h), VECTORS, []),
    "tied, once read and once written": (Tied, VECTORS, ["orthogonal"]),
    "parts that are sorted": (lambda: between(lambda h: h.sort(-1)[0]), VECTORS, []),
    "linear in sight": (lambda: between(lambda h: h.clamp(-1e6, 1e6)), VECTORS, []),
    "rms norm": (
        lambda: Residual(lambda: nn.RMSNorm(8), torch.tanh), VECTORS, ["orthogonal"]
    ),
    "rms norm by hand": (
        lambda: Residual(HandWrittenNorm, torch.relu),
        VECTORS,
        ["orthogonal", "scaling", "scaling"],
    ),
    "layer norm": (
        lambda: Residual(lambda: nn.LayerNorm(8), functional.gelu),
        VECTORS,
        ["orthogonal with mean"],
    ),
    "no norm": (lambda: Residual(nn.Identity, functional.gelu), VECTORS, ["linear"]),
    "batch norm": (lambda: Residual(lambda: nn.BatchNorm1d(8), functional.gelu), VECTORS, []),
    "attention": (Attention, TOKENS, ["linear", "linear"]),
    "transformer": (
        lambda: Transformer(20, 3, 6, 0.25),
        torch.zeros(2, 6, dtype=torch.long),
        ["linear"] * 4 + ["orthogonal with mean"],
    ),
    "transformer with padding": (
        lambda: Transformer(20, 3, 6, 0.25, padding=0),
        torch.tensor([[3, 4, 5, 6, 7, 0], [8, 9, 1, 2, 0, 0]]),
        ["linear"] * 4 + ["orthogonal with mean"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def found(request: pytest.FixtureRequest) -> tuple[nn.Module, Any, ContinuousSymmetry, list[str]]:
    build, inputs, kinds = MODELS[request.param]
    torch.manual_seed(0)
    model = build()
    return model, inputs, find_continuous_symmetry(model, inputs), kinds


Found = tuple[nn.Module, Any, ContinuousSymmetry, list[str]]


def outputs(model: nn.Module, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(3)
    if inputs.is_floating_point():
        inputs = torch.randn(inputs.shape, generator=random, dtype=torch.float64)
    with torch.no_grad():
        result: Tensor = torch.func.functional_call(model.double().eval(), state, inputs)
    return result


def test_the_kinds_are_those_worked_out_by_hand(found: Found) -> None:
    _, _, symmetry, kinds = found
    assert sorted(g.kind for g in symmetry.groups) == kinds


def test_a_random_element_leaves_the_function_unchanged(found: Found) -> None:
    model, inputs, symmetry, _ = found
    random = torch.Generator().manual_seed(7)
    state = redraw(model.state_dict(), random)  # gains of norms are no ones here
    moved = symmetry.apply(symmetry.random(random), state)
    torch.testing.assert_close(
        outputs(model, moved, inputs), outputs(model, state, inputs), rtol=1e-7, atol=1e-9
    )
    if symmetry.groups:
        assert any((moved[key] - state[key]).abs().max() > 0.01 for key in state)


def test_elements_form_a_group(found: Found) -> None:
    model, _, symmetry, _ = found
    random = torch.Generator().manual_seed(7)
    state = redraw(model.state_dict(), random)
    p, q = symmetry.random(random), symmetry.random(random)
    once = symmetry.apply(symmetry.compose(p, q), state)
    torch.testing.assert_close(once, symmetry.apply(p, symmetry.apply(q, state)))
    back = symmetry.apply(symmetry.inverse(p), symmetry.apply(p, state))
    torch.testing.assert_close(back, state)
    torch.testing.assert_close(symmetry.apply(symmetry.identity(), state), state)


def test_gains_keep_their_values(found: Found) -> None:
    model, _, symmetry, _ = found
    random = torch.Generator().manual_seed(7)
    state = redraw(model.state_dict(), random)
    moved = symmetry.apply(symmetry.random(random), state)
    for gain in symmetry.gains:
        torch.testing.assert_close(moved[gain.name], state[gain.name])


@pytest.mark.parametrize("name", ["gelu", "a gate by itself", "batch norm"])
def test_execution_refuses_a_nonlinear_operator_that_is_allowed_by_mistake(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {
        "aten.gelu",
        "aten.mul",
        "aten.batch_norm",
        "aten._native_batch_norm_legit_no_training",
    }
    for kind, own in ALLOWED.items():
        monkeypatch.setitem(ALLOWED, kind, own | every)
    monkeypatch.setattr(search, "_CACHE", {})
    build, inputs, kinds = MODELS[name]
    assert [g.kind for g in find_continuous_symmetry(build(), inputs).groups] == kinds


def test_an_operand_without_influence_proves_nothing() -> None:
    build, inputs, _ = MODELS["nothing between"]
    model = build()
    analysis = analyze(model, (inputs,))
    (group,) = analysis.symmetry.groups
    stream = UnitStreams(analysis).whole(group)
    assert stream is not None
    recorder = search._Draws(analysis, model.state_dict(), [inputs], "any number")()[0]
    node = stream.nodes[-1]

    def facts() -> object:
        random = torch.Generator().manual_seed(0)
        return _Try(analysis.trace, recorder, stream, node, "linear", random).facts()

    assert facts()
    hidden = next(n for n in node.all_input_nodes if n.op == "call_function")
    recorder.env[hidden] = torch.zeros_like(recorder.env[hidden])
    recorder.env[node] = value_of(recorder, node, {})  # the bias alone
    assert facts() is None


def test_without_folding_a_gain_nothing_rotates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_gains", lambda *args: [])
    monkeypatch.setattr(search, "_CACHE", {})
    build, inputs, _ = MODELS["rms norm"]
    assert not find_continuous_symmetry(build(), inputs).groups


def test_a_gain_that_more_than_one_layer_shares_is_not_folded() -> None:
    class Shared(nn.Module):
        """A norm whose result is read by a layer, and is an output of the block as well."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.stem(x))
            result: Tensor = self.head(x) + (x * x).sum(-1, keepdim=True)
            return result

    assert not find_continuous_symmetry(Shared(), VECTORS).groups


def test_gains_of_places_are_not_folded() -> None:
    """A norm over flattened maps has a gain for each place of a channel."""

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = (
                nn.Conv2d(1, 4, 2, 2),
                nn.LayerNorm(16),
                nn.Linear(16, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.norm(self.stem(x).flatten(1)))
            return result

    assert not find_continuous_symmetry(Maps(), torch.zeros(2, 1, 4, 4)).groups


def test_units_of_complex_numbers_are_left_alone() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(6, 5, dtype=torch.complex64))
            self.b = nn.Parameter(torch.randn(5, 4, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(torch.complex64) @ self.a @ self.b).abs()

    assert not find_continuous_symmetry(Waves(), VECTORS).groups


def test_a_gain_of_zero_cannot_be_folded() -> None:
    model = Residual(lambda: nn.RMSNorm(8), torch.tanh)
    symmetry = find_continuous_symmetry(model, VECTORS)
    state = {**model.state_dict(), "norms.0.weight": torch.zeros(8)}
    with pytest.raises(StructureError, match=r"'norms\.0\.weight' is zero somewhere"):
        symmetry.apply(symmetry.identity(), state)


def test_an_element_of_another_symmetry_is_refused() -> None:
    one, other = (
        find_continuous_symmetry(build(), inputs)
        for build, inputs, _ in (MODELS["low rank"], MODELS["relu"])
    )
    with pytest.raises(StructureError, match="a transformation of another symmetry"):
        other.apply(one.identity(), {})


def test_all_keys_of_one_entry_are_moved() -> None:
    model = LowRank()
    model.again = model.a
    symmetry = find_continuous_symmetry(model, VECTORS)
    state = redraw(model.state_dict(), torch.Generator().manual_seed(1))
    state["again.weight"] = state["a.weight"]
    moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(2)), state)
    assert (moved["a.weight"] - state["a.weight"]).abs().max() > 0.01
    torch.testing.assert_close(moved["again.weight"], moved["a.weight"])


def test_its_repr_says_the_kinds() -> None:
    build, inputs, _ = MODELS["attention"]
    assert repr(find_continuous_symmetry(build(), inputs)) == "ContinuousSymmetry(2 linear)"
