"""The model inside of PyTorch's wrappers, and states under its names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from dimat.checkpoints.formats.files import Say, silent
from dimat.compat import compiled_from
from dimat.errors import StructureError, shown
from dimat.graph.trace import tied_keys
from dimat.state import check_module, tensors_of


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``.

    Args:
        model: A model, in any number of wrappers.

    Raises:
        ConfigError: If it is no model.
    """
    check_module(model)
    while True:
        inner = compiled_from(model)
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def fitted(
    model: nn.Module, state: Mapping[str, Any], who: str, say: Say = silent
) -> dict[str, Any]:
    """A state under the names of a model, where a prefix is all that is between them.

    Names stay as they are if they fit, or if no one prefix makes them fit; the check of the state
    then says what is missing.

    Args:
        model: The unwrapped model.
        state: Entries of any kind, by name; not changed.
        who: Name of the state, for messages: ``"state 1"``.
        say: Receives the prefix, and what was left out because it has another one.

    Raises:
        StructureError: If several prefixes make them fit.
    """
    needed = _needed(model)
    if not needed or _covers(state.keys(), needed):
        return dict(state)
    before = [x for x in _before(state, needed) if _covers(_without(x, state), needed)]
    if len(before) > 1:
        both = ", ".join(f"'{shown(prefix, 60)}'" for prefix in before[:5])
        raise StructureError(
            f"{who}: the model's names are there behind several prefixes, {both}: choose one by "
            "'key' (--key)"
        )
    if before:
        prefix, found = before[0], _without(before[0], state)
        others = [name for name in state if not name.startswith(prefix)]
        left = f"; left out: '{shown(others[0], 60)}'" if others else ""
        more = f" and {len(others) - 1} more without it" if len(others) > 1 else ""
        say(f"'{shown(prefix, 60)}' before its names is taken off{left}{more}")
        return found
    for prefix in _inside(needed):  # a wrapper of the model that was saved without it
        found = {prefix + name: value for name, value in state.items()}
        if _covers(found.keys(), needed):
            say(f"'{prefix}' is put before its names")
            return found
    return dict(state)


def _needed(model: nn.Module) -> list[frozenset[str]]:
    """The names of which a state of a model has one each: those of a tied tensor are together."""
    aliases, tied = tied_keys(model), dict[str, set[str]]()
    for name in tensors_of(model.state_dict()):
        if not name.endswith("num_batches_tracked"):  # which old files lack
            tied.setdefault(aliases.get(name, name), set()).add(name)
    return [frozenset(names) for names in tied.values()]


def _covers(names: Collection[str], needed: Iterable[frozenset[str]]) -> bool:
    return all(any(name in names for name in own) for own in needed)


def _before(state: Iterable[str], needed: Iterable[frozenset[str]]) -> list[str]:
    """Prefixes that the names of a state may have: those before the longest name of the model."""
    longest = max(needed, key=lambda own: max(map(len, own)))
    ends = tuple(f".{name}" for name in longest)
    found = {name.removesuffix(end[1:]) for name in state for end in ends if name.endswith(end)}
    return sorted(found)


def _without(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _inside(needed: Iterable[frozenset[str]]) -> Iterator[str]:
    """Prefixes, up to a dot, that all names of a model have."""
    parts = [name.split(".")[:-1] for own in needed for name in own]
    prefix = ""
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            return
        prefix += f"{level[0]}."
        yield prefix
