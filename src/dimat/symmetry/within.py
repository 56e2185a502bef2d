"""The symmetry of a submodule as one of its model, in which all around it stays in its place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimat.compat import tree_leaves, tree_map
from dimat.errors import StructureError
from dimat.graph.inside import submodule
from dimat.graph.trace import Trace, tied_keys
from dimat.state import State, is_number, tensors_of
from dimat.symmetry.labels.structure import cycles
from dimat.symmetry.labels.units import FIXED, Labels
from dimat.symmetry.permutation import Group, Permutation
from dimat.symmetry.proof.check import TOLERANCE
from dimat.symmetry.proof.evidence import close_to
from dimat.symmetry.symmetry import Symmetry

_NOISE = 0.01  # relative; zero biases and unit scales would hide that they are used elsewhere


def lifted_symmetry(symmetry: Symmetry, model: nn.Module, at: str) -> Symmetry:
    """The symmetry of a submodule as one of the whole model.

    Args:
        symmetry: The symmetry of the submodule.
        model: The model.
        at: Name of the submodule.
    """
    state = tensors_of(model.state_dict())
    inner = inner_keys(model, at)
    axes: dict[str, Labels] = {}
    reasons: dict[str, tuple[str, ...]] = {}
    for key, value in state.items():
        own = inner.get(key)
        axes[key] = (FIXED,) * value.dim() if own is None else symmetry.axes[own]
        around = (f"not in '{at}'",) * value.dim()
        reasons[key] = around if own is None else symmetry.reasons.get(own, ())
    members = [
        tuple((key, a) for key, own in inner.items() for k, a in group.members if k == own)
        for group in symmetry.groups
    ]
    groups = tuple(
        Group(
            f"{at}.{group.name}",
            group.size,
            group.cells,
            tuple(f"{at}.{name}" for name in group.over),
            own,
        )
        for group, own in zip(symmetry.groups, members, strict=True)
    )
    shapes = {key: tuple(int(n) for n in value.shape) for key, value in state.items()}
    return replace(symmetry, groups=groups, axes=axes, shapes=shapes, reasons=reasons)


def lifted_trace(trace: Trace, model: nn.Module, at: str) -> Trace:
    """The graph of a submodule, reading the entries of the whole model.

    Args:
        trace: The graph of the submodule.
        model: The model.
        at: Name of the submodule.
    """
    aliases = tied_keys(model)

    def named(key: str) -> str:
        return aliases.get(f"{at}.{key}", f"{at}.{key}")

    return replace(
        trace,
        states={node: named(key) for node, key in trace.states.items()},
        mutated=tuple((node, named(key)) for node, key in trace.mutated),
        aliases=aliases,
        parameters=frozenset(map(named, trace.parameters)),
    )


def check_within(
    symmetry: Symmetry,
    model: nn.Module,
    at: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Refuse the symmetry of a submodule if the outputs of the whole model change under it.

    In the submodule it is proved; here may be seen that its entries are used elsewhere, too. The
    state is the model's own but for some noise, so that control flow goes where it usually goes.

    Args:
        symmetry: A :func:`lifted_symmetry`.
        model: Not changed.
        at: Name of the submodule.
        args: Example inputs.
        kwargs: Example keyword inputs.

    Raises:
        StructureError: If so; names the groups.
    """
    twin = copy.deepcopy(model).eval()
    try:
        twin, wide = twin.double(), torch.float64
        _outputs(twin, _noisy(twin), args, kwargs, wide)
    except Exception:  # it casts inside, or has an operator that knows no float64
        twin, wide = copy.deepcopy(model).eval().float(), torch.float32
    state = _noisy(twin)
    random = np.random.default_rng(0)
    still = symmetry.identity().slots
    expected = _outputs(twin, state, args, kwargs, wide)

    def changes(names: tuple[str, ...]) -> bool:
        slots = {n: cycles(x.shape, random) if n in names else x for n, x in still.items()}
        moved = symmetry.apply(Permutation(slots, symmetry.digest), state)
        found = _outputs(twin, moved, args, kwargs, wide)
        return len(expected) != len(found) or not all(
            a.shape == b.shape and close_to(a, b, TOLERANCE)
            for a, b in zip(expected, found, strict=True)
        )

    if symmetry.names and changes(symmetry.names):
        alone = [name for name in symmetry.names if changes((name,))]
        raise StructureError(
            f"the outputs of {type(model).__name__} change where those of its '{at}' do not: "
            f"entries of '{at}' are also used outside of it; wrong by themselves: "
            f"{', '.join(alone) or 'none, only together'}; name a submodule that has all their uses"
        )


def inner_keys(model: nn.Module, at: str) -> dict[str, str]:
    """Every state key of the model that names an entry of a submodule, and the name it has there.

    Names are other ones too, where the submodule, or an entry of it, has several in the model.
    """
    own = tensors_of(submodule(model, at).state_dict(keep_vars=True))
    first: dict[int, str] = {}
    for name, value in own.items():
        first.setdefault(id(value), name)
    found = {}
    for key, value in tensors_of(model.state_dict(keep_vars=True)).items():
        if id(value) in first:
            found[key] = first[id(value)]
    return found


def _noisy(model: nn.Module) -> State:
    random = torch.Generator().manual_seed(0)
    state: State = {}
    for key, value in tensors_of(model.state_dict()).items():
        noise = torch.rand(value.shape, generator=random, dtype=torch.float64)
        scale = _NOISE * (float(value.abs().double().mean()) if value.numel() else 0.0) or _NOISE
        state[key] = value + (scale * noise).to(value) if is_number(value) else value
    return state | {key: state[first] for key, first in tied_keys(model).items()}


def _outputs(
    model: nn.Module,
    state: State,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    wide: torch.dtype,
) -> list[Tensor]:
    """The output tensors of a run under a state; its own buffers stay as they are."""

    def fed(x: Any) -> Any:
        return x.to(wide) if isinstance(x, Tensor) and x.is_floating_point() else x

    own_args, own_kwargs = tree_map(fed, (args, dict(kwargs or {})))
    copied = {key: value.clone() for key, value in state.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = torch.func.functional_call(model, copied, own_args, own_kwargs, tie_weights=False)
    return [x for x in tree_leaves(result) if isinstance(x, Tensor)]
