"""Networks of different width: padding keeps the function, and merging is over common parts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import dimat
from dimat.cli import main
from dimat.errors import ConfigError, StructureError
from dimat.matching.activations import Activations
from dimat.models import build_model
from dimat.models.cnn import CNN
from dimat.models.mlp import MLP
from dimat.state import State, save_state, state_of
from dimat.symmetry import analyze


def images(count: int = 60) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def drawn(model: nn.Module, seed: int) -> State:
    """A random state, whose statistics and biases are not those of an init."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for key, value in state_of(model).items():
        noise = torch.randn(value.shape, generator=random)
        own = noise.abs() + 0.5 if key.endswith(("running_var", "norm.weight")) else noise
        found[key] = own / max(value.shape[1:].numel(), 1) ** 0.5 if value.dim() else value
    return found


def outputs(model: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    wide = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    wide_x = x.double()
    twin = copy.deepcopy(model).eval().double()
    with torch.no_grad():
        found: Tensor = functional_call(twin, wide, (wide_x,), tie_weights=False)
    return found


class Flat(nn.Module):
    """Channels whose places are flattened, and a nonlinearity that is not 0 at 0."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, n, 3), nn.BatchNorm2d(n)
        self.b, self.c = nn.Linear(16 * n, n + 2), nn.Linear(n + 2, 3)

    def forward(self, x: Tensor) -> Any:
        return self.c(self.b(torch.sigmoid(self.norm(self.a(x))).flatten(1)).sigmoid())


class Joined(nn.Module):
    """Two branches whose channels stand on one axis, and depthwise convolution."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, a, 1), nn.Conv2d(1, b, 1)
        self.norm, self.depth = nn.BatchNorm2d(a + b), nn.Conv2d(a + b, a + b, 3, groups=a + b)
        self.c = nn.Linear(16 * (a + b), 3)

    def forward(self, x: Tensor) -> Any:
        x = torch.cat([self.a(x), self.b(x)], 1)
        return self.c(functional.softplus(self.depth(self.norm(x))).flatten(1))


class Attention(nn.Module):
    """Heads of attention on a stream of a fixed width."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.size, inner = size, heads * size
        self.norm = nn.LayerNorm(6)
        self.q, self.k, self.v = (nn.Linear(6, inner) for _ in range(3))
        self.o, self.c = nn.Linear(inner, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        x = x[:, 0]
        own = (
            layer(self.norm(x)).view(len(x), 6, -1, self.size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        seen = functional.scaled_dot_product_attention(*own).transpose(1, 2).flatten(2)
        return self.c((x + self.o(seen)).mean(1))


class Recurrent(nn.Module):
    """Gates whose units stand on one axis."""

    def __init__(self, kind: type[nn.RNNBase], n: int) -> None:
        super().__init__()
        self.a, self.c = kind(6, n, batch_first=True), nn.Linear(n, 3)

    def forward(self, x: Tensor) -> Any:
        return self.c(self.a(x[:, 0])[0][:, -1])


class Normed(nn.Module):
    """A norm over the units of a layer."""

    def __init__(self, n: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.a, self.norm, self.c = nn.Conv2d(1, n, 3), norm(n), nn.Linear(n, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.a(x).mean((2, 3))
        return self.c(self.norm(x))


def plain(n: int) -> nn.Module:
    """Two layers with a BatchNorm between them."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, n), nn.BatchNorm1d(n), nn.ReLU(), nn.Linear(n, 3)
    )


PAIRS: dict[str, tuple[nn.Module, nn.Module]] = {
    "mlp": (MLP(36, 3, 0.06), MLP(36, 3, 0.04)),
    "convolutions": (CNN(1, 3, 0.09), CNN(1, 3, 0.04)),
    "flattened places": (Flat(7), Flat(4)),
    "two groups on an axis": (Joined(5, 4), Joined(3, 4)),
    "heads": (Attention(4, 3), Attention(2, 3)),
    "lstm": (Recurrent(nn.LSTM, 7), Recurrent(nn.LSTM, 4)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_widened_network_computes_what_it_did(name: str) -> None:
    wide, narrow = PAIRS[name]
    state = drawn(narrow, 0)
    found = dimat.widen(wide, state, images(2))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in state_of(wide).items()}
    x = images()
    torch.testing.assert_close(
        outputs(wide, found, x), outputs(narrow, state, x), rtol=1e-12, atol=1e-12
    )
    for key, value in state.items():  # nothing is lost, and nothing but zeros and ones is added
        added = found[key].double().sum() - value.double().sum()
        extra = found[key].numel() - value.numel() if key.endswith("running_var") else 0
        torch.testing.assert_close(added, torch.tensor(float(extra), dtype=torch.float64))


@pytest.mark.parametrize(
    ("wide", "narrow", "why"),
    [
        (Normed(8, nn.LayerNorm), Normed(5, nn.LayerNorm), "'layer_norm' takes its statistics"),
        (Normed(8, lambda n: nn.Softmax(-1)), Normed(5, lambda n: nn.Softmax(-1)), "outputs"),
        (Attention(4, 3), Attention(2, 4), "cannot be run in its shapes"),
        (MLP(36, 3, 0.06), MLP(36, 2, 0.04), "'head.weight' axis 0 has size 2 there and 3"),
        (MLP(36, 3, 0.06), MLP(30, 3, 0.04), "'hidden1.weight' axis 1 has size 30 there and 36"),
        (MLP(36, 3, 0.04), MLP(36, 3, 0.06), "'hidden1.weight' has shape"),
    ],
)
def test_what_would_change_outputs_is_refused_with_the_reason(
    wide: nn.Module, narrow: nn.Module, why: str
) -> None:
    with pytest.raises(StructureError, match=why):
        dimat.widen(wide, state_of(narrow), images(2))


def test_a_network_whose_heads_are_smaller_is_refused_even_if_it_is_given() -> None:
    with pytest.raises(StructureError, match="heads are padded inside"):
        dimat.widen(Attention(4, 6), Attention(4, 4), images(2))


def test_merging_a_network_with_itself_widened_is_that_network() -> None:
    wide, narrow = plain(6), plain(4)
    state, x = drawn(narrow, 0), images()
    twin = dimat.widen(wide, state, x[:2])
    symmetry = dimat.find_symmetry(wide, x[:2])
    moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(0)), twin)
    for parents in ([moved, state], [state, moved]):
        merged = dimat.merge(wide, parents, [x], recalibration="none", widths="pad")
        torch.testing.assert_close(
            outputs(wide, merged.state, x), outputs(narrow, state, x), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("method", ["activations", "weights"])
def test_beside_silent_units_a_merge_is_one_of_narrow_networks_widened(method: str) -> None:
    wide, narrow = Flat(7), Flat(4)
    ours, noise, x = drawn(narrow, 0), drawn(narrow, 1), images()
    symmetry = dimat.find_symmetry(narrow, x[:2])
    theirs = symmetry.apply(
        symmetry.random(torch.Generator().manual_seed(0)),
        {key: 0.9 * own + 0.1 * noise[key] if own.dim() else own for key, own in ours.items()},
    )
    silent = dimat.widen(wide, ours, x[:2])
    small = dimat.merge(narrow, [ours, theirs], [x], method=method)
    large = dimat.merge(wide, [silent, theirs], [x], method=method, widths="pad")
    torch.testing.assert_close(
        outputs(wide, large.state, x), outputs(narrow, small.state, x), rtol=1e-5, atol=1e-5
    )


def test_a_permuted_narrow_network_is_brought_back_into_the_wide_one() -> None:
    wide, narrow = MLP(36, 3, 0.06), MLP(36, 3, 0.04)
    state, x = drawn(narrow, 0), images()
    symmetry = dimat.find_symmetry(narrow, x[:2])
    moved = symmetry.apply(symmetry.random(torch.Generator().manual_seed(0)), state)
    found = dimat.match(wide, dimat.widen(wide, state, x[:2]), moved, [x], widths="pad")
    own = found.similarities["hidden1"][: symmetry.groups[0].size]
    np.testing.assert_allclose(own[own > 0.01], 1.0, atol=1e-5)


def test_units_are_matched_as_by_a_rectangular_assignment() -> None:
    wide, narrow = MLP(36, 3, 0.06), MLP(36, 3, 0.04)
    ours, theirs, x = drawn(wide, 0), drawn(narrow, 1), images(200)
    padded, count = dimat.widen(wide, theirs, x[:2]), len(theirs["hidden1.bias"])
    analysis, matcher = analyze(wide, (x[:2],)), Activations()
    moments = matcher.measure(analysis, [ours, padded], [(0, 1)], [(x,)])[0, 1]
    found = dimat.match(wide, ours, theirs, [x], widths="pad").permutation.slots
    for name, score in matcher.scores(moments).items():
        real = score[:, :count]
        rows, columns = linear_sum_assignment(real, maximize=True)
        own = found[name][0]
        got = real[np.flatnonzero(own < count), own[own < count]].sum()
        dead = 1e-3 * (len(score) - count)  # what a unit that is dead here and there may win
        assert got == pytest.approx(real[rows, columns].sum(), abs=dead)


def test_a_unit_that_one_parent_has_reads_what_it_did_and_is_read_by_half() -> None:
    """Against a mean over dense arrays that is written out."""
    wide, narrow = MLP(36, 3, 3 / 128), MLP(36, 3, 2 / 128)
    ours, theirs, x = drawn(wide, 0), drawn(narrow, 1), images()
    merged = dimat.merge(wide, [ours, theirs], [x], (0.75, 0.25), method="identity", widths="pad")
    first, head = merged.state["hidden1.weight"], merged.state["head.weight"]
    common = 0.75 * ours["hidden1.weight"][:2] + 0.25 * theirs["hidden1.weight"]
    torch.testing.assert_close(first[:2], common)
    torch.testing.assert_close(first[2], ours["hidden1.weight"][2])
    torch.testing.assert_close(merged.state["hidden2.weight"][2], ours["hidden2.weight"][2])
    torch.testing.assert_close(merged.state["hidden2.bias"][2], ours["hidden2.bias"][2])
    read = merged.state["hidden2.weight"][:2, 2]
    torch.testing.assert_close(read, 0.75 * ours["hidden2.weight"][:2, 2])
    torch.testing.assert_close(head[:, 2], 0.75 * ours["head.weight"][:, 2])


@pytest.mark.parametrize("combine", ["average", "repair", "regression", "gram", "fisher"])
def test_the_order_of_parents_changes_no_function(combine: str) -> None:
    wide, narrow = MLP(36, 3, 0.06), MLP(36, 3, 0.04)
    ours, theirs, x = drawn(wide, 0), drawn(narrow, 1), images()
    found = []
    for number, parents in enumerate(([ours, theirs], [theirs, ours])):
        merged = dimat.merge(wide, parents, [x], combine=combine, method="weights", widths="pad")
        assert all(value.isfinite().all() for value in merged.state.values())
        assert merged.notes == (
            f"state {1 - number}: padded with silent units to the model's width",
        )
        found.append(outputs(wide, merged.state, x))
    if combine == "average":
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


class Summed(nn.Module):
    """Units that are summed without weights: zeros add nothing, other numbers do."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(36, n), nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Any:
        return self.c(self.a(x.flatten(1)).relu().sum(1, keepdim=True))


def test_silent_units_that_may_not_be_filled_stay_zero_and_a_note_says_so() -> None:
    wide, narrow, x = Summed(5), Summed(3), images()
    ours, theirs = drawn(wide, 0), drawn(narrow, 1)
    merged = dimat.merge(wide, [ours, theirs], [x], method="identity", widths="pad")
    assert "averaged as zeros" in merged.notes[0]
    torch.testing.assert_close(merged.state["a.weight"][3:], 0.5 * ours["a.weight"][3:])


def test_other_widths_are_refused_unless_asked_for_and_the_way_out_is_named() -> None:
    wide, narrow, x = plain(6), plain(4), images()
    parents = [state_of(wide), state_of(narrow)]
    with pytest.raises(StructureError, match=r"padded by widths='pad' \(--widths pad\)"):
        dimat.merge(wide, parents, [x])
    with pytest.raises(StructureError, match="the model is that of the widest parent"):
        dimat.merge(narrow, parents, [x], widths="pad")
    with pytest.raises(ConfigError, match="'widths' is 'wide'"):
        dimat.merge(wide, parents, [x], widths="wide")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'widths' is 'pad', and 'heads' is given"):
        dimat.merge(wide, parents, [x], widths="pad", heads="keep")
    with pytest.raises(ConfigError, match="nor units that were added"):
        dimat.merge(wide, parents, [x], widths="pad", continuous=True)


def test_parents_of_one_width_are_merged_as_ever() -> None:
    model, x = plain(6), images()
    parents = [drawn(model, 0), drawn(model, 1)]
    found = [dimat.merge(model, parents, [x], widths=own).state for own in ("same", "pad")]
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key])


def test_the_command_line_merges_a_wide_and_a_narrow_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, width in (("wide", 0.2), ("narrow", 0.1)):
        own = build_model("mlp", in_channels=1, num_classes=10, image_size=(8, 8), width=width)
        save_state(state_of(own), Path(f"{name}.safetensors"))
    command = "merge wide.safetensors narrow.safetensors --model mlp --width 0.2 --data digits"
    words = [*command.split(), "--images", "200", "--out", "merged.safetensors"]
    assert main(words) == 2
    assert "--widths pad" in capsys.readouterr().err
    assert main([*words, "--widths", "pad"]) == 0
    assert load_file("merged.safetensors")["hidden1.weight"].shape == (26, 64)
