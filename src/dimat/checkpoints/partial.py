"""Merges of a part of the entries, and parents whose heads have shapes of their own."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, fx, nn

from dimat.compat import BatchNorm
from dimat.errors import ConfigError, StructureError, nearest_key, quoted, shown
from dimat.graph.trace import tied_keys
from dimat.merging import Combiner, Repair, calibrates
from dimat.state import State, tensors_of
from dimat.symmetry import Analysis, Permutation, Symmetry

Heads = Literal["merge", "keep"]
HEADS: tuple[str, ...] = get_args(Heads)
Patterns = str | Iterable[str]


def kept_entries(model: nn.Module, only: Patterns = (), except_: Patterns = ()) -> frozenset[str]:
    """The entries of a model's state that a merge leaves alone.

    The names of a tied tensor are kept or merged together: a pattern of one is one of all.

    Args:
        model: The model.
        only: Patterns of names (``layer1.*``), of which an entry that is merged has one; if empty,
            all have.
        except_: Patterns of names, of which an entry that is merged has none.

    Raises:
        ConfigError: If a pattern fits no name, or nothing is left to merge.
    """
    names = list(tensors_of(model.state_dict()))
    aliases = tied_keys(model)
    wanted, unwanted = (
        {aliases.get(name, name) for name in _fitting(setting, given, names)}
        for setting, given in (("only", only), ("except_", except_))
    )
    if not wanted:
        wanted = set(names)
    kept = frozenset(
        name
        for name in names
        if aliases.get(name, name) not in wanted or aliases.get(name, name) in unwanted
    )
    if names and len(kept) == len(names):
        raise ConfigError("'only' and 'except_' leave nothing to merge: give fewer patterns")
    return kept


def check_norms(model: nn.Module, kept: Collection[str], combiner: Combiner) -> None:
    """Refuse a combiner that fits norms together with what stands around them, where they are kept.

    Args:
        model: The model.
        kept: The entries that are not merged.
        combiner: The combiner.

    Raises:
        ConfigError: If a BatchNorm is kept in part, or at all where its statistics are set.
    """
    if not calibrates(combiner):
        return
    for prefix, module in model.named_modules():
        if not isinstance(module, BatchNorm):
            continue
        own = {f"{prefix}.{name}".removeprefix(".") for name in tensors_of(module.state_dict())}
        own = {name for name in own if not name.endswith("num_batches_tracked")}
        if own & set(kept) and (own - set(kept) or isinstance(combiner, Repair)):
            which = "keep" if isinstance(combiner, Repair) else "keep a part of"
            rule = "merge it" if isinstance(combiner, Repair) else "keep or merge all of it"
            raise ConfigError(
                f"'only' and 'except_' {which} the BatchNorm '{prefix}', and this combiner sets "
                f"its statistics together with other weights: {rule}, or take combine='average'"
            )


def _fitting(setting: str, given: Patterns, names: Sequence[str]) -> set[str]:
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, Iterable):
        raise ConfigError(f"'{setting}' is {quoted(given)}: must be a list of patterns of names")
    found = set[str]()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ConfigError(f"'{setting}' has {quoted(pattern)}: patterns must be text")
        own = {name for name in names if fnmatchcase(name, pattern)}
        if not own:
            raise ConfigError(
                f"'{setting}' has '{shown(pattern, 100)}', which fits no entry of the model"
                f"{nearest_key(pattern, names)} (a part of them: 'layer1.*')"
            )
        found |= own
    return found


def differing_entries(states: Sequence[Mapping[str, Tensor]]) -> frozenset[str]:
    """The entries that all of some states have, not all in one shape."""
    first, *others = states
    return frozenset(
        name
        for name, value in first.items()
        if all(name in own for own in others)
        and any(own[name].shape != value.shape for own in others)
    )


def resized(model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str]) -> nn.Module:
    """A copy of a model in which some entries have the shapes that they have in a state.

    Args:
        model: Not changed.
        state: A state with these entries.
        names: The entries.
    """
    twin = copy.deepcopy(model)
    changed: dict[int, Tensor] = {}  # the entries of a tied tensor stay one
    for name in sorted(names):
        where, _, own = name.rpartition(".")
        module = twin.get_submodule(where)
        old = getattr(module, own)
        if id(old) not in changed:
            value = torch.zeros(state[name].shape, dtype=old.dtype, device=old.device)
            parameter = isinstance(old, nn.Parameter)
            changed[id(old)] = nn.Parameter(value, old.requires_grad) if parameter else value
        setattr(module, own, changed[id(old)])
        for size in ("out_features", "out_channels", "num_features"):
            if getattr(module, size, None) == len(old) != len(state[name]):
                setattr(module, size, len(state[name]))
    return twin


def blank(state: Mapping[str, Tensor], like: Mapping[str, Tensor], names: Iterable[str]) -> State:
    """A state with zeros of another's shapes in place of some entries.

    Args:
        state: Not changed.
        like: The other state.
        names: The entries.
    """
    return {**state, **{name: torch.zeros_like(like[name]) for name in names}}


def check_heads(analysis: Analysis, names: frozenset[str]) -> None:
    """Refuse entries of other shapes that are no head: those that units to be matched depend on.

    Args:
        analysis: Analysis of the model.
        names: The entries.

    Raises:
        StructureError: If there are such units.
    """
    if names and (where := _units_behind(analysis, names)) is not None:
        raise StructureError(
            f"the parents differ in the shape of '{min(names)}', on which units depend that are to "
            f"be matched (at {where}): only heads, from which nothing but outputs is computed, may "
            "differ"
        )


def heads_among(analysis: Analysis, names: Iterable[str]) -> frozenset[str]:
    """Those of some entries on which no units to be matched depend.

    Args:
        analysis: Analysis of the model, with its graph.
        names: The entries.
    """
    return frozenset(own for own in names if _units_behind(analysis, {own}) is None)


def _units_behind(analysis: Analysis, names: Collection[str]) -> str | None:
    """The first node with units that move and depend on data and on some entries; None if none."""
    trace, movable = analysis.trace, analysis.symmetry.movable
    weights = {node for node, name in trace.states.items() if name in names}
    data = set(trace.inputs)
    for node in trace.graph.nodes:
        before = {own.name for own in node.all_input_nodes}
        if before & weights:
            weights.add(node.name)
        if before & data:
            data.add(node.name)
        if node.name in weights and node.name in data and _moves(analysis, node, movable):
            return str(node.name)
    return None


def _moves(
    analysis: Analysis, node: fx.Node, movable: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> bool:
    labels = analysis.labels.get(node.name, ())
    return any(isinstance(own, np.ndarray) and bool(movable[own].any()) for own in labels)


def move_like(
    permutation: Permutation, symmetry: Symmetry, state: State, aligned: Mapping[str, Tensor]
) -> State:
    """A state with a head of its own shape, its units moved as those of the same trunk were.

    Args:
        permutation: The permutation of the trunk, by the symmetry of another head.
        symmetry: The proved symmetry of the model with this head.
        state: The state; not changed.
        aligned: The trunk's entries, moved.

    Raises:
        StructureError: If the two symmetries do not move the trunk alike.
    """
    own = symmetry.identity().slots
    slots = {
        name: permutation.slots[name]
        if name in permutation.slots and permutation.slots[name].shape == still.shape
        else still
        for name, still in own.items()
    }
    moved = symmetry.apply(Permutation(slots, symmetry.digest), state)
    for name, value in aligned.items():
        if not torch.equal(moved[name], value):
            raise StructureError(
                f"with another head the units of '{name}' can be moved in another way only: merge "
                "these parents with heads of one shape"
            )
    return moved
