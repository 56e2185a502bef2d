"""Models of the transformers library, built from small configurations without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dimat.symmetry import analyze, check_symmetry

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
SMALL = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
IMAGES = {"pixel_values": torch.zeros(2, 3, 8, 8)}
TOKENS = {"input_ids": torch.arange(10).reshape(2, 5)}


def vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=4, **SMALL)
    return transformers.ViTForImageClassification(config)  # type: ignore[no-any-return]


def bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=11, max_position_embeddings=8, **SMALL)
    return transformers.BertForSequenceClassification(config)  # type: ignore[no-any-return]


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3, use_cache=False
    )
    return transformers.GPT2LMHeadModel(config)  # type: ignore[no-any-return]


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=20, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)  # type: ignore[no-any-return]


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        hidden_sizes=[6, 8], depths=[1, 1], num_stages=2, image_size=8, patch_size=2, num_labels=4
    )
    return transformers.ConvNextForImageClassification(config)  # type: ignore[no-any-return]


def mixtral() -> nn.Module:
    config = transformers.MixtralConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=20, num_local_experts=2, use_cache=False,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)  # type: ignore[no-any-return]


# The residual stream, then per layer heads, QK, VO and the hidden units of the MLP.
PER_LAYER = [(1, 3), (3, 4), (3, 4), (1, 20)]
EXPECTED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], list[tuple[int, int]]]] = {
    "vit": (vit, IMAGES, [(1, 12), *PER_LAYER, *PER_LAYER]),
    # The pooler is one more hidden layer.
    "bert": (bert, TOKENS, [(1, 12), (1, 12), *PER_LAYER, *PER_LAYER]),
    "gpt2": (gpt2, TOKENS, [(1, 12), *(2 * [(1, 3), (3, 4), (3, 4), (1, 48)])]),
    # Rotary tables fix the QK dimensions; 2 key/value heads, 2 query heads inside each.
    "llama": (llama, TOKENS, [(1, 16), *(2 * [(1, 2), (2, 2), (2, 4), (1, 20)])]),
    # The stream of each stage, and the hidden units of its one block.
    "convnext": (convnext, IMAGES, [(1, 6), (1, 24), (1, 8), (1, 32)]),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_transformers_model_has_the_symmetry_worked_out_by_hand(name: str) -> None:
    build, inputs, groups = EXPECTED[name]
    torch.manual_seed(0)
    model = build().eval()
    analysis = analyze(model, (), inputs)
    assert analysis.distrusted == ()
    found = sorted((g.cells, g.size) for g in analysis.symmetry.groups)
    assert found == sorted(groups)
    check_symmetry(analysis.symmetry, model, (), inputs)


def test_a_mixture_of_experts_is_pinned_and_its_attention_is_free() -> None:
    torch.manual_seed(0)
    model = mixtral().eval()
    symmetry = analyze(model, (), TOKENS).symmetry
    assert any("grouped_mm" in pin.operator for pin in symmetry.pinned)  # an operator of its own
    assert sorted((g.cells, g.size) for g in symmetry.groups) == [(1, 2), (2, 2), (2, 4)]
    check_symmetry(symmetry, model, (), TOKENS)
