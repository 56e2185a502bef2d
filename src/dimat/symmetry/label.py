"""Labels of a traced graph: the units on every axis of every node's value."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from dimat.compat import arguments_of, has_schema
from dimat.graph.interpreter import wide
from dimat.graph.trace import Trace, operator_name
from dimat.state import is_number
from dimat.symmetry.constants import constant_labels
from dimat.symmetry.labels.operator_call import (
    Call,
    Operand,
    Result,
    as_tuple,
    tensors_in,
    value_labels,
)
from dimat.symmetry.labels.units import (
    FIXED,
    Inherent,
    Ints,
    Labels,
    Pin,
    Special,
    Units,
    along,
)
from dimat.symmetry.proof.execute import Example
from dimat.symmetry.rules import rule_for


@dataclass
class Labeling:
    """The labels that the rules gave to the tensors of a model's graphs.

    Args:
        units: The units of the labels, and the facts that the rules recorded of them.
        states: Labels of every state entry.
        nodes: For each graph the labels of every node, several for a node with several results.
        unread: State entries that no graph reads.
    """

    units: Units
    states: dict[str, Labels] = field(default_factory=dict)
    nodes: list[dict[str, Result]] = field(default_factory=list)
    unread: frozenset[str] = frozenset()

    def used(self) -> list[tuple[Ints, int]]:
        """Every label that names units, and the axis of its tensor that it is the label of."""
        every: list[Labels] = list(self.states.values())
        for nodes in self.nodes:
            for result in nodes.values():
                every.extend(as_tuple(result))
        return [
            (label, axis)
            for labels in every
            for axis, label in enumerate(labels)
            if not isinstance(label, Special)
        ]


def label_graphs(
    traces: Sequence[Trace],
    examples: Sequence[Example],
    state: Mapping[str, Tensor],
    distrusted: Mapping[str, str],
    constants: Mapping[str, Tensor],
) -> Labeling:
    """The labels of all graphs of one model, in one store of units.

    Args:
        traces: The graphs: in eval and in training mode.
        examples: For each graph the values of a run, which the rules read shapes from.
        state: Values of the state entries and of the graphs' random draws.
        distrusted: Nodes whose rule failed the proof, and why: what they touch is pinned.
        constants: Entries that all states have in common.
    """
    # A rule may find that one axis of a parameter must depend on another (head dimensions on the
    # head) for the tie not to be too strong. Units cannot be loosened once they are tied, so the
    # rules run again from the start; the dependences only grow, so that this ends.
    dependent: set[tuple[str, int, int]] = set()
    read = frozenset().union(*({*t.read, *t.draws.values()} for t in traces))
    unread = frozenset(key for key, value in state.items() if is_number(value) and key not in read)
    while True:
        labeling = Labeling(Units(), unread=unread)
        labeling.states = {
            key: constant_labels(labeling.units, constants[key])
            if key in constants
            else _state_labels(labeling.units, key, value, dependent, unread)
            for key, value in state.items()
        }
        for t, example in zip(traces, examples, strict=True):
            labeling.nodes.append(_label_graph(labeling, t, example, state, distrusted))
        wanted = {w for w in labeling.units.wanted if (w[0], w[2], w[1]) not in dependent}
        if wanted <= dependent:
            return labeling
        for w in sorted(wanted - dependent):
            if (w[0], w[2], w[1]) not in dependent:
                dependent.add(w)


def _state_labels(
    units: Units,
    key: str,
    value: Tensor,
    dependent: set[tuple[str, int, int]],
    unread: frozenset[str],
) -> Labels:
    """Labels of a state entry: fresh units on every axis of real and complex numbers.

    Axes of other entries (counters, indices) are fixed, and so are those that no graph reads.
    """
    if not is_number(value) or key in unread:
        return (FIXED,) * value.dim()
    labels: list[Any] = [
        units.fresh(along(i, value.dim(), n)) if n > 1 else FIXED for i, n in enumerate(value.shape)
    ]
    for name, axis, other in sorted(dependent):
        if name == key and not isinstance(labels[other], Special):
            shape = list(labels[axis].shape)
            shape[other] = value.shape[other]
            labels[axis] = units.fresh(shape)
    for name, axis, other in sorted(dependent):
        if name == key and not isinstance(labels[other], Special):
            units.belong(labels[axis], labels[other])
    for i, label in enumerate(labels):
        if not isinstance(label, Special):
            units.origins[int(label.flat[0])] = (key, i)
    return tuple(labels)


def _label_graph(
    labeling: Labeling,
    t: Trace,
    example: Example,
    state: Mapping[str, Tensor],
    distrusted: Mapping[str, str],
) -> dict[str, Result]:
    units = labeling.units
    labels: dict[str, Result] = {}
    # Of an entry of the state a rule reads shape and dtype, so that none need be drawn for it.
    entries = {name: wide(state[key].to("meta")) for name, key in t.states.items()}
    values = {**example.values, **entries}
    for node in t.graph.nodes:
        value = values.get(node.name)
        if node.op == "placeholder":
            labels[node.name] = _placeholder(labeling, t, node, value)
        elif node.op == "call_function":
            labels[node.name] = _apply_rule(units, node, labels, values, distrusted)
        if node.name in t.draws:  # the units of the draw itself
            drawn = labeling.states[t.draws[node.name]]
            pairs = zip(as_tuple(labels[node.name])[0], drawn, strict=True)
            labels[node.name] = tuple(units.same(a, b, "", i) for i, (a, b) in enumerate(pairs))
        if node.name in labels:
            _check_rank(node, labels[node.name], value)
    units.context = Pin("output", "", Inherent.OUTPUT.value)
    for name in t.outputs:
        for own in as_tuple(labels.get(name, ())):
            for axis, label in enumerate(own):
                units.pin(label, "", axis)
    for name, key in t.mutated:
        units.context = Pin("buffer update", key, "")
        pairs = zip(as_tuple(labels[name])[0], labeling.states[key], strict=True)
        for axis, (a, b) in enumerate(pairs):
            units.same(a, b, "", axis)
    return labels


def _fits(labels: Result, value: Any) -> bool:
    """Whether every axis of every result has a label, of the length of that axis."""
    pairs = zip(as_tuple(labels), tensors_in(value), strict=False)
    return all(
        len(own) == x.dim()
        and all(isinstance(a, Special) or a.shape[i] == x.shape[i] for i, a in enumerate(own))
        for own, x in pairs
    )


def _check_rank(node: fx.Node, labels: Result, value: Any) -> None:
    if isinstance(value, Tensor):
        assert len(as_tuple(labels)[0]) == value.dim(), (node, labels, value.shape)


def _placeholder(labeling: Labeling, t: Trace, node: fx.Node, value: Any) -> Labels:
    if node.name in t.states:
        return labeling.states[t.states[node.name]]
    if node.name in t.constants:
        return value_labels(t.constants[node.name])
    return (FIXED,) * value.dim() if isinstance(value, Tensor) else ()


def _apply_rule(
    units: Units,
    node: fx.Node,
    labels: Mapping[str, Result],
    values: Mapping[str, Any],
    distrusted: Mapping[str, str],
) -> Result:
    result = values[node.name]
    if node.target is operator.getitem:
        source, index = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(index, int)
        return as_tuple(labels[source.name])[index] if tensors_in(result) else ()
    if not tensors_in(result):
        return ()
    units.context = Pin(operator_name(node.target), node.name, "")
    call = Call(node, _bind(node, labels, values), result, units)
    rule = rule_for(node.target)
    operands = call.tensors()
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    if not operands and isinstance(result, Tensor) and not random:
        return value_labels(result)
    why = distrusted.get(node.name, "no rule for this operator")
    if rule is not None and node.name not in distrusted:
        found = rule(call)
        if _fits(found, result):
            return found
        why = "its rule does not fit these shapes"
    for operand in operands:
        call.pin(operand, range(operand.rank), why)
    fixed = tuple((FIXED,) * x.dim() for x in tensors_in(result))
    return fixed[0] if isinstance(result, Tensor) else fixed


def _bind(node: fx.Node, labels: Mapping[str, Result], values: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by their names in the schema, defaults included.

    Tensors are :class:`Operand`; sizes are the numbers of the example run.
    """

    def lower(x: Any) -> Any:
        if not isinstance(x, fx.Node):
            return x
        value = values[x.name]
        return Operand(as_tuple(labels[x.name])[0], value) if isinstance(value, Tensor) else value

    args = fx.node.map_arg(node.args, lower)
    kwargs = fx.node.map_arg(dict(node.kwargs), lower)
    if not has_schema(node):
        return {**{str(i): x for i, x in enumerate(args)}, **kwargs}
    bound: dict[str, Any] = {}
    for i, argument in enumerate(arguments_of(node.target)):
        if i < len(args):
            bound[argument.name] = args[i]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound
