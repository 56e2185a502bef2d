"""Complex parameters are averaged like real ones; what is no tensor stays where it is."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import dimat
from dimat.errors import StructureError
from dimat.matching import MATCHERS
from dimat.merging import COMBINERS, mix
from dimat.methods.admit import norm
from dimat.methods.steps.cga import project
from dimat.state import (
    check_finite,
    consensus_distance,
    extras_of,
    load_state,
    put_into,
    save_state,
    squared_distance,
    squared_norm,
    state_of,
    widened,
)
from dimat.training.trainer import LocalTrainer


class Fourier(nn.Module):
    """Complex weights on both sides of its units, whose order is free."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(3, 6, dtype=torch.complex64))
        self.out = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.complex(x, 0.5 * x.flip(1)) @ self.into
        return self.head((hidden * torch.sigmoid(hidden.abs()) @ self.out).abs())


def fourier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Fourier()


@pytest.mark.parametrize("method", [m for m in MATCHERS if m != "identity"])
@pytest.mark.parametrize("combine", COMBINERS)
def test_a_permuted_copy_of_a_complex_model_merges_to_it(method: str, combine: str) -> None:
    model, x = fourier(), torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    state, symmetry = state_of(model), dimat.find_symmetry(model, (x[:3],))
    assert next((g.size, g.members) for g in symmetry.groups) == (6, (("into", 1), ("out", 0)))
    copy = symmetry.apply(symmetry.random(torch.Generator().manual_seed(2)), state)
    merged = dimat.merge(model, [state, copy], [x], method=method, combine=combine)
    torch.testing.assert_close(
        functional_call(model, merged.state, x), functional_call(model, state, x),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    torch.testing.assert_close(merged.aligned[1], state)


def test_complex_numbers_are_averaged_and_measured_as_pairs_of_real_ones() -> None:
    a, b = (torch.randn(5, dtype=torch.complex64) for _ in range(2))
    states = [{"w": a}, {"w": b}]
    torch.testing.assert_close(mix(states, [0.25, 0.75])["w"], 0.25 * a + 0.75 * b)
    apart = float((a - b).abs().square().sum())
    assert squared_distance(*states, ["w"]) == pytest.approx(apart)
    assert consensus_distance(states, ["w"]) == pytest.approx(apart**0.5 / 2)
    assert norm(states[0], ["w"]) == pytest.approx(float(a.norm()))
    assert widened({"w": a, "n": torch.zeros(2, dtype=torch.bfloat16)})["w"].dtype == a.dtype
    for bad in (complex(float("nan"), 0), complex(0, float("inf"))):
        with pytest.raises(StructureError, match="'w' has 1 values that are NaN or infinite"):
            check_finite({"w": torch.cat([a, torch.tensor([bad])])}, "state 1")
    turned = project({"w": a}, [{"w": -a + b}])["w"]
    assert float((turned.conj() * (b - a)).real.sum()) >= -1e-4


@pytest.mark.parametrize("size", [0, 3, 2**10 - 1, 2**10, 2**10 + 1, 100_000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_norms_and_distances_are_those_of_float64(size: int, dtype: torch.dtype) -> None:
    a = (3 + torch.randn(2, size, generator=torch.Generator().manual_seed(size))).to(dtype)
    near, far = a + 1e-2 * torch.randn_like(a), 97 * torch.randn_like(a)
    wide = [own.to(torch.complex128).numpy() for own in (a, near, far)]
    close = functools.partial(pytest.approx, rel=1e-6, abs=0.0)
    assert squared_norm([a]) == close(float((abs(wide[0]) ** 2).sum()))
    assert squared_norm([a.T]) == close(squared_norm([a]))  # in another order in memory
    for other, numbers in zip((near, far), wide[1:], strict=True):  # no difference is rounded first
        apart = squared_distance({"w": a}, {"w": other}, ["w"])
        assert apart == close(float((abs(wide[0] - numbers) ** 2).sum()))


def test_the_norm_of_several_tensors_is_that_of_their_entries_side_by_side() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 0, 2**10, 2**16 - 1, 2**16, 100_000)  # small ones and large ones
    own = [torch.randn(size, generator=generator) for size in sizes]
    mixed = [*own, torch.tensor(2.0), own[0].bfloat16(), own[2].double(), torch.tensor([3 + 4j])]
    wide = torch.cat([x.to(torch.complex128).flatten() for x in mixed])
    close = functools.partial(pytest.approx, rel=1e-6, abs=0.0)
    assert squared_norm(mixed) == close(float(wide.abs().square().sum()))
    assert squared_norm([]) == squared_norm([torch.zeros(0)]) == 0.0
    assert squared_norm([*own, torch.tensor(math.inf)]) == math.inf
    assert squared_norm([torch.full((2,), 1e30), *own]) == close(2e60)  # overflows in float32


def test_norms_whose_squares_overflow_are_added_up_in_float64() -> None:
    assert squared_norm([torch.full((2**10 + 2,), 1e30)]) == pytest.approx((2**10 + 2) * 1e60)
    assert math.isnan(squared_norm([torch.tensor([1.0, math.nan])]))
    assert squared_norm([torch.tensor([1.0, -math.inf])]) == math.inf


def test_complex_states_are_saved_and_those_that_files_cannot_hold_are_refused(
    tmp_path: Path,
) -> None:
    state = state_of(fourier())
    save_state(state, tmp_path / "own.safetensors")
    torch.testing.assert_close(load_state(tmp_path / "own.safetensors"), state, rtol=0, atol=0)
    with pytest.raises(StructureError, match=r"'w' is torch.complex128, which .* complex64"):
        save_state({"w": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "own.safetensors")


# --- what is no tensor ----------------------------------------------------------------------------


class Counting(nn.Linear):
    """Has a state of its own that is no tensor, or is one of no fixed size."""

    own: Any = None

    def get_extra_state(self) -> Any:
        return self.own

    def set_extra_state(self, state: Any) -> None:
        self.own = state


def counting(seed: int, own: Any) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(Counting(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    net[0].own = own
    return net


@pytest.mark.parametrize("values", [({"version": 1}, [2, 3]), (torch.ones(2), torch.zeros(5))])
def test_what_modules_keep_beside_tensors_is_the_first_parents_and_each_ones_own(
    values: tuple[Any, Any],
) -> None:
    nets = [counting(seed, own) for seed, own in enumerate(values)]
    states = [net.state_dict() for net in nets]
    merged = dimat.merge(nets[0], states, [torch.randn(30, 4)])
    assert merged.state["0._extra_state"] is values[0]
    assert [own["0._extra_state"] for own in merged.aligned] == list(values)
    nets[1].load_state_dict(merged.state)
    assert nets[1][0].own is values[0]
    found = dimat.match(nets[0], *states, [torch.randn(30, 4)])
    assert found.permutation.slots["0"].shape == (1, 8)


def test_a_state_that_agents_send_holds_nothing_but_tensors_and_what_is_beside_stays() -> None:
    net = counting(0, {"version": 1})
    state = state_of(net)
    assert "0._extra_state" not in state
    assert extras_of(net.state_dict()) == {"0._extra_state": {"version": 1}}
    state["3.bias"] = torch.full((2,), 5.0)
    for load in (put_into, lambda net, state: LocalTrainer.load(_holder(net), state)):
        net[3].bias.data.zero_()
        load(net, state)
        assert net[3].bias.tolist() == [5.0, 5.0]
        assert net[0].own == {"version": 1}


def _holder(model: nn.Module) -> Any:
    merging = type("Merging", (), {"exchanged": None})()
    return type("Holder", (), {"model": model, "merging": merging})()
