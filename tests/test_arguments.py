"""What people pass first: taken where it has one meaning, refused in words where it has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dimat
from dimat.errors import DimatError, StructureError, nearest_key
from dimat.matching import Matching, Problem
from dimat.state import State, save_state, state_of
from dimat.symmetry import Analysis
from dimat.topology import GraphOptions

INPUTS = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def symmetry() -> dimat.Symmetry:
    return dimat.find_symmetry(net(), (INPUTS[:2],))


class Reversed:
    """A matcher: all units the other way round."""

    needs_batches = False

    def match(self, problem: Problem) -> list[Matching]:
        still = problem.analysis.symmetry.identity()
        turned = {name: slots[:, ::-1].copy() for name, slots in still.slots.items()}
        other = dimat.Permutation(turned, still.digest)
        return [Matching(still), *(Matching(other) for _ in problem.states[1:])]


class Last:
    """A combiner: the last state."""

    needs_batches = False

    def combine(self, analysis: Analysis, states: Any, weights: Any, batches: Any) -> State:
        return dict(states[-1])


# --- states ----------------------------------------------------------------------------------


def as_pth(model: nn.Module, folder: Path) -> str:
    torch.save({"epoch": 3, "model": model.state_dict()}, folder / "a.pth")
    return str(folder / "a.pth")


def as_safetensors(model: nn.Module, folder: Path) -> Path:
    save_state(state_of(model), folder / "a.safetensors")
    return folder / "a.safetensors"


def test_a_model_or_a_file_is_its_state_and_they_come_in_anything(tmp_path: Path) -> None:
    a, b = net(1), net(2)
    forms = (
        b,
        nn.DataParallel(b),
        {"state_dict": b.state_dict(), "epoch": 3},
        as_pth(b, tmp_path),
        as_safetensors(b, tmp_path),
    )
    states = [a.state_dict(), *[b.state_dict()] * len(forms)]
    expected = dimat.merge(net(), states, [INPUTS])
    merged = dimat.merge(net(), (own for own in (a, *forms)), [INPUTS])
    torch.testing.assert_close(merged.state, expected.state, rtol=0, atol=0)
    for ours, theirs in ((a, as_pth(b, tmp_path)), (a.state_dict(), b)):
        found = dimat.match(net(), ours, theirs, [INPUTS]).permutation
        np.testing.assert_equal(found.slots, expected.matchings[1].permutation.slots)


def test_a_models_own_entries_are_moved_and_shape_a_symmetry_by_hand(
    symmetry: dimat.Symmetry,
) -> None:
    element, model = symmetry.random(torch.Generator().manual_seed(1)), net(1)
    moved = symmetry.apply(element, model)
    torch.testing.assert_close(moved, symmetry.apply(element, model.state_dict()))
    axes = {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h")}
    by_hand = dimat.Symmetry.from_axes(axes, model)
    assert by_hand.digest == dimat.Symmetry.from_axes(axes, model.state_dict()).digest


def test_one_tensor_is_the_example_input(symmetry: dimat.Symmetry) -> None:
    assert dimat.find_symmetry(net(), INPUTS[:2]).digest == symmetry.digest
    dimat.check_symmetry(symmetry, net(), INPUTS[:2])


def test_an_unusable_file_among_the_states_is_named(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "whole.pth")  # the model itself: a pickle of code
    for name, message in (("none.pth", "no such file"), ("whole.pth", "nothing else is unpickled")):
        with pytest.raises(StructureError, match=rf"{name}.*{message}"):
            dimat.merge(net(), [net(), tmp_path / name], [INPUTS])
    with pytest.raises(StructureError, match=r"state 1 \(.*a\.pth\) does not fit"):
        dimat.merge(net(), [net(), as_pth(nn.Linear(4, 8), tmp_path)], [INPUTS])


# --- methods of one's own --------------------------------------------------------------------


def test_a_matcher_and_a_combiner_of_ones_own_are_used() -> None:
    a, b = net(1), net(2)
    merged = dimat.merge(net(), [a, b], [INPUTS], method=Reversed(), combine=Last())
    torch.testing.assert_close(merged.state["0.weight"], b.state_dict()["0.weight"].flip(0))
    found = dimat.match(net(), a, b, [INPUTS], method=Reversed())
    assert found.permutation.slots["0"].tolist() == [[*range(7, -1, -1)]]


# --- what has no meaning ---------------------------------------------------------------------


def merge(states: Any = None, batches: Any = (INPUTS,), model: Any = None, **given: Any) -> Any:
    return dimat.merge(model or net(), states or [net(1), net(2)], batches, **given)


def agent(**given: Any) -> Any:
    model = given.pop("model", net())
    own = {"calibration": [INPUTS], "id": 0, "agents": 3, "peers": "nowhere", **given}
    return dimat.Agent(model, own.pop("optimizer", None), **own)


ARRAYS = {key: value.numpy() for key, value in net().state_dict().items()}
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: merge("a.pth"), "'states' is 'a.pth': must be a list of states"),
    (lambda: merge(net()), "'states' is of type Sequential: must be a list of states"),
    (lambda: merge(net().state_dict()), "'states' is of type OrderedDict: must be a list"),
    (lambda: dimat.merge(net(), None), "'states' is None: must be a list"),  # type: ignore[arg-type]
    (lambda: merge([net(), 3]), "state 1 is 3: must be a state by name, .* a model, or the path"),
    (lambda: merge([net, net()]), "state 0 is of type function: must be a state"),
    (lambda: merge([ARRAYS]), "state 0 .*: '0.weight' is of type ndarray, expected a torch.Tensor"),
    (lambda: merge([{0: INPUTS}]), "state 0 has an entry whose name is 0: names must be text"),
    (lambda: merge(model="mlp"), "'model' is 'mlp': must be a torch.nn.Module"),
    (lambda: merge(model=nn.Sequential), "'model' is the class Sequential: must be a torch.nn"),
    (lambda: merge(method=Reversed), "'method' is the class Reversed: give an object of it"),
    (lambda: merge(method=3), "'method' is 3, which has no 'match': .* one of activations, "),
    (lambda: merge(method="wieghts"), "'method' is 'wieghts'.*did you mean 'weights'"),
    (lambda: merge(combine=None), "'combine' is None, which has no 'combine'"),
    (lambda: merge(recalibration=True), "'recalibration' is True: must be a name, one of auto"),
    (lambda: merge(recalibration=[]), "'recalibration' is of type list: must be a name"),
    (lambda: merge(weights="ab"), "'weights' is 'ab': must be 2 numbers, one for each state"),
    (lambda: merge(weights=0.5), "'weights' is 0.5: must be 2 numbers"),
    (lambda: merge(images="9"), "'images' is '9': must be a whole number >= 1"),
    (lambda: merge(images=2.5), "'images' is 2.5: must be a whole number >= 1"),
    (lambda: merge(batches=3), "batches is 3: give a list or an iterable of batches"),
    (lambda: merge(batches="digits"), "batches is 'digits': give a list"),
    (lambda: merge(forward="features"), "'forward' is 'features': must be a function"),
    (lambda: merge(symmetry="h"), "'symmetry' is 'h': must be what dimat.Symmetry.from_axes"),
    (lambda: dimat.find_symmetry(net, INPUTS), "'model' is of type function: must be a torch"),  # type: ignore[arg-type]
    (lambda: dimat.find_symmetry(net(), None), "'args' is None: must be the example inputs"),  # type: ignore[arg-type]
    (lambda: dimat.check_symmetry(net(), net(), INPUTS), "'symmetry' is of type Sequential"),  # type: ignore[arg-type]
    (lambda: dimat.Symmetry.from_axes({"0.bias": "h"}, net()), "'axes of 0.bias' is 'h': must be"),
    (lambda: dimat.Symmetry.from_axes([], net()), "'axes' is of type list: must be names"),  # type: ignore[arg-type]
    (lambda: dimat.build_topology(3, 4), "'topology.name' is 3: must be a name"),  # type: ignore[arg-type]
    (lambda: dimat.build_topology("ring", "4"), "'agents' is '4': must be a whole number >= 1"),  # type: ignore[arg-type]
    (lambda: dimat.build_topology("ring", 4, dropout="x"), "'dropout' is 'x': must be a number"),  # type: ignore[arg-type]
    (lambda: dimat.build_topology("ring", 4, options={}), "'options' is of type dict: must be"),  # type: ignore[arg-type]
    (lambda: GraphOptions(degree="3"), "'topology.degree' is '3': must be a whole number"),  # type: ignore[arg-type]
    (lambda: agent(model="mlp"), "'model' is 'mlp': must be a torch.nn.Module"),
    (lambda: agent(optimizer="adam"), "'optimizer' is 'adam': must be a torch.optim.Optimizer"),
    (lambda: agent(topology=3), "'topology' is 3: must be a name, such as 'ring', or what"),
    (lambda: agent(method=Reversed()), "'method' is of type Reversed: must be a name"),
    (lambda: agent(every="3"), "'every' is '3': must be a whole number >= 1"),
    (lambda: agent(id="0"), "'id' is '0': must be a whole number in 0 … 2"),
    (lambda: agent(agents="3"), "'agents' is '3': must be a whole number >= 1"),
    (lambda: agent(peers=1234), "'peers' is 1234: must be the path of peers.yaml"),
    (lambda: agent(timeout_s="3"), "'timeout_s' is '3': must be a number > 0 and finite"),
    (lambda: agent(recalibration=None), "'recalibration' is None: must be a name, one of auto"),
    (lambda: agent(symmetry=3, method="wm"), "'symmetry' is 3: must be what dimat.Symmetry"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_has_no_meaning_is_refused_in_words(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(DimatError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert "failed:" not in str(caught.value)  # an error from inside, wrapped


# --- the nearest key -------------------------------------------------------------------------


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def test_where_keys_do_not_fit_the_nearest_one_is_named(symmetry: dimat.Symmetry) -> None:
    state = state_of(net())
    lightning, renamed = under("model.", state), {"0.weigth": state["0.weight"]}
    misspelt = {name: value for name, value in state.items() if name != "0.weight"} | renamed
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: merge([net(), misspelt]), "'0.weight'; the nearest is '0.weigth'"),
        (lambda: dimat.match(net(), misspelt, net()), "'0.weight'; the nearest is '0.weigth'"),
        (lambda: symmetry.apply(symmetry.identity(), lightning), "'model.0.weight'; .* '0.weight'"),
        (lambda: symmetry.apply(symmetry.identity(), renamed), "'0.weigth'; .* is '0.weight'"),
        (lambda: symmetry.explain("model.2.bias"), "'model.2.bias' .*; the nearest is '2.bias'"),
        (
            lambda: dimat.Symmetry.from_axes({"0.wight": ("h", None)}, net()),
            "nearest is '0.weight'",
        ),
        (
            lambda: merge(method="weights", symmetry=dimat.Symmetry.from_axes({}, lightning)),
            "'0.weight' .*; the nearest is 'model.0.weight'",
        ),
    ]
    for call, message in calls:
        with pytest.raises(StructureError, match=message):
            call()


def test_the_nearest_key_is_that_of_the_same_place_and_nothing_where_none_is_near() -> None:
    keys = [f"net.layer{k}.{j}.conv.{x}" for k in range(9) for j in range(9) for x in "wb"]
    for key in keys:
        assert nearest_key(key.removeprefix("net."), keys) == f"; the nearest is '{key}'"
        assert nearest_key(key.replace("net", "body"), keys) == f"; the nearest is '{key}'"
    assert nearest_key("head.bias", ["embed.tokens"]) == ""
    assert nearest_key("head.bias", []) == ""


def test_of_many_and_long_names_few_and_short_ones_are_compared_letter_by_letter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []
    monkeypatch.setattr(
        "difflib.get_close_matches", lambda word, names, n: compared.extend([word, *names]) or []
    )
    nearest_key("ab" * 10_000, (f"{'ab' * 90}{k}" for k in range(20_000)))
    nearest_key("ab", ["ab" * 10_000])
    assert 1 < len(compared) < 200
    assert max(map(len, compared)) <= 200
