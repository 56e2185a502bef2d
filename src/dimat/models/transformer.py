"""A small transformer for tokens: one output for a text, or one for each of its places."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_HEADS = 4
_DEPTH = 2
_UNSEEN = -1e4  # added to the score of a place that is not looked at; exp of it is 0 in float32


class Transformer(nn.Module):
    """Two blocks of attention (4 heads) and a hidden layer, 64 channels times width, norm first.

    Args:
        num_tokens: Number of tokens.
        num_outputs: Width of the output.
        length: Places of a text, at most.
        width: Multiplier of the channels, > 0.
        places: Whether every place has an output, which depends on it and those before it only;
            otherwise the mean over places has one.
        padding: The token that only fills a text up, which is not looked at; None: there is none.

    References:
        Vaswani et al., "Attention Is All You Need", 2017.
    """

    def __init__(
        self,
        num_tokens: int,
        num_outputs: int,
        length: int,
        width: float = 1.0,
        *,
        places: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        channels = _HEADS * max(1, round(16 * width))
        self.places, self.padding = places, padding
        self.embedding = nn.Embedding(num_tokens, channels)
        self.positions = nn.Parameter(0.02 * torch.randn(length, channels))
        self.blocks = nn.ModuleList(TransformerBlock(channels) for _ in range(_DEPTH))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, num_outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Outputs (batch, num_outputs), or (batch, length, num_outputs), of (batch, length) ids."""
        seen = None if self.padding is None else ids != self.padding
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        mask = self._mask(ids, seen, x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if not self.places:
            x = x.mean(1) if seen is None else _mean(x, seen)
        outputs: Tensor = self.head(x)
        return outputs

    def _mask(self, ids: Tensor, seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores, (length, length) or (batch, 1, 1, length)."""
        if self.places:  # padding stands behind all that has a target, and is not seen from there
            length = ids.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        elif seen is not None:
            mask = seen[:, None, None, :]
        else:
            return None
        return _UNSEEN * (~mask).to(dtype)


def _mean(x: Tensor, seen: Tensor) -> Tensor:
    """The mean over the places that are seen; 0 where none is."""
    weights = seen.to(x.dtype)[:, :, None]
    return (x * weights).sum(1) / weights.sum(1).clamp_min(1)


class TransformerBlock(nn.Module):
    """Attention and a hidden layer of four times the channels, each added to what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels) for _ in range(4)
        )
        self.hidden = nn.Linear(channels, 4 * channels)
        self.contract = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, length, channels), as it comes in; ``mask`` is added to the scores."""
        y = self.norm1(x)
        query, key, value = (
            own(y).unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for own in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(query, key, value, mask)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.hidden(self.norm2(x)))
        added: Tensor = x + self.contract(hidden)
        return added
