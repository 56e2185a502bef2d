"""Attention in its layouts: heads as blocks, QK and VO dimensions inside each head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.symmetry.zoo import Case, vectors
from torch import Tensor, nn
from torch.nn import functional

TOKENS, STREAM, HEADS, DIM = 5, 12, 3, 4
# The residual stream, the heads, QK and VO inside each head.
ATTENTION = ((1, STREAM), (1, HEADS), (HEADS, DIM), (HEADS, DIM))


def ordered(*groups: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(groups))


class Around(nn.Module):
    """An embedding before, a residual sum around, and a head after some layer."""

    def __init__(self, layer: nn.Module, stream: int = STREAM, residual: bool = True) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(7, stream), layer
        self.head, self.residual = nn.Linear(stream, 4), residual

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        y = self.layer(x)
        return self.head(x + y if self.residual else y)


class SelfMHA(nn.Module):
    """nn.MultiheadAttention on itself."""

    def __init__(self, mask: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(STREAM, HEADS, batch_first=True)
        self.mask = mask

    def forward(self, x: Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(TOKENS) if self.mask else None
        mask = mask.to(x.dtype) if mask is not None else None
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class Fused(nn.Module):
    """q, k and v from one linear, in one of three layouts."""

    def __init__(self, layout: str, fused_operator: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(STREAM, 3 * STREAM), nn.Linear(STREAM, STREAM)
        self.layout, self.fused_operator = layout, fused_operator

    def split(self, y: Tensor) -> Any:
        batch, tokens, _ = y.shape
        if self.layout == "3hd":
            return y.view(batch, tokens, 3, HEADS, DIM).permute(2, 0, 3, 1, 4).unbind(0)
        if self.layout == "h3d":
            z = y.view(batch, tokens, HEADS, 3, DIM).transpose(1, 2)
            return z[..., 0, :], z[..., 1, :], z[..., 2, :]
        parts = y.split(STREAM, -1)
        return [p.view(batch, tokens, HEADS, DIM).transpose(1, 2) for p in parts]

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.split(self.qkv(x))
        if self.fused_operator:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Separate(nn.Module):
    """q, k and v from three linears; causal, grouped, multi-query, rotary or with a bias table."""

    def __init__(self, heads: int, key_heads: int, dim: int, how: str = "") -> None:
        super().__init__()
        self.heads, self.key_heads, self.dim, self.how = heads, key_heads, dim, how
        self.q = nn.Linear(8, heads * dim)
        self.k = nn.Linear(8, key_heads * dim)
        self.v = nn.Linear(8, key_heads * dim)
        self.out = nn.Linear(heads * dim, 8)
        if how == "relative":
            self.table = nn.Parameter(torch.randn(2 * TOKENS - 1, heads))
            place = torch.arange(TOKENS)
            self.register_buffer("index", place[:, None] - place[None, :] + TOKENS - 1)

    def forward(self, x: Tensor) -> Any:
        q = self.q(x).unflatten(-1, (self.heads, self.dim)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (self.key_heads, self.dim)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.key_heads, self.dim)).transpose(1, 2)
        if self.how == "rotary":
            q, k = rotate(q), rotate(k)
        if self.how == "repeat":
            k, v = (y.repeat_interleave(self.heads // self.key_heads, 1) for y in (k, v))
        if self.how == "expand":
            k, v = (y.expand(-1, self.heads, -1, -1) for y in (k, v))
        bias = self.table[self.index].permute(2, 0, 1) if self.how == "relative" else None
        y = functional.scaled_dot_product_attention(
            q, k, v, bias, is_causal=self.how == "causal", enable_gqa=self.how == "gqa"
        )
        return self.out(y.transpose(1, 2).flatten(2))


def rotate(x: Tensor) -> Tensor:
    """Rotary embedding by a fixed table."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2]), 0.1 ** torch.arange(half)).to(x.dtype)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class ViT(nn.Module):
    """Patches, a class token, position embeddings, two encoder layers, a head on the token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, STREAM, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, STREAM))
        self.positions = nn.Parameter(torch.randn(1, 5, STREAM))
        self.layers = nn.Sequential(*(encoder_layer(norm_first=True)() for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(STREAM), nn.Linear(STREAM, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])


class Decoder(nn.Module):
    """nn.TransformerDecoderLayer with an embedded memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory = nn.Linear(7, STREAM), nn.Linear(6, STREAM)
        self.layer = nn.TransformerDecoderLayer(STREAM, HEADS, 20, batch_first=True)
        self.head = nn.Linear(STREAM, 4)

    def forward(self, x: Tensor, memory: Tensor) -> Any:
        return self.head(self.layer(self.embed(x), self.memory(memory)))


def encoder_layer(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: nn.TransformerEncoderLayer(STREAM, HEADS, 20, **settings)


def around(make: Callable[[], nn.Module], **settings: Any) -> Callable[[], nn.Module]:
    return lambda: Around(make(), **settings)


def separate(*sizes: Any) -> Callable[[], nn.Module]:
    return lambda: Around(Separate(*sizes), 8)


X = vectors(TOKENS, 7)
ENCODER = ordered(*ATTENTION, (1, 20))

# Everywhere only the bias of the last linear, 4 entries, cannot move.
ATTENTIONS = (
    Case("mha", around(SelfMHA), X, ordered(*ATTENTION), 4),
    Case("mha-masked", around(lambda: SelfMHA(mask=True)), X, ordered(*ATTENTION), 4),
    Case("encoder-layer", around(encoder_layer(batch_first=True), residual=False), X, ENCODER, 4),
    Case("encoder-layer-time-first", around(encoder_layer(), residual=False), X, ENCODER, 4),
    Case("encoder-layer-norm-first",
         around(encoder_layer(batch_first=True, norm_first=True, activation="gelu"),
                residual=False), X, ENCODER, 4),
    # Conservative: one packed projection takes q from the stream and k, v from the memory, and its
    # input axis is one axis: the two streams are permuted alike.
    Case("decoder-layer", Decoder,
         lambda: (torch.zeros(3, TOKENS, 7), torch.zeros(3, 6, 6)),
         ordered(*ATTENTION, *ATTENTION[1:], (1, 20)), 4),
    *(
        Case(f"fused-{layout}-{'sdpa' if fused else 'matmul'}",
             around(lambda layout=layout, fused=fused: Fused(layout, fused)),  # type: ignore[misc]
             X, ordered(*ATTENTION), 4)
        for layout in ("3hd", "h3d", "split")
        for fused in (True, False)
    ),
    Case("separate", separate(2, 2, 3), X, ordered((1, 8), (1, 2), (2, 3), (2, 3)), 4),
    Case("causal", separate(2, 2, 3, "causal"), X, ordered((1, 8), (1, 2), (2, 3), (2, 3)), 4),
    # 2 key/value heads with 2 query heads each: query heads permute inside their key head.
    Case("grouped-query", separate(4, 2, 3, "gqa"), X,
         ordered((1, 8), (1, 2), (2, 2), (2, 3), (2, 3)), 4),
    Case("grouped-query-repeated", separate(4, 2, 3, "repeat"), X,
         ordered((1, 8), (1, 2), (2, 2), (2, 3), (2, 3)), 4),
    # One key/value head: its dimensions are shared by all query heads.
    Case("multi-query", separate(4, 1, 3, "expand"), X,
         ordered((1, 8), (1, 4), (1, 3), (1, 3)), 4),
    # The table of angles fixes the QK dimensions inside every head.
    Case("rotary", separate(2, 2, 4, "rotary"), X, ordered((1, 8), (1, 2), (2, 4)), 4),
    # The integer index of 5 x 5 entries stays.
    Case("relative-positions", separate(2, 2, 3, "relative"), X,
         ordered((1, 8), (1, 2), (2, 3), (2, 3)), 4 + 25),
    Case("vit", ViT, vectors(3, 8, 8),
         ordered((1, STREAM), *(2 * ATTENTION[1:]), (1, 20), (1, 20)), 4),
)  # fmt: skip
