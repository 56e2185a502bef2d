"""Grams: the closed form, what of a mixture they know, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.merging.test_regression import MODELS, analysis_of, drawn, inputs
from tests.methods.agents import Agents, agents_of, merge
from tests.methods.lossy import Losses, merge_over
from torch import Tensor, nn
from torch.func import functional_call

from dimat.agent.membership import most_bytes
from dimat.errors import StructureError
from dimat.exchange import Message, Traffic
from dimat.exchange.in_process import run_all
from dimat.exchange.precision import in_bfloat16
from dimat.merging import Gram, mix
from dimat.merging.layerwise import gram
from dimat.merging.layerwise.second_moments import are_moments, pack, unpack
from dimat.methods import Dimat
from dimat.methods.gauge import GaugeId
from dimat.methods.messages import swap_statistics
from dimat.state import State, num_bytes, state_of
from dimat.symmetry import Analysis
from dimat.testing.combiners import LAWS
from dimat.testing.layers import SmallModel

EXACT = Gram(shrink=1.0, ridge=1e-12)
WHOLE = float("inf")


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3)).double().eval()


def measured(
    how: Gram,
    analysis: Analysis,
    states: Sequence[State],
    images: Sequence[Tensor],
    budget: float = WHOLE,
) -> list[State]:
    """The statistics of every state on its own images."""
    both = zip(states, images, strict=True)
    return [how.statistics(analysis, state, [x], budget) for state, x in both]


def states_of(model: nn.Module, count: int) -> list[State]:
    random = torch.Generator().manual_seed(1)
    return [
        {
            k: v + 0.5 * torch.randn(v.shape, generator=random, dtype=v.dtype)
            if v.is_floating_point() and "running_" not in k
            else v
            for k, v in state_of(model).items()
        }
        for _ in range(count)
    ]


def test_every_layer_is_the_least_squares_fit_to_what_all_answer_on_their_own_images() -> None:
    """By NumPy, from the images themselves: no Gram is formed."""
    model, weights = linear(), [0.5, 0.2, 0.3]
    states = states_of(model, 3)
    random = torch.Generator().manual_seed(2)
    images = [
        torch.randn(n, 4, generator=random).double() * torch.rand(4, generator=random) + 0.3
        for n in (40, 60, 90)
    ]
    analysis = analyze(model, (images[0][:2],))
    owns = measured(EXACT, analysis, states, images)
    found = EXACT.fit(analysis, states, weights, owns)

    def fitted(inputs: Sequence[Tensor], matrices: Sequence[Tensor]) -> np.ndarray:
        scale = [np.sqrt(w / len(x)) for w, x in zip(weights, inputs, strict=True)]
        rows = np.concatenate([k * x.numpy() for k, x in zip(scale, inputs, strict=True)])
        wanted = [k * (x @ m.T).numpy() for k, x, m in zip(scale, inputs, matrices, strict=True)]
        return np.linalg.lstsq(rows, np.concatenate(wanted), rcond=None)[0].T

    first = [s["0.weight"] for s in states]
    np.testing.assert_allclose(found["0.weight"].numpy(), fitted(images, first), rtol=1e-6)
    hidden = [x @ m.T for x, m in zip(images, first, strict=True)]
    hidden = [torch.cat([h, torch.ones_like(h[:, :1])], 1) for h in hidden]
    second = [torch.cat([s["1.weight"], s["1.bias"][:, None]], 1) for s in states]
    affine = torch.cat([found["1.weight"], found["1.bias"][:, None]], 1).numpy()
    # Four inputs span four of the six hidden units: a fit by least squares is only known there.
    np.testing.assert_allclose(
        np.concatenate(hidden) @ (affine - fitted(hidden, second)).T, 0, atol=1e-6
    )


def test_where_each_has_seen_what_the_other_has_not_both_keep_all_that_they_know() -> None:
    model = linear()
    states = states_of(model, 2)
    images = [torch.zeros(50, 4, dtype=torch.float64) for _ in range(2)]
    for k in (0, 1):
        random = torch.Generator().manual_seed(k)
        images[k][:, 2 * k : 2 * k + 2] = torch.randn(50, 2, generator=random).double()
    analysis = analyze(model, (images[0][:2],))
    owns = measured(EXACT, analysis, states, images)
    found = EXACT.fit(analysis, states, [0.5, 0.5], owns)
    for state, x in zip(states, images, strict=True):
        torch.testing.assert_close(x @ found["0.weight"].T, x @ state["0.weight"].T)
    mean = (states[0]["0.weight"] + states[1]["0.weight"]) / 2
    assert (images[0] @ (mean - states[0]["0.weight"]).T).abs().max() > 0.1


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_neither_the_scale_of_all_grams_nor_the_order_of_agents_matters(name: str) -> None:
    model = MODELS[name]().double().eval()
    batches = inputs()
    analysis, states = analysis_of(model, batches[0][:2]), drawn(model, 3)
    how, weights = Gram(), [0.5, 0.2, 0.3]
    owns = [
        how.statistics(analysis, s, [k * x for x in batches], WHOLE)
        for k, s in enumerate(states, start=1)
    ]
    found = how.fit(analysis, states, weights, owns)
    back = how.fit(analysis, states[::-1], weights[::-1], owns[::-1])
    torch.testing.assert_close(found, back)


def normed() -> nn.Module:
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(2, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(45, 3)
        )
        .double()
        .eval()
    )


def test_before_a_batch_norm_normalized_outputs_are_fitted_as_large_as_they_were() -> None:
    """By NumPy. Scales must not take up how the mixture varies: they would grow in every round."""
    model, weights = normed(), [0.3, 0.7]
    states = states_of(model, 2)
    random = torch.Generator().manual_seed(1)
    for state in states:
        state["1.running_mean"] = torch.randn(5, generator=random).double()
        state["1.running_var"] = torch.rand(5, generator=random).double() + 0.2
    images = [torch.randn(60, 2, 4, 4, generator=random).double() + k for k in (0.0, 2.0)]
    analysis = analyze(model, (images[0][:2],))
    found = EXACT.fit(analysis, states, weights, measured(EXACT, analysis, states, images))

    rows, wanted = [], []
    for weight, state, x in zip(weights, states, images, strict=True):
        patches = nn.functional.unfold(x, 2).transpose(1, 2).reshape(-1, 8)
        out = patches @ state["0.weight"].reshape(5, 8).T + state["0.bias"]
        out = (out - state["1.running_mean"]) / (state["1.running_var"] + 1e-5).sqrt()
        scale = np.sqrt(weight / len(patches))
        rows.append(scale * torch.cat([patches, torch.ones(len(patches), 1)], 1).numpy())
        wanted.append(scale * out.numpy())
    rows, wanted = np.concatenate(rows), np.concatenate(wanted)
    fitted = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    small = np.square(rows @ fitted.T).sum(0) / np.square(wanted).sum(0)
    assert (small < 0.95).all()  # they are scaled until they are as large as what was fitted
    fitted = fitted / np.sqrt(small)[:, None]

    deviation = (found["1.running_var"] + 1e-5).sqrt()
    matrix = found["0.weight"].reshape(5, 8) / deviation[:, None]
    constant = (found["0.bias"] - found["1.running_mean"]) / deviation
    np.testing.assert_allclose(matrix.numpy(), fitted[:, :8], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(constant.numpy(), fitted[:, 8], rtol=1e-6, atol=1e-9)
    for key in ("1.weight", "1.bias"):
        torch.testing.assert_close(found[key], 0.3 * states[0][key] + 0.7 * states[1][key])


def test_answers_that_cancel_leave_nothing_that_is_scaled_to_full_size() -> None:
    """Six weights of 1/6 do not sum to 0 exactly: what is left of opposite rows is rounding."""
    model = normed()
    (state,) = states_of(model, 1)
    turned = {k: v.clone() for k, v in state.items()}
    for key in ("0.weight", "0.bias", "1.running_mean"):
        turned[key][2] *= -1
    images = [torch.randn(60, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()] * 6
    states = [state, state, turned, turned, state, turned]
    analysis = analyze(model, (images[0][:2],))
    owns = measured(Gram(), analysis, states, images)
    found = Gram().fit(analysis, states, [1 / 6] * 6, owns)
    assert found["0.weight"][2].abs().max() < 1e-9 < state["0.weight"][2].abs().max()
    torch.testing.assert_close(found["0.weight"][3], state["0.weight"][3])


def test_equal_networks_stay_as_they_are_norms_and_all() -> None:
    model = normed()
    (state,) = states_of(model, 1)
    state["1.running_var"] = torch.rand(5).double() + 0.2
    images = [torch.randn(60, 2, 4, 4).double() + k for k in (0.0, 2.0)]
    analysis = analyze(model, (images[0][:2],))
    owns = measured(Gram(), analysis, [state, state], images)
    found = Gram().fit(analysis, [state, state], [0.5, 0.5], owns)
    torch.testing.assert_close(found, state)


def test_within_a_budget_every_layer_sends_the_same_share_of_its_whole() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 30)).double().eval()
    x = torch.randn(50, 20).double()
    analysis, state = analyze(model, (x[:2],)), state_of(model)
    weights, whole = 20 * 8 + 8 * 30, (21 * 22 // 2, 9 * 10 // 2)
    for share, sizes in (
        (1.0, whole),
        (0.6, (6 * 20, 3 * 8)),  # means, mean squares, and four factors and one
        (0.4, (4 * 20, 2 * 8)),
        (0.0, (2 * 20, 2 * 8)),
    ):
        found = Gram().statistics(analysis, state, [x], (share * sum(whole) + 0.5) / weights)
        assert tuple(found[f"gram/{layer}.weight"].numel() for layer in (0, 1)) == sizes


def test_of_low_rank_are_the_leading_directions_beside_exact_means_and_mean_squares() -> None:
    """By NumPy."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double() @ torch.diag(
        torch.tensor([4.0, 3.0, 0.5, 0.2, 0.1]).double()
    )
    x = x @ torch.linalg.qr(torch.randn(5, 5).double())[0] + torch.arange(5)
    z = torch.cat([x, torch.ones(60, 1).double()], 1)
    whole = (z.T @ z / 60)[None]
    packed = pack(whole, 4 * 5)
    assert packed.shape == (1, 4, 5)
    found = unpack(packed)[0].numpy()
    covariance = np.cov(x.numpy(), rowvar=False, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    low = (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T
    np.fill_diagonal(low, covariance.diagonal())
    mean = x.mean(0).numpy()
    np.testing.assert_allclose(found[:5, :5], low + np.outer(mean, mean), atol=1e-9)
    np.testing.assert_allclose(found[5], [*mean, 1.0], atol=1e-12)
    np.testing.assert_allclose(found.diagonal(), whole[0].diagonal(), atol=1e-9)
    torch.testing.assert_close(unpack(pack(whole, 7 * 5)), whole)  # all of its directions


@pytest.mark.parametrize("law", LAWS[-2:], ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", ["resnet20", "grouped", "transposed"])
def test_units_of_every_kind_of_layer_move(law: object, name: str) -> None:
    torch.manual_seed(0)
    models: Mapping[str, object] = {
        "resnet20": lambda: MODELS["resnet20"](),
        "grouped": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 12, 3, groups=4), nn.BatchNorm2d(12),
            nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
        ),
        "transposed": lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 6, 3, stride=2), nn.Tanh(), nn.ConvTranspose2d(6, 4, 2, groups=2),
            nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
        ),
    }  # fmt: skip
    model: nn.Module = models[name]().double().eval()  # type: ignore[operator]
    batches = inputs()
    analysis = analyze(model, (batches[0][:2],))
    assert analysis.symmetry.groups
    law(Gram(), SmallModel(model, analysis, batches))  # type: ignore[operator]


def damaged(key: str, change: object) -> State:
    model = linear()
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    analysis = analyze(model, (x[:2],))
    budget = WHOLE if key == "gram/0.weight" else 0.9  # two factors of the other
    found = Gram().statistics(analysis, state_of(model), [x], budget)
    change(found[key])  # type: ignore[operator]
    return found


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("gram/0.weight", lambda own: own[0].__setitem__(3, float("nan")), "NaN or infinite"),
        ("gram/0.weight", lambda own: own[0].__setitem__(0, -1.0), "holds no moments"),
        ("gram/0.weight", lambda own: own[0].__setitem__(1, 1e6), "holds no moments"),
        ("gram/0.weight", lambda own: own[0].__setitem__(-1, 2.0), "holds no moments"),
        ("gram/1.weight", lambda own: own[0, 1].__setitem__(0, -1.0), "holds no moments"),
        ("gram/1.weight", lambda own: own[0, 0].__setitem__(0, 1e6), "holds no moments"),
        ("gram/1.weight", lambda own: own[0, 2].__setitem__(0, 1e6), "holds no moments"),
    ],
)
def test_what_no_images_can_give_is_refused(key: str, change: object, message: str) -> None:
    Gram().check(damaged(key, lambda own: None), "statistics from agent 3")
    with pytest.raises(StructureError, match=f"statistics from agent 3.*{message}"):
        Gram().check(damaged(key, change), "statistics from agent 3")


def test_numbers_that_fit_in_pairs_are_no_moments_if_no_images_have_them_all() -> None:
    """Three inputs of which each is the opposite of both others: then a fit may have any size."""
    gram = torch.eye(4).double()[None]
    gram[:, :3, :3] = 2 * torch.eye(3) - 1
    assert (gram.square() <= 1).all()
    assert float(torch.linalg.eigvalsh(gram).min()) == pytest.approx(-1)
    assert not are_moments(pack(gram, WHOLE))
    assert are_moments(pack((gram + torch.eye(4)) / 2, WHOLE))  # singular, and of two directions


@pytest.mark.parametrize("rows", [1, 2, 500])
@pytest.mark.parametrize("budget", [WHOLE, 4 * 30], ids=["whole", "low rank"])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1e4, 1), (0, 1e12), (1e6, 1e-3), (3, 0)])
def test_what_images_give_is_let_in_whatever_units_they_leave_dead(
    rows: int, budget: float, mean: float, deviation: float
) -> None:
    """Measured and sent in single precision: of few images, of any scale, with equal units."""
    x = mean + deviation * torch.randn(rows, 30, generator=torch.Generator().manual_seed(0))
    dead, equal = x.clone(), x.clone()
    dead[:, ::2] = 0
    equal[:, 1:20] = x[:, :1] * torch.rand(19, generator=torch.Generator().manual_seed(1))
    for own in (x, dead, equal, x.relu()):
        z = torch.cat([own, torch.ones(rows, 1)], 1)
        packed = pack((z.T @ z).double()[None] / rows, budget)
        assert are_moments(packed.float())


# --- in a merge -----------------------------------------------------------------------------------

GRAM = Dimat("spread", combine="gram")


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def one_order(own: Agents, graph: nx.Graph[int]) -> dict[int, GaugeId | None]:
    return dict.fromkeys(graph, GaugeId(0, 1))


@pytest.mark.parametrize("gauge", ["spread", "tree", "pairwise"])
def test_agents_in_other_orders_merge_to_what_they_would_in_one(own: Agents, gauge: str) -> None:
    """Each measured on its own images, in its own order: only who is in which is different."""
    graph: nx.Graph[int] = nx.complete_graph(3)
    method = Dimat(gauge, combine="gram", sweeps=0)  # type: ignore[arg-type]
    states = own.perturbed(3, by=0.01)
    x = own.batches(0)[0]
    outputs = []
    for them in (states, own.shuffled(states)):
        merged, _ = merge(method, own.members(them, graph))
        outputs.append([functional_call(own.model, m.state, (x,)) for m in merged])
    torch.testing.assert_close(*outputs)


def test_statistics_that_are_lost_or_refused_leave_the_average(own: Agents) -> None:
    graph: nx.Graph[int] = nx.complete_graph(3)
    states, ids = own.perturbed(3), one_order(own, graph)
    them = own.members(states, graph, gauges=ids)
    plain, _ = merge(Dimat("spread"), them)
    whole, _ = merge(GRAM, them)

    def spoilt(j: int, i: int, step: int, message: Message) -> Message:
        if (j, step) != (2, 1):
            return message
        return {k: 1e6 * v if v.is_floating_point() else v for k, v in message.items()}

    lost = Losses(lambda j, i, step: (j, step) == (2, 1))
    refused = Losses(spoilt=spoilt)
    for losses in (lost, refused):
        found = merge_over(losses, GRAM, them)
        for i in (0, 1):
            torch.testing.assert_close(found[i].state, plain[i].state, rtol=0, atol=0)
            assert not found[i].calibrated
        torch.testing.assert_close(found[2].state, whole[2].state, rtol=0, atol=0)
        assert found[2].calibrated
    assert ["holds no moments" in why for *_, why in refused.refused] == [True, True]


def test_statistics_out_of_proportion_are_refused(own: Agents) -> None:
    graph: nx.Graph[int] = nx.complete_graph(2)
    states = own.perturbed(2)
    them = own.members(states, graph, gauges=one_order(own, graph))
    loud = [x * 1e3 for x in own.batches(1)]
    them[1] = replace(them[1], batches=lambda: loud)
    losses = Losses()
    found = merge_over(losses, GRAM, them)
    plain = merge_over(Losses(), Dimat("spread"), them)
    why = losses.refused[0][2]
    assert "statistics from agent 1 are out of proportion, as if one of us diverged" in why
    assert "their norm is" in why
    torch.testing.assert_close(found[0].state, plain[0].state, rtol=0, atol=0)
    found = merge_over(losses, Dimat("spread", combine="gram", max_norm_ratio=None), them)
    assert found[0].calibrated


def test_no_message_holds_an_image(own: Agents) -> None:
    """The number of images does not change what travels, only what the numbers are."""
    graph: nx.Graph[int] = nx.complete_graph(2)
    sizes = set()
    for batch in (own.batches(0)[0][:30], own.batches(0)[0]):
        them = own.members(own.perturbed(2), graph)
        few = [replace(me, batches=lambda own=batch: [own]) for me in them]  # type: ignore[misc]
        _, traffic = merge(GRAM, few)
        sizes.add(traffic[0].sent_bytes)
    assert len(sizes) == 1


def test_without_off_diagonal_entries_a_whole_gram_is_its_two_moments() -> None:
    model = linear()
    states, how = states_of(model, 2), Gram(shrink=0.0)
    images = [torch.randn(50, 4).double() * (1 + k) + k for k in (0, 1)]
    analysis = analyze(model, (images[0][:2],))
    whole, few = (
        how.fit(analysis, states, [0.3, 0.7], measured(how, analysis, states, images, budget))
        for budget in (WHOLE, 0.0)
    )
    torch.testing.assert_close(whole, few)


def test_nine_tenths_of_the_off_diagonal_entries_count() -> None:
    model = nn.Linear(3, 2, bias=False).double().eval()
    states, weights = states_of(model, 2), [0.25, 0.75]
    random = torch.Generator().manual_seed(0)
    images = [torch.randn(40, 3, generator=random).double() for _ in range(2)]
    analysis = analyze(model, (images[0][:2],))
    owns = measured(Gram(), analysis, states, images)
    found = Gram().fit(analysis, states, weights, owns)["weight"].numpy()
    soft = []
    for x in images:
        g = x.numpy().T @ x.numpy() / 40
        soft.append(0.9 * g + 0.1 * np.diag(np.diag(g)) + 1e-4 * np.trace(g) / 3 * np.eye(3))
    top = sum(w * s["weight"].numpy() @ g for w, s, g in zip(weights, states, soft, strict=True))
    bottom = sum(w * g for w, g in zip(weights, soft, strict=True))
    np.testing.assert_allclose(found, top @ np.linalg.inv(bottom), rtol=1e-8)


def test_where_an_input_is_not_finite_the_layer_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().eval()
    x = torch.randn(20, 3).double()
    analysis, state = analyze(model, (x[:2],)), state_of(model)
    x[3, 1] = float("inf")
    with pytest.raises(StructureError, match="an input of the layer of '0.weight' is not finite"):
        Gram().statistics(analysis, state, [x])


def test_the_largest_statistics_are_let_in() -> None:
    """They are larger than what travels otherwise: a state, or Adam's memory of it."""
    model = nn.Sequential(nn.Conv2d(256, 256, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)).eval()
    x = torch.randn(2, 256, 3, 3)
    analysis, state = analyze(model, (x,)), state_of(model)
    plain = Dimat("spread")
    size = num_bytes(Gram().statistics(analysis, state, [x], GRAM.statistics_budget))
    assert most_bytes(num_bytes(state), plain) < size <= most_bytes(num_bytes(state), GRAM)
    loose = replace(GRAM, statistics_budget=20.0)
    assert loose.largest_message > GRAM.largest_message > plain.largest_message


def test_complex_weights_are_averaged() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2, dtype=torch.complex64)

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(self.layer(x.to(torch.complex64))).flatten(1)

    model = Complex().eval()
    x = torch.randn(20, 3)
    analysis = analyze(model, (x[:2],))
    states = [{k: v + j for k, v in state_of(model).items()} for j in (0, 1)]
    owns = measured(Gram(), analysis, states, [x, x])
    assert owns == [{}, {}]
    found = Gram().fit(analysis, states, [0.25, 0.75], owns)
    torch.testing.assert_close(found, mix(states, [0.25, 0.75]))


def test_of_many_places_about_as_many_are_looked_at_as_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(72, 2)).eval()
    x = torch.randn(50, 1, 6, 6)
    analysis, state = analyze(model, (x[:2],)), state_of(model)
    rows: list[int] = []
    seen = gram._rows

    def watched(*args: Any) -> Iterator[Tensor]:
        for z in seen(*args):
            rows.append(z.shape[1])
            yield z

    monkeypatch.setattr(gram, "_rows", watched)
    monkeypatch.setattr(gram, "LEAST_ROWS", 100)
    monkeypatch.setattr(gram, "_ROWS_PER_INPUT", 1)
    Gram().statistics(analysis, state, [x[:30], x[30:]], WHOLE)
    assert rows == [60, 40, 30, 20]  # of 1,800 places, and of 50 images all


def test_the_budget_of_the_method_is_that_of_what_it_sends(own: Agents) -> None:
    graph: nx.Graph[int] = nx.complete_graph(2)
    sent = []
    for budget in (5.0, 1e-9):
        method = Dimat("spread", combine="gram", statistics_budget=budget)
        _, traffic = merge(method, own.members(own.perturbed(2), graph))
        sent.append(traffic[0].sent_bytes)
    assert sent[1] < sent[0]


def test_who_meets_nobody_measures_nothing(own: Agents) -> None:
    def never() -> list[Tensor]:
        raise AssertionError("its images were looked at")

    graph: nx.Graph[int] = nx.empty_graph(1)
    alone = [replace(me, batches=never) for me in own.members(own.perturbed(1), graph)]
    merged, _ = merge(GRAM, alone)
    torch.testing.assert_close(merged[0].state, alone[0].state, rtol=0, atol=0)


def test_statistics_are_not_rounded_where_states_are() -> None:
    """Rounded they would be no moments, and the two ends of an edge would not say the same."""
    own = agents_of("mlp")
    graph: nx.Graph[int] = nx.complete_graph(2)
    them = own.members(own.perturbed(2), graph, gauges=one_order(own, graph))
    ours = [{"gram/x": torch.tensor([[1 / 3, 1 / 7, 1.0]])} for _ in them]
    talks = [
        in_bfloat16(swap_statistics(me, Gram(), said, None))
        for me, said in zip(them, ours, strict=True)
    ]
    heard = run_all(talks, [Traffic() for _ in them])
    torch.testing.assert_close(heard[0][1], ours[1], rtol=0, atol=0)


def test_statistics_of_another_structure_are_refused(own: Agents) -> None:
    graph: nx.Graph[int] = nx.complete_graph(2)
    them = own.members(own.perturbed(2), graph, gauges=one_order(own, graph))

    def spoilt(j: int, i: int, step: int, message: Message) -> Message:
        return {k: v[:, :-1] for k, v in message.items()} if step == 1 else message

    losses = Losses(spoilt=spoilt)
    assert not merge_over(losses, GRAM, them)[0].calibrated
    assert "statistics from agent 1" in losses.refused[0][2]


# --- embeddings -----------------------------------------------------------------------------------


class Words(nn.Module):
    """Words are looked up; a head of its own, or the table again."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.table(ids)).tanh())


def words(tied: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Words(tied=tied).double().eval()


def test_an_embedding_is_fitted_as_a_linear_layer_of_one_hot_words() -> None:
    """By NumPy; what nobody has looked up is averaged."""
    model, weights = words(), [0.3, 0.7]
    states = states_of(model, 2)
    texts = [torch.tensor([[0, 0, 0], [1, 2, 2]]), torch.tensor([[2, 3, 3], [4, 5, 0]])]
    analysis = analyze(model, (texts[0],))
    owns = [
        EXACT.statistics(analysis, s, [x[:1], x[1:]]) for s, x in zip(states, texts, strict=True)
    ]
    found = EXACT.fit(analysis, states, weights, owns)["table.weight"].numpy()
    rows, wanted = [], []
    for weight, state, x in zip(weights, states, texts, strict=True):
        one_hot = np.eye(7)[x.flatten().numpy()] * np.sqrt(weight / 6)
        rows.append(one_hot)
        wanted.append(one_hot @ state["table.weight"].numpy())
    fitted = np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0]
    np.testing.assert_allclose(found[:6], fitted[:6], rtol=1e-6)
    mean = mix(states, weights)["table.weight"].numpy()
    np.testing.assert_allclose(found[6], mean[6], rtol=1e-9)
    assert np.abs(found[0] - mean[0]).max() > 0.01


def test_shares_of_words_stay_where_units_move_and_copies_stay_as_they_are() -> None:
    model, x = words(), torch.randint(7, (40, 3), generator=torch.Generator().manual_seed(0))
    analysis, state = analyze(model, (x[:2],)), state_of(model)
    permutation = analysis.symmetry.random(torch.Generator().manual_seed(1))
    assert permutation.moved > 0
    there = analysis.symmetry.apply(permutation, state)
    own = Gram().statistics(analysis, state, [x])
    Gram().check(own, "statistics")
    moved = Gram().moved(analysis, state, own, permutation)
    torch.testing.assert_close(moved, Gram().statistics(analysis, there, [x]))
    other = Gram().statistics(analysis, state, [x[:5]])
    found = Gram().fit(analysis, [state, state], [0.3, 0.7], [own, other])
    torch.testing.assert_close(found, state)


@pytest.mark.parametrize("change", [{1: -0.5}, {2: 0.5}])
def test_what_no_texts_can_give_is_refused(change: dict[int, float]) -> None:
    model, x = words(), torch.randint(7, (40, 3), generator=torch.Generator().manual_seed(0))
    found = Gram().statistics(analyze(model, (x[:2],)), state_of(model), [x])
    for row, by in change.items():
        found["gram/table.weight"][row] += by
        found["gram/table.weight"][0] -= min(by, 0)
    with pytest.raises(StructureError, match="'gram/table.weight' holds no moments"):
        Gram().check(found, "statistics from agent 3")


def test_a_table_that_is_also_the_head_is_averaged() -> None:
    model, x = words(tied=True), torch.randint(7, (40, 3))
    analysis, states = analyze(model, (x[:2],)), states_of(model, 2)
    owns = measured(Gram(), analysis, states, [x, x])
    assert [*owns[0]] == ["gram/body.weight"]
    found = Gram().fit(analysis, states, [0.3, 0.7], owns)
    torch.testing.assert_close(found["table.weight"], mix(states, [0.3, 0.7])["table.weight"])
