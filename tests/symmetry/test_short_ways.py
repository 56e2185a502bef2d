"""Short ways of the proof and of permuting give what the long ways give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.symmetry.zoo_layers import lin, net
from torch import Tensor, nn

from dimat.errors import StructureError
from dimat.graph.trace import trace
from dimat.symmetry.labels import positions
from dimat.symmetry.labels.positions import orders, sources, take
from dimat.symmetry.labels.row_hash import distinct
from dimat.symmetry.proof import evidence
from dimat.symmetry.proof.evidence import differing

SHAPES = ((40, 30), (30, 7, 3, 3), (40, 1, 5), (9, 8, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1, 400, 2**20])
def test_axes_moved_in_blocks_are_those_moved_one_by_one(
    shape: tuple[int, ...], dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "_BLOCK_BYTES", size)
    random = np.random.default_rng(0)
    value = torch.from_numpy(random.normal(size=shape) * 100).to(dtype)
    for axes in ((0, 1), (0, len(shape) - 1), (1,), (0,), (0, 1, len(shape) - 1)):
        source: list[np.ndarray | None] = [None] * len(shape)
        expected = value
        for i in sorted(set(axes)):
            own = random.permutation(shape[i])
            source[i] = own.reshape([-1 if k == i else 1 for k in range(len(shape))])
            expected = expected.movedim(i, 0)[own].movedim(0, i)
        for given in (value, value.transpose(0, 1).contiguous().transpose(0, 1)):
            moved = take(given, tuple(source))
            assert torch.equal(moved, expected)
            assert moved.data_ptr() != given.data_ptr()


def test_axes_looked_up_at_once_are_those_looked_up_one_by_one() -> None:
    random = np.random.default_rng(0)
    families = np.split(random.permutation(200), [1, 50, 90])
    moves = np.arange(200)
    for own in families[:3]:  # the last one stays
        moves[own] = random.permutation(own)
    some = random.choice(families[3], 30)  # an axis may show a unit that stays twice
    labels = [random.permutation(own) for own in families for _ in range(2)] + [some]
    expected = [sources((label,), moves)[0] for label in labels]
    found = orders(labels, moves)
    assert [own is None for own in found] == [own is None for own in expected]
    assert sum(own is None for own in found) == 5
    for a, b in zip(found, expected, strict=True):
        assert a is None or np.array_equal(a.numpy(), b)
    assert orders([], moves) == []
    with pytest.raises(StructureError, match="does not map to itself"):
        orders([families[0], families[1][:-1]], np.roll(np.arange(200), 1))


@pytest.mark.parametrize("bound", [2, 1000, 2**40])
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_distinct_rows_are_those_of_numpy(rows: int, bound: int) -> None:
    random = np.random.default_rng(0)
    for columns in (2, 3, 4):
        own = random.integers(-bound, bound, (rows, columns))
        assert np.array_equal(distinct(own), np.unique(own, axis=0))


HARD = {
    "one entry of many": lambda x: x.index_fill(0, torch.tensor([799]), 7.0),
    "a mask": lambda x: x.masked_fill(x > 1, torch.inf),
    "not a number": lambda x: x.masked_fill(x > 0, torch.nan),
    "rounding": lambda x: x * (1 + 1e-12),
    "small beside a large entry": lambda x: x.index_fill(0, torch.tensor([5]), 1e4) + 1e-5,
    "the same": lambda x: x.clone(),
}


@pytest.mark.parametrize("other", HARD)
@pytest.mark.parametrize("outlier", [1.0, 1e12, torch.inf, torch.nan, 0.0])
def test_values_differ_in_short_where_they_differ_in_full(
    other: str, outlier: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(800, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[[0, 400]] = outlier
    y = HARD[other](x)
    found = differing(x, y), differing(y, x), evidence._scale(x), evidence._scale(y)
    monkeypatch.setattr(evidence, "_first_apart", lambda x, y: False)
    monkeypatch.setattr(evidence, "_near_largest", lambda size: None)
    assert found == (differing(x, y), differing(y, x), evidence._scale(x), evidence._scale(y))


def test_graphs_have_the_same_values_unless_training_changes_something() -> None:
    def both(model: nn.Module) -> bool:
        args = (torch.zeros(3, 4),)
        a, b = (trace(model, args, training=mode) for mode in (False, True))
        return a.same_values(b) and b.same_values(a)

    def scaled(m: nn.Module, x: Tensor) -> Tensor:
        return m.a(x) * (2.0 if m.training else 3.0)

    assert both(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2)))
    assert not both(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)))
    assert not both(net(scaled, a=lin(4, 5))())
    assert not both(net(lambda m, x: m.a(x) * torch.rand_like(x[:, :1]), a=lin(4, 5))())
