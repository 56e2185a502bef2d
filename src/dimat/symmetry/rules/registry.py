"""The registry of rules, and the rule for pointwise operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dimat.graph.interpreter import DROPOUT
from dimat.graph.trace import NORMAL, POSITIVE, operator_name
from dimat.symmetry.labels.operator_call import Call, Operand, Result
from dimat.symmetry.labels.units import ANY, FIXED

Rule = Callable[[Call], Result]
RULES: dict[str, Rule] = {}

# Pointwise, but not tagged so, or not in every overload.
UNTAGGED = (
    "aten._conj",
    "aten._neg_view",
    "aten.absolute",
    "aten.arccos",
    "aten.arccosh",
    "aten.arcsin",
    "aten.arcsinh",
    "aten.arctan",
    "aten.arctan2",
    "aten.arctanh",
    "aten.complex",
    "aten.conj",
    "aten.divide",
    "aten.floor_divide",
    "aten.greater",
    "aten.greater_equal",
    "aten.hardswish",
    "aten.imag",
    "aten.less",
    "aten.less_equal",
    "aten.log_sigmoid",
    "aten.masked_fill",
    "aten.multiply",
    "aten.negative",
    "aten.not_equal",
    "aten.polar",
    "aten.real",
    "aten.resolve_conj",
    "aten.resolve_neg",
    "aten.rsub",
    "aten.subtract",
    "aten.true_divide",
    "aten.where",
)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under operator names such as ``"aten.linear"``."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def rule_for(target: Any) -> Rule | None:
    """The rule of an operator, or None: then everything it touches is pinned."""
    found = RULES.get(operator_name(target))
    if found is None and torch.Tag.pointwise in getattr(target, "tags", ()):
        return pointwise
    return found


@rule(
    "aten.clone",
    "aten.contiguous",
    "aten.pin_memory",
    "aten.detach",
    "aten.alias",
    "aten.lift_fresh_copy",
    "aten._to_copy",
    "aten.to",
    *UNTAGGED,
)
def pointwise(call: Call) -> Result:
    """Element by element, with broadcasting: all operands and the result have one labeling."""
    return call.broadcast(*call.tensors())


@rule(*sorted(DROPOUT), "aten.rrelu")
def dropout(call: Call) -> Result:
    """Like :func:`pointwise`; what is constant is not so afterwards, and may be used twice."""
    labels = call.broadcast(*call.tensors())
    random = call.get("train") is not False and call.get("training") is not False
    return tuple(FIXED if x is ANY and random else x for x in labels)


@rule("aten.type_as")
def cast(call: Call) -> Result:
    """Only the dtype of the other operand is read."""
    own: Operand = call["self"]
    return own.labels


@rule(
    "aten.zeros_like",
    "aten.ones_like",
    "aten.full_like",
    "aten.new_zeros",
    "aten.new_ones",
    "aten.new_full",
    "aten.zero",
    "aten.fill",
)
def uniform(call: Call) -> Result:
    """One number everywhere: only shapes are read."""
    return (ANY,) * len(call.shape)


@rule("aten.mul")
def product(call: Call) -> Result:
    """Like :func:`pointwise`; times zero, as softshrink is exported, it is zero everywhere."""
    return (ANY,) * len(call.shape) if is_zero(call.get("other")) else pointwise(call)


def is_zero(x: Any) -> bool:
    """Whether an argument is the number zero."""
    return isinstance(x, (int, float)) and x == 0


@rule("aten.new_empty", "aten.empty", "aten.empty_like")
def empty(call: Call) -> Result:
    """Taken for zeros: only the shape is read."""
    return (ANY,) * len(call.shape)


@rule(*NORMAL, *POSITIVE)
def noise(call: Call) -> Result:
    """Independent draws: they have units of their own, which move with what they are added to."""
    return (ANY,) * len(call.shape)


@rule("aten.bernoulli")
def coins(call: Call) -> Result:
    """Independent draws, too, which move with their probabilities."""
    own: Operand = call["self"]
    return own.labels


@rule("aten.native_dropout")
def native_dropout(call: Call) -> Result:
    """Dropout is left out: the result and its mask are labeled as the input."""
    labels = tuple(FIXED if x is ANY else x for x in call["input"].labels)
    return labels, labels
