"""Merges of a part of the entries, and of parents whose heads differ: laws and refusals."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import dimat
from dimat.checkpoints.partial import kept_entries
from dimat.cli import main
from dimat.data import load_dataset
from dimat.errors import ConfigError, StructureError
from dimat.state import State, put_into, save_state, state_of
from dimat.tools.merge import write
from dimat.tools.merge.samples import Normalization, Samples


class Net(nn.Module):
    """A small network with a branch, norms, and a head for any number of classes."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU())
        self.a, self.b = nn.Conv2d(7, 5, 1), nn.Conv2d(7, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = functional.relu(self.norm(self.a(x) + self.b(x)))
        return self.fc(x.mean((2, 3)))


def batches(count: int = 90) -> list[Tensor]:
    return list(torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1)).split(30))


def trained(seed: int, classes: int = 3) -> State:
    """A state whose norms have statistics of their own."""
    torch.manual_seed(seed)
    model = Net(classes)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
        for x in batches():
            model.train()(x)
    return state_of(model)


def outputs(state: Mapping[str, Tensor]) -> Tensor:
    model = Net(len(state["fc.bias"])).double().eval()
    put_into(model, state)
    with torch.no_grad():
        return torch.cat([model(x.double()) for x in batches()])


def moved(state: State, seed: int) -> State:
    """The state in another unit order."""
    model = Net(len(state["fc.bias"]))
    symmetry = dimat.find_symmetry(model, (batches()[0][:2],))
    return symmetry.apply(symmetry.random(torch.Generator().manual_seed(seed)), state)


# --- parts -----------------------------------------------------------------------------------

PARTS: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    "only": ({"only": ["stem.*"]}, lambda name: name.startswith("stem.")),
    "only one": ({"only": "a.weight"}, lambda name: name == "a.weight"),
    "except": ({"except_": ["fc.*", "*.bias"]}, lambda n: n[:2] != "fc" and n[-4:] != "bias"),
    "both": (
        {"only": "*.weight", "except_": "[ab].*"},
        lambda n: n[-6:] == "weight" and n[1] != ".",
    ),
    "all": ({"only": ["*"]}, lambda _: True),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("method", ["activations", "weights"])
def test_a_partial_average_is_the_whole_one_where_it_merges_and_the_first_parent_elsewhere(
    part: str, method: str
) -> None:
    options, chosen = PARTS[part]
    states, weights = [trained(1), trained(2), trained(3)], [0.5, 0.3, 0.2]
    how: dict[str, Any] = {"method": method, "recalibration": "none"}
    whole = dimat.merge(Net(), states, batches(), weights, **how).state
    found = dimat.merge(Net(), states, batches(), weights, **how, **options).state
    expected = {name: whole[name] if chosen(name) else states[0][name] for name in whole}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert any(not torch.equal(whole[name], states[0][name]) for name in whole if chosen(name))


@pytest.mark.parametrize("combine", ["average", "regression", "gram"])
def test_copies_in_other_orders_merge_in_part_into_the_first(combine: str) -> None:
    first = trained(1)
    states = [first, moved(first, 2), moved(first, 3)]
    found = dimat.merge(
        Net(), states, batches(), combine=combine, only=["a.*", "fc.*"], recalibration="none"
    )
    torch.testing.assert_close(outputs(found.state), outputs(first), rtol=1e-3, atol=1e-3)
    for name in ("stem.0.weight", "b.weight"):
        torch.testing.assert_close(found.state[name], first[name], rtol=0, atol=0)


def test_a_fitted_layer_is_fitted_to_the_kept_ones() -> None:
    """Of linear heads on the first one's trunk the least squares are the average of the heads."""
    states = [trained(1), trained(2)]
    how: dict[str, Any] = {"method": "identity", "recalibration": "none", "only": "fc.*"}
    found = dimat.merge(Net(), states, batches(), combine="regression", **how).state
    expected = dimat.merge(Net(), states, batches(), **how).state
    torch.testing.assert_close(outputs(found), outputs(expected), rtol=2e-2, atol=2e-2)


def test_statistics_of_norms_are_those_of_the_partly_merged_network() -> None:
    states = [trained(1), trained(2)]
    found = dimat.merge(Net(), states, batches(), only=["stem.0.*"]).state
    x = functional.conv2d(
        torch.cat(batches()), found["stem.0.weight"], found["stem.0.bias"], padding=1
    )
    torch.testing.assert_close(
        found["stem.1.running_mean"], x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )


def test_the_names_of_a_tied_tensor_are_kept_together() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert kept_entries(model, except_="2.weight") == {"0.weight", "2.weight"}
    assert kept_entries(model, only="2.weight") == {"0.bias", "2.bias"}
    states = [{k: v.clone() for k, v in model.state_dict().items()} for _ in range(2)]
    states[1] = {k: v + 1 for k, v in states[1].items()}
    found = dimat.merge(model, states, [torch.randn(9, 4)], method="identity", only="2.weight")
    torch.testing.assert_close(found.state["0.weight"], states[0]["0.weight"] + 0.5)
    torch.testing.assert_close(found.state["0.bias"], states[0]["0.bias"])


# --- heads -----------------------------------------------------------------------------------


def with_head(state: State, classes: int, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        **state,
        "fc.weight": torch.randn(classes, 5, generator=generator),
        "fc.bias": torch.randn(classes, generator=generator),
    }


@pytest.mark.parametrize("method", ["activations", "weights", "consistent"])
@pytest.mark.parametrize("combine", ["average", "regression", "gram"])
@pytest.mark.parametrize("classes", [(3, 4, 2), (4, 4, 4)])
def test_copies_of_one_trunk_keep_the_outputs_of_their_own_heads(
    method: str, combine: str, classes: tuple[int, ...]
) -> None:
    trunk = trained(1)
    heads = [with_head(trunk, own, seed=n) for n, own in enumerate(classes)]
    states = [moved(own, number + 5) for number, own in enumerate(heads)]
    found = dimat.merge(
        Net(classes[0]),
        states,
        batches(),
        method=method,
        combine=combine,
        heads="keep",
        except_="fc.*",
        recalibration="none",
    )
    assert len(found.heads) == len(states)
    for merged, parent in zip(found.heads, states, strict=True):
        torch.testing.assert_close(outputs(merged), outputs(parent), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(found.state, found.heads[0], rtol=0, atol=0)


def test_every_head_goes_with_one_trunk_and_moves_with_its_parents_units() -> None:
    states = [trained(1), with_head(trained(2), 5)]
    found = dimat.merge(Net(7), states, batches(), [0.4, 0.6], heads="keep")
    for own, parent in zip(found.aligned, states, strict=True):
        torch.testing.assert_close(outputs(own), outputs(parent), rtol=1e-4, atol=1e-5)
    first, second = found.heads
    for name in first:
        if name.startswith("fc."):
            torch.testing.assert_close(first[name], states[0][name], rtol=0, atol=0)
            torch.testing.assert_close(second[name], found.aligned[1][name], rtol=0, atol=0)
        else:
            torch.testing.assert_close(first[name], second[name])
    assert not torch.equal(second["fc.weight"], states[1]["fc.weight"])  # some units moved
    parts = [
        {**own, **{k: states[0][k] for k in ("fc.weight", "fc.bias")}} for own in found.aligned
    ]
    expected = dimat.merge(Net(), parts, batches(), [0.4, 0.6], method="identity").state
    torch.testing.assert_close(found.state, expected)


def test_a_head_does_not_change_the_match() -> None:
    """Trunks are matched as if they had no heads: another head, the same permutation."""
    a, b = trained(1), trained(2)
    for method in ("activations", "weights"):
        slots = [
            dimat.merge(Net(), [a, with_head(b, classes)], batches(), method=method, heads="keep")
            .matchings[1]
            .permutation.slots
            for classes in (4, 6)
        ]
        for name, own in slots[0].items():
            assert (own == slots[1][name]).all()


class Tokens(nn.Module):
    def __init__(self, words: int, classes: int = 3) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(words, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Any:
        return self.head(functional.relu(self.body(self.embed(x))))


def test_what_units_depend_on_is_no_head() -> None:
    states = [state_of(Tokens(words)) for words in (20, 30)]
    ids = torch.randint(20, (9, 4))
    with pytest.raises(StructureError, match=r"shape of 'embed\.weight', on which units depend"):
        dimat.merge(Tokens(20), states, [ids], heads="keep")
    found = dimat.merge(Tokens(20), [state_of(Tokens(20, n)) for n in (3, 5)], [ids], heads="keep")
    assert [len(own["head.bias"]) for own in found.heads] == [3, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["stm.*"]}, r"'only' has 'stm\.\*', which fits no entry of the model"),
        ({"except_": ["*"]}, "leave nothing to merge"),
        ({"only": "fc.*", "except_": "fc.*"}, "leave nothing to merge"),
        ({"only": 3}, "'only' is 3: must be a list of patterns"),
        ({"except_": [3]}, "'except_' has 3: patterns must be text"),
        ({"only": "fc.*", "combine": "repair"}, "keep the BatchNorm 'stem.1', and this combiner"),
        ({"only": "*.weight", "combine": "gram"}, "keep a part of the BatchNorm 'stem.1'"),
        ({"heads": "keep"}, "all have one shape: name them by 'except_'"),
        ({"heads": "drop"}, "'heads' is 'drop'"),
    ],
)
def test_parts_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dimat.merge(Net(), [trained(1), trained(2)], batches(), **options)


def test_heads_that_differ_are_refused_with_the_way_out() -> None:
    states = [trained(1), trained(2, classes=4)]
    with pytest.raises(StructureError, match=r"state 1 does not fit: 'fc\.weight'.*heads='keep'"):
        dimat.merge(Net(), states, batches())
    other = {key: own for key, own in states[1].items() if "stem" not in key}  # another network
    with pytest.raises(StructureError, match="it lacks") as caught:
        dimat.merge(Net(), [states[0], other], batches())
    assert "heads" not in str(caught.value)
    symmetry = dimat.find_symmetry(Net(), (batches()[0],))
    with pytest.raises(ConfigError, match="'symmetry' is of one head"):
        dimat.merge(Net(), states, batches(), method="weights", heads="keep", symmetry=symmetry)
    broken = {**states[1], "fc.bias": torch.full((4,), torch.nan)}
    with pytest.raises(StructureError, match=r"state 1: 'fc\.bias' has 4 values that are NaN"):
        dimat.merge(Net(), [states[0], broken], batches(), heads="keep")


# --- the command -----------------------------------------------------------------------------


COMMAND = "merge a.safetensors b.safetensors --model partial_nets:Net --data digits --images 90"


@pytest.fixture
def _in_a_folder_with_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    imports = "import typing\nfrom typing import Any\nfrom torch import Tensor, nn\n"
    own = inspect.getsource(Net)
    Path("partial_nets.py").write_text(f"{imports}from torch.nn import functional\n\n{own}")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, classes in (("a", 3), ("b", 3), ("c", 5)):
        save_state(trained(ord(name), classes), Path(f"{name}.safetensors"))


@pytest.mark.usefixtures("_in_a_folder_with_parents")
def test_the_command_merges_a_part_as_the_library_does(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--except", "fc.*", "stem.*", "--no-evaluate", "--threads", "1"]
    assert main([*COMMAND.split(), *options, "--out", "m.safetensors"]) == 0
    images = Samples(load_dataset("digits").train_x, Normalization(), 250, "cpu").sample(90, 0)
    expected = dimat.merge(
        Net(), ["a.safetensors", "b.safetensors"], images, except_=["fc.*", "stem.*"]
    )
    torch.testing.assert_close(load_file("m.safetensors"), expected.state, rtol=0, atol=0)
    assert "not merged, but parent 0's: 'fc.bias' and 8 more of 18" in capsys.readouterr().out
    told = json.loads(Path("m.json").read_text())
    assert told["settings"]["except_"] == ["fc.*", "stem.*"]


@pytest.mark.usefixtures("_in_a_folder_with_parents")
def test_the_command_writes_one_network_a_head(capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMAND.replace("b.s", "c.s").split()
    options = ["--heads", "keep", "--threads", "1", "--out", "m.safetensors"]
    assert main([*command, *options]) == 2
    assert "'heads' is 'keep': must be merge, unless --no-evaluate" in capsys.readouterr().err
    assert main([*command, *options, "--no-evaluate"]) == 0
    images = Samples(load_dataset("digits").train_x, Normalization(), 250, "cpu").sample(90, 0)
    found = dimat.merge(Net(), ["a.safetensors", "c.safetensors"], images, heads="keep")
    for number, expected in enumerate(found.heads):
        written = load_file(f"m-{number}.safetensors")
        torch.testing.assert_close(written, expected, rtol=0, atol=0)
    out = capsys.readouterr().out.splitlines()
    assert out[-3:] == [
        "merged state: m-0.safetensors", "merged state: m-1.safetensors", "report: m.json"
    ]  # fmt: skip
    assert {path.name for path in Path().iterdir() if path.name[0] in "m."} == {
        "m-0.safetensors", "m-1.safetensors", "m.json"
    }  # fmt: skip
    assert main([*command, *options, "--no-evaluate"]) == 2
    assert "m-0.safetensors exists: use another" in capsys.readouterr().err


@pytest.mark.usefixtures("_in_a_folder_with_parents")
def test_several_networks_are_written_all_or_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in Path().iterdir())

    def fail(state: State, path: Path) -> None:
        if path.name == "m-1.safetensors":
            raise OSError(28, "No space left on device")
        save_state(state, path)

    monkeypatch.setattr(write, "save_state", fail)
    command = [*COMMAND.replace("b.s", "c.s").split(), "--heads", "keep", "--no-evaluate"]
    assert main([*command, "--out", "m.safetensors"]) == 2
    assert "m.safetensors cannot be written: " in capsys.readouterr().err
    assert sorted(p.name for p in Path().iterdir() if p.name != "__pycache__") == before
