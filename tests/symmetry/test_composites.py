"""A graph in which nothing is written is read as it was exported: with the same symmetry as one
whose composite operators PyTorch has taken apart.
"""

from __future__ import annotations

import gc
import math

import pytest
import torch
from tests.symmetry.test_every_rule import TOKENS, Forward, hidden
from torch import nn
from torch.nn import functional

from dimat.symmetry import analyze, capture, find
from dimat.symmetry.rules import rule_for
from dimat.symmetry.trace import trace

VIEWS: dict[str, Forward] = {
    "swapaxes": lambda y, z: y.swapaxes(1, 2).mean(2),
    "swapdims": lambda y, z: y.swapdims(-1, 1).mean(2),
    "movedim": lambda y, z: y.movedim(1, 2).mean(2),
    "movedim of several": lambda y, z: torch.stack([y, z], -1).movedim((3, 1), (0, 2)).mean((0, 2)),
    "moveaxis": lambda y, z: y.moveaxis(-1, 0).mean(2).t(),
    "mT": lambda y, z: y.mT.mean(2),
    "adjoint": lambda y, z: y.adjoint().mean(2),
    "matrix_H": lambda y, z: y[:, 0].H.t(),
    "numpy_T": lambda y, z: y.mean(1).T.t(),
    "flatten": lambda y, z: y.flatten(0, 1),
    "ravel": lambda y, z: y.ravel().view(-1, 6),
    "unflatten": lambda y, z: y.unflatten(1, (2, 2)).mean((1, 2)),
    "reshape": lambda y, z: y.reshape(-1, 6),
    "view_as": lambda y, z: y.mean(1).view_as(z[:, 0]) * z[:, 1],
    "reshape_as": lambda y, z: y.mean(1).reshape_as(z[:, 0]) * z[:, 1],
    "expand_as": lambda y, z: y[:, :1].expand_as(z) * z,
    "broadcast_to": lambda y, z: y[:, :1].broadcast_to(z.shape),
    "narrow": lambda y, z: y.narrow(1, 1, 2),
    "chunk": lambda y, z: y.chunk(2, 1)[1],
    "tensor_split": lambda y, z: y.tensor_split(3, 1)[2],
    "vsplit": lambda y, z: y[0].vsplit(2)[1],
    "hsplit": lambda y, z: y.hsplit([1, 3])[1],
    "dsplit": lambda y, z: torch.cat([y, z], 2).dsplit(2)[1],
    "squeeze": lambda y, z: y[:, :1].squeeze(1),
    "select": lambda y, z: y.select(1, 2),
    "unsqueeze": lambda y, z: y.unsqueeze(0).squeeze(0),
    "contiguous": lambda y, z: y.contiguous(),
    "type_as": lambda y, z: y.type_as(z),
    "dropout": lambda y, z: functional.dropout(y),
    "alpha_dropout": lambda y, z: functional.alpha_dropout(y),
    "feature_dropout": lambda y, z: functional.dropout1d(y),
    "feature_alpha_dropout": lambda y, z: functional.feature_alpha_dropout(y),
}


@pytest.mark.parametrize("name", VIEWS)
def test_units_move_through_a_composite_operator(name: str) -> None:
    own = analyze(hidden(VIEWS[name])(), TOKENS())
    assert own.distrusted == ()
    assert {"a", "c"} & {group.name for group in own.symmetry.groups} == {"a"}
    assert own.symmetry.log2_order > math.log2(math.factorial(6)) - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", VIEWS)
def test_a_composite_operator_has_the_symmetry_of_its_parts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hidden(VIEWS[name])()
    own = analyze(model, TOKENS())
    monkeypatch.setattr(capture, "_functional", lambda graph: False)
    monkeypatch.setattr(find, "_CACHE", {})
    parts = analyze(model, TOKENS())
    assert own.symmetry.groups == parts.symmetry.groups
    assert own.symmetry.log2_order == parts.symmetry.log2_order > 9
    assert own.distrusted == parts.distrusted == ()


def test_every_composite_view_has_a_rule() -> None:
    known = {
        name: operator
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and (operator := _composite_view(name)) is not None
    }
    odd = ("_autocast", "_unpack_dual", "coalesce", "diagonal", "linalg_diagonal")
    missing = {name for name, operator in known.items() if rule_for(operator) is None}
    assert len(known) > 40
    assert {name for name in missing if not name.removeprefix("aten::").startswith(odd)} == set()


def _composite_view(name: str) -> torch._ops.OpOverload | None:
    """The operator, if PyTorch would take it apart to see of what its result is a view."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"):
        return None
    packet, _, overload = name.removeprefix("aten::").partition(".")
    operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    if operator is None or operator._schema.is_mutable:
        return None
    return operator if any(out.alias_info for out in operator._schema.returns) else None


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(4), nn.Linear(6, 2)),
    ],
    ids=["in place", "batch norm"],
)
def test_a_graph_that_writes_is_made_functional(model: nn.Module, training: bool) -> None:
    graph = trace(model, TOKENS(), training=training)
    writing = [n for n in graph.graph.nodes if getattr(n.target, "_schema", None)]
    assert [n for n in writing if n.target._schema.is_mutable] == []
    written = {key for _, key in graph.mutated}
    statistics = {key for key, _ in model.named_buffers()} if training else set()
    assert written == statistics


@pytest.mark.parametrize("enabled", [False, True])
def test_garbage_is_collected_after_an_export_as_before(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        trace(nn.Linear(3, 2), TOKENS())
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
