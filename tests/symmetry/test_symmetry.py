"""The public face of a symmetry: what it refuses, what it tells, and symmetries given by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dimat
from dimat import Symmetry
from dimat.errors import ModelError, StructureError
from dimat.models import build_model
from dimat.symmetry.labels.positions import take
from dimat.symmetry.labels.units import Inherent, Pin


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def symmetry() -> Symmetry:
    return dimat.find_symmetry(mlp(), (torch.zeros(2, 3),))


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_state_with_an_unknown_entry_is_refused(symmetry: Symmetry) -> None:
    with pytest.raises(StructureError, match="unknown entry 'other'"):
        symmetry.apply(symmetry.identity(), {"other": torch.zeros(3)})


def test_a_state_of_another_shape_is_refused_by_its_first_key(symmetry: Symmetry) -> None:
    state = {"0.weight": torch.zeros(8, 4), "0.bias": torch.zeros(9)}
    with pytest.raises(StructureError, match=r"'0.weight' has shape \(8, 4\), expected \(8, 3\)"):
        symmetry.apply(symmetry.identity(), state)


def test_a_permutation_of_another_symmetry_is_refused_with_both_digests(
    symmetry: Symmetry, random: torch.Generator
) -> None:
    wider = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2))
    other = dimat.find_symmetry(wider, (torch.zeros(2, 3),))
    with pytest.raises(StructureError, match=f"{other.digest[:12]}.*{symmetry.digest[:12]}"):
        symmetry.apply(other.random(random), mlp().state_dict())


def test_digests_tell_architectures_apart_and_agree_on_one(symmetry: Symmetry) -> None:
    again = dimat.find_symmetry(mlp(), (torch.zeros(4, 3),))
    assert again.digest == symmetry.digest


TAMPERINGS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda c: c["families"][0]["units"].__setitem__(0, [0, 0, 8]), "not a bijection"),
    (lambda c: c["families"][0]["units"].__setitem__(0, [0, 1, 7]), "wrong size"),
    (lambda c: c["groups"][0]["members"].append(["9.weight", 0]), "unknown member '9.weight'"),
    (lambda c: c["axes"]["2.weight"][1]["units"].__setitem__(0, [99, 1, 8]), "does not exist"),
    (lambda c: c["groups"][0].__setitem__("name", "other"), "changed since it was written"),
    (lambda c: c.pop("axes"), "not a dimat symmetry"),
    (lambda c: c.__setitem__("format", "x"), "not a dimat symmetry"),
]


@pytest.mark.parametrize(("tamper", "message"), TAMPERINGS)
def test_json_that_was_tampered_with_is_refused(
    symmetry: Symmetry, tamper: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = json.loads(symmetry.to_json())
    tamper(content)
    with pytest.raises(StructureError, match=message):
        Symmetry.from_json(json.dumps(content))


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(StructureError, match="not a dimat symmetry"):
        Symmetry.from_json("{")


def test_explain_says_what_moves_an_axis_and_what_pins_it(symmetry: Symmetry) -> None:
    assert symmetry.explain("2.weight").splitlines() == [
        "2.weight axis 0 (size 2): pinned: an output of the model",
        "2.weight axis 1 (size 8): moved by 0",
    ]
    with pytest.raises(StructureError, match="no state entry 'nope'"):
        symmetry.explain("nope")


def test_example_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(ModelError, match=r"example inputs \(\(2, 5\)\) do not fit Sequential"):
        dimat.find_symmetry(mlp(), (torch.zeros(2, 5),))


class Branching(nn.Module):
    """Control flow that depends on the data: torch.export refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x).relu()
        out: Tensor = self.fc2(hidden * 2 if float(hidden.sum()) > 0 else hidden)
        return out


AXES = {"fc1.weight": ("h", None), "fc1.bias": ("h",), "fc2.weight": (None, "h")}


def test_data_dependent_control_flow_ends_in_an_error_that_shows_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"cannot capture Branching.*Symmetry.from_axes"):
        dimat.find_symmetry(Branching(), (torch.zeros(2, 3),))


def test_a_symmetry_given_by_hand_can_be_checked_and_applied(random: torch.Generator) -> None:
    model = Branching()
    symmetry = Symmetry.from_axes(AXES, model.state_dict())
    dimat.check_symmetry(symmetry, model, (torch.zeros(2, 3),))
    assert [(g.name, g.size, len(g.members)) for g in symmetry.groups] == [("h", 8, 3)]
    again = Symmetry.from_json(symmetry.to_json())
    p = again.random(random)
    moved = symmetry.apply(p, model.state_dict())
    torch.testing.assert_close(moved["fc1.bias"], model.state_dict()["fc1.bias"][p.slots["h"][0]])


def test_a_wrong_symmetry_given_by_hand_is_caught() -> None:
    wrong = {key: names for key, names in AXES.items() if key != "fc1.bias"}
    symmetry = Symmetry.from_axes(wrong, Branching().state_dict())
    with pytest.raises(StructureError, match=r"eval mode.*wrong by themselves: h"):
        dimat.check_symmetry(symmetry, Branching(), (torch.zeros(2, 3),))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"fc9.weight": ("h", None)}, "'fc9.weight', which the state does not have"),
        ({"fc1.weight": ("h",)}, "'fc1.weight' has 2 axes, but 1 names"),
        ({"fc1.weight": ("h", "h")}, "axis 1 has size 3, but group 'h' has 8"),
    ],
)
def test_axes_that_do_not_fit_the_state_are_refused(
    axes: dict[str, tuple[str | None, ...]], message: str
) -> None:
    with pytest.raises(StructureError, match=message):
        Symmetry.from_axes(axes, Branching().state_dict())


def test_finding_a_symmetry_changes_nothing_in_the_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    dimat.find_symmetry(model, (torch.randn(2, 3, 8, 8),))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert all(module.training for module in model.modules())


def test_a_second_call_on_one_architecture_is_answered_from_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dimat.symmetry import find

    first = dimat.find_symmetry(mlp(), (torch.zeros(2, 3),))
    monkeypatch.setattr(find, "_prove", None)
    assert dimat.find_symmetry(mlp(), (torch.zeros(2, 3),)).digest == first.digest


def test_random_elements_are_uniform_over_a_small_group(random: torch.Generator) -> None:
    tiny = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    symmetry = dimat.find_symmetry(tiny, (torch.zeros(2, 3),))
    drawn = [tuple(symmetry.random(random).slots["0"][0].tolist()) for _ in range(600)]
    counts = np.asarray([drawn.count(p) for p in set(drawn)])
    assert len(counts) == 6
    assert ((counts - 100) ** 2 / 100).sum() < 20.5  # chi-squared, 5 degrees, p = 0.001


def test_the_fused_encoder_layer_computes_the_same_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fast path never shows in an export: it is checked on the module as it runs."""
    layer = nn.TransformerEncoderLayer(12, 2, 20, batch_first=True).eval()
    model = nn.Sequential(nn.Linear(7, 12), layer, nn.Linear(12, 4)).eval()
    symmetry = dimat.find_symmetry(model, (torch.zeros(3, 5, 7),))
    calls = []
    fused = torch._transformer_encoder_layer_fwd

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        result: Tensor = fused(*args, **kwargs)
        return result

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    dimat.check_symmetry(symmetry, model, (torch.zeros(3, 5, 7),))
    assert calls
    x = torch.randn(3, 5, 7)
    with torch.no_grad():
        before = model(x)
        p = symmetry.random(torch.Generator().manual_seed(1))
        model.load_state_dict(symmetry.apply(p, model.state_dict()))
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)


def test_keyword_inputs_and_nested_outputs_are_followed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, *, scale: Tensor) -> Any:
            hidden = (self.a(x) * scale).relu()
            return {"out": [self.b(hidden), hidden.sum(-1)]}

    inputs = {"scale": torch.ones(2, 1)}
    symmetry = dimat.find_symmetry(Net(), (torch.zeros(2, 3),), inputs)
    assert [(g.size, len(g.members)) for g in symmetry.groups] == [(5, 3)]
    dimat.check_symmetry(symmetry, Net(), (torch.zeros(2, 3),), inputs)


class _Inherently(nn.Module):
    """Axes that stay by their meaning: rows of a table, gates, time, kernels, places, outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(5, 4), nn.LSTM(4, 6, batch_first=True)
        self.conv, self.pool = nn.Conv1d(6, 7, 3), nn.AdaptiveAvgPool1d(2)
        self.head = nn.Linear(14, 3)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.table(index))
        return self.head(self.pool(self.conv(hidden.mT).relu()).flatten(1)) + torch.arange(3.0)


def test_what_stays_by_its_meaning_is_explained_and_is_no_pin() -> None:
    symmetry = dimat.find_symmetry(_Inherently(), (torch.randint(5, (2, 8)),))
    assert symmetry.pinned == ()
    assert "pinned: looked up by index" in symmetry.explain("table.weight")
    assert "pinned: a kernel axis" in symmetry.explain("conv.weight")
    assert "pinned: tied to a fixed axis" in symmetry.explain("head.bias")


def test_every_inherent_reason_is_one_that_a_rule_gives() -> None:
    root = Path(dimat.symmetry.__file__).parent
    written = "".join(own.read_text() for own in root.glob("rules/*.py"))
    given = {own for own in Inherent if f'"{own.value}"' in written}
    assert given == set(Inherent) - {Inherent.OUTPUT, Inherent.TIED}  # those are not of a rule
    assert Pin("aten.conv2d", "conv", "a kernel axis").inherent
    assert not Pin("aten.sort", "sort", "ranks").inherent


@pytest.mark.parametrize("name", ["resnet20", "vgg11", "cnn", "mlp"])
def test_units_are_moved_from_where_the_plan_says(name: str) -> None:
    """Axes that many entries share are looked up once; what comes out is as if each were alone."""
    settings: dict[str, Any] = {"in_channels": 3, "num_classes": 4, "image_size": (32, 32)}
    model = build_model(name, **settings, width=0.5)
    symmetry = dimat.find_symmetry(model, (torch.randn(2, 3, 32, 32),))
    p = symmetry.random(torch.Generator().manual_seed(0))
    state = model.to(memory_format=torch.channels_last).state_dict()  # type: ignore[call-overload]
    plan, moved = symmetry.plan(p), symmetry.apply(p, state)
    assert list(moved) == list(state)
    for key, value in state.items():
        assert torch.equal(moved[key], take(value, plan[key])), key
        assert moved[key].data_ptr() != value.data_ptr()
