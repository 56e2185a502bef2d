"""Every rule has a mutant: where it forgets its result's units, its operator is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.symmetry.exported import export_once
from tests.symmetry.test_mutations import CASES, MUTATIONS, forgetful
from tests.symmetry.zoo import vectors
from tests.symmetry.zoo_layers import Functional, lin, net
from torch import Tensor, nn
from torch.nn import functional

from dimat.symmetry import analyze, find
from dimat.symmetry.rules import RULES

Forward = Callable[[Tensor, Tensor], Tensor]
TOKENS = vectors(4, 3)


def hidden(forward: Forward, width: int = 6) -> Callable[[], nn.Module]:
    """What two layers of six units give, through an operator, into a third layer."""
    return net(lambda m, x: m.c(forward(m.a(x), m.b(x))), a=lin(3, 6), b=lin(3, 6), c=lin(width, 2))


def cut(y: Tensor) -> Tensor:
    return y.mT[..., None].expand(3, 6, 4, 4)


HERE: dict[str, Callable[[], nn.Module]] = {
    "aten.type_as": hidden(lambda y, z: y.type_as(z)),
    "aten.bernoulli": hidden(lambda y, z: y * torch.bernoulli(z.sigmoid())),
    "aten.rrelu": hidden(lambda y, z: y * functional.rrelu(z, training=True)),
    "aten.native_dropout": hidden(lambda y, z: torch.native_dropout(y, 0.5, True)[0]),
    "aten.cosine_similarity": hidden(lambda y, z: functional.cosine_similarity(y, z, dim=1)),
    "aten.mse_loss": hidden(lambda y, z: functional.mse_loss(y, z, reduction="none")),
    "aten.clone": hidden(lambda y, z: y.clone()),
    "aten.transpose": hidden(lambda y, z: y.transpose(1, 2).mean(2)),
    "aten.atleast_2d": hidden(lambda y, z: torch.atleast_2d(y[0])),
    "aten.movedim": hidden(lambda y, z: y.movedim(1, 2).mean(2)),
    "aten.mT": hidden(lambda y, z: y.mT.mean(2)),
    "aten.narrow": hidden(lambda y, z: y.narrow(1, 1, 2)),
    "aten.gather": hidden(lambda y, z: y.gather(1, torch.zeros(3, 2, 6, dtype=torch.long))),
    "aten.scatter_add": hidden(
        lambda y, z: y.scatter_add(1, torch.zeros(3, 4, 6, dtype=torch.long), z)
    ),
    "aten.var_mean": hidden(lambda y, z: torch.var_mean(y, 1)[0]),
    "aten.max": hidden(lambda y, z: y.max(1).values),
    "aten.cummax": hidden(lambda y, z: y.cummax(1)[0]),
    "aten.triu": hidden(lambda y, z: cut(y).triu().sum((2, 3))),
    "aten.expand": hidden(lambda y, z: cut(y).mean((2, 3))),
    "aten.repeat": hidden(lambda y, z: y.repeat(1, 1, 2), 12),
    "aten.repeat_interleave": hidden(lambda y, z: y.repeat_interleave(2, 2), 12),
    "aten.select": hidden(lambda y, z: y[:, 1]),
    "aten.unbind": hidden(lambda y, z: y.unbind(1)[2]),
    "aten.pad": hidden(lambda y, z: functional.pad(y, (0, 0, 1, 2))),
    "aten.one_hot": hidden(lambda y, z: z * functional.one_hot((y > 0).long(), 2)[..., 0]),
    "aten.unfold": hidden(lambda y, z: y.unfold(1, 2, 1).amax((1, 3))),
    "aten.view_as_complex": hidden(
        lambda y, z: torch.view_as_complex(torch.stack([y, z], -1)).abs()
    ),
    "aten.view_as_real": hidden(lambda y, z: torch.view_as_real(torch.complex(y, z)).prod(-1)),
    "aten.broadcast_tensors": hidden(lambda y, z: torch.broadcast_tensors(y, z[:, :1])[0]),
    "aten.addmm": lambda: Functional(
        lambda m, x: torch.addmm(m.shift, x[:, 0], m.into) @ m.out,
        shift=(6,), into=(3, 6), out=(6, 2),
    ),
    "aten.outer": lambda: Functional(
        lambda m, x: x @ torch.outer(m.left, m.right) @ m.out, left=(3,), right=(6,), out=(6, 2)
    ),
    "aten.t": lambda: Functional(
        lambda m, x: x @ m.into.t() @ m.out, into=(6, 3), out=(6, 2)
    ),
    "aten.mul": lambda: Functional(
        lambda m, x: (x @ m.into * m.scale) @ m.out, into=(3, 6), scale=(6,), out=(6, 2)
    ),
    "aten.tensordot": lambda: Functional(
        lambda m, x: torch.tensordot(x, m.into, 1) @ m.out, into=(3, 6), out=(6, 2)
    ),
}  # fmt: skip
ZOO = {
    "aten.prelu": "prelu-per-channel",
    "aten.bilinear": "bilinear",
    "aten.matmul": "matmul",
    "aten.index_select": "message-passing",
    "aten.einsum": "einsum",
    "aten.cdist": "radial-basis",
    "aten.embedding_bag": "embedding-bag",
    "aten.sum": "set-sum",
    "aten.max_pool2d_with_indices": "max-unpool",
    "aten.permute": "channels-last-flatten",
    "aten.unsqueeze": "outer-product",
    "aten.view": "view-linear",
    "aten.slice": "slice-and-select",
    "aten.split_with_sizes": "uneven-split",
    "aten.stack": "stack",
    "aten.pixel_unshuffle": "pixel-unshuffle",
    "aten.channel_shuffle": "grouped-shuffle-grouped",
    "aten.col2im": "folded",
}
# Constants may be labeled as one likes; the units of draws are the draws' own (test_noise.py).
HARMLESS = {"aten.zeros_like", "aten.empty", "aten.randn"}


@pytest.mark.parametrize("operator", [*HERE, *ZOO])
def test_a_rule_that_forgets_the_units_of_its_result_is_caught(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: tuple[Any, ...] = CASES[ZOO[operator]].inputs() if operator in ZOO else TOKENS()
    model = CASES[ZOO[operator]].build() if operator in ZOO else HERE[operator]()
    export_once(ZOO.get(operator, operator), monkeypatch)
    true = analyze(model, inputs)
    assert true.distrusted == ()
    monkeypatch.setitem(RULES, operator, forgetful(RULES[operator]))
    find._CACHE.clear()
    analysis = analyze(model, inputs)
    assert {pin.operator for pin in analysis.distrusted} == {operator}
    assert analysis.symmetry.log2_order < true.symmetry.log2_order


def test_every_rule_has_a_mutant() -> None:
    mutated = {m.operator for m in MUTATIONS} | {m.also for m in MUTATIONS if m.also}
    covered = {RULES[name] for name in mutated | {*HERE, *ZOO} | HARMLESS}
    assert [name for name, rule in RULES.items() if rule not in covered] == []
