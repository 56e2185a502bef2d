"""Proof by execution: redraw every entry, permute, and compare every node of the graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimat.errors import StructureError
from dimat.symmetry.call import Result, as_tuple, tensors_in
from dimat.symmetry.positions import sources, take
from dimat.symmetry.solve import Solution
from dimat.symmetry.structure import cycles
from dimat.symmetry.symmetry import Permutation, Symmetry
from dimat.symmetry.trace import Recorder, Trace, flatten_inputs, operator_name, tied_keys
from dimat.symmetry.units import Ints, Labels, Special

TOLERANCE = 1e-8  # relative to the largest value of a node, in float64
EAGER_TOLERANCE = 1e-5  # a model may cast to float32 inside
DRAWS = 2


@dataclass(frozen=True)
class Example:
    """One run of a graph with every floating entry redrawn, in float64.

    Args:
        state: The redrawn state.
        inputs: Flattened user inputs.
        values: The value of every node.
    """

    state: Mapping[str, Tensor]
    inputs: Sequence[Any]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Mismatch:
    """The first node whose value is not what its labels promise."""

    node: str
    operator: str


def redraw(state: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Every floating entry drawn anew in float64, so that no zero or one hides a wrong rule.

    Matrices get a scale that keeps activations of order one; entries that are nowhere negative and
    not all zero (variances, scales) stay positive.
    """
    drawn: dict[str, Tensor] = {}
    for key, value in state.items():
        if not value.is_floating_point():
            drawn[key] = value
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.dim() > 1:
            drawn[key] = noise / max(value[0].numel(), 1) ** 0.5
        elif value.numel() and bool((value >= 0).all()) and bool((value > 0).any()):
            drawn[key] = 0.5 + noise.abs()
        else:
            drawn[key] = noise
    return drawn


def make_examples(
    traces: Sequence[Trace],
    state: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
) -> list[Example]:
    """Run each graph once on one redrawn state and random inputs shaped like the given ones."""
    generator = torch.Generator().manual_seed(0)
    drawn = redraw({k: v.detach().cpu() for k, v in state.items()}, generator)
    inputs = [_redraw_input(x, generator) for x in flatten_inputs(args, kwargs)]
    return [Example(drawn, inputs, run(t, drawn, inputs)) for t in traces]


def _redraw_input(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return value.cpu() if isinstance(value, Tensor) else value


def run(t: Trace, state: Mapping[str, Tensor], inputs: Sequence[Any]) -> dict[str, Any]:
    """The value of every node, in float64 and with one seed."""
    arguments = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in t.arguments(state, inputs).items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Recorder(t).record(arguments)


def first_mismatch(
    traces: Sequence[Trace],
    examples: Sequence[Example],
    labels: Sequence[Mapping[str, Result]],
    states: Mapping[str, Labels],
    solution: Solution,
) -> Mismatch | None:
    """The first node that does not move as labeled under random elements, if any.

    The elements move every unit that can move: a random one may leave a group of two in peace.
    """
    generator = np.random.default_rng(1)
    for _ in range(DRAWS):
        moves = random_moves(solution, generator)
        for t, example, nodes in zip(traces, examples, labels, strict=True):
            found = _compare(t, example, nodes, states, solution, moves)
            if found is not None:
                return found
    return None


def random_moves(solution: Solution, generator: np.random.Generator) -> Ints:
    """A random element of the whole group that moves everything it can."""
    families = enumerate(solution.structure.families)
    return solution.structure.moves(
        {k: cycles(f.cells.shape, generator) for k, f in families if f.size > 1}
    )


def numbered(labels: Labels, solution: Solution) -> Labels:
    """Labels in the structure's unit numbers."""
    return tuple(x if isinstance(x, Special) else solution.of(x) for x in labels)


def _compare(
    t: Trace,
    example: Example,
    nodes: Mapping[str, Result],
    states: Mapping[str, Labels],
    solution: Solution,
    moves: Ints,
) -> Mismatch | None:
    permuted = {
        key: take(value, sources(numbered(states[key], solution), moves))
        for key, value in example.state.items()
    }
    values = run(t, permuted, example.inputs)
    for node in t.graph.nodes:
        if node.op != "call_function":
            continue
        before, after = tensors_in(example.values[node.name]), tensors_in(values[node.name])
        labels = [numbered(x, solution) for x in as_tuple(nodes[node.name])] if before else []
        if not all(_agrees(*x, moves) for x in zip(before, after, labels, strict=True)):
            return Mismatch(node.name, operator_name(node.target))
    return None


def _agrees(before: Tensor, after: Tensor, labels: Labels, moves: Ints) -> bool:
    try:
        return close_to(take(before, sources(labels, moves)), after)
    except StructureError:
        return False


def close_to(expected: Tensor, found: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Equal up to rounding in float64, relative to the largest value."""
    if expected.is_complex() and found.is_complex():
        expected, found = torch.view_as_real(expected), torch.view_as_real(found)
    if not expected.is_floating_point():
        return torch.equal(expected, found)
    finite = expected.nan_to_num(posinf=0.0, neginf=0.0).abs()
    scale = max(float(finite.max()), 1e-30) if finite.numel() else 1.0
    return torch.allclose(expected, found, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def without_dropout(model: nn.Module) -> nn.Module:
    """The model itself, with the dropout of PyTorch's own layers set to zero."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0
    return model


def check_symmetry(
    symmetry: Symmetry,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Prove a symmetry on the model as it runs, without its graph: outputs must not change.

    Every floating entry is redrawn in float64, random elements are applied, and all output tensors
    compared, in eval and in training mode with dropout off. For symmetries given by hand.

    Args:
        symmetry: Of this model.
        model: Not changed.
        args: Example inputs.
        kwargs: Example keyword inputs.

    Raises:
        StructureError: If outputs change: the groups whose elements alone change them.
    """
    twin = without_dropout(copy.deepcopy(model).double())
    generator = torch.Generator().manual_seed(2)
    state = redraw(twin.state_dict(), generator)
    state.update({key: state[first] for key, first in tied_keys(twin).items()})
    inputs = [_redraw_input(x, generator) for x in flatten_inputs(args, kwargs)]
    spec = torch.utils._pytree.tree_flatten((tuple(args), dict(kwargs or {})))[1]
    own_args, own_kwargs = torch.utils._pytree.tree_unflatten(inputs, spec)

    def outputs(moved: Mapping[str, Tensor]) -> list[Tensor]:
        copied = {key: value.clone() for key, value in moved.items()}
        with torch.no_grad():
            result = torch.func.functional_call(
                twin, copied, own_args, own_kwargs, tie_weights=False
            )
        return [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor)]

    random = np.random.default_rng(2)

    def moving(names: Sequence[str]) -> Permutation:
        """A random element of these groups that moves all their units."""
        still = symmetry.identity()
        slots = {
            name: cycles(own.shape, random) if name in names else own
            for name, own in still.slots.items()
        }
        return Permutation(slots, still.digest)

    def changes(p: Permutation) -> bool:
        moved = symmetry.apply(p, state)
        pairs = zip(outputs(state), outputs(moved), strict=True)
        return not all(close_to(a, b, EAGER_TOLERANCE) for a, b in pairs)

    for training in (False, True):
        twin.train(training)
        if any(changes(moving(symmetry.names)) for _ in range(DRAWS)):
            alone = [name for name in symmetry.names if changes(moving([name]))]
            mode = "training" if training else "eval"
            raise StructureError(
                f"outputs change in {mode} mode: not a symmetry of {type(model).__name__}; "
                f"wrong by themselves: {', '.join(alone) or 'none, only together'}"
            )
