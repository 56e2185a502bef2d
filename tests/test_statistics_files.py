"""Merging by statistics that owners of checkpoints have measured: no data are shared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dimat
from dimat import Statistics
from dimat.checkpoints import BUDGET
from dimat.errors import ConfigError, DataError, DimatError, StructureError, WriteError
from dimat.merging import Gram
from dimat.state import State, save_state, state_of
from dimat.tools.merge.settings import StatisticsConfig

EXACT = Gram(shrink=1.0, ridge=1e-12)


def net(hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def images(seed: int, *shape: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (60, 4)), generator=random) + seed


def drawn(model: nn.Module, seed: int) -> State:
    """A state of the model with random numbers, and running statistics that vary."""
    random = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(x.shape, generator=random, dtype=x.dtype) + 0.2
        if key.endswith("running_var")
        else 0.5 * torch.randn(x.shape, generator=random, dtype=x.dtype)
        if x.is_floating_point()
        else x
        for key, x in state_of(model).items()
    }


STATES = [drawn(net(), 1), drawn(net(), 2)]


@pytest.fixture(scope="module")
def owners() -> list[Statistics]:
    """What the owners of ``STATES`` have measured, each on images of its own."""
    return [dimat.statistics(net(), s, [images(k)]) for k, s in enumerate(STATES)]


def merged(statistics: Any, model: nn.Module | None = None, **given: Any) -> State:
    """The merge of ``STATES``, by statistics and without data."""
    settings = {"states": STATES, "method": "weights", "combine": "gram", **given}
    return dimat.merge(model or net(), statistics=statistics, **settings).state


# --- laws ------------------------------------------------------------------------------------


def test_permuted_copies_with_statistics_of_their_own_merge_to_the_first() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    ).double()
    pictures = [images(k, 40, 2, 4, 4).double() for k in (0, 1)]
    symmetry = dimat.find_symmetry(model, (pictures[0][:2],))
    first = drawn(model, 0)
    copy = symmetry.apply(symmetry.random(torch.Generator().manual_seed(1)), first)
    states = [first, copy]
    told = [dimat.statistics(model, s, [x]) for s, x in zip(states, pictures, strict=True)]
    found = dimat.merge(model, states, method="weights", combine="gram", statistics=told)
    torch.testing.assert_close(found.state, first)
    ours, theirs = (own.permutation.slots["0"][0].tolist() for own in found.matchings)
    assert ours != theirs


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_files_merge_as_the_same_data_do_in_one_process_to_the_last_bit(
    kind: str, tmp_path: Path
) -> None:
    models: dict[str, Callable[[], nn.Module]] = {
        "linear": net,
        "convolutional": lambda: nn.Sequential(
            *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
        ),
    }
    model = models[kind]()
    states, x = [drawn(model, 1), drawn(model, 2)], images(0, 50, *MODEL_INPUTS[kind])
    batches = [x[:30], x[30:]]
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for state, file in zip(states, files, strict=True):
        dimat.statistics(models[kind](), state, batches).save(file)
    ours = dimat.merge(model, states, batches, method="identity", combine="gram")
    apart = dimat.merge(model, states, method="identity", combine="gram", statistics=files)
    torch.testing.assert_close(apart.state, ours.state, rtol=0, atol=0)
    average = dimat.merge(model, states, batches, method="identity", recalibration="none").state
    assert any(not torch.equal(ours.state[key], average[key]) for key in average)


MODEL_INPUTS = {"linear": (4,), "convolutional": (2, 4, 4)}


def test_statistics_move_with_the_units_that_matching_moves() -> None:
    """In one process all are measured after the units have moved."""
    batches = [images(0), images(1)]
    told = [dimat.statistics(net(), own, batches) for own in STATES]
    for method in ("weights", "activations"):
        ours = dimat.merge(net(), STATES, batches, method=method, combine="gram")
        apart = dimat.merge(net(), STATES, batches, method=method, combine="gram", statistics=told)
        torch.testing.assert_close(apart.state, ours.state, rtol=1e-4, atol=1e-5)
        assert not np.array_equal(ours.matchings[1].permutation.slots["0"][0], range(8))


def test_a_linear_network_is_the_least_squares_fit_to_what_its_owners_answer(
    tmp_path: Path,
) -> None:
    """By NumPy, from the images of both, which the merge has never seen."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False)).double()
    states, weights = [drawn(model, 1), drawn(model, 2)], [0.3, 0.7]
    data = [images(0, 40, 4).double(), 2 * images(1, 70, 4).double()]
    files = [str(tmp_path / f"{k}.safetensors") for k in (0, 1)]
    for file, state, x in zip(files, states, data, strict=True):
        dimat.statistics(model, state, x.split(25), combine=EXACT).save(file)
    how: dict[str, Any] = {"method": "identity", "combine": EXACT, "statistics": files}
    found = dimat.merge(model, states, weights=weights, **how).state

    def fitted(inputs: Sequence[np.ndarray], matrices: Sequence[np.ndarray]) -> np.ndarray:
        scale = [np.sqrt(w / len(x)) for w, x in zip(weights, inputs, strict=True)]
        rows = np.concatenate([k * x for k, x in zip(scale, inputs, strict=True)])
        wanted = [k * x @ m.T for k, x, m in zip(scale, inputs, matrices, strict=True)]
        return np.linalg.lstsq(rows, np.concatenate(wanted), rcond=None)[0].T

    ones = [np.concatenate([x.numpy(), np.ones((len(x), 1))], 1) for x in data]
    affine = [torch.cat([s["0.weight"], s["0.bias"][:, None]], 1).numpy() for s in states]
    first = np.concatenate([found["0.weight"], found["0.bias"][:, None]], 1)
    np.testing.assert_allclose(first, fitted(ones, affine), rtol=1e-6)
    hidden = [x @ m.T for x, m in zip(ones, affine, strict=True)]
    second = fitted(hidden, [s["1.weight"].numpy() for s in states])
    np.testing.assert_allclose(found["1.weight"], second, rtol=1e-6)


# --- what is in a file ------------------------------------------------------------------------


def test_a_file_gives_back_what_was_saved(owners: list[Statistics], tmp_path: Path) -> None:
    owners[1].save(tmp_path / "a.safetensors")
    found = Statistics.load(str(tmp_path / "a.safetensors"))
    torch.testing.assert_close(found.values, owners[1].values, rtol=0, atol=0)
    assert replace(found, values={}) == replace(owners[1], values={})


def test_a_file_holds_statistics_and_of_the_data_but_their_number_and_shape(
    tmp_path: Path,
) -> None:
    sizes = set()
    for count in (40, 50):
        file = tmp_path / "a.safetensors"
        dimat.statistics(net(), STATES[0], [images(0)[:count]]).save(file)
        with safetensors.safe_open(file, framework="pt") as opened:
            told = json.loads(opened.metadata()["dimat.statistics"])
            assert opened.metadata().keys() == {"dimat.statistics"}
        assert load_file(file).keys() == {"gram/0.weight", "gram/2.weight"}
        digests = told.pop("model"), told.pop("state")
        assert {len(digest) for digest in digests} == {64}
        assert told == {
            "combiner": "Gram", "budget": 5.0, "samples": count, "inputs": [[2, 4]],
            "version": Statistics.version,
        }  # fmt: skip
        sizes.add(file.stat().st_size)
    assert len(sizes) == 1


def test_no_more_images_are_looked_at_than_asked_for() -> None:
    few = dimat.statistics(net(), STATES[0], [images(0)[:20]])
    some = dimat.statistics(net(), STATES[0], [images(0)], images=20)
    assert (some.samples, few.samples) == (20, 20)
    torch.testing.assert_close(some.values, few.values, rtol=0, atol=0)


def test_the_budget_is_that_of_runs_and_of_the_command() -> None:
    config = StatisticsConfig(parents=("a",), out="b", model="mlp")
    assert BUDGET == config.budget == dimat.RunConfig().merging.statistics_budget
    model = nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 30))
    for budget, shape in ((5.0, (1, 21 * 22 // 2)), (0.5, (1, 8, 20))):
        told = dimat.statistics(model, state_of(model), [images(0, 30, 20)], budget=budget)
        assert told.values["gram/0.weight"].shape == shape


@pytest.mark.parametrize("form", ["a file in half precision", "a wrapped model", "a tied file"])
def test_the_checkpoint_of_the_merge_is_known_again_in_other_forms(
    form: str, tmp_path: Path
) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.second(x)  # type: ignore[no-any-return]

    model = Tied() if form == "a tied file" else net()
    given: Any = model
    theirs: Any = model
    if form == "a file in half precision":
        given = {key: x.half() for key, x in model.state_dict().items()}
        save_state(given, tmp_path / "a.safetensors")
        theirs = tmp_path / "a.safetensors"
    elif form == "a wrapped model":
        theirs = nn.DataParallel(model).state_dict()
    else:
        save_state({"first.bias": model.first.bias, "second.bias": model.second.bias,
                    "first.weight": model.first.weight}, tmp_path / "a.safetensors")  # fmt: skip
        theirs = tmp_path / "a.safetensors"
    told = dimat.statistics(model, given, [images(0)])
    found = merged([told, told], model, states=[given, theirs])
    expected = given if isinstance(given, dict) else model.state_dict()
    torch.testing.assert_close(found, dict(expected))


def test_inputs_that_cannot_be_made_up_are_given_as_an_example() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).mean(1))  # type: ignore[no-any-return]

    states = [drawn(Words(), 1), drawn(Words(), 2)]
    ids = [torch.randint(9, (30, 5), generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    for forms in (ids, [{"ids": x} for x in ids]):
        told = [dimat.statistics(Words(), s, [x]) for s, x in zip(states, forms, strict=True)]
        with pytest.raises(DataError, match="no batches: give at least one"):
            merged(told, Words(), states=states)
        example = torch.zeros(2, 5, dtype=torch.int64)
        found = merged(told, Words(), states=states, batches=[example])
        assert found["head.weight"].shape == (3, 6)


# --- refusals ---------------------------------------------------------------------------------


def spoilt(own: Statistics, change: Callable[[State], object]) -> Statistics:
    values = {key: value.clone() for key, value in own.values.items()}
    change(values)
    return replace(own, values=values)


CASES: dict[str, tuple[Callable[[list[Statistics]], Any], dict[str, Any], str]] = {
    "too few": (lambda x: x[:1], {}, "1 statistics for 2 states: give one each"),
    "too many": (lambda x: [*x, x[0]], {}, "3 statistics for 2 states"),
    "none of one": (lambda x: [x[0], None], {}, "statistics 1 is None: must be what dimat.stat"),
    "their values": (lambda x: [x[0], x[1].values], {}, "statistics 1 is of type dict: must be"),
    "one alone": (lambda x: x[0], {}, "'statistics' is of type Statistics: must be a list"),
    "a path alone": (lambda x: "a.safetensors", {}, "'statistics' is 'a.safetensors': must be"),
    "no file": (lambda x: [x[0], "nope.safetensors"], {}, "nope.safetensors cannot be read"),
    "the wrong way round": (
        lambda x: x[::-1], {},
        "statistics 0 were not measured on state 0, but on state 1: give them in the order",
    ),
    "of another checkpoint": (
        lambda x: [x[0], replace(x[1], state="0" * 64)], {},
        "statistics 1 were not measured on state 1: measure them on the very checkpoint",
    ),
    "another combiner": (
        lambda x: [x[0], replace(x[1], combiner="Fisher")], {},
        "statistics 1 are for 'Fisher', and the merge is by 'Gram': measure them with the same",
    ),
    "a combiner without any": (
        lambda x: x, {"combine": "average"},
        "'combine' is 'average', which takes no statistics: those that do are gram",
    ),
    "no layer": (
        lambda x: [x[0], spoilt(x[1], lambda own: own.pop("gram/2.weight"))], {},
        "statistics 1 does not fit: it lacks 'gram/2.weight'",
    ),
    "a layer too many": (
        lambda x: [x[0], spoilt(x[1], lambda own: own.update(a=torch.ones(1)))], {},
        "statistics 1 does not fit: it has 'a', which is not expected",
    ),
    "of both another shape": (
        lambda x: [spoilt(own, lambda v: v.update({"gram/2.weight": torch.ones(1, 3)}))
                   for own in x], {},
        "statistics 0 does not fit: 'gram/2.weight' has shape (1, 3) torch.float32, expected (1, ",
    ),
    "whole numbers": (
        lambda x: [x[0], spoilt(x[1], lambda v: v.update({k: y.int() for k, y in v.items()}))], {},
        "torch.int32, expected",
    ),
    "not finite": (
        lambda x: [x[0], spoilt(x[1], lambda own: own["gram/2.weight"].fill_(float("nan")))], {},
        "statistics 1: 'gram/2.weight' has 45 values that are NaN or infinite",
    ),
    "no moments": (
        lambda x: [x[0], spoilt(x[1], lambda own: own["gram/0.weight"].neg_())], {},
        "statistics 1: 'gram/0.weight' holds no moments of any inputs",
    ),
    "no batches to match on": (
        lambda x: x, {"method": "activations"},
        "there are no batches, on which this matching compares units: give some, or another "
        "'method': identity or weights",
    ),
    "an input of any size": (
        lambda x: [replace(own, inputs=((10**9, 10**9),)) for own in x], {},
        "an example input of [(1000000000, 1000000000)] takes 4,000,000,000,000,000,000 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_statistics_that_do_not_belong_to_the_merge_are_refused(
    name: str, owners: list[Statistics]
) -> None:
    change, given, message = CASES[name]
    assert merged(owners).keys() == STATES[0].keys()
    with pytest.raises(DimatError) as caught:
        merged(change(owners), **given)
    assert message in " ".join(str(caught.value).split())


def test_statistics_of_another_model_are_refused(owners: list[Statistics]) -> None:
    """Also where the state is the same, and only what the model does with it is another thing."""

    def swapped(model: nn.Module, x: Tensor) -> Tensor:
        return model[2](torch.relu(model[0](x))) @ model[2].weight  # type: ignore[index]

    for theirs in (
        dimat.statistics(net(7), net(7), [images(0)]),
        dimat.statistics(net(), STATES[1], [images(1)], forward=swapped),
    ):
        with pytest.raises(StructureError, match="statistics 1 were measured on another model"):
            merged([owners[0], theirs])


def test_of_forms_that_differ_the_layer_and_the_budgets_are_named() -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 30))
    states = [drawn(model, 1), drawn(model, 2)]

    def told(*budgets: float) -> list[Statistics]:
        x = images(0, 30, 20)
        both = zip(states, budgets, strict=True)
        return [dimat.statistics(model, own, [x], budget=budget) for own, budget in both]

    assert merged(told(5.0, 7.0), model, states=states).keys() == states[0].keys()
    with pytest.raises(StructureError) as caught:
        merged(told(5.0, 0.5), model, states=states)
    assert str(caught.value) == (
        "statistics 1 do not fit statistics 0: 'gram/0.weight' has shape (1, 8, 20) there and "
        "(1, 231) here, by budgets of 0.5 and 5: measure both with one budget"
    )


def test_without_data_nothing_is_recalibrated_on_any() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    states = [drawn(model, 1), drawn(model, 2)]
    told = [dimat.statistics(model, own, [images(k)]) for k, own in enumerate(states)]
    plain = merged(told, model, states=states)
    none = merged(told, model, states=states, recalibration="none")
    torch.testing.assert_close(plain, none, rtol=0, atol=0)
    with pytest.raises(DataError, match="no batches to recompute BatchNorm statistics on"):
        merged(told, model, states=states, recalibration="batchnorm")


@pytest.mark.parametrize("budget", [0, -1.0, float("inf"), float("nan"), "5", True])
def test_a_budget_that_is_none_is_refused(budget: Any) -> None:
    with pytest.raises(ConfigError, match="'budget' is .*: must be a finite number > 0"):
        dimat.statistics(net(), STATES[0], [images(0)], budget=budget)


def test_what_takes_no_statistics_has_none_to_measure() -> None:
    with pytest.raises(ConfigError, match="'combine' is 'repair', which takes no statistics"):
        dimat.statistics(net(), STATES[0], [images(0)], combine="repair")


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no JSON": (lambda told: "{", "the description of its statistics is no JSON"),
    "deep": (lambda told: "[" * 100_000, "the description of its statistics is no JSON"),
    "a list": (lambda told: [], "'combiner' of its statistics is None: must be text"),
    "a part missing": (lambda told: told.pop("budget") and told, "'budget' of its statistics is N"),
    "an endless budget": (lambda told: {**told, "budget": 1e999}, "must be a finite number > 0"),
    "true samples": (lambda told: {**told, "samples": True}, "'samples' of its statistics is True"),
    "no samples": (lambda told: {**told, "samples": 0}, "must be a whole number > 0"),
    "a shape of text": (lambda told: {**told, "inputs": [["2"]]}, "must be shapes"),
    "a negative shape": (lambda told: {**told, "inputs": [[2, -4]]}, "must be shapes"),
    "a shape of many": (lambda told: {**told, "inputs": [[1] * 1000]}, "must be shapes"),
    "a short digest": (lambda told: {**told, "model": "abc"}, "is abc: must be a SHA-256"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_whose_description_is_damaged_is_refused(
    name: str, owners: list[Statistics], tmp_path: Path
) -> None:
    change, message = DAMAGE[name]
    own = owners[0]
    told = {
        "combiner": own.combiner, "budget": own.budget, "samples": own.samples,
        "inputs": [[2, 4]], "model": own.model, "state": own.state, "version": "0",
    }  # fmt: skip
    file = tmp_path / "a.safetensors"
    save_file(dict(own.values), file, {"dimat.statistics": json.dumps(told)})
    assert Statistics.load(file).inputs == ((2, 4),)
    said = change(told)
    text = said if isinstance(said, str) else json.dumps(said)
    save_file(dict(own.values), file, {"dimat.statistics": text})
    with pytest.raises(StructureError, match=r"a\.safetensors") as caught:
        Statistics.load(file)
    assert message in str(caught.value)


def test_what_is_no_file_of_statistics_is_refused(tmp_path: Path) -> None:
    save_state(STATES[0], tmp_path / "state.safetensors")
    torch.save(STATES[0], tmp_path / "state.pth")
    for name, message in (
        ("state.safetensors", "holds no statistics: 'dimat statistics' writes such files"),
        ("state.pth", "cannot be read as safetensors"),
    ):
        with pytest.raises(StructureError, match=message):
            Statistics.load(tmp_path / name)


def test_a_file_that_cannot_be_written_leaves_what_was_there(
    owners: list[Statistics], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    owners[0].save(file)
    before = file.read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("dimat.state.write_tensors", full)
    with pytest.raises(WriteError, match="No space left on device"):
        owners[1].save(file)
    assert file.read_bytes() == before
    assert [own.name for own in tmp_path.iterdir()] == ["a.safetensors"]
