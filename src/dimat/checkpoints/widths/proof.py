"""Proof by execution that silent units leave the function of a narrower network as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dimat.checkpoints.batches import ModelCall
from dimat.checkpoints.widths.padding import Padding, silent_units
from dimat.compat import tree_flatten, tree_leaves, tree_unflatten
from dimat.errors import ModelError, StructureError, first_line
from dimat.graph.trace import operator_name, tied_keys
from dimat.state import State, is_number, tensors_of
from dimat.symmetry import Analysis
from dimat.symmetry.labels.units import Special
from dimat.symmetry.proof.evidence import close_to
from dimat.symmetry.proof.redraw import LEAST_DRAWS, draw, on_freest_inputs

# Relative to the largest output: sums of more terms round to other numbers in float64 by some
# 1e-15 a term, and in float32 by 1e-6; a channel in a wrong place changes outputs by their size.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
_STATISTICS = frozenset({"aten.layer_norm", "aten.group_norm", "aten.rms_norm"})
_ATTENTION = "aten.scaled_dot_product_attention"


def check_padding(
    analysis: Analysis,
    wide: nn.Module,
    narrow: nn.Module,
    padding: Padding,
    state: State,
    call: ModelCall,
    who: str,
) -> Padding:
    """The padding, if both networks compute the same; nothing in it is free if that is not proved.

    Compared are the outputs of the state itself, and of states that are drawn, on inputs that are
    drawn; then with numbers in place of the free entries.

    Args:
        analysis: Analysis of the wider model.
        wide: The wider model; not changed.
        narrow: The narrower one; not changed.
        padding: The padding of the state.
        state: The narrower state.
        call: Example inputs.
        who: Name of the state, for messages.

    Raises:
        StructureError: If the narrower network cannot be run in its shapes, or outputs change.
    """
    for dtype, tolerance in TOLERANCES.items():
        pair = (copy.deepcopy(wide).to(dtype), copy.deepcopy(narrow).to(dtype))
        try:
            trials = list(_trials(*pair, padding, state, call))
        except ModelError as error:  # it casts inside, or has an operator that knows no float64
            failed = error
            continue
        if all(_agree(own, padded, tolerance) for own, padded, _ in trials):
            free = all(_agree(own, noisy, tolerance) for own, _, noisy in trials)
            return padding if free else _without_freedom(padding)
        raise StructureError(
            f"{who} cannot be padded: silent units change the model's outputs"
            f"{_reason(analysis, state)}; merge networks of one width"
        )
    raise StructureError(
        f"{who} cannot be padded: the model cannot be run in its shapes{_reason(analysis, state)} "
        f"({first_line(failed)}); give the narrower network itself, as an nn.Module"
    )


Outputs = list[Tensor]


def _trials(
    wide: nn.Module, narrow: nn.Module, padding: Padding, state: State, call: ModelCall
) -> Iterator[tuple[Outputs, Outputs, Outputs]]:
    """For several draws the outputs: narrower, padded, and with any numbers in free entries."""
    flat, spec = tree_flatten((call.args, dict(call.kwargs)))
    dtype = next((x.dtype for x in narrow.parameters() if x.is_floating_point()), torch.float64)
    like = tensors_of(wide.state_dict())

    def attempt(number: int, level: str) -> tuple[Outputs, Outputs, Outputs]:
        drawn, inputs = draw(max(number, 0), state, flat, level)
        values = state if number < 0 else drawn
        own = {key: _as(value, dtype) for key, value in values.items()}
        own.update({alias: own[first] for alias, first in tied_keys(narrow).items()})
        args, kwargs = tree_unflatten([_as(x, dtype) for x in inputs], spec)
        generic, _ = draw(1, like, [])
        noise = {key: _as(value, dtype) for key, value in generic.items()}
        noise.update({alias: noise[first] for alias, first in tied_keys(wide).items()})
        states = (own, padding.pad(own), padding.pad(own, noise))
        models = (narrow, wide, wide)
        found = [_run(m, s, args, kwargs) for m, s in zip(models, states, strict=True)]
        return found[0], found[1], found[2]

    for number in range(-1, LEAST_DRAWS):
        yield on_freest_inputs(type(narrow).__name__, partial(attempt, number))


def _run(model: nn.Module, state: State, args: Any, kwargs: Any) -> Outputs:
    copied = {key: value.clone() for key, value in state.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = torch.func.functional_call(model, copied, args, kwargs, tie_weights=False)
    return [x for x in tree_leaves(found) if isinstance(x, Tensor)]


def _as(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor) or not is_number(value):
        return value
    return value.to(dtype.to_complex() if value.is_complex() else dtype)


def _agree(ours: Outputs, theirs: Outputs, tolerance: float) -> bool:
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return False
    return all(close_to(a, b, tolerance) for a, b in zip(ours, theirs, strict=True))


def _without_freedom(padding: Padding) -> Padding:
    return replace(padding, free={k: torch.zeros_like(x) for k, x in padding.free.items()})


def _reason(analysis: Analysis, state: Mapping[str, Tensor]) -> str:
    """The first norm or attention that is known not to leave silent units alone, in words."""
    silent = silent_units(analysis, state)
    for node in analysis.trace.graph.nodes:
        name = operator_name(node.target) if node.op == "call_function" else ""
        if name not in _STATISTICS and name != _ATTENTION:
            continue
        labels = analysis.labels.get(node.args[0].name, ())
        padded = [silent[x] for x in labels if not isinstance(x, Special)]
        if name in _STATISTICS and any(x.any() for x in padded):
            return f", as '{node.name}' takes its statistics over padded units"
        if any((x.any(-1) & ~x.all(-1)).any() for x in padded if x.shape[-1] > 1):
            return f", as '{node.name}' scales by the size of a head, and heads are padded inside"
    return ""
