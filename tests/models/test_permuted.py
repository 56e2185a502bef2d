"""A permuted copy of a model merges with it to the model itself: of each kind of network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiers import slow
from torch import Tensor, nn
from torch.func import functional_call

import dimat
from dimat.errors import ModelError
from dimat.models import build_for_input

HIDDEN = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**HIDDEN, "max_position_embeddings": 16},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16},
    "vit": {**HIDDEN, "patch_size": 4},
    "segformer": {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "hidden_sizes": [8, 16],
        "num_attention_heads": [1, 2],
        "sr_ratios": [2, 1],
        "patch_sizes": [3, 3],
        "strides": [2, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 8,
    },
}


def texts() -> Tensor:
    return torch.randint(1, 11, (8, 7), generator=torch.Generator().manual_seed(1))


def padded() -> Tensor:
    ids = texts()
    ids[::2, 4:] = 0
    return ids


def pictures(*size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1))


def table() -> Tensor:
    return 1000 * torch.randn(16, 5, generator=torch.Generator().manual_seed(1)) + 3000


def folder(place: Path, kind: str) -> str:
    """A folder with the configuration of a model of transformers."""
    (place / "config.json").write_text(json.dumps({"model_type": kind, **CONFIGS[kind]}))
    return f"hf:{place}"


def built(name: str, x: Tensor, outputs: int, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_for_input(name, (1, *x.shape[1:]), outputs, **settings)


def check_merge(model: nn.Module, x: Tensor, matcher: str = "weights") -> None:
    """Merge a model with its permuted copy, and compare what comes out."""
    symmetry = dimat.find_symmetry(model, x)
    assert symmetry.coverage > 0.9
    ours = {key: own.clone() for key, own in model.state_dict().items()}
    theirs = symmetry.apply(symmetry.random(torch.Generator().manual_seed(3)), ours)
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)
    model.eval()
    found = dimat.merge(
        model, [ours, theirs], [x], method=matcher, recalibration="none", symmetry=symmetry
    )
    with torch.no_grad():
        before, after = (
            functional_call(model, state, (x,), tie_weights=False) for state in (ours, found.state)
        )
    scale = before.abs().max()
    torch.testing.assert_close(after / scale, before / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "x", "outputs", "settings"),
    [
        ("mlp", table, 3, {}),
        ("transformer", texts, 3, {"num_tokens": 11}),
        slow("transformer", padded, 3, {"num_tokens": 11, "padding": 0}),
        ("transformer", padded, 11, {"num_tokens": 11, "padding": 0, "places": True}),
        ("unet", pictures(9, 13), 4, {"places": True}),
        slow("unet", pictures(8, 8), 4, {"places": True, "norm": "group"}),
        slow("resnet50", pictures(8, 8), 3, {}),
    ],
)
def test_a_permuted_copy_merges_to_the_model_itself(
    name: str, x: Callable[[], Tensor], outputs: int, settings: dict[str, Any]
) -> None:
    width = 1 / 16 if name == "resnet50" else 0.25
    check_merge(built(name, x(), outputs, width=width, **settings), x())


@pytest.mark.parametrize(
    ("kind", "x", "outputs", "settings"),
    [
        slow("bert", padded, 3, {"num_tokens": 11, "padding": 0}),
        slow("gpt2", padded, 11, {"num_tokens": 11, "padding": 0, "places": True}),
        slow("vit", pictures(8, 8), 3, {}),
        slow("segformer", pictures(16, 16), 3, {"places": True}),
    ],
)
def test_a_permuted_copy_of_a_model_of_transformers_does(
    tmp_path: Path, kind: str, x: Callable[[], Tensor], outputs: int, settings: dict[str, Any]
) -> None:
    pytest.importorskip("transformers")
    check_merge(built(folder(tmp_path, kind), x(), outputs, **settings), x())


def test_padding_changes_nothing_of_what_a_text_gives() -> None:
    short = texts()[:, :4]
    filled = torch.cat([short, torch.zeros(8, 3, dtype=torch.int64)], 1)
    model = built("transformer", filled, 3, num_tokens=11, padding=0)
    torch.testing.assert_close(model(filled), model(short))
    every = model(torch.zeros(2, 7, dtype=torch.int64))
    assert every.isfinite().all()


def test_with_an_output_for_each_place_a_token_sees_none_behind_it() -> None:
    x = texts()
    model = built("transformer", x, 11, num_tokens=11, places=True)
    other = x.clone()
    other[:, 4:] = 1
    torch.testing.assert_close(model(x)[:, :4], model(other)[:, :4])
    assert not torch.equal(model(x)[:, 4:], model(other)[:, 4:])
    assert model(x).shape == (8, 7, 11)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (16, 9)])
def test_a_unet_has_an_output_for_every_pixel(size: tuple[int, int]) -> None:
    x = pictures(*size)()
    assert built("unet", x, 6, places=True)(x).shape == (4, 6, *size)


def test_resnet50_has_as_many_parameters_as_torchvisions() -> None:
    with torch.device("meta"):
        model = build_for_input("resnet50", (1, 3, 224, 224), 1000)
    assert sum(own.numel() for own in model.parameters()) == 25_557_032


def test_a_table_of_any_scale_comes_in_alike() -> None:
    x = table()
    model = built("mlp", x, 3)
    with torch.no_grad():
        small, large = model(x), model(x * 1000 - 77)
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "shape", "settings", "message"),
    [
        ("transformer", (1, 3, 8, 8), {}, "takes texts, whole numbers .ids of tokens."),
        ("cnn", (1, 7), {"num_tokens": 5}, "takes no tokens .whole numbers.: give transformer"),
        ("hf:gpt2", (1, 3, 8, 8), {}, "cannot be built: ValueError: Unrecognized configuration"),
        ("hf:/nowhere/at/all", (1, 7), {"num_tokens": 5}, "a folder with a config.json, or"),
    ],
)
def test_what_a_model_does_not_take_is_refused(
    name: str,
    shape: tuple[int, ...],
    settings: Any,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=message):
        build_for_input(name, shape, 3, **settings)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package, extra in (("timm", "timm"), ("transformers", "transformers")):
        monkeypatch.setitem(sys.modules, package, None)
        prefix = "hf" if package == "transformers" else package
        with pytest.raises(ModelError, match=rf'needs pip install "dimat\[{extra}\]"'):
            build_for_input(f"{prefix}:x", (1, 3, 8, 8), 3)
