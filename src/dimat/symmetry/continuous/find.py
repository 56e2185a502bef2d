"""Search for the continuous symmetries of a model: which matrices act on units, kind by kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dimat.graph.interpreter import Recorder
from dimat.graph.trace import as_args, flatten_inputs
from dimat.state import check_module, tensors_of
from dimat.symmetry.continuous.group import (
    ContinuousGroup,
    ContinuousSymmetry,
    Kind,
    Member,
    with_aliases,
)
from dimat.symmetry.continuous.operators import ALLOWED, LINEAR, NORMS
from dimat.symmetry.continuous.rotary import rotary_groups
from dimat.symmetry.continuous.streams import UnitStreams
from dimat.symmetry.continuous.through import UnitStream, passes, roles_through, slot_of
from dimat.symmetry.find import Analysis, analyze
from dimat.symmetry.permutation import Group
from dimat.symmetry.proof.execute import steps
from dimat.symmetry.proof.redraw import LEAST_DRAWS, OF_WHOLE_NUMBERS, draw, on_freest_inputs


def find_continuous_symmetry(
    model: nn.Module, args: tuple[Any, ...] | Tensor, kwargs: Mapping[str, Any] | None = None
) -> ContinuousSymmetry:
    r"""The matrices that act on the units of ``model`` and leave its function unchanged.

    Where nothing nonlinear stands between two weights, more than permutations do: any invertible
    matrix between the factors of a LoRA adapter, or between queries and keys, or values and outputs
    of a head; orthogonal ones on a normed residual stream; positive scales around ReLU. Each group
    is found among the model's permutation groups by the operators that its units meet, and proved
    by execution: every such operator is run, in float64 and on redrawn values, on operands that
    random matrices multiplied.

    Between queries and keys under rotary embeddings, planes rotate and are scaled. The symmetry is
    that of eval mode.

    Args:
        model: Any module that ``torch.export`` can capture; not changed.
        args: Example inputs, as the model is called, or the only one; a small batch is enough.
        kwargs: Example keyword inputs.

    Raises:
        ConfigError: If the model is no module, or the inputs are none.
        ModelError: If the inputs do not fit, or the model cannot be captured.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 3))
        >>> find_continuous_symmetry(net, torch.zeros(4, 3)).groups[0].kind
        'linear'

    References:
        Ainsworth et al., "Git Re-Basin", ICLR 2023 (permutations); Zhang et al., "Beyond the
        Permutation Symmetry of Transformers", ICML 2025; "Generalized Linear Mode Connectivity for
        Transformers", arXiv 2506.22712 (all of them together).
    """
    check_module(model)
    args = as_args(args)
    analysis = analyze(model, args, kwargs)
    return continuous_symmetry(
        analysis, tensors_of(model.state_dict()), flatten_inputs(args, kwargs)
    )


# Found symmetries by the digests of graph and permutations: agents of a run have one architecture.
_CACHE: dict[tuple[str, str], ContinuousSymmetry] = {}


def continuous_symmetry(
    analysis: Analysis, state: Mapping[str, Tensor], inputs: Sequence[Any]
) -> ContinuousSymmetry:
    """The continuous symmetry of an analyzed model; remembered by its architecture.

    Args:
        analysis: Analysis of the model.
        state: A state of it.
        inputs: Example inputs, flattened.

    Raises:
        ModelError: If the model cannot be run on redrawn inputs.
    """
    key = analysis.trace.digest(), analysis.symmetry.digest
    if key not in _CACHE:
        _CACHE[key] = on_freest_inputs(
            "the model", lambda level: _find(analysis, state, inputs, level)
        )
    return _CACHE[key]


@dataclass
class _Draws:
    """Runs of a model on redrawn values, with some entries at one."""

    analysis: Analysis
    state: Mapping[str, Tensor]
    inputs: Sequence[Any]
    level: str
    drawn: dict[int, tuple[dict[str, Tensor], list[Any]]] = field(default_factory=dict)
    made: dict[tuple[int, frozenset[str]], Recorder] = field(default_factory=dict)

    def __call__(
        self, ones: Collection[str] = (), numbers: Sequence[int] = range(LEAST_DRAWS)
    ) -> list[Recorder]:
        held = frozenset(ones)
        for number in numbers:
            if (number, held) not in self.made:
                self.made[number, held] = self._run(number, held)
        return [self.made[number, held] for number in numbers]

    def _run(self, number: int, ones: frozenset[str]) -> Recorder:
        if number not in self.drawn:
            drawn, given = draw(number, self.state, self.inputs, self.level)
            self.drawn[number] = dict(drawn), given
        values, inputs = self.drawn[number]
        state = {**values, **{key: torch.ones_like(values[key]) for key in ones}}
        *_, (_, _, last) = steps(self.analysis.trace, state, inputs, keep=True)
        return last


def _find(
    analysis: Analysis, state: Mapping[str, Tensor], inputs: Sequence[Any], level: str
) -> ContinuousSymmetry:
    draws, streams = _Draws(analysis, state, inputs, level), UnitStreams(analysis)
    groups: list[ContinuousGroup] = []
    gains: list[ContinuousGroup] = []
    folded: dict[str, tuple[str, ...]] = {}
    for group in analysis.symmetry.groups:
        found = _group(analysis, draws, streams, group, ("linear",))
        if found is None:
            own = list(_gains(analysis, draws, streams, group))
            held = frozenset(gain.name for gain in own)
            kinds: tuple[Kind, ...] = ("orthogonal", "orthogonal with mean")
            found = _group(analysis, draws, streams, group, kinds, held)
            if found is not None and own:
                gains += own
                folded[group.name] = tuple(gain.name for gain in own)
        if found is None:
            found = _group(analysis, draws, streams, group, ("scaling",))
        if found is not None:
            groups.append(found)
    groups += rotary_groups(analysis, draws()[0], lambda: draws(numbers=OF_WHOLE_NUMBERS), groups)
    return ContinuousSymmetry(analysis.symmetry, tuple(groups), tuple(gains), folded)


def _group(
    analysis: Analysis,
    draws: _Draws,
    streams: UnitStreams,
    group: Group,
    kinds: Sequence[Kind],
    ones: frozenset[str] = frozenset(),
) -> ContinuousGroup | None:
    """The first kind of matrices that go through all that carries a group."""
    stream = streams.whole(group, ones)
    if stream is None:
        return None
    for kind in kinds:
        members = _members(analysis, draws, stream, kind, ALLOWED[kind], ones)
        if members:
            return ContinuousGroup(group.name, kind, group.size, group.cells, members)
    return None


def _gains(
    analysis: Analysis, draws: _Draws, streams: UnitStreams, group: Group
) -> list[ContinuousGroup]:
    """The gains on a group's units that can be folded into what reads them."""
    found = []
    for key, stream in streams.gains(group):
        members = _members(analysis, draws, stream, "scaling", LINEAR | NORMS)
        if members:
            sign = next((own.role for own in members if own.key == key), 1)
            signed = tuple(replace(own, role=sign * own.role) for own in members)
            found.append(ContinuousGroup(key, "scaling", group.size, group.cells, signed))
    return found


def _members(
    analysis: Analysis,
    draws: _Draws,
    stream: UnitStream,
    kind: Kind,
    allowed: frozenset[str],
    ones: frozenset[str] = frozenset(),
) -> tuple[Member, ...]:
    """The state entries in a stream, with their roles; none if matrices do not go through it."""
    trace = analysis.trace
    if not stream.nodes or not all(passes(n, allowed) for n in stream.nodes):
        return ()
    roles = roles_through(trace, draws(ones), stream, kind) or {}
    entries = {
        (key, place, own.axes): Member(key, own.axes, own.index, roles[slot])
        for node in trace.graph.nodes
        if (key := trace.states.get(node.name)) is not None
        for place, own in stream.slots.get(node.name, ())
        if (slot := slot_of(trace, node, (place, own))) in roles
    }
    return with_aliases(trace, entries.values())
