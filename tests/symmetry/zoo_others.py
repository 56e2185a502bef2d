"""Networks of many kinds, beyond single layers: every axis that may move, worked out by hand."""

from __future__ import annotations

from typing import Any

import torch
from tests.symmetry.zoo import Case, images, vectors
from tests.symmetry.zoo_layers import Functional, conv, lin, net, seq, tokens
from torch import Tensor, nn
from torch.nn import functional


def every_activation(m: Any, x: Tensor) -> Tensor:
    z = y = m.a(x)
    for act in (
        functional.relu, functional.relu6, functional.elu, functional.selu, functional.celu,
        functional.leaky_relu, functional.gelu, functional.silu, functional.mish, torch.tanh,
        functional.hardswish, functional.hardsigmoid, functional.hardtanh, functional.softplus,
        functional.softsign, functional.tanhshrink, functional.logsigmoid, functional.softshrink,
        functional.hardshrink, torch.sin, torch.erf, torch.sigmoid, torch.exp, torch.log1p,
    ):  # fmt: skip
        z = z + act(y) / 8
    y = torch.where(y > 0.1, z, -z).clamp(-3, 3).masked_fill(y > 1.5, 0.5)
    y = functional.threshold(y, 0.01, 0.02).rsqrt().nan_to_num().square()
    return m.b(torch.lerp(y, y.maximum(y * 0.5), 0.3).addcmul(y, y))  # type: ignore[no-any-return]


def hypernetwork(m: Any, x: Tensor, z: Tensor) -> Tensor:
    weight = m.g(m.f(z).relu()).view(3, 5, 3)
    return m.b(torch.einsum("boi,bi->bo", weight, x).relu())  # type: ignore[no-any-return]


def film(m: Any, x: Tensor, c: Tensor) -> Tensor:
    scale, shift = m.f(c).chunk(2, -1)
    return m.b((m.a(x) * (1 + scale) + shift).relu())  # type: ignore[no-any-return]


def mixer(m: Any, x: Tensor) -> Tensor:
    x = m.embed(x)
    x = x + m.t2(functional.gelu(m.t1(m.n1(x).mT))).mT
    x = x + m.c2(functional.gelu(m.c1(m.n2(x))))
    return m.head(x.mean(1))  # type: ignore[no-any-return]


def channel_convolution(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    gate = m.c(y.mean((2, 3))[:, None]).sigmoid()
    return m.b(y * gate[:, 0, :, None, None])  # type: ignore[no-any-return]


def two_gates(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).relu()
    pooled = functional.adaptive_max_pool2d(y, 1) + functional.adaptive_avg_pool2d(y, 1)
    y = y * m.up(m.down(pooled).relu()).sigmoid()
    place = torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], 1)
    return m.b(y * m.place(place).sigmoid())  # type: ignore[no-any-return]


def shuffle_units(m: Any, x: Tensor) -> Tensor:
    y = m.stem(x)
    for unit in (m.one, m.two):
        left, right = y.chunk(2, 1)
        y = torch.cat([left, unit(right).relu()], 1)
        y = y.view(3, 2, 4, 4, 4).transpose(1, 2).reshape(3, 8, 4, 4)
    return m.head(y)  # type: ignore[no-any-return]


def inception(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x).relu()
    pooled = functional.max_pool2d(x, 3, 1, 1)
    return m.head(torch.cat([m.a(x), m.b(x), m.c(pooled)], 1).relu())  # type: ignore[no-any-return]


def res2net(m: Any, x: Tensor) -> Tensor:
    one, two, three = m.stem(x).relu().split(3, 1)
    two = m.a(two).relu()
    three = m.b(three + two).relu()
    return m.head(torch.cat([one, two, three], 1))  # type: ignore[no-any-return]


def coupling(m: Any, x: Tensor) -> Tensor:
    a, b = m.a(x).chunk(2, -1)
    return m.b(torch.cat([a, b * m.scale(a).exp() + m.shift(a)], -1))  # type: ignore[no-any-return]


class Selective(nn.Module):
    """A selective state space layer: inner channels, the rank of the step, the state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.into, self.head = nn.Linear(7, 8), nn.Linear(8, 12), nn.Linear(8, 4)
        self.conv = nn.Conv1d(6, 6, 3, padding=2, groups=6)
        self.project, self.step, self.out = nn.Linear(6, 8), nn.Linear(2, 6), nn.Linear(6, 8)
        self.log_a, self.d = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        u, z = self.into(x).chunk(2, -1)
        u = functional.silu(self.conv(u.mT)[..., :-2].mT)
        rank, b, c = self.project(u).split([2, 3, 3], -1)
        step = functional.softplus(self.step(rank))
        state, out = torch.zeros_like(u[:, 0, :, None] * b[:, 0, None]), []
        for t in range(u.shape[1]):
            decay = torch.exp(-step[:, t, :, None] * self.log_a.exp())
            state = decay * state + (step * u)[:, t, :, None] * b[:, t, None]
            out.append((state @ c[:, t, :, None])[..., 0])
        y = (torch.stack(out, 1) + u * self.d) * functional.silu(z)
        return self.head(x + self.out(y))


def set_sum(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x).relu().sum(1)).relu())  # type: ignore[no-any-return]


def quantized(m: Any, x: Tensor) -> Tensor:
    z = m.a(x)
    return m.b(m.codes(torch.cdist(z, m.codes.weight).argmin(-1)))  # type: ignore[no-any-return]


def segment(m: Any, x: Tensor) -> Tensor:
    y, where = functional.max_pool2d(m.a(x).relu(), 2, return_indices=True)
    return m.c(functional.max_unpool2d(m.b(y), where, 2))  # type: ignore[no-any-return]


def winners(m: Any, x: Tensor) -> Tensor:
    """The two strongest units, the median and the extremes; only values are read."""
    y = m.a(x)
    y = y * (y >= y.topk(2, -1).values[..., -1:]) - y.median(-1, keepdim=True).values
    low, high = y.aminmax(dim=-1, keepdim=True)
    return m.b(y + low * high + y.max(-1, keepdim=True).values)  # type: ignore[no-any-return]


def put(m: Any, x: Tensor) -> Tensor:
    """At fixed times, other units under a mask, and at times under a mask."""
    y = torch.zeros(3, 4, 5, dtype=x.dtype)
    y[:, torch.tensor([2, 0])] = m.a(x)[:, :2]
    y[y < -0.5] = 0.5
    y[x[..., 0] < 0] = 0.25
    return m.b(y)  # type: ignore[no-any-return]


def complex_numbers(m: Any, x: Tensor) -> Tensor:
    z = torch.complex(x @ m.a, x @ m.b)
    z = z.conj() * torch.polar(m.r.exp(), m.t) + z / z.abs()
    y = z @ torch.complex(m.c, m.d).mT.conj().mT
    return torch.cat([y.real, y.imag, y.angle()], -1)


def patches(m: Any, x: Tensor) -> Tensor:
    return m.c(m.b(functional.unfold(m.a(x), 3).mT).relu())  # type: ignore[no-any-return]


def message_passing(m: Any, x: Tensor) -> Tensor:
    source, target = torch.tensor([0, 1, 2, 4, 3]), torch.tensor([1, 2, 0, 0, 4])
    x = m.a(x).relu()
    x = x.index_add(1, target, m.b(x.index_select(1, source)).relu())
    return m.c(x)  # type: ignore[no-any-return]


def cells(m: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(3, 5)
    g, c = x.new_zeros(3, 6), x.new_zeros(3, 6)
    r = x.new_zeros(3, 2)
    for t in range(3):
        h = m.gru(x[:, t], h)
        g, c = m.lstm(h, (g, c))
        r = m.rnn(g, r)
    return m.out(torch.cat([h, g, c, r], -1))  # type: ignore[no-any-return]


class Held(nn.Module):
    """A constant on the hidden units that is no part of the state."""

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 4)
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(x) * self.constant)


def frozen_trunk(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.b(m.a(x).relu())
    return m.c(y)  # type: ignore[no-any-return]


PINNED = 3 * 5 + 5 + 5 * 4 + 4  # every entry of two linear layers, 3 to 5 to 4

OTHERS = (
    Case("every-activation", net(every_activation, a=lin(3, 5), b=lin(5, 4)),
         vectors(3), ((1, 5),), 4),
    Case("low-rank", net(lambda m, x: m.b((m.a(x) + m.up(m.down(x))).relu()),
                         a=lin(3, 5), down=lin(3, 2), up=lin(2, 5), b=lin(5, 4)),
         vectors(3), ((1, 2), (1, 5)), 4),
    # The generated weight is (5 units) x (3 inputs).
    Case("hypernetwork", net(hypernetwork, f=lin(6, 7), g=lin(7, 15), b=lin(5, 4)),
         lambda: (torch.zeros(3, 3), torch.zeros(3, 6)), ((1, 5), (1, 7)), 4),
    Case("film", net(film, a=lin(3, 5), f=lin(6, 10), b=lin(5, 4)),
         lambda: (torch.zeros(3, 3), torch.zeros(3, 6)), ((1, 5),), 4),
    # 5 units of 2 pieces each.
    Case("maxout", net(lambda m, x: m.b(m.a(x).view(3, 5, 2).amax(-1)), a=lin(3, 10), b=lin(5, 4)),
         vectors(3), ((1, 5), (5, 2)), 4),
    # The second bias of the token mixing lies on the 5 tokens.
    Case("mixer", net(mixer, embed=lin(7, 12), t1=lin(5, 6), t2=lin(6, 5), c1=lin(12, 20),
                      c2=lin(20, 12), n1=lambda: nn.LayerNorm(12), n2=lambda: nn.LayerNorm(12),
                      head=lin(12, 4)), vectors(5, 7), ((1, 6), (1, 12), (1, 20)), 4 + 5),
    # Neighboring channels are convolved: nothing moves.
    Case("channel-convolution",
         net(channel_convolution, a=conv(3, 5), b=conv(5, 4),
             c=lambda: nn.Conv1d(1, 1, 3, padding=1)), images(size=4), (), PINNED + 4),
    # The places' gate takes the maximum and the mean, in this order: 2 x 9 + 1 entries.
    Case("channel-and-place-gates",
         net(two_gates, a=conv(3, 6), down=conv(6, 2), up=conv(2, 6), b=conv(6, 4),
             place=conv(2, 1, 3, padding=1)), images(size=4), ((1, 2), (1, 6)), 4 + 19),
    # The stem's left and right half; the first unit's 4 outputs and the left half are each cut in
    # two by the second unit, whose own 4 outputs stay together.
    Case("shuffle-units", net(shuffle_units, stem=conv(3, 8), one=conv(4, 4), two=conv(4, 4),
                              head=conv(8, 4)), images(size=4),
         ((1, 2), (1, 2), (1, 2), (1, 2), (1, 4), (1, 4)), 4),
    Case("inception", net(inception, stem=conv(3, 6), a=conv(6, 2), b=conv(6, 3, 3, padding=1),
                          c=conv(6, 5), head=conv(10, 4)), images(size=4),
         ((1, 2), (1, 3), (1, 5), (1, 6)), 4),
    # The stem's three pieces (the third tied to the first convolution's outputs), and the second's.
    Case("res2net", net(res2net, stem=conv(3, 9), a=conv(3, 3), b=conv(3, 3), head=conv(9, 4)),
         images(size=4), ((1, 3),) * 4, 4),
    Case("coupling", net(coupling, a=lin(3, 8), scale=lin(4, 4), shift=lin(4, 4), b=lin(8, 4)),
         vectors(3), ((1, 4), (1, 4)), 4),
    Case("selective-state-space", Selective, vectors(5, 7), ((1, 2), (1, 3), (1, 6), (1, 8)), 4),
    Case("set-sum", net(set_sum, a=lin(3, 6), b=lin(6, 5), c=lin(5, 4)), vectors(7, 3),
         ((1, 5), (1, 6)), 4),
    Case("graph-convolution",
         net(lambda m, x, adjacent: m.b(adjacent @ m.a(adjacent @ x).relu()),
             a=lin(3, 6), b=lin(6, 4)),
         lambda: (torch.zeros(3, 5, 3), torch.zeros(3, 5, 5)), ((1, 6),), 4),
    Case("message-passing", net(message_passing, a=lin(3, 6), b=lin(6, 6), c=lin(6, 4)),
         vectors(5, 3), ((1, 6),), 4),
    Case("radial-basis",
         lambda: Functional(lambda m, x: (-torch.cdist(x, m.centers)).exp() @ m.out,
                            centers=(6, 3), out=(6, 4)), vectors(3), ((1, 6),), 0),
    # Codes are looked up by index: their order stays, their dimensions move.
    Case("quantized", net(quantized, a=lin(3, 5), codes=lambda: nn.Embedding(7, 5), b=lin(5, 4)),
         vectors(6, 3), ((1, 5),), 4),
    Case("complex-numbers",
         lambda: Functional(complex_numbers, a=(3, 5), b=(3, 5), r=(5,), t=(5,), c=(5, 2),
                            d=(5, 2)), vectors(3), ((1, 5),), 0),
    Case("max-unpool", net(segment, a=conv(3, 5), b=conv(5, 5), c=conv(5, 4)), images(size=4),
         ((1, 5),), 4),
    Case("winners", net(winners, a=lin(3, 6), b=lin(6, 4)), vectors(3), ((1, 6),), 4),
    Case("index-put", net(put, a=lin(3, 5), b=lin(5, 4)), vectors(4, 3), ((1, 5),), 4),
    Case("patches", net(patches, a=conv(3, 4), b=lin(36, 5), c=lin(5, 4)), images(size=5),
         ((1, 4), (1, 5)), 4),
    Case("folded", net(lambda m, x: m.c(functional.fold(m.b(m.a(x)).flatten(2), (4, 4), 2,
                                                        stride=2)),
                       a=conv(3, 6, 2, stride=2), b=conv(6, 20), c=conv(5, 4)), images(size=4),
         ((1, 5), (1, 6)), 4),
    Case("embedding-bag", seq(lambda: nn.EmbeddingBag(11, 6), lin(6, 4)), tokens(5),
         ((1, 6),), 4),
    Case("positions-by-lookup",
         net(lambda m, i: m.b(m.e(i) + m.p(torch.arange(5))), e=lambda: nn.Embedding(11, 6),
             p=lambda: nn.Embedding(5, 6), b=lin(6, 4)), tokens(5), ((1, 6),), 4),
    Case("cells", net(cells, gru=lambda: nn.GRUCell(7, 5), lstm=lambda: nn.LSTMCell(5, 6),
                      rnn=lambda: nn.RNNCell(6, 2), out=lin(19, 4)), vectors(3, 7),
         ((1, 2), (1, 5), (1, 6)), 4),
    Case("circular-padding", seq(conv(3, 5, 3, padding=1, padding_mode="circular"), nn.ReLU,
                                 conv(5, 6, 3, padding=1, padding_mode="replicate"), nn.ReLU,
                                 conv(6, 4)), images(size=4), ((1, 5), (1, 6)), 4),
    Case("local-response-norm", seq(conv(3, 5), lambda: nn.LocalResponseNorm(3), conv(5, 4)),
         images(size=4), (), PINNED),
    Case("layer-norm-over-places",
         seq(conv(3, 5), lambda: nn.LayerNorm([5, 4, 4]), nn.ReLU, conv(5, 4)),
         images(size=4), ((1, 5),), 4),
    Case("batch-norm-without-statistics",
         seq(lambda: nn.Conv1d(3, 5, 1), lambda: nn.BatchNorm1d(5, track_running_stats=False),
             nn.ReLU, lambda: nn.Conv1d(5, 4, 1)), vectors(3, 6), ((1, 5),), 4),
    Case("other-constant", lambda: Held(torch.tensor([1.0, 2, 3, 4, 5])), vectors(3), (), PINNED),
    Case("uniform-constant", lambda: Held(torch.full((5,), 2.0)), vectors(3), ((1, 5),), 4),
    # The 3 inputs beside the hidden units stay: 3 x 4 columns.
    Case("beside-the-input", net(lambda m, x: m.b(torch.cat([x, m.a(x).relu()], -1)),
                                 a=lin(3, 5), b=lin(8, 4)), vectors(3), ((1, 5),), 4 + 12),
    Case("outer-product", net(lambda m, x: m.c((m.a(x)[:, :, None] * m.b(x)[:, None]).flatten(1)),
                              a=lin(3, 4), b=lin(3, 5), c=lin(20, 4)), vectors(3),
         ((1, 4), (1, 5)), 4),
    Case("own-norm", net(lambda m, x: m.b((m.a(x) / m.a.weight.norm()).relu()),
                         a=lin(3, 5), b=lin(5, 4)), vectors(3), ((1, 5),), 4),
    Case("channels-last-flatten",
         net(lambda m, x: m.b(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 4), b=lin(36, 5)),
         images(size=3), ((1, 4),), 5),
    Case("stacked-and-picked",
         net(lambda m, x: m.c(torch.stack([m.a(x), m.b(x)], 1)[:, 0])
             + m.d(torch.stack([m.a(x), m.b(x)], 1)[:, 1]),
             a=lin(3, 5), b=lin(3, 5), c=lin(5, 4), d=lin(5, 4)), vectors(3),
         ((1, 5), (1, 5)), 8),
    Case("roll-in-space", net(lambda m, x: m.b(m.a(x).roll((1, 2), (2, 3))),
                              a=conv(3, 5), b=conv(5, 4)), images(size=4), ((1, 5),), 4),
    Case("cumsum-in-time", net(lambda m, x: m.b(m.a(x).cumsum(1)), a=lin(3, 5), b=lin(5, 4)),
         vectors(6, 3), ((1, 5),), 4),
    Case("frozen-trunk", net(frozen_trunk, a=lin(3, 5), b=lin(5, 6), c=lin(6, 4)), vectors(3),
         ((1, 5), (1, 6)), 4),
)  # fmt: skip
