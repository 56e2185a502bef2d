"""Layers and small networks: every axis that may move, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.symmetry.zoo import Case, Lambda, images, vectors
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

Forward = Callable[..., Any]


def net(forward: Forward, **modules: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A network of named modules, made anew at every call."""
    return lambda: Lambda(forward, **{name: make() for name, make in modules.items()})


def conv(i: int, o: int, k: int = 1, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(i, o, k, **settings)


def lin(i: int, o: int, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(i, o, **settings)


def seq(*makes: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(make() for make in makes))


def tokens(*shape: int, most: int = 11) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.arange(3 * shape[0]).reshape(3, *shape) % most,)


class Functional(nn.Module):
    """Parameters on the module itself, used functionally."""

    def __init__(self, forward: Forward, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = forward
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Normalized(nn.Module):
    """Frozen buffers: one on the input axis, one on a hidden axis."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 6), nn.Linear(6, 4)
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("scale", torch.rand(6))

    def forward(self, x: Tensor) -> Any:
        return self.fc2(self.fc1(x - self.mean).relu() * self.scale)


def dense_block(m: Any, x: Tensor) -> Tensor:
    a = m.c1(x).relu()
    b = torch.cat([a, m.c2(a).relu()], 1)
    return m.head(torch.cat([b, m.c3(b).relu()], 1))  # type: ignore[no-any-return]


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x).relu()
    gate = m.up(m.down(y.mean((2, 3))).relu()).sigmoid()
    return m.head(y * gate[:, :, None, None])  # type: ignore[no-any-return]


def overwrite(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    y[:, :2] = y[:, 2:4] * 2
    return m.b(y)  # type: ignore[no-any-return]


def interleaved(m: Any, x: Tensor) -> Tensor:
    y = x.new_zeros(3, 10)
    y[:, ::2], y[:, 1::2] = m.a(x), m.b(x)
    return m.c(y)  # type: ignore[no-any-return]


def experts(m: Any, x: Tensor) -> Tensor:
    gate = m.gate(x).softmax(-1)
    return gate[:, :1] * m.one(x) + gate[:, 1:] * m.two(x)  # type: ignore[no-any-return]


def heads_after_group_norm(m: Any, x: Tensor) -> Tensor:
    a, b = m.norm(m.conv(x)).chunk(2, 1)
    q, v = (y.reshape(3, 2, 4, 16) for y in (a, b))
    mixed = (q.transpose(2, 3) @ q).softmax(-1) @ v.transpose(2, 3)
    return m.head(mixed.transpose(1, 2).reshape(3, 16, 8))  # type: ignore[no-any-return]


EXPERT = seq(lin(3, 5), nn.ReLU, lin(5, 4))
HALF = seq(lin(3, 8), nn.ReLU, lin(8, 2))

LAYERS = (
    Case("conv1d", seq(lambda: nn.Conv1d(3, 5, 3), nn.ReLU, lambda: nn.Conv1d(5, 4, 1)),
         vectors(3, 9), ((1, 5),), 4),
    Case("conv3d", seq(lambda: nn.Conv3d(3, 5, 2), nn.ReLU, lambda: nn.Conv3d(5, 4, 1)),
         vectors(3, 4, 4, 4), ((1, 5),), 4),
    Case("transposed", seq(lambda: nn.ConvTranspose2d(3, 5, 2), nn.ReLU, conv(5, 4)),
         images(size=4), ((1, 5),), 4),
    Case("grouped", seq(conv(3, 8), nn.ReLU, conv(8, 6, 3, groups=2), nn.ReLU, conv(6, 4)),
         images(size=5), ((1, 2), (2, 3), (2, 4)), 4),
    Case("grouped-transposed",
         seq(conv(3, 8), nn.ReLU, lambda: nn.ConvTranspose2d(8, 6, 2, groups=2), conv(6, 4)),
         images(size=4), ((1, 2), (2, 3), (2, 4)), 4),
    Case("depthwise", seq(conv(3, 5), nn.ReLU, conv(5, 5, 3, groups=5), nn.ReLU, conv(5, 4)),
         images(size=4), ((1, 5),), 4),
    Case("bilinear", net(lambda m, x: m.c(m.a(x), m.b(x)), a=lin(3, 5), b=lin(3, 6),
                         c=lambda: nn.Bilinear(5, 6, 4)), vectors(3), ((1, 5), (1, 6)), 4),
    Case("embedding", seq(lambda: nn.Embedding(11, 6), lin(6, 4)), tokens(5), ((1, 6),), 4),
    Case("tied-embedding",
         net(lambda m, i: functional.linear(m.e(i) + m.f(m.e(i)).relu(), m.e.weight),
             e=lambda: nn.Embedding(11, 6), f=lin(6, 6)), tokens(5), ((1, 6),), 0),
    Case("tied-autoencoder", net(lambda m, x: functional.linear(m.f(x).relu(), m.f.weight.t()),
                                 f=lin(4, 6)), vectors(4), ((1, 6),), 0),
    Case("layer-norm", seq(lin(3, 6), lambda: nn.LayerNorm(6), nn.GELU, lin(6, 4)),
         vectors(3), ((1, 6),), 4),
    Case("rms-norm", seq(lin(3, 6), lambda: nn.RMSNorm(6), nn.SiLU, lin(6, 4)),
         vectors(3), ((1, 6),), 4),
    Case("instance-norm", seq(conv(3, 5), lambda: nn.InstanceNorm2d(5, affine=True), nn.ReLU,
                              conv(5, 4)), images(size=4), ((1, 5),), 4),
    # Its statistics are written in place, by the operator itself; the counter stays.
    Case("instance-norm-with-statistics",
         seq(lambda: nn.Conv1d(3, 5, 1),
             lambda: nn.InstanceNorm1d(5, affine=True, track_running_stats=True), nn.ReLU,
             lambda: nn.Conv1d(5, 4, 1)), vectors(3, 6), ((1, 5),), 4 + 1),
    # The forward pass writes the parameter.
    Case("embedding-with-a-maximal-norm", seq(lambda: nn.Embedding(11, 6, max_norm=0.5), lin(6, 4)),
         tokens(2), ((1, 6),), 4),
    Case("group-norm", seq(conv(3, 8), lambda: nn.GroupNorm(2, 8), nn.ReLU, conv(8, 4)),
         images(size=4), ((1, 2), (2, 4)), 4),
    Case("prelu-per-channel", seq(conv(3, 5), lambda: nn.PReLU(5), conv(5, 4)),
         images(size=4), ((1, 5),), 4),
    Case("pool-interpolate-pad",
         seq(conv(3, 5, 3), lambda: nn.MaxPool2d(2), lambda: nn.Upsample(scale_factor=2),
             lambda: nn.ReflectionPad2d(1), lambda: nn.AvgPool2d(2),
             lambda: nn.AdaptiveAvgPool2d(2), lambda: nn.Dropout2d(), conv(5, 4)),
         images(), ((1, 5),), 4),
    Case("dense-block", net(dense_block, c1=conv(3, 4), c2=conv(4, 5), c3=conv(9, 6),
                            head=conv(15, 4)), images(size=4), ((1, 4), (1, 5), (1, 6)), 4),
    Case("u-net",
         net(lambda m, x: m.out(torch.cat([m.up(m.mid(m.down(x)).relu()), m.down(x)], 1)),
             down=conv(3, 4), mid=conv(4, 6, 2, stride=2), out=conv(9, 3),
             up=lambda: nn.ConvTranspose2d(6, 5, 2, 2)),
         images(size=4), ((1, 4), (1, 5), (1, 6)), 3),
    Case("glu", seq(lin(3, 10), nn.GLU, lin(5, 4)), vectors(3), ((1, 5),), 4),
    Case("chunk-gate",
         net(lambda m, x: m.b(m.a(x).chunk(2, -1)[0] * m.a(x).chunk(2, -1)[1].sigmoid()),
             a=lin(3, 10), b=lin(5, 4)), vectors(3), ((1, 5),), 4),
    Case("swiglu",
         net(lambda m, x: m.head(m.e(x) + m.down(functional.silu(m.gate(m.e(x))) * m.up(m.e(x)))),
             e=lin(3, 6), gate=lin(6, 8), up=lin(6, 8), down=lin(8, 6), head=lin(6, 4)),
         vectors(3), ((1, 6), (1, 8)), 4),
    Case("uneven-split",
         net(lambda m, x: m.b(m.a(x).split([4, 5], -1)[0]) + m.c(m.a(x).split([4, 5], -1)[1]),
             a=lin(3, 9), b=lin(4, 3), c=lin(5, 3)), vectors(3), ((1, 4), (1, 5)), 6),
    # Unit 0 is added to every output by itself: its 3 weights and its bias stay.
    Case("slice-and-select", net(lambda m, x: m.b(m.a(x)[:, 1:]) + m.a(x)[:, :1],
                                 a=lin(3, 6), b=lin(5, 4)), vectors(3), ((1, 5),), 8),
    Case("written-into-strides", net(interleaved, a=lin(3, 5), b=lin(3, 5), c=lin(10, 4)),
         vectors(3), ((1, 5), (1, 5)), 4),
    Case("stack", net(lambda m, x: m.c(torch.stack([m.a(x), m.b(x)], 1).flatten(1)),
                      a=lin(3, 5), b=lin(3, 5), c=lin(10, 4)), vectors(3), ((1, 5), (1, 5)), 4),
    Case("einsum",
         lambda: Functional(
             lambda m, x: torch.einsum(
                 "bhd,hdo->bo", torch.einsum("bi,ihd->bhd", x, m.w1).relu(), m.w2),
             w1=(3, 2, 5), w2=(2, 5, 4)), vectors(3), ((1, 2), (2, 5)), 0),
    Case("matmul", lambda: Functional(lambda m, x: (x @ m.w1).relu() @ m.w2, w1=(3, 5), w2=(5, 4)),
         vectors(3), ((1, 5),), 0),
    Case("pixel-shuffle", seq(conv(3, 8), lambda: nn.PixelShuffle(2), conv(2, 4)),
         images(size=4), ((1, 2),), 4),
    Case("pixel-unshuffle", seq(conv(3, 2), lambda: nn.PixelUnshuffle(2), conv(8, 4)),
         images(size=4), ((1, 2),), 4),
    # 2 first groups x 2 second groups leave cells of 2 channels; both group systems permute.
    Case("grouped-shuffle-grouped",
         seq(conv(3, 8), conv(8, 8, groups=2), lambda: nn.ChannelShuffle(2),
             conv(8, 8, groups=2), conv(8, 4)),
         images(size=4), ((1, 2), (1, 2), (2, 4), (2, 4), (4, 2)), 4),
    Case("squeeze-excite", net(squeeze_excite, conv=conv(3, 6), down=lin(6, 2), up=lin(2, 6),
                               head=conv(6, 4)), images(size=4), ((1, 2), (1, 6)), 4),
    Case("cat-flatten-linear",
         net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1).flatten(1)),
             a=conv(3, 4), b=conv(3, 5), c=lin(81, 4)), images(size=3), ((1, 4), (1, 5)), 4),
    Case("view-linear", net(lambda m, x: m.b(m.a(x).relu().view(x.size(0), -1)),
                            a=conv(3, 4), b=lin(36, 5)), images(size=3), ((1, 4),), 5),
    # 16 channels in 4 norm groups of 4; the halves' groups are the two heads of each half.
    Case("group-norm-chunk-heads",
         net(heads_after_group_norm, conv=conv(3, 16), norm=lambda: nn.GroupNorm(4, 16),
             head=lin(8, 4)), images(size=4), ((1, 2), (2, 4), (2, 4)), 4),
    Case("gram-matrix",
         net(lambda m, x: m.b((m.a(x).flatten(2) @ m.a(x).flatten(2).mT).flatten(1)),
             a=conv(3, 4), b=lin(16, 5)), images(size=3), ((1, 4),), 5),
    Case("weight-norm", seq(lambda: parametrizations.weight_norm(nn.Linear(7, 6)), nn.ReLU,
                            lin(6, 3)), vectors(7), ((1, 6),), 3),
    # The right singular vector of 7 entries lies on the input axis.
    Case("spectral-norm", seq(lambda: parametrizations.spectral_norm(nn.Linear(7, 6)), nn.ReLU,
                              lin(6, 3)), vectors(7), ((1, 6),), 3 + 7),
    Case("shared-twice", net(lambda m, x: m.c(m.b(m.b(m.a(x)).relu()).relu()),
                             a=lin(3, 6), b=lin(6, 6), c=lin(6, 3)), vectors(3), ((1, 6),), 3),
    Case("frozen-buffers", Normalized, vectors(3), ((1, 6),), 4 + 3),
    Case("two-inputs-dict-output",
         net(lambda m, x, y: {"logits": m.c((m.a(x) + m.b(y)).relu()), "first": m.a(x).mean()},
             a=lin(3, 5), b=lin(4, 5), c=lin(5, 2)),
         lambda: (torch.zeros(3, 3), torch.zeros(3, 4)), ((1, 5),), 2),
    Case("bfloat16", lambda: HALF().bfloat16(), lambda: (torch.zeros(3, 3).bfloat16(),),
         ((1, 8),), 2),
    # Two experts of 5 hidden units; the gate (2 x 3 + 2) and the experts' output biases stay.
    Case("experts", net(experts, gate=lin(3, 2), one=EXPERT, two=EXPERT),
         vectors(3), ((1, 5), (1, 5)), 8 + 8),
    Case("lstm", net(lambda m, x: m.o(m.l(x)[0]),
                     l=lambda: nn.LSTM(7, 6, 2, bidirectional=True, batch_first=True),
                     o=lin(12, 3)), vectors(5, 7), ((1, 6),) * 4, 3),
    Case("lstm-projected", net(lambda m, x: m.o(m.l(x)[0]),
                               l=lambda: nn.LSTM(7, 6, proj_size=4), o=lin(4, 3)),
         vectors(5, 7), ((1, 4), (1, 6)), 3),
    Case("gru-last-state",
         net(lambda m, x: m.o(m.l(x)[1].transpose(0, 1).flatten(1)),
             l=lambda: nn.GRU(7, 6, 2, batch_first=True), o=lin(12, 3)),
         vectors(5, 7), ((1, 6), (1, 6)), 3),
    Case("rnn", net(lambda m, x: m.o(m.l(x)[0]), l=lambda: nn.RNN(7, 6), o=lin(6, 3)),
         vectors(5, 7), ((1, 6),), 3),
    # What must not move: 3 x 5 + 5 + 5 x 4 + 4 entries stay.
    Case("roll", net(lambda m, x: m.b(m.a(x).roll(1, -1)), a=lin(3, 5), b=lin(5, 4)),
         vectors(3), (), 44),
    Case("cumsum", net(lambda m, x: m.b(m.a(x).cumsum(-1)), a=lin(3, 5), b=lin(5, 4)),
         vectors(3), (), 44),
    Case("fixed-index",
         net(lambda m, x: m.b(m.a(x)[:, [4, 0, 1, 3, 2]]), a=lin(3, 5), b=lin(5, 4)),
         vectors(3), (), 44),
    # Sorted values have an order of their own; that of the units is free.
    Case("sort", net(lambda m, x: m.b(m.a(x).sort(-1)[0]), a=lin(3, 5), b=lin(5, 4)),
         vectors(3), ((1, 5),), 24),
    Case("sorted-positions",
         net(lambda m, x: m.b(m.a(x).sort(-1)[0] + m.a(x).sort(-1)[1]), a=lin(3, 5), b=lin(5, 4)),
         vectors(3), (), 44),
    # Units 0 and 1 are read by nobody; 2 and 3 are read twice, in the places of 0 and 1 too. Unit 4
    # is alone: its 3 + 1 + 4 entries stay.
    Case("overwritten-slice", net(overwrite, a=lin(3, 5), b=lin(5, 4)), vectors(3),
         ((1, 2), (1, 2)), 4 + 8),
)  # fmt: skip
