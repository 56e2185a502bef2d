"""Operators that write what they are given: a run changes no state, the update is proved too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import trace
from dimat.symmetry import analyze
from dimat.symmetry.proof.execute import run


@torch.library.custom_op("dimat_tests::count", mutates_args=("total",))
def count(x: Tensor, total: Tensor) -> Tensor:
    total.add_(x.sum(0))
    return x.clone()


@count.register_fake
def _(x: Tensor, total: Tensor) -> Tensor:
    return torch.empty_like(x)


class Counting(nn.Module):
    """A custom operator that writes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)
        self.register_buffer("total", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(count(self.a(x), self.total))
        return result


def instance_norm() -> nn.Module:
    """Applied twice, so that the second call reads what the first has written."""
    norm = nn.InstanceNorm1d(5, affine=True, track_running_stats=True)
    return nn.Sequential(nn.Conv1d(3, 5, 1), norm, nn.ReLU(), norm, nn.Conv1d(5, 2, 1))


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 6, max_norm=0.1), nn.Linear(6, 2))


WRITERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "instance norm": (instance_norm, torch.randn(4, 3, 6)),
    "embedding": (embedding, torch.arange(6).reshape(3, 2)),
    "custom operator": (Counting, torch.randn(4, 3)),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("training", [False, True])
def test_neither_tracing_nor_a_run_of_the_graph_changes_the_state(
    name: str, training: bool
) -> None:
    build, x = WRITERS[name]
    model = build()
    state = model.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    t = trace(model, (x,), training=training)
    PartialInterpreter(t, state, x).advance(next(iter(reversed(t.graph.nodes))))
    torch.testing.assert_close(state, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["instance norm", "embedding"])
def test_the_training_graph_holds_what_training_writes(name: str) -> None:
    build, x = WRITERS[name]
    model = build()
    t = trace(model, (x,), training=True)
    assert t.mutated
    values = run(t, model.state_dict(), [x]).values
    model.train()(x)
    for node, key in t.mutated:
        torch.testing.assert_close(values[node].to(torch.float32), model.state_dict()[key])


def test_what_an_operator_without_a_rule_writes_is_pinned() -> None:
    assert analyze(Counting(), (WRITERS["custom operator"][1],)).symmetry.groups == ()
