"""A graph in which nothing is written is read as it was exported: with the same symmetry as one
whose composite operators PyTorch has taken apart.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.symmetry.test_every_rule import TOKENS, Forward, hidden
from torch import Tensor, nn
from torch._export import utils
from torch.nn import functional

from dimat.graph import capture
from dimat.graph.trace import operator_name, trace
from dimat.symmetry import analyze, find
from dimat.symmetry.rules import rule_for

VIEWS: dict[str, Forward] = {
    "swapaxes": lambda y, z: y.swapaxes(1, 2).mean(2),
    "swapdims": lambda y, z: y.swapdims(-1, 1).mean(2),
    "movedim": lambda y, z: y.movedim(1, 2).mean(2),
    "movedim of several": lambda y, z: torch.stack([y, z], -1).movedim((1, 3), (2, 0)).mean((0, 2)),
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
    "hsplit": lambda y, z: y.mean(1).t().hsplit([1])[1].t(),
    "dsplit": lambda y, z: torch.cat([y, z], 2).dsplit(2)[1],
    "squeeze": lambda y, z: y[:, :1].squeeze(1),
    "select": lambda y, z: y.select(1, 2),
    "atleast_3d": lambda y, z: torch.atleast_3d(y[0])[..., 0],
    "atleast_2d of several": lambda y, z: torch.atleast_2d(z[0], y[0, 0])[1],
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


# Sizes and the like, which are no tensors; and what nobody has missed.
WITHOUT_RULE = {
    *("dim", "numel", "is_contiguous", "storage_offset", "sym_numel", "sym_storage_offset"),
    *("_autocast_to_full_precision", "_autocast_to_reduced_precision", "_batch_norm_impl_index"),
    *("_unpack_dual", "cartesian_prod", "coalesce", "linalg_diagonal"),
}


def test_every_operator_that_would_be_taken_apart_has_a_rule() -> None:
    kept = utils._collect_all_valid_cia_ops_for_aten_namespace()
    found = {
        operator
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and (operator := _composite(name)) and operator not in kept
    }
    assert len(found) > 60
    missing = {operator_name(own).removeprefix("aten.") for own in found if rule_for(own) is None}
    assert missing == WITHOUT_RULE


def _composite(name: str) -> torch._ops.OpOverload | None:
    """The operator, if it writes nothing and PyTorch has it of other operators."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"):
        return None
    packet, _, overload = name.removeprefix("aten::").partition(".")
    operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    return None if operator is None or operator._schema.is_mutable else operator


class Norm(nn.Module):
    """A norm called by hand, whose statistics are buffers."""

    def __init__(self, norm: Callable[..., Tensor], size: int = 4) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self, x)


WRITING = {
    "in place": nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)),
    "batch norm": nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(4), nn.Linear(6, 2)),
    "by name": Norm(
        lambda m, x: torch.batch_norm(
            x, None, None, running_mean=m.mean, running_var=m.var, training=m.training,
            momentum=0.1, eps=1e-5, cudnn_enabled=False,
        )
    ),
    "native": Norm(
        lambda m, x: torch.native_batch_norm(
            x, None, None, m.mean, m.var, m.training, 0.1, 1e-5
        )[0]
    ),
    "instances": Norm(
        lambda m, x: functional.instance_norm(
            x, m.mean, m.var, use_input_stats=m.training, momentum=0.1
        )
    ),
    "result unread": Norm(
        lambda m, x: x + 0 * functional.batch_norm(x, m.mean, m.var, training=m.training).detach()
    ),
    "without gradients": Norm(lambda m, x: x * _without_gradients(m.mean, x)),
}  # fmt: skip


def _without_gradients(mean: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x[0, :, :1] + mean[:, None]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", WRITING)
def test_a_graph_that_writes_is_made_functional(name: str, training: bool) -> None:
    graph = trace(WRITING[name], TOKENS(), training=training)
    nodes = [own for own in graph.graph.nodes if getattr(own.target, "_schema", None)]
    assert [own for own in nodes if own.target._schema.is_mutable] == []
    assert graph.graph.find_nodes(op="get_attr") == []
    writes = training and name not in ("in place", "without gradients")
    writes |= name == "instances"  # taken to be written in both modes
    statistics = {key for key, _ in WRITING[name].named_buffers()} if writes else set()
    assert {key for _, key in graph.mutated} == statistics


@pytest.mark.parametrize("enabled", [False, True])
def test_garbage_is_collected_after_an_export_as_before(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        exported, inside = torch.export.export, []

        def export(*args: Any, **settings: Any) -> Any:
            inside.append(gc.isenabled())
            return exported(*args, **settings)

        monkeypatch.setattr(torch.export, "export", export)
        trace(nn.Linear(3, 2), TOKENS())
        assert inside == [False]
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
