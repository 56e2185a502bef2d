"""A wrong rule never passes: the verifier names the operator, and what it touches is pinned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tests.symmetry.exported import export_once
from tests.symmetry.zoo import Case, vectors
from tests.symmetry.zoo_attention import ATTENTIONS
from tests.symmetry.zoo_layers import LAYERS, lin, net
from tests.symmetry.zoo_others import OTHERS
from torch import nn

from dimat.symmetry import analyze, check_symmetry
from dimat.symmetry.labels.operator_call import Call, Result, as_tuple
from dimat.symmetry.labels.units import FIXED, Label, Special
from dimat.symmetry.rules import RULES, Rule
from dimat.symmetry.rules.registry import pointwise

CASES = {case.name: case for case in (*LAYERS, *ATTENTIONS, *OTHERS)}
for name, in_place in (("batch-norm", False), ("batch-norm-in-place", True)):
    CASES[name] = Case(
        name,
        lambda in_place=in_place: nn.Sequential(
            nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU(in_place), nn.Conv2d(5, 4, 1)
        ),
        vectors(3, 4, 4),
        ((1, 5),),
        5,
    )
CASES["softmax"] = Case(
    "softmax", net(lambda m, x: m.b(m.a(x).softmax(-1)), a=lin(3, 5), b=lin(5, 4)),
    vectors(3), ((1, 5),), 4,
)  # fmt: skip


def without(*names: str) -> Callable[[Rule], Rule]:
    """The rule, blind to some of its arguments: their members are forgotten."""

    def mutate(rule: Rule) -> Rule:
        def blind(call: Call) -> Result:
            seen = {k: None if k in names else v for k, v in call.arguments.items()}
            return rule(replace(call, arguments=seen))

        return blind

    return mutate


def elementwise(rule: Rule) -> Rule:
    return pointwise


def elementwise_pair(rule: Rule) -> Rule:
    """Both results labeled as the operand."""
    return lambda call: (call["self"].labels, call["self"].labels)


def elementwise_value(rule: Rule) -> Rule:
    """Values along an axis labeled as the operand, though they have an order of their own."""
    return lambda call: (call["self"].labels,)


def other_pieces(rule: Rule) -> Rule:
    """A slice taken for the first of its length."""

    def first(call: Call) -> Result:
        end = call["src"].shape[-1]
        seen = {**call.arguments, "start": 0, "end": end, "step": 1}
        return rule(replace(call, arguments=seen))

    return first


def fixed_order(rule: Rule) -> Rule:
    """Claims that the result does not move at all."""

    def still(call: Call) -> Result:
        rule(call)
        return (FIXED,) * len(call.shape)

    return still


def unpinned(rule: Rule) -> Rule:
    """The rule, without a word of what must stay."""

    def loose(call: Call) -> Result:
        with mock.patch.object(call.units, "pin", return_value=None):
            return rule(call)

    return loose


def forgetful(rule: Rule) -> Rule:
    """The result has units of its own, tied to nothing."""

    def loose(call: Call) -> Result:
        result = rule(call)
        own = [
            tuple(x if isinstance(x, Special) else call.units.fresh(x.shape) for x in labels)
            for labels in as_tuple(result)
        ]
        return tuple(own) if isinstance(result[0], tuple) else own[0]

    return loose


def first_operand(rule: Rule) -> Rule:
    """Labeled as its first operand, the others forgotten."""
    return lambda call: call.tensors()[0].labels


def one_group(rule: Rule) -> Rule:
    def whole(call: Call) -> Result:
        return rule(replace(call, arguments={**call.arguments, "num_groups": 1}))

    return whole


def untied_halves(rule: Rule) -> Rule:
    """A gate whose second half is forgotten."""

    def first(call: Call) -> Result:
        x = call["self"]
        return call.units.take(x.labels, x.rank - 1, np.arange(x.shape[-1] // 2))

    return first


def untied_queries(rule: Rule) -> Rule:
    def loose(call: Call) -> Result:
        q, v = call["query"], call["value"]
        return call.einsum([(q, ["b", "h", "t", "d"]), (v, ["b", "h", "s", "e"])], list("bhte"))

    return loose


def crossed_blocks(rule: Rule) -> Rule:
    """Channels of all groups in one: crosses the blocks of a grouped convolution."""

    def cross(call: Call) -> Result:
        x, weight = call["input"], call["weight"]
        call.pin(x, range(2, x.rank), "")
        call.pin(weight, range(1, weight.rank), "")
        (out,) = call.einsum([(weight, ["o", "i", "h", "w"])], ["o"])
        labels: tuple[Label, ...] = (FIXED, out.reshape(1, -1, 1, 1), FIXED, FIXED)  # type: ignore[union-attr]
        return labels

    return cross


def shifted_pieces(rule: Rule) -> Rule:
    """A concatenation with its parts the other way round."""

    def swap(call: Call) -> Result:
        return rule(replace(call, arguments={**call.arguments, "tensors": call["tensors"][::-1]}))

    return swap


def loose_gates(rule: Rule) -> Rule:
    """An LSTM whose recurrent weights are not tied to its hidden units."""

    def loose(call: Call) -> Result:
        params = [copy.copy(p) for p in call["params"]]
        fresh = tuple(
            call.units.fresh([n if i == k else 1 for k in range(2)])
            for i, n in enumerate(params[1].shape)
        )
        params[1] = replace(params[1], labels=fresh)
        return rule(replace(call, arguments={**call.arguments, "params": params}))

    return loose


def free_places(rule: Rule) -> Rule:
    """Windows whose channels and kernel places are taken in the other order."""

    def crossed(call: Call) -> Result:
        x = call["self"]
        call.pin(x, range(2, x.rank), "")
        shape = [x.shape[0], call.shape[1] // x.shape[1], x.shape[1], call.shape[2]]
        labels = (FIXED, FIXED, x.labels[1].reshape(1, 1, -1, 1), FIXED)
        return call.units.merge(labels, shape, 1, 3)

    return crossed


@dataclass(frozen=True)
class Mutation:
    """A wrong rule, and a model on which it shows."""

    operator: str
    mutate: Callable[[Rule], Rule]
    case: str
    also: str | None = None  # a twin that says the same in the other mode


MUTATIONS = [
    Mutation(
        "aten.batch_norm",
        without("weight"),
        "batch-norm",
        "aten._native_batch_norm_legit_functional",
    ),
    Mutation(
        "aten._native_batch_norm_legit_no_training",
        without("weight"),
        "batch-norm-in-place",
        "aten._native_batch_norm_legit_functional",
    ),
    Mutation("aten.layer_norm", without("weight"), "layer-norm"),
    Mutation(
        "aten.instance_norm",
        without("running_mean", "running_var"),
        "instance-norm-with-statistics",
    ),
    Mutation("aten.embedding_renorm", unpinned, "embedding-with-a-maximal-norm", "aten.embedding"),
    Mutation("aten.group_norm", one_group, "group-norm"),
    Mutation("aten.linear", without("bias"), "glu"),
    Mutation("aten.conv2d", without("bias"), "squeeze-excite"),
    Mutation("aten.conv2d", crossed_blocks, "grouped"),
    Mutation("aten.roll", elementwise, "roll"),
    Mutation("aten.cumsum", elementwise, "cumsum"),
    Mutation("aten.glu", untied_halves, "glu"),
    Mutation("aten.cat", shifted_pieces, "cat-flatten-linear"),
    Mutation("aten.softmax", fixed_order, "softmax"),
    Mutation("aten.scaled_dot_product_attention", untied_queries, "fused-3hd-sdpa"),
    Mutation("aten.lstm", loose_gates, "lstm-projected"),
    Mutation("aten.pixel_shuffle", fixed_order, "pixel-shuffle"),
    Mutation("aten._weight_norm", first_operand, "weight-norm"),
    Mutation("aten.sort", elementwise_pair, "sorted-positions"),
    Mutation("aten.sort", unpinned, "sorted-positions"),
    Mutation("aten.sort", elementwise_value, "sort"),
    Mutation("aten.max_unpool2d", fixed_order, "max-unpool"),
    Mutation("aten.index_put", fixed_order, "index-put"),
    Mutation("aten.slice_scatter", other_pieces, "written-into-strides"),
    Mutation("aten.copy", fixed_order, "written-into-strides"),
    Mutation("aten.index_add", first_operand, "message-passing"),
    Mutation("aten.gru_cell", without("b_ih", "b_hh"), "cells"),
    Mutation("aten.im2col", free_places, "patches"),
    Mutation("aten.embedding", fixed_order, "positions-by-lookup"),
    Mutation("aten.max_pool2d", fixed_order, "inception"),
]


def name(value: Any) -> str:
    return f"{value.operator}-{value.mutate.__name__}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=name)
def test_a_wrong_rule_is_caught_named_and_pinned(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[mutation.case]
    torch.manual_seed(0)
    model = case.build()
    wrong = mutation.mutate(RULES[mutation.operator])
    monkeypatch.setitem(RULES, mutation.operator, wrong)
    if mutation.also is not None:
        monkeypatch.setitem(RULES, mutation.also, mutation.mutate(RULES[mutation.also]))
    export_once(mutation.case, monkeypatch)
    analysis = analyze(model, case.inputs())
    blamed = {
        pin.operator for pin in analysis.distrusted if pin.why == "its rule failed verification"
    }
    assert mutation.operator in blamed <= {mutation.operator, mutation.also}
    assert analysis.symmetry.log2_order < case.log2_order or not case.groups
    check_symmetry(analysis.symmetry, model, case.inputs())


@pytest.mark.parametrize("case", sorted({m.case for m in MUTATIONS}))
def test_the_true_rules_need_no_distrust(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    export_once(case, monkeypatch)
    torch.manual_seed(0)
    assert analyze(CASES[case].build(), CASES[case].inputs()).distrusted == ()
