"""Small whole models, as papers have them: every axis that may move, worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tests.symmetry.zoo import Case, images, vectors
from tests.symmetry.zoo_attention import ATTENTION, ENCODER, STREAM, encoder_layer, ordered
from tests.symmetry.zoo_layers import Functional, lin, net, seq, tokens
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune


class Heads(nn.Module):
    """Two heads of three dimensions over a stream of eight, mixed in some way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.embed, self.head = nn.Linear(7, 8), nn.Linear(8, 4)
        self.q, self.k, self.v, self.out = (nn.Linear(*s) for s in ((8, 6),) * 3 + ((6, 8),))
        if how == "norm":
            self.q_norm, self.k_norm = nn.RMSNorm(3), nn.RMSNorm(3)
        if how == "cosine":
            self.scale = nn.Parameter(torch.randn(2, 1, 1))
        if how == "latent":
            self.down, self.k, self.v = nn.Linear(8, 5), nn.Linear(5, 6), nn.Linear(5, 6)
        if how == "talking":
            self.talk = nn.Linear(2, 3, bias=False)
            self.v, self.out = nn.Linear(8, 15), nn.Linear(15, 8)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25]), persistent=False)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.how == "linear":
            q, k = q.softmax(-1), k.softmax(-2)
            return torch.einsum("bhtd,bhde->bhte", q, torch.einsum("bhsd,bhse->bhde", k, v))
        if self.how == "norm":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.how == "cosine":
            q, k = (
                functional.normalize(q, dim=-1) * self.scale.exp(),
                functional.normalize(k, dim=-1),
            )
        scores = q @ k.mT
        if self.how == "talking":
            scores = self.talk(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.how == "slopes":
            place = torch.arange(5)
            far = (place[:, None] - place[None]).abs().to(q.dtype)
            scores = scores - self.slopes.to(q.dtype)[:, None, None] * far
        return scores.softmax(-1) @ v

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        y = self.down(x) if self.how == "latent" else x
        q, k, v = (
            z.unflatten(-1, (3 if z.shape[-1] == 15 else 2, -1)).transpose(1, 2)
            for z in (self.q(x), self.k(y), self.v(y))
        )
        return self.head(x + self.out(self.mix(q, k, v).transpose(1, 2).flatten(2)))


class Latents(nn.Module):
    """Learned queries attend to the input; their mean is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(7, 8), nn.Linear(8, 4)
        self.latents = nn.Parameter(torch.randn(4, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        x, own = self.embed(x), self.latents.expand(x.shape[0], -1, -1)
        return self.head((own + self.attention(own, x, x)[0]).mean(1))


class ThreeStreams(nn.Module):
    """nn.MultiheadAttention with everything switched on; its weights are returned too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(7, 12), nn.Linear(7, 6), nn.Linear(7, 5)
        self.attention = nn.MultiheadAttention(
            12, 3, kdim=6, vdim=5, add_bias_kv=True, add_zero_attn=True
        )
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        y, weights = self.attention(self.a(x), self.b(x), self.c(x))
        return self.head(y), weights


class EncoderDecoder(nn.Module):
    """nn.Transformer between two embeddings and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(7, STREAM), nn.Linear(6, STREAM)
        self.transformer = nn.Transformer(STREAM, 3, 1, 1, 20, batch_first=True)
        self.head = nn.Linear(STREAM, 4)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(4).to(x.dtype)
        z = self.transformer(self.source(x), self.target(y), tgt_mask=mask, tgt_is_causal=True)
        return self.head(z)


class Shared(nn.Module):
    """One encoder layer applied three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(7, STREAM), nn.Linear(STREAM, 4)
        self.layer = encoder_layer(batch_first=True)()

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        for _ in range(3):
            x = self.layer(x)
        return self.head(x)


class Llama(nn.Module):
    """RMSNorm, rotary grouped-query attention by complex numbers, SwiGLU, tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.n1, self.n2, self.n3 = nn.RMSNorm(8), nn.RMSNorm(8), nn.RMSNorm(8)
        self.q, self.o = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)
        self.k, self.v = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.gate, self.up = nn.Linear(8, 10, bias=False), nn.Linear(8, 10, bias=False)
        self.down = nn.Linear(10, 8, bias=False)
        angles = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1]))
        self.register_buffer("turn", torch.polar(torch.ones(5, 2), angles), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (2, 2)).contiguous())
        return torch.view_as_real(pairs * self.turn[:, None]).flatten(-2)

    def forward(self, index: Tensor) -> Any:
        x = self.embed(index)
        y = self.n1(x)
        q = self.rotate(self.q(y).unflatten(-1, (4, 4))).transpose(1, 2)
        k = self.rotate(self.k(y).unflatten(-1, (2, 4))).transpose(1, 2)
        v = self.v(y).unflatten(-1, (2, 4)).transpose(1, 2)
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(z.transpose(1, 2).flatten(2))
        y = self.n2(x)
        x = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return functional.linear(self.n3(x), self.embed.weight)


class Swin(nn.Module):
    """Attention in shifted windows of 2 x 2 places, with a relative-position bias table."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 4)
        self.n1, self.n2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.table = nn.Parameter(torch.randn(9, 2))
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None] + 1
        self.register_buffer("index", apart[0] * 3 + apart[1])

    def attend(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = x.roll((-1, -1), (1, 2)).view(batch, 2, 2, 2, 2, 8)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        q, k, v = self.qkv(x).view(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        x = ((q * 0.5) @ k.mT + bias).softmax(-1) @ v
        x = self.out(x.transpose(1, 2).reshape(-1, 4, 8))
        x = x.view(batch, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(batch, 4, 4, 8)
        return x.roll((1, 1), (1, 2))

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).permute(0, 2, 3, 1)
        x = x + self.attend(self.n1(x))
        x = x + self.down(functional.gelu(self.up(self.n2(x))))
        return self.head(x.mean((1, 2)))


class ConvNeXt(nn.Module):
    """A depthwise convolution, a norm and two layers with the channels last, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 24), nn.Linear(24, 6)
        self.gamma, self.head = nn.Parameter(torch.full((6,), 1e-6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.up(self.norm(self.deep(x).permute(0, 2, 3, 1)))
        x = x + (self.gamma * self.down(functional.gelu(y))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class Inverted(nn.Module):
    """An inverted residual with squeeze-and-excite, as in MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.Hardswish
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), act())
        self.up = nn.Sequential(nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12), act())
        self.deep = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), act()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 3, 1), nn.ReLU(), nn.Conv2d(3, 12, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip
        self.down = nn.Sequential(nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.deep(self.up(x))
        return self.head((x + self.down(y * self.gate(y))).mean((2, 3)))


class Diffusion(nn.Module):
    """A U-Net with group norms, a time embedding and attention at the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.t1, self.t2, self.t3 = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 8)
        self.c1, self.c2, self.c3 = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.n1, self.n2, self.n3 = nn.GroupNorm(4, 8), nn.GroupNorm(2, 8), nn.GroupNorm(2, 6)
        self.down, self.qkv, self.out = (
            nn.Conv2d(8, 6, 2, 2),
            nn.Conv2d(6, 18, 1),
            nn.Conv2d(6, 6, 1),
        )
        self.up, self.last = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor, time: Tensor) -> Any:
        angles = time[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
        t = self.t2(functional.silu(self.t1(torch.cat([angles.sin(), angles.cos()], -1))))
        x = self.c1(x)
        y = self.c2(functional.silu(self.n1(x))) + self.t3(functional.silu(t))[..., None, None]
        x = x + self.c3(functional.silu(self.n2(y)))
        y = self.down(x)
        q, k, v = self.qkv(self.n3(y)).flatten(2).chunk(3, 1)
        y = y + self.out((v @ (q.mT @ k).softmax(-1).mT).view(y.shape))
        return self.last(torch.cat([self.up(y), x], 1))


class DenseNet(nn.Module):
    """Batch norms over concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.n1, self.n2, self.n3 = (nn.BatchNorm2d(n) for n in (4, 7, 10))
        self.c1, self.c2, self.c3 = nn.Conv2d(4, 3, 1), nn.Conv2d(7, 3, 1), nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = torch.cat([x, self.c1(self.n1(x).relu())], 1)
        x = torch.cat([x, self.c2(self.n2(x).relu())], 1)
        return self.head(functional.avg_pool2d(self.c3(self.n3(x).relu()), 4).flatten(1))


class Slots(nn.Module):
    """Slots compete for tokens; a GRU cell updates each."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(4, 8))
        self.q, self.k, self.v = nn.Linear(8, 6), nn.Linear(7, 6), nn.Linear(7, 5)
        self.cell, self.head = nn.GRUCell(5, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        slots = self.slots.expand(x.shape[0], -1, -1)
        for _ in range(2):
            share = (self.k(x) @ self.q(slots).mT).softmax(-1)
            share = share / share.sum(1, keepdim=True)
            update = share.mT @ self.v(x)
            slots = self.cell(update.flatten(0, 1), slots.flatten(0, 1)).view(slots.shape)
        return self.head(slots.amax(1))


class Spectral(nn.Module):
    """A filter in the frequencies of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1)
        self.filter = nn.Parameter(torch.randn(5, 4, 3, 2))

    def forward(self, x: Tensor) -> Any:
        y = torch.fft.rfft2(self.a(x), norm="ortho") * torch.view_as_complex(self.filter)
        return self.b(torch.fft.irfft2(y, s=(4, 4), norm="ortho"))


class LearnedState(nn.Module):
    """An LSTM without biases from learned initial states; both final states are read."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(7, 6, 2, bias=False, batch_first=True)
        if stacked:
            self.both = nn.Parameter(torch.randn(2, 1, 6))
        else:
            self.one, self.two = nn.Parameter(torch.randn(1, 6)), nn.Parameter(torch.randn(1, 6))
        self.stacked, self.head = stacked, nn.Linear(18, 4)

    def forward(self, x: Tensor) -> Any:
        start = self.both if self.stacked else torch.stack([self.one, self.two])
        start = start.expand(-1, x.shape[0], -1).contiguous()
        y, (h, c) = self.lstm(x, (start, start.tanh()))
        return self.head(torch.cat([y[:, -1], h[0], c[1]], -1))


@dataclass
class Answer:
    """What a model returns."""

    logits: Tensor
    hidden: Tensor | None = None


torch.export.register_dataclass(Answer, serialized_type_name="tests.symmetry.Answer")


class Keyword(nn.Module):
    """Keyword inputs, a dataclass output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, *, scale: Tensor, context: Tensor | None = None) -> Answer:
        y = self.a(x) * scale
        if context is not None:
            y = y + self.b(context)
        return Answer(self.c(y.relu()))


def attention_by_einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = (torch.einsum("btc,chd->bhtd", x, w) for w in (m.q, m.k, m.v))
    y = torch.einsum("bhtd,bhsd->bhts", q, k).softmax(-1) @ v
    return torch.einsum("bhtd,hdc->btc", y, m.o)


def stacked_experts(m: Any, x: Tensor) -> Tensor:
    share = (x @ m.gate).softmax(-1)
    hidden = torch.einsum("bi,eih->beh", x, m.into).relu()
    return torch.einsum("be,beh,eho->bo", share, hidden, m.out)


def sparse_experts(m: Any, x: Tensor) -> Tensor:
    best, which = m.gate(x).topk(1, -1)
    share = torch.zeros_like(m.gate(x)).scatter(-1, which, best.sigmoid())
    return share[:, :1] * m.one(x) + share[:, 1:] * m.two(x)  # type: ignore[no-any-return]


def checkpointed(m: Any, x: Tensor) -> Tensor:
    y: Tensor = torch.utils.checkpoint.checkpoint(m.b, m.a(x).relu(), use_reentrant=False)
    return m.c(y)  # type: ignore[no-any-return]


def pruned() -> nn.Module:
    model = seq(lin(3, 5), nn.ReLU, lin(5, 4))()
    prune.random_unstructured(model.get_submodule("0"), "weight", 0.4)
    return model


TWO = ordered((1, 8), (1, 2), (2, 3), (2, 3))
EXPERT = seq(lin(3, 5), nn.ReLU, lin(5, 4))
T = vectors(5, 7)

# Where nothing else is said, only the bias of the last layer cannot move.
MODELS = (
    Case("linear-attention", lambda: Heads("linear"), T, TWO, 4),
    Case("cosine-attention", lambda: Heads("cosine"), T, TWO, 4),
    # One norm for all heads: QK dimensions are permuted alike in every head.
    Case("normed-queries", lambda: Heads("norm"), T, ordered((1, 8), (1, 2), (1, 3), (2, 3)), 4),
    Case("latent-keys", lambda: Heads("latent"), T, ordered((1, 5), *TWO), 4),
    # Two heads of QK become three of VO.
    Case("talking-heads", lambda: Heads("talking"), T,
         ordered((1, 8), (1, 2), (2, 3), (1, 3), (3, 5)), 4),
    # Every head has a slope of its own, which is no parameter: heads stay, but not their insides.
    Case("sloped-heads", lambda: Heads("slopes"), T, ordered((1, 8), *[(1, 3)] * 4), 4),
    # Conservative: q reads the latents and k, v the input by one packed projection.
    Case("latents", Latents, T, ordered((1, 4), (1, 8), (1, 2), (2, 4), (2, 4)), 4),
    # Query, key and value streams, and the output's.
    Case("three-streams", ThreeStreams, T,
         ordered((1, 12), (1, 6), (1, 5), (1, 12), (1, 3), (3, 4), (3, 4)), 4),
    Case("encoder-decoder", EncoderDecoder,
         lambda: (torch.zeros(3, 5, 7), torch.zeros(3, 4, 6)),
         ordered(*ATTENTION, *2 * ATTENTION[1:], (1, 20), (1, 20)), 4),
    Case("one-layer-thrice", Shared, T, ENCODER, 4),
    # Angles differ from pair to pair of QK dimensions: they stay.
    Case("llama", Llama, tokens(5), ordered((1, 8), (1, 2), (2, 2), (2, 4), (1, 10)), 0),
    # The integer index of 4 x 4 entries stays.
    Case("swin", Swin, images(size=4), ordered((1, 8), (1, 2), (2, 4), (2, 4), (1, 16)), 4 + 16),
    Case("convnext", ConvNeXt, images(size=4), ((1, 6), (1, 24)), 4),
    Case("inverted-residual", Inverted, images(size=4), ((1, 3), (1, 4), (1, 12)), 4 + 4),
    # The stream in 4 groups of 2, the inner one in 2 of 4, the bottom in 2 of 3.
    Case("diffusion", Diffusion, lambda: (torch.zeros(3, 3, 4, 4), torch.zeros(3)),
         ordered((1, 4), (4, 2), (1, 2), (2, 4), (1, 2), (2, 3), (1, 6), (1, 6), (1, 4),
                 (1, 5), (1, 6)), 3),
    Case("dense-net", DenseNet, images(size=4), ((1, 3), (1, 3), (1, 4), (1, 5)), 4 + 3),
    Case("slots", Slots, T, ((1, 4), (1, 5), (1, 6), (1, 8)), 4),
    Case("frequencies", Spectral, images(size=4), ((1, 5),), 4),
    Case("gru-both-ways", net(lambda m, x: m.o(m.l(x)[0]), o=lin(12, 3),
                              l=lambda: nn.GRU(7, 6, 2, bidirectional=True)), T, ((1, 6),) * 4, 3),
    Case("learned-states", lambda: LearnedState(False), T, ((1, 6), (1, 6)), 4),
    # One parameter holds both layers' states: each of its two rows moves with its own layer.
    Case("learned-states-stacked", lambda: LearnedState(True), T, ((1, 6), (1, 6)), 4),
    Case("attention-by-einsum",
         lambda: Functional(attention_by_einsum, q=(8, 2, 3), k=(8, 2, 3), v=(8, 2, 3),
                            o=(2, 3, 4)), vectors(5, 8), ordered((1, 2), (2, 3), (2, 3)), 0),
    Case("stacked-experts",
         lambda: Functional(stacked_experts, gate=(3, 2), into=(2, 3, 5), out=(2, 5, 4)),
         vectors(3), ((1, 2), (2, 5)), 0),
    # The gate (2 x 3 + 2) and the experts' output biases stay.
    Case("sparse-experts", net(sparse_experts, gate=lin(3, 2), one=EXPERT, two=EXPERT),
         vectors(3), ((1, 5), (1, 5)), 8 + 8),
    Case("keyword-and-dataclass", Keyword, vectors(3), ((1, 5),), 2,
         lambda: {"scale": torch.zeros(3, 1), "context": torch.zeros(3, 4)}),
    Case("bfloat16-encoder", lambda: Shared().bfloat16(),
         lambda: (torch.zeros(3, 5, 7).bfloat16(),), ENCODER, 4),
    # The gain of the second lies on its input axis.
    Case("weight-norm-convolutions",
         seq(lambda: parametrizations.weight_norm(nn.Conv2d(3, 5, 3)), nn.ReLU,
             lambda: parametrizations.weight_norm(nn.Conv2d(5, 4, 1), dim=1)),
         images(size=4), ((1, 5),), 4),
    # Singular vectors: 3 x 9 entries on the input's side, 4 on the output's.
    Case("spectral-norm-convolutions",
         seq(lambda: parametrizations.spectral_norm(nn.Conv2d(3, 5, 3)), nn.ReLU,
             lambda: parametrizations.spectral_norm(nn.Conv2d(5, 4, 2))),
         images(size=5), ((1, 5),), 4 + 27 + 4),
    Case("pruned", pruned, vectors(3), ((1, 5),), 4),
    Case("checkpointed", net(checkpointed, a=lin(3, 5), b=lin(5, 6), c=lin(6, 4)), vectors(3),
         ((1, 5), (1, 6)), 4),
)  # fmt: skip
