"""Units that the images do not tell apart: constant, dead, alike. Merging with my copy is me."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.analyses import analyze
from torch import Tensor, nn
from torch.func import functional_call

import dimat
from dimat.matching import MATCHERS, Activations, Problem
from dimat.matching.assignment import assign
from dimat.matching.cross_moments import CrossMoments
from dimat.matching.ties import SAME, leveled, match_units, twins

State = dict[str, Tensor]
FINDING = [name for name in MATCHERS if name != "identity"]


def net() -> nn.Module:
    """Two hidden layers whose units saturate, and a norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU6(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU6(),
        nn.Linear(8, 3),
    ).eval()  # fmt: skip


def images() -> Tensor:
    """Feature 5 is always off: what depends on it alone is not seen."""
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    x[:, 5] = 0
    return x


def dead(state: State) -> None:
    state["0.bias"][[1, 4, 7]] -= 100
    state["3.bias"][[0, 5]] -= 100


def constant(state: State) -> None:
    state["0.bias"][[1, 4, 7]] += 100  # at 6
    state["3.weight"][[0, 5, 6]] = 0
    state["3.bias"][[0, 5, 6]] = torch.tensor([0.5, 0.7, 0.9])


def alike_on_the_images(state: State) -> None:
    state["0.weight"][[4, 7], :5] = state["0.weight"][1, :5].clone()
    state["0.bias"][[4, 7]] = state["0.bias"][1].clone()


def scaled(state: State) -> None:
    for key in ("0.weight", "0.bias"):
        state[key][4] = 0.5 * state[key][1]


def alike_but_for_what_reads_them(state: State) -> None:
    for key in ("0.weight", "0.bias"):
        state[key][[4, 7]] = state[key][1].clone()


def all_at_once(state: State) -> None:
    for change in (dead, constant):
        change(state)
    for key in ("0.weight", "0.bias"):
        state[key][[2, 3]] = state[key][0].clone()


CHANGES = [dead, constant, alike_on_the_images, scaled, alike_but_for_what_reads_them, all_at_once]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", FINDING)
def test_units_that_the_images_do_not_tell_apart_are_told_apart_by_their_weights(
    method: str, change: Callable[[State], None]
) -> None:
    model = net()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    change(state)
    analysis = analyze(model, (images()[:2],))
    random = torch.Generator().manual_seed(2)
    for _ in range(3):
        symmetry = analysis.symmetry
        copies = [symmetry.apply(symmetry.random(random), state) for _ in range(2)]
        problem = Problem(analysis, [state, *copies], [1 / 3] * 3, [images()])
        for own, found in zip(copies, MATCHERS[method].match(problem)[1:], strict=True):
            back = symmetry.apply(found.permutation, own)
            torch.testing.assert_close(back, state, rtol=0, atol=0)


def check_copies_match_back(model: nn.Module, state: State, x: Tensor) -> None:
    analysis = analyze(model, (x[:2],))
    random = torch.Generator().manual_seed(2)
    for _ in range(8):
        copy = analysis.symmetry.apply(analysis.symmetry.random(random), state)
        found = Activations().match(Problem(analysis, [state, copy], [0.5, 0.5], [x]))[1]
        back = analysis.symmetry.apply(found.permutation, copy)
        torch.testing.assert_close(back, state, rtol=0, atol=0)


def test_units_alike_but_for_readers_that_are_tied_too_are_told_apart_in_the_end() -> None:
    """The first layer has more weights, so it is assigned before those who read it are in order."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    alike_but_for_what_reads_them(state)
    state["2.bias"][[0, 5, 6]] -= 100
    x = torch.randn(200, 20, generator=torch.Generator().manual_seed(1))
    check_copies_match_back(model, state, x)


def test_what_a_later_layer_tells_goes_back_through_all_that_tie() -> None:
    """Twins that are told apart only together with those of the next layer, and these by readers.

    Layers are assigned from the first on, as it has the most weights; its twins are right in the
    second sweep, once those of the next one are.
    """
    torch.manual_seed(0)
    layers = [nn.Linear(40, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for key in ("0.weight", "0.bias"):
        state[key][4] = state[key][1].clone()
    own = state["2.weight"]
    own[:, 4], own[6], state["2.bias"][6] = own[:, 1].clone(), own[2].clone(), state["2.bias"][2]
    own[2, [1, 4]], own[6, [1, 4]] = torch.tensor([0.2, 0.25]), torch.tensor([0.25, 0.2])
    state["4.weight"][:, 6] = -state["4.weight"][:, 2]
    state["4.bias"][[0, 5]] -= 100
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(1))
    check_copies_match_back(model, state, x)


def heads() -> tuple[nn.Module, State]:
    """Attention whose first two heads do the same and are read differently."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 10, 0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for key in ("1.self_attn.in_proj_weight", "1.self_attn.in_proj_bias"):
        for start in (0, 8, 16):
            state[key][start + 2 : start + 4] = state[key][start : start + 2].clone()
    return model, state


def test_heads_that_do_the_same_are_told_apart_by_what_reads_them() -> None:
    model, state = heads()
    x = torch.randn(50, 5, 6, generator=torch.Generator().manual_seed(1))
    check_copies_match_back(model, state, x)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("combine", ["average", "repair", "regression"])
def test_merging_with_my_permuted_copy_is_me_on_all_inputs(
    combine: str, change: Callable[[State], None]
) -> None:
    """But regression, where inputs say nothing, knows only what it sees; there it is me as well."""
    model, x = net(), images()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    change(state)
    symmetry = analyze(model, (x[:2],)).symmetry
    copy = symmetry.apply(symmetry.random(torch.Generator().manual_seed(3)), state)
    merged = dimat.merge(model, [state, copy], [x], combine=combine, recalibration="none")
    elsewhere = 20 * torch.randn(100, 6, generator=torch.Generator().manual_seed(4))
    for inputs in [x, elsewhere] if combine == "average" else [x]:
        torch.testing.assert_close(
            functional_call(model, merged.state, inputs), functional_call(model, state, inputs)
        )


def test_dead_units_change_no_match_of_units_that_the_images_tell_apart() -> None:
    model, x = net(), images()
    analysis = analyze(model, (x[:2],))
    states = [
        {k: torch.randn_like(v) if "weight" in k else v.clone() for k, v in own.items()}
        for own in (model.state_dict(), model.state_dict())
    ]
    for state in states:
        dead(state)
    moments = Activations().measure(analysis, states, [(0, 1)], [x])[0, 1]
    scores = Activations().scores(moments)
    found, plain = match_units(analysis, scores, *states), assign(analysis.symmetry, scores)
    assert found.slots.keys() == {"0", "2"}
    for name, units in (("0", [0, 2, 3, 5, 6, 8]), ("2", [1, 2, 3, 4, 6, 7])):
        told_apart = np.isin(plain.slots[name][0], units)
        assert told_apart.sum() == len(units)
        np.testing.assert_array_equal(
            found.slots[name][0][told_apart], plain.slots[name][0][told_apart]
        )
    assert any((found.slots[name] != plain.slots[name]).any() for name in found.slots)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_that_are_constant_up_to_rounding_do_not_vary(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=random).to(dtype)
    x[:, 1], x[:, 3] = 5.0, 1000.0
    x[:, [1, 3]] *= 1 + 2e-7 * torch.randn(300, 2, generator=random).to(dtype)
    moments = CrossMoments()
    moments.update(x, x.flip(1))
    assert (moments.scores("correlation") == 0).sum() == 16 - 4
    still = moments.closeness()
    assert (still > 0).sum() == 4
    assert float(still[1, 2]) == pytest.approx(1, abs=1e-6)
    assert float(still[1, 0]) == pytest.approx(0.5025, abs=1e-3)


def test_constant_units_find_each_other_by_value_and_override_nothing_that_varies() -> None:
    model, x = net(), images()
    analysis = analyze(model, (x[:2],))
    states = []
    for order in ([0.5, 0.7, 0.9], [0.9, 0.5, 0.7]):
        state = {k: torch.randn_like(v) for k, v in model.state_dict().items() if v.dim()}
        state = {**model.state_dict(), **state, "3.running_var": torch.ones(8)}
        state["3.weight"][:3], state["3.bias"][:3] = 0, torch.tensor(order)
        states.append(state)
    found = Activations().match(Problem(analysis, states, [0.5, 0.5], [x]))[1]
    assert found.permutation.slots["2"][0, :3].tolist() == [1, 2, 0]
    assert (found.similarities["2"][:3] <= 1e-3).all()


def test_rows_that_differ_by_rounding_become_equal_and_others_stay_as_they_are() -> None:
    random = np.random.default_rng(0)
    score = random.uniform(-1, 1, (40, 40))
    score[7] = score[3] + random.uniform(-SAME / 2, SAME / 2, 40)
    score[:, 9] = score[:, 2] + random.uniform(-SAME / 2, SAME / 2, 40)
    score[11] = score[5]
    score[12] = score[6] + 10 * SAME
    expected = np.arange(40)
    expected[[7, 11]] = 3, 5
    np.testing.assert_array_equal(twins(score), expected)
    found = leveled(score)
    np.testing.assert_array_equal(found[7], found[3])
    np.testing.assert_array_equal(found[:, 9], found[:, 2])
    np.testing.assert_allclose(found, score, atol=2 * SAME)
    others = np.setdiff1d(np.arange(40), [7, 9])
    np.testing.assert_array_equal(found[np.ix_(others, others)], score[np.ix_(others, others)])
