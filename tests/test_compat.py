"""PyTorch's private names stand in one module, and mean there what its docstrings say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

import dimat
from dimat import compat
from dimat.compat import lacks_bfloat16

SOURCE = Path(dimat.__file__).parent
ELSEWHERE = {"compat.py", "tools/estimate/model_cost.py"}


def private_names(tree: ast.AST) -> Iterator[str]:
    """Names below ``torch`` that begin with one underscore, as they are imported or read."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [f"{node.module}.{own.name}" for own in node.names]
        elif isinstance(node, ast.Import):
            names = [own.name for own in node.names if own.name.split(".")[0] == "torch"]
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("torch.", "nn.")):
            names = [ast.unparse(node)]
        for name in names:
            if any(part.startswith("_") and part[:2] != "__" for part in name.split(".")):
                yield name


def test_private_names_of_pytorch_are_used_in_one_module() -> None:
    found = {
        f"{path.relative_to(SOURCE).as_posix()}: {name}"
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).as_posix() not in ELSEWHERE
        for name in private_names(ast.parse(path.read_text()))
    }
    assert found == set()


def test_an_operator_says_its_arguments_and_whether_it_writes_to_one() -> None:
    add, add_ = torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor
    assert [own.name for own in compat.arguments_of(add)] == ["self", "other", "alpha"]
    assert compat.arguments_of(len) == []
    assert (compat.writes_operands(add), compat.writes_operands(add_)) == (False, True)


def test_a_free_size_is_that_of_the_example_and_stays_free() -> None:
    inputs = (torch.zeros(3, 2),)
    program = torch.export.export(
        nn.Linear(2, 4), inputs, dynamic_shapes=({0: Dim("batch", min=2)},), strict=False
    )
    value = next(n for n in program.graph.nodes if n.name == "input").meta["val"]
    assert [compat.size_hint(n) for n in value.shape] == [3, 2]
    assert isinstance(value.shape[0], torch.SymInt)
    assert program.module()(torch.zeros(7, 2)).shape == (7, 4)


def test_shared_entries_keep_their_names_and_are_the_models_own() -> None:
    model, twin = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval(), nn.Module()
    compat.share_entries(twin, model)
    ours, theirs = model.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert all(ours[key] is theirs[key] for key in ours)
    assert not twin.training


def test_only_a_compiled_model_has_another_inside() -> None:
    model = nn.Linear(2, 3)
    assert compat.compiled_from(model) is None
    assert compat.compiled_from(torch.compile(model)) is model  # type: ignore[arg-type]


def test_all_kinds_of_batch_norm_and_dropout_have_one_base() -> None:
    norms = (nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2))
    assert all(isinstance(own, compat.BatchNorm) for own in norms)
    assert not isinstance(nn.InstanceNorm1d(2), compat.BatchNorm)
    drops = (nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout())
    assert all(isinstance(own, compat.Dropout) for own in drops)


def test_a_schedule_that_is_put_to_a_place_goes_on_as_one_that_went_there() -> None:
    def schedule() -> torch.optim.lr_scheduler.LambdaLR:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda place: 1 / (1 + place))

    went, put = schedule(), schedule()
    for _ in range(3):
        went.optimizer.step()
        went.step()
    put.last_epoch = 3
    compat.note_steps(put, 3, [0.5])
    assert {**put.state_dict(), "lr_lambdas": 0} == {**went.state_dict(), "lr_lambdas": 0}


def test_views_have_the_memory_of_what_they_are_views_of_with_or_without_data() -> None:
    for device in ("cpu", "meta"):
        one, other = torch.zeros(4, device=device), torch.zeros(4, device=device)
        assert compat.storage_of(one) == compat.storage_of(one.view(2, 2)[1])
        assert compat.storage_of(one) != compat.storage_of(other)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads the flags of a Linux CPU")
def test_a_cpu_lacks_bfloat16_if_its_flags_have_none_of_the_instructions() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if "avx2" not in flags:
        pytest.skip("no CPU of the x86 family")
    if not flags & {"avx512f", "avx_ne_convert", "amx_bf16"}:
        assert lacks_bfloat16()
    if {"avx512_bf16", "avx512vl", "avx512bw", "avx512dq"} <= flags:
        assert not lacks_bfloat16()
