"""Sites of a layer-wise fit: operators with a weight of their own, and the norms after them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from dimat.compat import arguments_of
from dimat.graph.interpreter import DROPOUT
from dimat.graph.trace import Trace, operator_name

_ADD = torch.ops.aten.add.Tensor
WEIGHTED = frozenset(
    {"aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.conv_transpose1d",
     "aten.conv_transpose2d", "aten.conv_transpose3d", "aten.convolution"}
)  # fmt: skip
BATCH_NORMS = frozenset({"aten._native_batch_norm_legit_no_training", "aten.batch_norm"})
NORMS = frozenset({"aten.layer_norm", "aten.group_norm", "aten.instance_norm", "aten.rms_norm"})
# Operators that pass their first operand on in eval mode.
TRANSPARENT = DROPOUT | {"aten.clone", "aten.contiguous", "aten.alias", "aten.native_dropout"}


@dataclass(frozen=True)
class Site:
    """One layer that can be fitted by itself.

    Args:
        op: The operator.
        end: The node whose value is fitted: the operator, its norm, or the residual sum after it.
        weight: State key of the operator's weight; None for a norm without one.
        bias: State key of the operator's bias, if it has one.
        norm: The BatchNorm that alone reads the operator's result, or the operator itself if it is
            a norm.
        scale: State key of the norm's weight, if ``norm`` is another operator.
        shift: State key of the norm's bias, if ``norm`` is another operator.
        mean: State key of the BatchNorm's running mean.
        variance: State key of the BatchNorm's running variance.
        other: The other operand of the residual sum, which is known before the operator runs.
    """

    op: fx.Node
    end: fx.Node
    weight: str | None
    bias: str | None
    norm: fx.Node | None = None
    scale: str | None = None
    shift: str | None = None
    mean: str | None = None
    variance: str | None = None
    other: fx.Node | None = None

    @property
    def input(self) -> fx.Node:
        """The node that is the operator's input."""
        source = argument(self.op, "input", 0)
        assert isinstance(source, fx.Node)
        return source

    @property
    def spatial(self) -> bool:
        """Whether channels are axis 1, and not the last one."""
        name = operator_name(self.op.target)
        return name not in ("aten.linear", "aten.layer_norm", "aten.rms_norm")

    @property
    def epsilon(self) -> float:
        """Epsilon of the BatchNorm."""
        assert self.norm is not None
        return float(argument(self.norm, "eps", -1))


def sites(trace: Trace, *, sums: bool) -> list[Site]:
    """Every layer that can be fitted by itself, in the order of the graph.

    A layer whose weight is computed, or read by more than one operator, is left out.

    Args:
        trace: The eval-mode graph.
        sums: Whether a layer that ends in a residual sum is fitted at that sum.
    """
    own = _Own(trace)
    found = []
    taken: set[fx.Node] = set()
    for node in trace.graph.nodes:
        if node.op != "call_function" or node in taken:
            continue
        site = own.weighted(node) or own.normed(node)
        if site is not None:
            taken.add(site.norm or site.op)
            found.append(own.at_the_sum(site) if sums else site)
    return found


@dataclass(frozen=True)
class Lookup:
    """An embedding whose weight no other operator reads.

    Args:
        op: The operator.
        weight: State key of its weight.
        indices: The node that is the numbers of the rows that are looked up.
    """

    op: fx.Node
    weight: str
    indices: fx.Node


def lookups(trace: Trace) -> list[Lookup]:
    """Every embedding with a weight of its own, in the order of the graph.

    Args:
        trace: The eval-mode graph.
    """
    own, found = _Own(trace), []
    for node in trace.graph.nodes:
        if operator_name(node.target) == "aten.embedding":
            key, indices = own.key(argument(node, "weight", 0)), argument(node, "indices", 1)
            if key in trace.parameters and isinstance(indices, fx.Node):
                found.append(Lookup(node, str(key), indices))
    return found


def argument(node: fx.Node, name: str, position: int) -> Any:
    """The value of an argument of an operator.

    Args:
        node: The operator.
        name: Name of the argument in the schema.
        position: Its position, for operators that name it otherwise; from the end if negative.
    """
    schema = arguments_of(node.target)
    names = [a.name for a in schema]
    index = names.index(name) if name in names else position % len(names)
    if index < len(node.args):
        return node.args[index]
    return node.kwargs.get(names[index], schema[index].default_value)


class _Own:
    """The sites of a graph, whose state entries are read by one operator and no other."""

    def __init__(self, trace: Trace) -> None:
        self.keys = trace.states
        self.position = {node: i for i, node in enumerate(trace.graph.nodes)}
        self.readers: Counter[str] = Counter()
        for node in trace.graph.nodes:
            if node.name in self.keys:
                self.readers[self.keys[node.name]] += len(node.users)

    def key(self, source: Any) -> str | None:
        """The state key of a placeholder that only one operator reads; None of other nodes."""
        key = self.keys.get(source.name) if isinstance(source, fx.Node) else None
        return key if key is not None and self.readers[key] == 1 else None

    def weighted(self, node: fx.Node) -> Site | None:
        """The site of a convolution or linear layer, with the BatchNorm after it."""
        if operator_name(node.target) not in WEIGHTED:
            return None
        weight, bias = argument(node, "weight", 1), argument(node, "bias", 2)
        if self.key(weight) is None or (bias is not None and self.key(bias) is None):
            return None
        plain = Site(node, node, self.key(weight), self.key(bias))
        norm = self._batch_norm_after(node)
        if norm is None:
            return plain
        scale, shift = (self.key(argument(norm, n, i)) for n, i in (("weight", 1), ("bias", 2)))
        if scale is None or shift is None:
            return plain
        mean, variance = self._statistics(norm)
        return replace(
            plain,
            end=result_of(norm),
            norm=norm,
            scale=scale,
            shift=shift,
            mean=mean,
            variance=variance,
        )

    def normed(self, node: fx.Node) -> Site | None:
        """The site of a norm that stands alone, to be fitted unit by unit."""
        name = operator_name(node.target)
        if name not in NORMS and name not in BATCH_NORMS:
            return None
        weight, bias = (self.key(argument(node, n, i)) for n, i in (("weight", 1), ("bias", 2)))
        mean, variance = self._statistics(node) if name in BATCH_NORMS else (None, None)
        if weight is None and mean is None:
            return None
        end = result_of(node)
        return Site(node, end, weight, bias, norm=node, mean=mean, variance=variance)

    def _statistics(self, norm: fx.Node) -> tuple[str | None, str | None]:
        mean, variance = argument(norm, "running_mean", 3), argument(norm, "running_var", 4)
        return self.key(mean), self.key(variance)

    def _batch_norm_after(self, node: fx.Node) -> fx.Node | None:
        users = list(node.users)
        if len(users) != 1 or operator_name(users[0].target) not in BATCH_NORMS:
            return None
        norm = users[0]
        known = None not in self._statistics(norm)
        return norm if known and argument(norm, "input", 0) is node else None

    def at_the_sum(self, site: Site) -> Site:
        """The site with its end at the residual sum, if the other operand is known by then."""
        end = site.end
        while len(end.users) == 1 and operator_name(next(iter(end.users)).target) in TRANSPARENT:
            end = result_of(next(iter(end.users)))
        users = list(end.users)
        if len(users) != 1 or users[0].target is not _ADD or users[0].kwargs:
            return site
        operands = [x for x in users[0].args if x is not end]
        if len(operands) != 1 or not isinstance(operands[0], fx.Node):
            return site
        other = operands[0]
        if self.position[other] >= self.position[site.op]:
            return site
        if len({_rank(n) for n in (end, other, users[0])}) > 1:
            return site
        return replace(site, end=users[0], other=other)


def _rank(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, torch.Tensor) else None


def result_of(node: fx.Node) -> fx.Node:
    """The node of an operator's first result, or of its only one.

    Args:
        node: The operator.
    """
    first = [u for u in node.users if operator_name(u.target) == "getitem" and u.args[1] == 0]
    return first[0] if first else node
