"""``dimat.merge`` and ``dimat.match``: laws, every kind of model and batch, every refusal."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.analyses import analyze
from torch import Tensor, nn

import dimat
from dimat.checkpoints.batches import ModelCall
from dimat.checkpoints.mixing import mixed
from dimat.errors import ConfigError, DataError, ModelError, StructureError
from dimat.experiment.progress import Silent
from dimat.state import State, state_of


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perceptron(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def cnn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)
    )


def tokens(batches: int = 2, seed: int = 0) -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [{"ids": torch.randint(9, (16, 5), generator=random)} for _ in range(batches)]


class Tied(nn.Module):
    """Token ids in, logits out, the output layer being the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(torch.relu(self.mix(self.embed(ids).mean(1)))) * scale


class Two(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 7), nn.Linear(4, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(torch.tanh(self.a(x) + self.b(y)))


class Fixed(nn.Module):
    """Takes batches of four samples only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.view(4, 3))


class Counting(nn.Module):
    """Its graph is bound to one batch size, though it takes any: the size is a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * float(len(x)) / float(len(x))


def planted(model: nn.Module, inputs: Any, **kwargs: Any) -> tuple[State, State, dimat.Symmetry]:
    """A state, a permuted copy, and the symmetry."""
    symmetry = analyze(model, inputs, kwargs).symmetry
    state = state_of(model)
    element = symmetry.random(torch.Generator().manual_seed(3))
    return state, symmetry.apply(element, state), symmetry


def calibrated(model: nn.Module, inputs: Tensor) -> nn.Module:
    """BatchNorm statistics that belong to the weights."""
    model.train()(inputs)
    return model.eval()


# --- laws ----------------------------------------------------------------

CASES: list[tuple[nn.Module, list[Any], tuple[Any, ...], dict[str, Any]]] = [
    (perceptron(), [randn(64, 3)], (randn(2, 3),), {}),
    (calibrated(cnn(), randn(32, 1, 8, 8)), [randn(32, 1, 8, 8)], (randn(2, 1, 8, 8),), {}),
    (Two(), [((randn(40, 3), randn(40, 4)),)] * 2, (randn(2, 3), randn(2, 4)), {}),
    (Tied(), tokens(), (), {"ids": tokens(1)[0]["ids"][:2]}),
    (Counting(), [randn(30, 3), randn(29, 3)], (randn(2, 3),), {}),
    (Fixed(), [randn(4, 3, seed=s) for s in range(8)], (randn(4, 3),), {}),
]


@pytest.mark.parametrize("weights", [None, (1.0, 0.0), (0.25, 0.75)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: type(case[0]).__name__)
def test_merging_with_my_permuted_copy_is_me(case: Any, weights: tuple[float, ...] | None) -> None:
    model, batches, args, kwargs = case
    state, moved, symmetry = planted(model, args, **kwargs)
    result = dimat.merge(model, [state, moved], batches, weights, recalibration="none")
    torch.testing.assert_close(result.state, state)
    torch.testing.assert_close(result.aligned[1], state)
    assert result.symmetry.digest == symmetry.digest
    assert result.matchings[0].permutation.moved == 0.0


def test_match_gives_the_permutation_that_merge_applies() -> None:
    model, batches = perceptron(), [randn(64, 3)]
    state, moved, symmetry = planted(model, (batches[0],))
    found = dimat.match(model, state, moved, batches)
    torch.testing.assert_close(symmetry.apply(found.permutation, moved), state)
    assert found.similarity["0"] == pytest.approx(1.0)
    assert found.margin["0"] > 0


def test_three_copies_merge_into_one_and_one_alone_stays() -> None:
    model, batches = perceptron(), [randn(64, 3)]
    state, moved, symmetry = planted(model, (batches[0],))
    other = symmetry.apply(symmetry.random(torch.Generator().manual_seed(9)), state)
    three = dimat.merge(model, [moved, state, other], batches, [0.2, 0.3, 0.5])
    torch.testing.assert_close(three.state, moved)
    one = dimat.merge(model, [moved], batches)
    torch.testing.assert_close(one.state, moved, rtol=0, atol=0)
    assert len(one.matchings) == len(one.aligned) == 1


def test_identity_is_the_plain_average() -> None:
    a, b = state_of(perceptron(1)), state_of(perceptron(2))
    merged = dimat.merge(perceptron(), [a, b], [randn(4, 3)], (0.25, 0.75), method="identity").state
    torch.testing.assert_close(merged, {k: 0.25 * a[k] + 0.75 * b[k] for k in a})


@pytest.mark.parametrize("recalibration", ["auto", "batchnorm"])
def test_statistics_are_those_of_the_merged_network(recalibration: Any) -> None:
    batches = [randn(32, 1, 8, 8, seed=s) for s in range(3)]
    states = [state_of(calibrated(cnn(seed), batches[0])) for seed in (1, 2)]
    merged = dimat.merge(cnn(), states, batches, recalibration=recalibration).state
    norm = next(k for k in merged if k.endswith("running_mean")).removesuffix(".running_mean")
    twin = cnn()
    twin.load_state_dict(merged)
    seen: list[Tensor] = []
    twin.get_submodule(norm).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    for batch in batches:
        twin.eval()(batch)
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(merged[f"{norm}.running_mean"], means)


def test_a_model_without_any_symmetry_is_averaged() -> None:
    model = nn.Linear(3, 2)
    a, b = state_of(nn.Linear(3, 2)), state_of(nn.Linear(3, 2))
    result = dimat.merge(model, [a, b], [randn(4, 3)])
    assert result.symmetry.groups == ()
    torch.testing.assert_close(result.state["weight"], (a["weight"] + b["weight"]) / 2)


def test_dead_units_stay_and_measure_nothing() -> None:
    a, b = state_of(perceptron(1)), state_of(perceptron(2))
    for state in (a, b):
        state["0.weight"][2:4], state["0.bias"][2:4] = 0.0, -1.0
    result = dimat.merge(perceptron(), [a, b], [randn(64, 3)])
    assert all(bool(torch.isfinite(value).all()) for value in result.state.values())
    similarities, margins = result.matchings[1].similarities["0"], result.matchings[1].margins["0"]
    assert np.isfinite(similarities).all()
    assert np.isfinite(margins).all()
    both = dimat.merge(perceptron(), [a, a], [randn(64, 3)])
    assert both.matchings[1].permutation.moved == 0.0
    assert (both.matchings[1].similarities["0"][2:4] <= 1e-3).all()


# --- states ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half_model", [False, True])
def test_half_precision_is_merged_in_float32_and_returned_as_it_was(
    dtype: torch.dtype, half_model: bool
) -> None:
    wide = [state_of(perceptron(seed)) for seed in (1, 2)]
    half = [{k: v.to(dtype) for k, v in state.items()} for state in wide]
    model = perceptron().to(dtype) if half_model else perceptron()
    batches = [randn(64, 3).to(dtype) if half_model else randn(64, 3)]
    merged = dimat.merge(model, half, batches, method="identity").state
    expected = {k: ((half[0][k].float() + half[1][k].float()) / 2).to(dtype) for k in half[0]}
    torch.testing.assert_close(merged, expected, rtol=0, atol=0)
    assert next(model.parameters()).dtype == (dtype if half_model else torch.float32)
    mixed = dimat.merge(model, [wide[0], half[1]], batches)
    assert mixed.state["0.weight"].dtype == torch.float32
    assert mixed.aligned[1]["0.weight"].dtype == dtype


def test_counters_are_taken_from_the_first() -> None:
    batch = randn(32, 1, 8, 8)
    states = [state_of(calibrated(cnn(seed), batch)) for seed in (1, 2)]
    counter = next(k for k in states[0] if k.endswith("num_batches_tracked"))
    states[0][counter], states[1][counter] = torch.tensor(5), torch.tensor(8)
    assert dimat.merge(cnn(), states, [batch]).state[counter] == torch.tensor(5)


def test_tied_weights_stay_tied_and_one_of_their_names_is_enough() -> None:
    torch.manual_seed(1)
    a, b = state_of(Tied()), state_of(Tied())
    whole = dimat.merge(Tied(), [a, b], tokens()).state
    torch.testing.assert_close(whole["head.weight"], whole["embed.weight"], rtol=0, atol=0)
    for missing in ("head.weight", "embed.weight"):
        short = [{k: v for k, v in state.items() if k != missing} for state in (a, b)]
        torch.testing.assert_close(dimat.merge(Tied(), short, tokens()).state, whole)


def test_batch_counters_may_be_missing_as_in_old_checkpoints() -> None:
    batch = randn(32, 1, 8, 8)
    states = [state_of(calibrated(cnn(seed), batch)) for seed in (1, 2)]
    old = [{k: v for k, v in s.items() if "num_batches" not in k} for s in states]
    merged = dimat.merge(cnn(), old, [batch]).state
    assert merged.keys() == states[0].keys()
    torch.testing.assert_close(
        {k: merged[k] for k in old[0]},
        {k: v for k, v in dimat.merge(cnn(), states, [batch]).state.items() if k in old[0]},
    )


def test_nothing_given_is_changed_and_nothing_returned_shares_memory_with_it() -> None:
    model, batch = cnn().train(), randn(32, 1, 8, 8)
    states = [state_of(calibrated(cnn(seed), batch)) for seed in (1, 2)]
    before = copy.deepcopy((states, model.state_dict(), batch))
    result = dimat.merge(model, states, [batch])
    assert all(module.training for module in model.modules())
    for state in (result.state, *result.aligned):
        for value in state.values():
            value.zero_()
    torch.testing.assert_close((states, model.state_dict(), batch), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), "state 1 does not fit: it lacks '0.bias'"),
        (
            lambda s: s.update(extra=torch.ones(1)),
            "state 1 does not fit: it has 'extra', which is not expected",
        ),
        (
            lambda s: s.update({"0.bias": torch.ones(9)}),
            r"state 1 does not fit: '0.bias' has shape \(9,\) torch.float32, expected \(8,\)",
        ),
        (
            lambda s: s.update({"0.bias": torch.ones(8, dtype=torch.int64)}),
            r"state 1 does not fit: '0.bias' has shape \(8,\) torch.int64",
        ),
        (
            lambda s: s["2.weight"].index_fill_(1, torch.tensor([1]), float("nan")),
            "state 1: '2.weight' has 2 values that are NaN or infinite",
        ),
        (
            lambda s: s["0.bias"].fill_(float("-inf")),
            "state 1: '0.bias' has 8 values that are NaN or infinite",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: Any, message: str) -> None:
    a, b = state_of(perceptron(1)), state_of(perceptron(2))
    change(b)
    with pytest.raises(StructureError, match=message):
        dimat.merge(perceptron(), [a, b], [randn(4, 3)])
    with pytest.raises(StructureError, match=message):
        dimat.match(perceptron(), a, b, [randn(4, 3)])


def test_a_count_where_the_model_has_none_and_tied_names_that_differ_are_refused() -> None:
    state = state_of(cnn())
    counter = next(k for k in state if k.endswith("num_batches_tracked"))
    wrong = {**state, counter: torch.tensor(1.5)}
    with pytest.raises(StructureError, match=f"state 0 does not fit: '{counter}' has shape"):
        dimat.merge(cnn(), [wrong], [randn(4, 1, 8, 8)])
    untied = {**state_of(Tied()), "head.weight": torch.zeros(9, 6)}
    with pytest.raises(StructureError, match="'head.weight' and 'embed.weight' are one tensor"):
        dimat.merge(Tied(), [untied], tokens())


# --- batches ----------------------------------------------------------------


def test_labels_generators_and_loaders_are_all_batches() -> None:
    a, b = state_of(perceptron(1)), state_of(perceptron(2))
    inputs, labels = randn(64, 3), torch.zeros(64, dtype=torch.int64)
    expected = dimat.merge(perceptron(), [a, b], [inputs[:32], inputs[32:]]).state
    dataset = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=32)
    parts = zip(inputs.split(32), labels.split(32), strict=True)
    for batches in (loader, ((x, y) for x, y in parts), ([x] for x in inputs.split(32))):
        torch.testing.assert_close(dimat.merge(perceptron(), [a, b], batches).state, expected)


def test_a_data_set_gives_samples_and_is_no_batches() -> None:
    """Each sample was taken for a batch, and its entries were mixed with those of others."""
    dataset = torch.utils.data.TensorDataset(randn(64, 3), torch.zeros(64))
    with pytest.raises(DataError, match=r"a TensorDataset, which .*: put it in a loader, as DataL"):
        dimat.merge(perceptron(), [state_of(perceptron(1))] * 2, dataset)


def test_no_more_batches_are_asked_for_than_images_are_wanted() -> None:
    asked = []

    def batches() -> Iterator[Tensor]:
        for number in range(9):
            asked.append(number)
            yield randn(10, 3, seed=number)

    state = state_of(perceptron())
    first = dimat.match(perceptron(), state, state_of(perceptron(1)), batches(), images=25)
    assert asked == [0, 1, 2]
    again = [randn(10, 3, seed=0), randn(10, 3, seed=1), randn(10, 3, seed=2)[:5]]
    same = dimat.match(perceptron(), state, state_of(perceptron(1)), again)
    np.testing.assert_array_equal(first.similarities["0"], same.similarities["0"])


def test_batches_sorted_by_class_and_short_ones_give_the_statistics_of_all_samples() -> None:
    """Of both layers, as one pass over all at once in training mode has them."""
    random = torch.Generator().manual_seed(0)
    level = torch.arange(10).repeat_interleave(60)[:, None, None, None] / 5 - 1
    x = level + 0.5 * torch.randn(600, 1, 8, 8, generator=random)  # ten classes, one after another

    def deep() -> nn.Module:
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        return nn.Sequential(first, nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
                             nn.Flatten(), nn.Linear(80, 3))  # fmt: skip

    state, net = state_of(deep()), deep().train()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    net(x)
    expected = {k: v for k, v in state_of(net).items() if "running" in k}
    assert len(expected) == 4
    for batches in (x.split(60), x.split(130), x[torch.randperm(600)].split(30)):
        found = dimat.merge(deep(), [state], batches).state
        for key, value in expected.items():
            scale = 1.0 if "var" in key else float(value.abs().max())
            torch.testing.assert_close(found[key], value, rtol=0.04, atol=0.02 * scale)


def test_mixed_batches_hold_every_sample_once_with_all_that_belongs_to_it() -> None:
    numbers = torch.arange(25)
    calls = [ModelCall((part,), {"twice": 2 * part}) for part in numbers.split(7)]
    found = mixed(calls)
    assert [call.samples for call in found] == [7, 7, 7, 4]
    args = torch.cat([call.args[0] for call in found])
    assert args.sort().values.tolist() == numbers.tolist()
    torch.testing.assert_close(torch.cat([c.kwargs["twice"] for c in found]), 2 * args)
    assert all(call.args[0].float().std() > 3 for call in found)  # none is a run of numbers


@pytest.mark.parametrize("other", [torch.zeros(3, 2), torch.eye(7), torch.tensor(1.0), "a word"])
def test_batches_that_cannot_be_taken_apart_stay_as_they_are(other: object) -> None:
    calls = [ModelCall((part, other), {}) for part in torch.arange(21).split(7)]
    assert mixed(calls) == tuple(calls)


def test_keyword_arguments_may_come_in_any_order() -> None:
    a, b = state_of(Two()), state_of(Two())
    x, y = randn(40, 3), randn(40, 4)
    expected = dimat.merge(Two(), [a, b], [((x, y),)] * 2).state
    for batches in ([{"x": x, "y": y}, {"y": y, "x": x}], [{"y": y, "x": x}, {"x": x, "y": y}]):
        torch.testing.assert_close(dimat.merge(Two(), [a, b], batches).state, expected)


def test_a_forward_of_ones_own_is_matched_and_recalibrated() -> None:
    class Pieces(nn.Module):
        """Its own forward is never called."""

        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU())
            self.decode = nn.Linear(8, 2)

    def forward(model: Any, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": model.decode(model.encode(x) * scale)}

    torch.manual_seed(0)
    a, b, batches = state_of(Pieces()), state_of(Pieces()), [((randn(64, 3), torch.ones(64, 1)),)]
    result = dimat.merge(Pieces(), [a, b], batches, forward=forward)
    assert [group.size for group in result.symmetry.groups] == [8]
    x = randn(64, 3) @ result.state["encode.0.weight"].T + result.state["encode.0.bias"]
    torch.testing.assert_close(result.state["encode.1.running_mean"], x.mean(0))
    with pytest.raises(ModelError, match="batch 0"):
        dimat.merge(Pieces(), [a, b], batches)


@pytest.mark.parametrize(
    ("batches", "kind", "message"),
    [
        ([], DataError, "no batches: give at least one"),
        (randn(8, 3), DataError, "batches is one Tensor: give a list"),
        ({"x": randn(8, 3)}, DataError, "batches is one dict: give a list"),
        ([()], DataError, "batch 0 is of type .* holds no samples"),
        ([randn(0, 3)], DataError, "batch 0 is of type .* holds no samples"),
        ([torch.tensor(1.0)], DataError, "batch 0 is of type .* holds no samples"),
        (["text"], DataError, "batch 0 is 'text' and holds no samples"),
        ([np.zeros((5, 3))], DataError, "batch 0 is of type ndarray .* by torch.from_numpy"),
        (
            [randn(8, 3), randn(8, 3) / 0],
            DataError,
            "batch 1 holds .*not finite, the first in row 0, column 0",
        ),
        ([randn(8, 5)], ModelError, r"batch 0 \(\(8, 5\)\) breaks the model: mat1 and mat2"),
        (
            [randn(8, 3), randn(8, 5)],
            ModelError,
            r"batch 1 does not fit batch 0: a sample has \(5,\) torch.float32, expected \(3,\)",
        ),
        (
            [randn(8, 3), {"input": randn(8, 3)}],
            ModelError,
            "batch 1 does not fit batch 0: it has 'input', expected no keyword arguments",
        ),
        ([{"y": randn(8, 3)}], ModelError, "breaks the model: .* unexpected keyword argument 'y'"),
    ],
)
def test_batches_that_cannot_be_used_are_refused(batches: Any, kind: Any, message: str) -> None:
    states = [state_of(perceptron(1)), state_of(perceptron(2))]
    with pytest.raises(kind, match=message):
        dimat.merge(perceptron(), states, batches)
    with pytest.raises(kind, match=message):
        dimat.match(perceptron(), *states, batches)


def test_an_index_out_of_range_names_its_batch() -> None:
    batches = tokens(3)
    batches[2]["ids"][3, 1] = 9
    with pytest.raises(ModelError, match=r"batch 2 \(\(16, 5\)\) breaks the model: .*index out of"):
        dimat.merge(Tied(), [state_of(Tied()), state_of(Tied())], batches)


def test_a_second_input_taken_for_labels_is_explained() -> None:
    state = state_of(Two())
    with pytest.raises(ModelError, match=r"missing 1 .*two inputs are \(\(x, y\),\)\)"):
        dimat.merge(Two(), [state, state], [(randn(8, 3), randn(8, 4))])


def test_one_sample_has_no_statistics_but_batches_of_one_have() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    state, batches = state_of(model), [randn(1, 3, seed=s) for s in range(4)]
    with pytest.raises(DataError, match="one value a channel, which has no variance"):
        dimat.merge(model, [state, state], batches[:1])
    found = dimat.merge(model, [state, state], batches).state
    with torch.no_grad():
        seen = model[0](torch.cat(batches))
    torch.testing.assert_close(found["1.running_var"], seen.var(0))


class Convolution(nn.Module):
    """Two layers on a graph: features of nodes, and edges."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.a(x).relu()
        out: Tensor = self.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))
        return out


def graphs(*sizes: tuple[int, int]) -> list[Any]:
    random = torch.Generator().manual_seed(0)
    return [
        ((randn(nodes, 5, seed=nodes), torch.randint(0, nodes, (2, edges), generator=random)),)
        for nodes, edges in sizes
    ]


@pytest.mark.parametrize(
    ("sizes", "images"),
    [([(40, 90)], 7), ([(40, 90), (30, 70), (9, 20)], 50), ([(4, 9), (60, 80)], 2000)],
)
def test_graphs_of_any_size_are_taken_whole(sizes: list[tuple[int, int]], images: int) -> None:
    model, batches = Convolution(), graphs(*sizes)
    state, moved, symmetry = planted(model, batches[0][0])
    assert [group.size for group in symmetry.groups] == [8]
    result = dimat.merge(model, [state, moved], batches, images=images)
    torch.testing.assert_close(result.state, state)


def test_a_graph_beside_the_wrong_thing_and_sizes_that_the_model_fixes_are_refused() -> None:
    class Fixed(Convolution):
        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return super().forward(x * float(len(x)) / float(len(x)), edges)

    state = state_of(Convolution())
    with pytest.raises(ModelError, match=r"batch 1 \(\(30, 5\), \(2, 90\)\) does not fit the mod"):
        dimat.merge(Fixed(), [state, state], graphs((40, 90), (30, 90)))
    wrong = [((randn(30, 5, 1), torch.zeros(2, 9, dtype=torch.int64)),)]
    with pytest.raises(
        ModelError, match="batch 1 does not fit batch 0: it has 3 axes torch.float3"
    ):
        dimat.merge(Convolution(), [state, state], graphs((40, 90)) + wrong)


class Frozen(nn.Sequential):
    """Its norm stays in eval mode, as for fine-tuning on small batches."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[1].eval()
        return self


@pytest.mark.parametrize("recalibration", ["auto", "batchnorm", "expected", "none"])
def test_frozen_statistics_are_averaged_and_not_recomputed(recalibration: Any) -> None:
    model = Frozen(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    states = [state_of(model), state_of(model)]
    for number, state in enumerate(states):
        state["0.weight"] = randn(6, 3, seed=number)
        state["1.running_mean"], state["1.running_var"] = randn(6, seed=1), randn(6, seed=2) ** 2
    result = dimat.merge(
        model, states, [randn(32, 3)], recalibration=recalibration, method="identity"
    )
    for key in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(result.state[key], states[0][key])


# --- settings ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"method": "activation"}, ConfigError, "'method' is 'activation'.*mean 'activations'"),
        ({"combine": "averag"}, ConfigError, "'combine' is 'averag'.*did you mean 'average'"),
        ({"recalibration": "batch"}, ConfigError, "'recalibration' is 'batch'.*mean 'batchnorm'"),
        ({"images": 0}, ConfigError, "'images' is 0: must be >= 1"),
        ({"weights": (0.5, 0.4)}, StructureError, r"weights \[0.5, 0.4\] for 2 states.*sum"),
        ({"weights": (1.0,)}, StructureError, r"weights \[1.0\] for 2 states: give one each"),
        ({"weights": (1.5, -0.5)}, StructureError, ">= 0"),
        ({"weights": (float("nan"), 1.0)}, StructureError, ">= 0"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings: Any, kind: Any, message: str) -> None:
    states = [state_of(perceptron(1)), state_of(perceptron(2))]
    with pytest.raises(kind, match=message):
        dimat.merge(perceptron(), states, [randn(8, 3)], **settings)


def test_no_states_are_refused() -> None:
    with pytest.raises(StructureError, match="no states: give at least one"):
        dimat.merge(perceptron(), [], [randn(8, 3)])


def test_statistics_can_be_expected_from_the_parents_without_data() -> None:
    ours, theirs = state_of(cnn(0)), state_of(cnn(1))
    ours["1.running_mean"], theirs["1.running_mean"] = torch.ones(6), 3 * torch.ones(6)
    batches = [randn(8, 1, 8, 8)]
    found = dimat.merge(cnn(), [ours, theirs], batches, recalibration="expected")
    plain = dimat.merge(cnn(), [ours, theirs], batches, recalibration="none")
    torch.testing.assert_close(found.state["1.running_mean"], 2 * torch.ones(6))
    assert bool((found.state["1.running_var"] < plain.state["1.running_var"]).all())
    rest = [key for key in found.state if "running" not in key]
    torch.testing.assert_close(
        {k: found.state[k] for k in rest}, {k: plain.state[k] for k in rest}, rtol=0, atol=0
    )


# --- models in a wrapper, symmetries by hand ------------------------------------------------------


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, lambda m: torch.compile(nn.DataParallel(m))]
)
def test_a_wrapped_model_and_its_states_are_taken_out_of_the_wrapper(wrap: Any) -> None:
    inputs = [randn(64, 3)]
    plain = [perceptron(seed) for seed in (1, 2)]
    expected = dimat.merge(perceptron(), [state_of(m) for m in plain], inputs)
    wrapped = [state_of(wrap(m)) for m in plain]
    assert not wrapped[0].keys() & expected.state.keys()
    result = dimat.merge(wrap(perceptron()), wrapped, inputs)
    torch.testing.assert_close(result.state, expected.state)
    found = dimat.match(wrap(perceptron()), *wrapped, inputs)
    np.testing.assert_array_equal(
        found.permutation.slots["0"], expected.matchings[1].permutation.slots["0"]
    )


class Halting(nn.Module):
    """No graph can be made of it: what it does depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.fc1(x)).relu()
        out: Tensor = self.fc2(hidden if hidden.sum() > 1 else 2 * hidden)
        return out


def halting(**more: Any) -> dimat.Symmetry:
    norm = [f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    axes = dict.fromkeys(("fc1.bias", *norm), ("h",))
    own = {"fc1.weight": ("h", None), "fc2.weight": (None, "h"), **axes, **more}
    return dimat.Symmetry.from_axes(own, Halting().state_dict())


@pytest.mark.parametrize("batches", [[randn(32, 3)], []])
def test_with_a_symmetry_by_hand_a_model_needs_no_graph(batches: list[Tensor]) -> None:
    model, symmetry = Halting(), halting()
    state = state_of(model)
    moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(1)), state)
    settings: Any = {"method": "weights", "symmetry": symmetry, "recalibration": "none"}
    with pytest.raises(ModelError, match=r"or give the symmetry by hand: symmetry=dimat\.Symm"):
        dimat.merge(model, [state, moved], [randn(32, 3)])
    result = dimat.merge(model, [state, moved], batches, **settings)
    torch.testing.assert_close(result.state, state)
    assert result.matchings[1].permutation.moved > 0
    assert result.symmetry is symmetry
    found = dimat.match(model, state, moved, batches, method="weights", symmetry=symmetry)
    torch.testing.assert_close(symmetry.apply(found.permutation, moved), state)


def test_with_a_symmetry_by_hand_statistics_are_recomputed_on_the_model_itself() -> None:
    model, batch = Halting(), randn(32, 3)
    state = state_of(model)
    result = dimat.merge(model, [state], [batch], method="weights", symmetry=halting())
    mean = (batch @ state["fc1.weight"].T + state["fc1.bias"]).mean(0)
    torch.testing.assert_close(result.state["norm.running_mean"], mean)
    with pytest.raises(DataError, match="no batches to recompute BatchNorm statistics on"):
        dimat.merge(model, [state], method="weights", symmetry=halting())


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "activations"},
        {"method": "consistent"},
        {"combine": "regression"},
        {"combine": "repair"},
        {"recalibration": "expected"},
    ],
)
def test_what_needs_the_graph_is_refused_where_there_is_none(settings: Any) -> None:
    states = [state_of(Halting()), state_of(Halting()), state_of(Halting())]
    given = {"method": "weights", "symmetry": halting(), **settings}
    with pytest.raises(ConfigError, match="comes without the model's graph, .* match by weights"):
        dimat.merge(Halting(), states, [randn(32, 3)], **given)


def test_a_symmetry_by_hand_that_is_none_of_the_model_is_refused() -> None:

    def merged(symmetry: dimat.Symmetry, model: nn.Module, batches: Any) -> None:
        own = [state_of(model)] * 2
        dimat.merge(model, own, batches, method="weights", symmetry=symmetry)

    wrong = halting(**{"fc2.weight": (None, None)})
    with pytest.raises(StructureError, match=r"outputs change in \w+ mode: not a symmetry of Halt"):
        merged(wrong, Halting(), [randn(32, 3)])
    with pytest.raises(StructureError, match=r"of another model: '0\.weight' has shape none there"):
        merged(halting(), perceptron(), [randn(32, 3)])
    axes = {"embed.weight": (None, "h"), "mix.weight": (None, "h")}
    untied = dimat.Symmetry.from_axes(axes, Tied().state_dict())
    with pytest.raises(StructureError, match="'head.weight' and 'embed.weight' are one tensor in"):
        merged(untied, Tied(), tokens())


def test_whatever_fails_is_told_in_our_words() -> None:
    def batches() -> Iterator[Tensor]:
        yield randn(4, 3)
        raise OSError("disk is gone")

    state = state_of(perceptron())
    with pytest.raises(ModelError, match="merging failed: OSError: disk is gone"):
        dimat.merge(perceptron(), [state, state], batches())
    with pytest.raises(ModelError, match="matching failed: OSError: disk is gone"):
        dimat.match(perceptron(), state, state, batches())


class Sorted(nn.Module):
    """A network whose hidden units have an order: each is added to those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.into(x.flatten(1)).cumsum(1))


def test_a_model_of_which_nothing_moves_is_said_to_be_merged_as_it_is(tmp_path: Path) -> None:
    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    merged = dimat.merge(Sorted(), [Sorted(), Sorted()], [torch.randn(20, 64)])
    assert len(merged.notes) == 1
    assert "nothing of the model can be permuted (the order along this axis" in merged.notes[0]
    own = {"agents": 2, "rounds": 1, "pretrain_epochs": 0, "local_steps": 1, "threads": 1}
    for method, said in (("dimat", True), ("wa", False)):
        notes.clear()
        out = str(tmp_path / method)
        dimat.run(own, Told(), model=Sorted, method=method, controls=(), topology="full", out=out)
        assert (merged.notes[0] in notes) == said
