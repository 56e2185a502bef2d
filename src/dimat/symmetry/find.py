"""Search for the permutation symmetry of any model: trace, label, solve, prove, reduce."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from dimat.errors import ModelError
from dimat.graph.inside import Call, exposed, look_inside, submodule
from dimat.graph.trace import Trace, as_args, flatten_inputs, trace_modes
from dimat.state import check_module, tensors_of
from dimat.symmetry.constants import digest_of, unwritten
from dimat.symmetry.label import label_graphs
from dimat.symmetry.labels.solve import solve
from dimat.symmetry.labels.units import Labels, Pin
from dimat.symmetry.proof.evidence import UNPROVED
from dimat.symmetry.proof.redraw import on_freest_inputs
from dimat.symmetry.proof.verify import Proof
from dimat.symmetry.reduce import reduce_solution
from dimat.symmetry.symmetry import Symmetry
from dimat.symmetry.within import check_within, inner_keys, lifted_symmetry, lifted_trace
from dimat.text import brief

# Proofs by the digests of graphs and constants: the agents of a run, and the calls of a notebook,
# have one architecture.
_CACHE: dict[tuple[str, ...], Analysis] = {}


@dataclass(frozen=True, eq=False)
class Analysis:
    """The analysis of a model: its graph, the labels of every node, its symmetry.

    Equal only to itself: what is derived from it is remembered by it.

    Args:
        trace: The graph in eval mode.
        labels: Labels of every tensor in that graph, in the symmetry's unit numbers.
        symmetry: The proved symmetry.
        distrusted: Nodes whose rule the proof refuted, or could not confirm; what they touch is
            pinned.
    """

    trace: Trace
    labels: Mapping[str, Labels]
    symmetry: Symmetry
    distrusted: tuple[Pin, ...] = ()

    __repr__ = brief


def find_symmetry(
    model: nn.Module,
    args: tuple[Any, ...] | Tensor,
    kwargs: Mapping[str, Any] | None = None,
    *,
    at: str | None = None,
) -> Symmetry:
    """The permutation symmetry of ``model``, proved by execution.

    Both the eval and the training graph are traced; what holds in both is kept. Every floating
    entry is then redrawn at random in float64, and every node of both graphs compared under random
    elements: a rule that fails is distrusted, and what it touches is pinned.

    Args:
        model: Any module that ``torch.export`` can capture; not changed.
        args: Example inputs, as the model is called, or the only one; a small batch is enough.
        kwargs: Example keyword inputs.
        at: Name of a submodule, such as ``"encoder"``, that alone is captured and has its units
            permuted, where the whole model cannot be; units at its inputs and outputs, and all that
            is not in it, stay. What it is called with is seen in a run of the model.

    Raises:
        ConfigError: If the model is no module, the inputs are none, or there is no such submodule.
        ModelError: If the inputs do not fit, or the model cannot be captured, or does not call the
            submodule.
        StructureError: If outputs change as entries of the submodule are also used outside of it.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> symmetry = find_symmetry(net, (torch.zeros(2, 3),))
        >>> [(g.name, g.size, g.members) for g in symmetry.groups]
        [('0', 8, (('0.weight', 0), ('0.bias', 0), ('2.weight', 1)))]
    """
    check_module(model)
    args = as_args(args)
    if at is None:
        return analyze(model, args, kwargs).symmetry
    call = (args, kwargs or {})
    seen = look_inside(model, at, [call])
    return analyze_within(model, at, call, seen.calls[0], seen.outside).symmetry


def analyze(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    constants: Mapping[str, Tensor] | None = None,
    frozen: Mapping[str, Tensor] | None = None,
) -> Analysis:
    """The symmetry of a model, with the graph and the labels that matching needs.

    Cached in memory by the digest of the graphs: a second call on one architecture only exports.

    Args:
        model: As :func:`find_symmetry` takes it.
        args: Example inputs, as the model is called.
        kwargs: Example keyword inputs.
        constants: Entries that all states have in common. Buffers among them that no forward pass
            writes must keep their values, so units move only among those of equal entries.
        frozen: Entries that states lack, as nobody trains them: parameters and buffers of all
            agents alike. They keep their values likewise, and the graph reads them.

    Raises:
        ModelError: If the inputs do not fit, or the model cannot be captured.
    """
    frozen = frozen or {}
    traces = trace_modes(model, args, kwargs)
    kept = unwritten(traces, {**(constants or {}), **frozen}, frozen.keys())
    key = (*(t.digest() for t in traces), digest_of(kept))
    found = _CACHE.get(key) or _prove(model, traces, args, kwargs, kept)
    if not any(pin.why.startswith(UNPROVED) for pin in found.distrusted):
        _CACHE[key] = found  # other inputs may show more of what is unproved
    return replace(found, trace=replace(traces[0], frozen=frozen))


def analyze_within(
    model: nn.Module,
    at: str,
    call: Call,
    inner: Call,
    outside: Collection[str] = (),
    constants: Mapping[str, Tensor] | None = None,
) -> Analysis:
    """The symmetry of a submodule, as one of the whole model, with the submodule's graph.

    Args:
        model: The model; not changed.
        at: Name of the submodule.
        call: Example inputs of the model.
        inner: Example inputs of the submodule.
        outside: Entries of the submodule that are used outside of it; they stay in their places.
        constants: As :func:`analyze` takes them, by the model's names.

    Raises:
        ModelError: If the submodule cannot be captured.
        StructureError: If outputs change as entries of the submodule are also used outside of it.
    """
    own = exposed(submodule(model, at), outside)
    names = inner_keys(model, at)
    shared = {names[key]: x for key, x in (constants or {}).items() if key in names}
    found = analyze(own, *inner, shared)
    symmetry = lifted_symmetry(found.symmetry, model, at)
    check_within(symmetry, model, at, *call)
    return replace(found, trace=lifted_trace(found.trace, model, at), symmetry=symmetry)


def _prove(
    model: nn.Module,
    traces: Sequence[Trace],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    constants: Mapping[str, Tensor],
) -> Analysis:
    """The proved analysis of a model that is not in the cache."""
    inputs = flatten_inputs(args, kwargs)
    draws = [t.example_draws() for t in traces]
    entries = {**tensors_of(model.state_dict()), **constants, **draws[0], **draws[1]}

    def attempt(level: str) -> Analysis:
        proof = Proof(traces, entries, inputs, level, constants.keys())
        return _prove_on(proof, traces, entries, constants)

    return on_freest_inputs(type(model).__name__, attempt)


def _prove_on(
    proof: Proof,
    traces: Sequence[Trace],
    entries: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
) -> Analysis:
    """The analysis whose symmetry passes a proof.

    A node that fails has all that it touches pinned, and everything is labeled and solved anew: a
    pin frees nothing, so there are at most as many passes as nodes.
    """
    drawn = {key for t in traces for key in t.draws.values()}
    state = {key: value for key, value in entries.items() if key not in drawn}
    distrusted: dict[str, str] = {}
    blamed: list[Pin] = []
    while True:
        labeling = label_graphs(traces, proof.examples, entries, distrusted, constants)
        solution = solve(labeling.units, labeling.used())
        fault = proof.first_fault(labeling.nodes, labeling.states, solution)
        if fault is None:
            break
        if fault.node in distrusted:
            raise ModelError(
                f"no sound symmetry found: '{fault.node}' ({fault.operator}) changes under "
                "permutations although everything it touches is pinned; please report this model"
            )
        distrusted[fault.node] = fault.why
        blamed.append(Pin(fault.operator, fault.node, fault.why))
    symmetry, labels = reduce_solution(solution, labeling, state, traces[0].aliases)
    return Analysis(traces[0], labels, symmetry, tuple(blamed))
