"""Parts of a graph through which units flow: from all that writes them, or from a norm's gain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import fx

from dimat.graph.trace import operator_name
from dimat.symmetry.continuous.operators import CONTRACTING, PASSING
from dimat.symmetry.continuous.through import UnitStream, absorbed, operands
from dimat.symmetry.find import Analysis
from dimat.symmetry.labels.units import Labels, Special
from dimat.symmetry.permutation import Group
from dimat.symmetry.proof.evidence import REARRANGING
from dimat.symmetry.unit_axes import UnitAxes, unit_axes
from dimat.symmetry.unit_places import standing_for

_NORMS_WITH_GAIN = {"aten.layer_norm": 2, "aten.rms_norm": 2, "aten.mul": 1}


# Products with what carries no units, and sums with entries that may be changed along.
_FACTORS = frozenset({"aten.mul", "aten.div"})
_KNOWN = PASSING | CONTRACTING | _FACTORS | {"aten.add"}
_FEW_PLACES = 3  # so few are told apart; more are the pixels of a flattened image


class UnitStreams:
    """The streams of a model's groups.

    Args:
        analysis: Analysis of the model.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.trace, self.symmetry = analysis.trace, analysis.symmetry
        self._labels: Mapping[str, Labels] = analysis.labels
        self._axes: dict[object, list[UnitAxes]] = {}  # by content: many nodes are labeled alike
        self._carried = {name: self._standing(labels) for name, labels in analysis.labels.items()}
        self._places = {
            node.name: node for node in self.trace.graph.nodes if node.name in self.trace.states
        }

    def whole(self, group: Group, held: frozenset[str] = frozenset()) -> UnitStream | None:
        """All that carries the units of a group; None where they cannot be told apart somewhere.

        Args:
            group: The group.
            held: State keys that carry units, and keep a value that no matrix changes.
        """
        carrying = {name for name, own in self._carried.items() if group.name in own}
        carrying -= {name for name, key in self.trace.states.items() if key in held}
        slots = {name: self._slots(name, group) for name in carrying}
        if any(not own for own in slots.values()):
            return None
        return UnitStream(group, slots, self._readers(carrying))

    def gains(self, group: Group) -> Iterator[tuple[str, UnitStream]]:
        """The state keys of gains on a group's units, and the streams of what they multiply."""
        for name, node in self._places.items():
            here = self._slots(name, group)
            if [place for place, _ in here] != [-1] or here[0][1].index.shape != (
                node.meta["val"].numel(),
                1,
            ):
                continue  # one number for each unit, and no other
            path = _path(node)
            end = path[-1] if path else None
            if end is None or not _is_gain(end, [node, *path][-2]):
                continue
            stream = self._from(group, [node, *path])
            if stream is not None:
                yield self.trace.states[name], stream

    def _from(self, group: Group, path: Sequence[fx.Node]) -> UnitStream | None:
        """The stream of what a gain multiplies, to the contractions that it ends at."""
        norm = path[-1]
        nodes, flowing = {*path[1:]}, [norm]
        inside = {*path, *_beside(norm)}
        while flowing:
            for user in flowing.pop().users:
                name = operator_name(user.target)
                if user.op != "call_function" or name not in _KNOWN:
                    return None
                nodes.add(user)
                more = _beside(user)
                if name not in PASSING | _FACTORS and not more:
                    return None
                nodes |= {n for n in more if n.op == "call_function"}
                inside |= more
                if name not in CONTRACTING:  # where the stream ends, its node has no slots
                    inside.add(user)
                    flowing.append(user)
        slots = {n.name: self._slots(n.name, group) for n in inside}
        slots = {name: own for name, own in slots.items() if own}
        order = [n for n in self.trace.graph.nodes if n in nodes]
        if any(len(own) != 1 for own in slots.values()):
            return None
        return UnitStream(group, slots, order)

    def _slots(self, name: str, group: Group) -> list[tuple[int, UnitAxes]]:
        if group.name not in self._carried.get(name, ()):
            return []
        labels = self._labels[name]
        like = tuple(x if isinstance(x, Special) else (x.shape, x.tobytes()) for x in labels)
        if like not in self._axes:
            self._axes[like] = unit_axes(self.symmetry, labels)
        return by_places(self._axes[like], group.name)

    def _readers(self, carrying: set[str]) -> list[fx.Node]:
        """The operators that read what carries units."""
        return [
            node
            for node in self.trace.graph.nodes
            if node.op == "call_function"
            and not absorbed(node)
            and any(n.name in carrying for n in operands(node))
        ]

    def _standing(self, labels: Labels) -> frozenset[str]:
        """Names of the groups whose units stand on some axis."""
        names = dict(zip(self.symmetry.group_families, self.symmetry.names, strict=True))
        found: set[str] = set()
        for label in labels:
            if not isinstance(label, Special):
                standing = standing_for(self.symmetry.structure, label.ravel())
                found |= {names[number] for number in standing if number in names}
        return frozenset(found)


def by_places(axes: Iterable[UnitAxes], group: str) -> list[tuple[int, UnitAxes]]:
    """The positions of a group's units on a tensor, by place where there are few; else place -1.

    Args:
        axes: The positions of all groups on the tensor.
        group: Name of the permutation group.
    """
    found: list[tuple[int, UnitAxes]] = []
    for own in axes:
        places = own.index.shape[1]
        if own.group == group and 1 < places <= _FEW_PLACES:
            found += [(p, replace(own, index=own.index[:, [p]])) for p in range(places)]
        elif own.group == group:
            found.append((-1, own))
    return found


def _path(node: fx.Node) -> list[fx.Node]:
    """The nodes that a value goes through one by one, up to the first that does not rearrange."""
    path = []
    while len(node.users) == 1:
        (node,) = node.users
        if node.op != "call_function":
            return []
        path.append(node)
        if operator_name(node.target) not in REARRANGING:
            return path
    return []


def _is_gain(node: fx.Node, last: fx.Node) -> bool:
    """Whether an operator multiplies by a value that is an entry of the state, or comes from it."""
    name = operator_name(node.target)
    if name == "aten.mul":
        return len(node.all_input_nodes) == 2
    position = _NORMS_WITH_GAIN.get(name)
    return position is not None and len(node.args) > position and node.args[position] is last


def _beside(node: fx.Node) -> set[fx.Node]:
    """The state entries, and what leads from them, among the further operands of a node.

    Only those that nothing else reads: they may be changed along.
    """
    found: set[fx.Node] = set()
    for source in node.all_input_nodes:
        back = [source]
        while back[-1].op == "call_function" and operator_name(back[-1].target) in REARRANGING:
            back.append(back[-1].all_input_nodes[0])
        entry = back[-1].op == "placeholder" and all(len(n.users) == 1 for n in back)
        if entry:
            found |= set(back)
    return found
