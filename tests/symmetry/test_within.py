"""Symmetries of submodules: they are symmetries of the whole model, and leave all else in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import dimat
from dimat.cli import main
from dimat.errors import ConfigError, ModelError, StructureError
from dimat.graph.inside import look_inside
from dimat.state import State, put_into, save_state, state_of


def body(width: int = 6) -> nn.Sequential:
    """With norms, a buffer of its own, and an output of another size than its input."""
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 5), nn.Tanh(),
        nn.Linear(5, 4),
    )  # fmt: skip


class Halting(nn.Module):
    """As many passes of the encoder as the data ask for, and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.encoder, self.head = body(), nn.Linear(4, 2)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x))
        for number in range(3):
            h = self.encoder(h)
            if not self.training and float(h[0].norm()) < 0.1 * number:
                break
            self.passes += 1
        return self.head(h if h.sum() > 0 else -h)


class Twins(nn.Module):
    """One encoder under two names, the second in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = body()
        self.others = nn.ModuleList([self.encoder, nn.Linear(4, 2)])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.encoder(x), self.others[0](y)
        return self.others[1]((a - b).abs() if float(a.detach().sum()) > 0 else a * b)


class Tied(nn.Module):
    """An entry of the encoder is the output layer's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        self.encoder.append(nn.Linear(5, 4))
        self.out = nn.Linear(6, 5)
        self.out.weight = self.encoder[2].weight
        self.up = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(self.encoder(x))
        return self.out(h if float(h.detach().sum()) > 0 else h.relu())


class Reaching(nn.Module):
    """A layer of the encoder is called past it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        self.encoder.append(nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return self.encoder[0](h if float(h.detach().sum()) > 0 else -h)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], set[int]]] = {
    "halting": (Halting, ((8, 3),), {6, 5}),
    "twins": (Twins, ((8, 4), (8, 4)), {6, 5}),
    "tied": (Tied, ((8, 3),), set()),
    "reaching": (Reaching, ((8, 3),), {5}),
}


def inputs(name: str, seed: int = 0) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=random) for shape in MODELS[name][1])


def outputs(model: nn.Module, state: State, args: tuple[Tensor, ...]) -> Tensor:
    copied = {key: value.clone() for key, value in state.items()}
    with torch.no_grad():
        found: Tensor = functional_call(model.eval(), copied, args, tie_weights=False)
    return found


def trained(name: str, seed: int) -> State:
    """A state whose norms have statistics of their own; the stem is alike for all seeds."""
    torch.manual_seed(0)
    model = MODELS[name][0]()
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.startswith("encoder"):
                value.normal_()
    model.train()(*inputs(name, seed))
    return state_of(model)


@pytest.mark.parametrize("name", MODELS)
def test_the_symmetry_of_a_submodule_is_one_of_the_whole_model(name: str) -> None:
    model, sizes = MODELS[name][0](), MODELS[name][2]
    with pytest.raises(ModelError, match="torch.export cannot capture"):
        dimat.find_symmetry(model, inputs(name))
    symmetry = dimat.find_symmetry(model, inputs(name), at="encoder")
    assert {group.size for group in symmetry.groups} == sizes
    assert all(name.startswith("encoder.") for name in symmetry.names)
    for seed in range(3):
        state = trained(name, seed)
        p = symmetry.random(torch.Generator().manual_seed(seed))
        moved = symmetry.apply(p, state)
        for number in range(3):
            args = inputs(name, number)
            torch.testing.assert_close(outputs(model, moved, args), outputs(model, state, args))
        inside = {key for key in state if key.startswith(("encoder.", "others.0."))}
        assert {key for key in state if not torch.equal(moved[key], state[key])} <= inside
    assert not sizes or symmetry.coverage > 0


def test_all_around_a_submodule_is_said_to_be_so() -> None:
    symmetry = dimat.find_symmetry(Halting(), inputs("halting"), at="encoder")
    assert symmetry.explain("stem.weight").count("pinned: not in 'encoder'") == 2
    assert "axis 1 (size 4): pinned: " in symmetry.explain("encoder.0.weight")
    assert "axis 0 (size 6): moved by encoder.0" in symmetry.explain("encoder.0.weight")
    assert dimat.Symmetry.from_json(symmetry.to_json()).digest == symmetry.digest
    tied = dimat.find_symmetry(Tied(), inputs("tied"), at="encoder")
    assert "moved by" not in tied.explain("encoder.2.weight") + tied.explain("out.weight")


def test_a_part_of_an_exportable_model_has_a_part_of_its_symmetry() -> None:
    model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), body(7), nn.Linear(4, 6), nn.Linear(6, 2))
    model[0] = nn.Linear(3, 4)
    whole = dimat.find_symmetry(model, (torch.zeros(2, 3),))
    part = dimat.find_symmetry(model, torch.zeros(2, 3), at="2")
    assert set(part.names) < set(whole.names)
    for group in part.groups:
        (own,) = (x for x in whole.groups if x.name == group.name)
        assert set(own.members) == set(group.members)


# --- merging --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["halting", "twins", "reaching"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "weights"},
        {"combine": "regression"},
        {"combine": "gram"},
        {"combine": "repair", "recalibration": "none"},
        {"recalibration": "expected"},
    ],
    ids=str,
)
def test_merging_with_a_permuted_copy_is_the_model_itself(
    name: str, options: dict[str, Any]
) -> None:
    """Two calls of one submodule in a batch, one of them in a list, and as many as it likes."""
    model, state = MODELS[name][0](), trained(name, 3)
    symmetry = dimat.find_symmetry(model, inputs(name), at="encoder")
    moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(1)), state)
    batches = [(inputs(name, seed),) for seed in range(10, 40)]
    found = dimat.merge(
        model, [state, moved], batches, at="encoder", **{"recalibration": "none", **options}
    )
    assert found.settings["at"] == "encoder"
    torch.testing.assert_close(found.aligned[1], found.aligned[0], rtol=0, atol=0)
    args = inputs(name, 5)
    close = 1e-2 if "combine" in options else 1e-5
    torch.testing.assert_close(
        outputs(model, found.state, args), outputs(model, state, args), rtol=close, atol=close
    )


def test_what_is_around_is_averaged_as_it_is() -> None:
    states = [trained("halting", 1), trained("halting", 2)]
    states[1]["stem.weight"] = states[1]["stem.weight"] + 1
    how: dict[str, Any] = {"at": "encoder", "recalibration": "none"}
    batches = [inputs("halting", 4)]
    found = dimat.merge(Halting(), states, batches, **how)
    for key in ("stem.weight", "norm.running_var", "head.bias"):
        torch.testing.assert_close(found.state[key], (states[0][key] + states[1][key]) / 2)
    assert found.state["passes"] == states[0]["passes"]
    assert found.matchings[1].permutation.moved > 0
    part = dimat.merge(Halting(), states, batches, only="encoder.*", **how)
    assert torch.equal(part.state["stem.weight"], states[0]["stem.weight"])
    torch.testing.assert_close(part.state["encoder.0.weight"], found.state["encoder.0.weight"])
    again = dimat.merge(Halting(), states, batches, at="encoder", combine="regression")
    model = Halting()
    put_into(model, again.state)  # a combiner fits no norms around the submodule
    for module in (model.norm, model.encoder[1]):
        module.reset_running_stats()
        module.momentum = None
    model.eval()
    for module in (model.norm, model.encoder[1]):
        module.train()
    with torch.no_grad():
        model(*batches[0])
    torch.testing.assert_close(model.norm.running_mean, again.state["norm.running_mean"])


def test_the_model_of_a_merge_and_its_match_are_left_as_they_were() -> None:
    model = Halting()
    before = state_of(model)
    states = [trained("halting", 1), trained("halting", 2)]
    matching = dimat.match(model, *states, [inputs("halting", 4)], at="encoder")
    merged = dimat.merge(model, states, [inputs("halting", 4)], at="encoder")
    for key, own in merged.matchings[1].permutation.slots.items():
        assert (own == matching.permutation.slots[key]).all()
    assert model.training
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_heads_are_kept_around_a_submodule() -> None:
    class Classes(Halting):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.head = nn.Linear(4, classes)

    states = [trained("halting", 1), {**trained("halting", 2)}]
    states[1] |= {"head.weight": torch.randn(7, 4), "head.bias": torch.randn(7)}
    found = dimat.merge(Classes(2), states, [inputs("halting", 4)], at="encoder", heads="keep")
    assert [len(own["head.bias"]) for own in found.heads] == [2, 7]
    assert torch.equal(found.heads[1]["head.weight"], states[1]["head.weight"])


def test_the_command_line_looks_inside_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_channels, num_classes, image_size):\n"
        "        super().__init__()\n"
        "        size = in_channels * image_size[0] * image_size[1]\n"
        "        self.encoder = nn.Sequential(nn.Linear(size, 9), nn.ReLU(), nn.Linear(9, 8))\n"
        "        self.head = nn.Linear(8, num_classes)\n"
        "    def forward(self, x):\n"
        "        h = self.encoder(x.flatten(1))\n"
        "        return self.head(h if float(h.detach().sum()) > 0 else -h)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from nets import Net  # type: ignore[import-not-found]

    for name in "ab":
        save_state(state_of(Net(1, 10, (8, 8))), Path(f"{name}.safetensors"))
    words = "a.safetensors b.safetensors --model nets:Net --data digits --images 100 --threads 1"
    assert main(["merge", *words.split(), "--out", "m.safetensors"]) == 2
    assert "at='encoder' (--at encoder)" in capsys.readouterr().err
    assert main(["merge", *words.split(), "--out", "m.safetensors", "--at", "encoder"]) == 0
    assert "encoder.0" in capsys.readouterr().out
    assert main(["align", *words.split(), "--out", "c.safetensors", "--at", "encoder"]) == 0
    assert main(["symmetry", "--model", "nets:Net", "--input", "2,1,8,8", "--at", "encoder"]) == 0
    assert "encoder.0" in capsys.readouterr().out
    assert main(["merge", *words.split(), "--out", "d.safetensors", "--at", "encoda"]) == 2
    assert "'at' is 'encoda', and Net has no submodule of that name; the nearest is 'encoder'" in (
        capsys.readouterr().err
    )


# --- what is refused ------------------------------------------------------------------------------


class Borrowing(Halting):
    """A weight of the encoder is read past it, in no module."""

    def forward(self, x: Tensor) -> Tensor:
        h = super().forward(x)
        return h @ functional.linear(self.encoder[0].weight[:2], self.encoder[0].weight)


def test_entries_that_are_used_elsewhere_are_seen_by_the_outputs() -> None:
    with pytest.raises(StructureError, match="outputs of Borrowing change.*wrong .*: encoder.0;"):
        dimat.find_symmetry(Borrowing(), inputs("halting"), at="encoder")


@pytest.mark.parametrize(
    ("at", "kind", "message"),
    [
        ("encoda", ConfigError, "no submodule of that name; the nearest is 'encoder'"),
        ("", ConfigError, "no submodule of that name"),
        (3, ConfigError, "'at' is 3: must be the name of a submodule"),
        ("others", ModelError, "Twins.forward does not call that submodule"),
    ],
)
def test_a_name_that_is_none_is_refused(at: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        dimat.find_symmetry(Twins(), inputs("twins"), at=at)
    with pytest.raises(kind, match=message):
        dimat.match(Twins(), Twins(), Twins(), [(inputs("twins"),)], at=at)


def test_a_symmetry_or_statistics_do_not_come_with_a_submodule() -> None:
    state, batches = trained("halting", 1), [inputs("halting")]
    symmetry = dimat.find_symmetry(Halting(), inputs("halting"), at="encoder")
    with pytest.raises(ConfigError, match="'symmetry' is one: give either"):
        dimat.merge(Halting(), [state], batches, symmetry=symmetry, at="encoder")
    model = nn.Sequential(body())
    sent = dimat.statistics(model, model.state_dict(), [torch.randn(30, 4)])
    with pytest.raises(ConfigError, match="'statistics' are of whole networks, and 'at' is '0'"):
        dimat.merge(model, [model], combine="gram", method="weights", statistics=[sent], at="0")


def test_a_symmetry_that_was_found_in_a_part_is_one_by_hand_elsewhere() -> None:
    states = [trained("halting", 1), trained("halting", 2)]
    symmetry = dimat.find_symmetry(Halting(), inputs("halting"), at="encoder")
    found = dimat.merge(
        Halting(), states, method="weights", symmetry=symmetry, recalibration="none"
    )
    own = dimat.merge(
        Halting(), states, [inputs("halting")], method="weights", at="encoder", recalibration="none"
    )
    torch.testing.assert_close(found.state, own.state)


def test_calls_are_seen_as_they_are_made() -> None:
    seen = look_inside(Twins(), "encoder", [(inputs("twins", k), {}) for k in range(3)])
    assert len(seen.calls) == 6
    torch.testing.assert_close(seen.calls[3][0], (inputs("twins", 1)[1],))
    assert not seen.outside
    assert look_inside(Reaching(), "encoder", [(inputs("reaching"), {})]).outside == {
        "0.weight", "0.bias"
    }  # fmt: skip
