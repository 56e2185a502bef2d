"""Planes that rotary embeddings leave free: as rotary embeddings are written, and are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dimat.symmetry.continuous.rotary as rotary
from dimat.matching.procrustes import procrustes
from dimat.symmetry.continuous import ContinuousSymmetry, find_continuous_symmetry
from dimat.symmetry.proof.redraw import redraw

Embedding = Callable[[Tensor], Tensor]


def angles(places: int, planes: int) -> Tensor:
    """(places, planes) angles, by which a plane turns at a place."""
    return torch.arange(places)[:, None] * 3.0 ** -torch.arange(planes)


def halves(x: Tensor) -> Tensor:
    turned = angles(x.shape[-2], x.shape[-1] // 2).repeat(1, 2)
    first, second = x.chunk(2, -1)
    return x * turned.cos() + torch.cat((-second, first), -1) * turned.sin()


def neighbors(x: Tensor) -> Tensor:
    turned = angles(x.shape[-2], x.shape[-1] // 2)
    even, odd = x[..., ::2], x[..., 1::2]
    pairs = (even * turned.cos() - odd * turned.sin(), even * turned.sin() + odd * turned.cos())
    return torch.stack(pairs, -1).flatten(-2)


def complex_numbers(x: Tensor) -> Tensor:
    turned = torch.polar(torch.ones(()), angles(x.shape[-2], x.shape[-1] // 2))
    seen = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(seen * turned).flatten(-2)


def half_of_all(x: Tensor) -> Tensor:
    turning, resting = x.chunk(2, -1)
    return torch.cat((halves(turning), resting), -1)


def every_dimension_its_own(x: Tensor) -> Tensor:
    return x * angles(*x.shape[-2:]).cos()


def normed(x: Tensor) -> Tensor:
    return halves(functional.rms_norm(x, x.shape[-1:]))


class Attention(nn.Module):
    """Causal attention of four heads of 4 or 8 dimensions, with rotary embeddings."""

    def __init__(self, embedding: Embedding, keys: int = 4, dims: int = 4) -> None:
        super().__init__()
        self.embedding, self.keys, self.dims = embedding, keys, dims
        self.query = nn.Linear(6, 4 * dims)
        self.key, self.value = nn.Linear(6, keys * dims, bias=False), nn.Linear(6, keys * dims)
        self.out = nn.Linear(4 * dims, 5)

    def heads(self, x: Tensor, number: int) -> Tensor:
        return x.unflatten(-1, (number, self.dims)).transpose(1, 2)

    def shared(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(4 // self.keys, 1)

    def scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def forward(self, x: Tensor) -> Tensor:
        q = self.embedding(self.heads(self.query(x), 4))
        k = self.shared(self.embedding(self.heads(self.key(x), self.keys)))
        v = self.shared(self.heads(self.value(x), self.keys))
        result: Tensor = self.out(self.scores(q, k, v).transpose(1, 2).flatten(2))
        return result


class InTurn(Attention):
    """Queries share the keys in turn: 0, 1, 0, 1."""

    def shared(self, x: Tensor) -> Tensor:
        return x.repeat(1, 4 // self.keys, 1, 1)


class Expanded(Attention):
    """Keys that are shared by expansion, as transformers has it."""

    def shared(self, x: Tensor) -> Tensor:
        batch, keys, places, dims = x.shape
        wide = x[:, :, None].expand(batch, keys, 4 // keys, places, dims)
        return wide.reshape(batch, 4, places, dims)


class ByHand(Attention):
    """Attention without the fused operator."""

    def scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q @ k.transpose(-1, -2)) / 2).softmax(-1) @ v


class QueriesOnly(Attention):
    """Scores that are no inner products of turned queries and turned keys."""

    def scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().scores(q, k.abs(), v)


class Alarm(Attention):
    """Attention that looks at the size of its queries, which no drawn value comes near."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = super().forward(x) + (self.query(x) > 1e6).sum()
        return result


class Complex(Attention):
    """Scores of complex numbers, whose real parts count."""

    def scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        one, other = (torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) for x in (q, k))
        return (one @ other.conj().transpose(-1, -2)).real.softmax(-1) @ v


class Detached(Attention):
    """Queries that no gradient reaches."""

    def heads(self, x: Tensor, number: int) -> Tensor:
        return super().heads(x.detach(), number)


class Fused(nn.Module):
    """One projection, whose columns are queries, keys and values of one head after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 4 * 3 * 4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (4, 12)).transpose(1, 2).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(halves(q), halves(k), v)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class Adapted(Attention):
    """Queries with an adapter, which is a second projection."""

    def __init__(self) -> None:
        super().__init__(halves)
        self.a, self.b = nn.Linear(6, 2, bias=False), nn.Linear(2, 16, bias=False)
        base = self.query
        self.query = nn.Identity()  # type: ignore[assignment]
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        q = halves(self.heads(self.base(x) + self.b(self.a(x)), 4))
        k, v = halves(self.heads(self.key(x), 4)), self.heads(self.value(x), 4)
        result: Tensor = self.out(self.scores(q, k, v).transpose(1, 2).flatten(2))
        return result


class Llama(nn.Module):
    """One block of a language model, without positions but those of its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(7, 6), nn.RMSNorm(6)
        self.attention, self.head = Attention(halves, keys=2), nn.Linear(5, 7)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.attention(self.norm(self.tokens(ids))))
        return result


class Linked(nn.Module):
    """Two attentions with one projection of queries."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Attention(halves), Attention(halves)
        self.two.query = self.one.query

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.one(x) + self.two(x)
        return result


def weak(model: nn.Module) -> nn.Module:
    """Weights as transformers draws them: attention is nearly uniform."""
    for own in model.parameters():
        nn.init.normal_(own, std=0.02)
    return model


PLACES = torch.zeros(2, 5, 6)
MODELS: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "halves": (lambda: Attention(halves), PLACES, 8),
    "neighbors": (lambda: Attention(neighbors), PLACES, 8),
    "complex numbers": (lambda: Attention(complex_numbers), PLACES, 8),
    "half of all dimensions": (lambda: Attention(half_of_all, dims=8), PLACES, 8),
    "two keys": (lambda: Attention(halves, keys=2), PLACES, 4),
    "one key": (lambda: Attention(neighbors, keys=1), PLACES, 2),
    "two keys in turn": (lambda: InTurn(halves, keys=2), PLACES, 4),
    "two keys, expanded": (lambda: Expanded(neighbors, keys=2), PLACES, 4),
    "by hand": (lambda: ByHand(halves), PLACES, 8),
    "fused": (Fused, PLACES, 8),
    "adapted": (Adapted, PLACES, 8),
    "tokens": (Llama, torch.zeros(2, 5, dtype=torch.long), 4),
    "weak": (lambda: weak(Llama()), torch.zeros(2, 5, dtype=torch.long), 4),
    "every dimension its own": (lambda: Attention(every_dimension_its_own), PLACES, 0),
    "normed": (lambda: Attention(normed), PLACES, 0),
    "keys through an absolute value": (lambda: QueriesOnly(halves), PLACES, 0),
    "an alarm that never rings": (lambda: Alarm(halves), PLACES, 0),
    "complex scores, which are left alone": (lambda: Complex(neighbors), PLACES, 0),
    "detached, and left alone": (lambda: Detached(halves), PLACES, 0),
    "none, where any matrix acts": (lambda: Attention(lambda x: x), PLACES, 0),
    "one projection, two attentions": (Linked, PLACES, 0),
}
Found = tuple[nn.Module, Any, ContinuousSymmetry, int]


@pytest.fixture(scope="module", params=MODELS)
def found(request: pytest.FixtureRequest) -> Found:
    build, inputs, planes = MODELS[request.param]
    torch.manual_seed(0)
    model = build().eval()
    return model, inputs, find_continuous_symmetry(model, inputs), planes


def outputs(model: nn.Module, state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(3)
    if inputs.is_floating_point():
        inputs = torch.randn(inputs.shape, generator=random, dtype=torch.float64)
    else:
        inputs = torch.randint(0, 7, inputs.shape, generator=random)
    with torch.no_grad():
        result: Tensor = torch.func.functional_call(
            model.double(), dict(state), inputs, tie_weights=False
        )
    return result


def before_and_after(
    model: nn.Module, symmetry: ContinuousSymmetry
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A generic state, and the same after a random element on the planes."""
    random = torch.Generator().manual_seed(7)
    state, own = redraw(model.state_dict(), random), symmetry.only("rotary")
    return state, own.apply(own.random(random), state)


def test_the_planes_are_those_worked_out_by_hand(found: Found) -> None:
    _, _, symmetry, planes = found
    assert sum(g.cells for g in symmetry.only("rotary").groups) == planes


def test_a_random_element_leaves_the_function_unchanged(found: Found) -> None:
    model, inputs, symmetry, planes = found
    state, moved = before_and_after(model, symmetry)
    torch.testing.assert_close(outputs(model, moved, inputs), outputs(model, state, inputs))
    changed = any((moved[key] - state[key]).abs().max() > 0.01 for key in state)
    assert changed == (planes > 0)


def test_a_copy_that_an_element_moved_comes_back(found: Found) -> None:
    model, _, symmetry, _ = found
    state, moved = before_and_after(model, symmetry)
    back = procrustes(symmetry.only("rotary"), state, moved).state
    torch.testing.assert_close(back, state, rtol=1e-6, atol=1e-8)


def test_what_is_turned_to_another_network_computes_what_it_did(found: Found) -> None:
    model, inputs, symmetry, _ = found
    random = torch.Generator().manual_seed(5)
    ours, theirs = (redraw(model.state_dict(), random) for _ in range(2))
    turned = procrustes(symmetry.only("rotary"), ours, theirs).state
    torch.testing.assert_close(outputs(model, turned, inputs), outputs(model, theirs, inputs))


def test_values_and_outputs_of_shared_keys_are_linear() -> None:
    for build in (Attention, InTurn, Expanded):
        symmetry = find_continuous_symmetry(build(halves, keys=2), PLACES)
        (own,) = symmetry.only("linear").groups
        assert (own.cells, own.size) == (2, 4), build


def test_attention_of_places_to_themselves_alone_proves_nothing() -> None:
    class Alone(Attention):
        def scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            own = torch.eye(q.shape[-2], dtype=torch.bool)
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=own)

    assert not find_continuous_symmetry(Alone(halves), PLACES).only("rotary").groups


def test_all_keys_of_one_entry_are_moved() -> None:
    model = Attention(halves)
    model.again = model.query
    symmetry = find_continuous_symmetry(model, PLACES)
    state = redraw(model.state_dict(), torch.Generator().manual_seed(1))
    state |= {f"again.{part}": state[f"query.{part}"] for part in ("weight", "bias")}
    moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(2)), state)
    assert (moved["query.weight"] - state["query.weight"]).abs().max() > 0.01
    for part in ("weight", "bias"):
        torch.testing.assert_close(moved[f"again.{part}"], moved[f"query.{part}"])


def test_execution_refuses_an_operator_that_is_allowed_by_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rotary, "ROTARY", rotary.ROTARY | {"aten.abs", "aten.rms_norm"})
    for name in ("normed", "keys through an absolute value"):
        build, inputs, _ = MODELS[name]
        assert not find_continuous_symmetry(build(), inputs).only("rotary").groups
