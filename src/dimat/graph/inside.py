"""Submodules of a model: what they are called with, and what of them is used from outside."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dimat.compat import tree_leaves, tree_map
from dimat.errors import ConfigError, ModelError, check_kind, nearest_key, shown
from dimat.graph.capture import capture, in_mode
from dimat.state import tensors_of

_MOST_TRIED = 12  # submodules of a model that cannot be captured, for the message that says so
Call = tuple[tuple[Any, ...], Mapping[str, Any]]  # positional and keyword arguments


@dataclass
class Seen:
    """What was seen of a submodule while its model ran.

    Args:
        calls: The arguments of each of its calls, detached.
        outside: Its entries, under its own names, that were used while it did not run itself, or
            are tied to entries outside of it.
    """

    calls: list[Call] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)


def submodule(model: nn.Module, at: str) -> nn.Module:
    """The submodule of a name.

    Args:
        model: The model.
        at: The name, such as ``encoder`` or ``layers.0``.

    Raises:
        ConfigError: If there is none.
    """
    check_kind("at", at, str, "the name of a submodule, such as 'encoder'")
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if at not in names:
        near = nearest_key(at, names)
        raise ConfigError(
            f"'at' is '{shown(at, 100)}', and {type(model).__name__} has no submodule of that name"
            f"{near}"
        )
    return model.get_submodule(at)


def look_inside(model: nn.Module, at: str, calls: Iterable[Call]) -> Seen:
    """Run a model in eval mode, and see what its submodule is called with.

    Args:
        model: Not changed.
        at: Name of the submodule.
        calls: The calls of the model.

    Raises:
        ConfigError: If there is no such submodule.
        ModelError: If the model does not call it.
    """
    own = submodule(model, at)
    seen = Seen(outside=_tied(model, own))
    with in_mode(model, False), torch.no_grad(), _watched(own, seen):
        for args, kwargs in calls:
            model(*args, **kwargs)
    if not seen.calls:
        raise ModelError(
            f"'at' is '{at}', and {type(model).__name__}.forward does not call that submodule on "
            "the inputs that are given: name one that it calls, or give other inputs"
        )
    return seen


def exposed(module: nn.Module, names: Iterable[str]) -> nn.Module:
    """A module that also returns some of its entries, as whose readers use them from outside.

    Args:
        module: Shares its entries with the result; not changed.
        names: Names of the entries; without any the module itself is returned.
    """
    chosen = sorted(names)
    if not chosen:
        return module
    twin = copy.copy(module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        entries = twin.state_dict(keep_vars=True)
        return type(module).forward(twin, *args, **kwargs), [entries[x].clone() for x in chosen]

    # torch.export names the inputs after the parameters of forward.
    forward.__signature__ = inspect.signature(module.forward)  # type: ignore[attr-defined]
    twin.__dict__["forward"] = forward
    return twin


@contextmanager
def _watched(own: nn.Module, seen: Seen) -> Iterator[None]:
    """A context in which the calls of a submodule, and of what is in it, are seen."""
    depth = 0

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal depth
        if not depth:
            seen.calls.append(tree_map(_detached, (args, kwargs)))
        depth += 1

    def leave(*_: object) -> None:
        nonlocal depth
        depth -= 1

    def inner(name: str, module: nn.Module) -> Any:
        entries = {f"{name}.{key}" for key in tensors_of(module.state_dict())}

        def called(*_: object) -> None:
            if not depth:
                seen.outside |= entries

        return called

    with ExitStack() as undo:
        hooks = [
            own.register_forward_pre_hook(enter, with_kwargs=True),
            own.register_forward_hook(leave, always_call=True),
        ]
        for name, module in own.named_modules():
            if name:
                hooks.append(module.register_forward_pre_hook(inner(name, module)))
        for hook in hooks:
            undo.callback(hook.remove)
        yield


def _detached(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _tied(model: nn.Module, own: nn.Module) -> set[str]:
    """Entries of a submodule that a module outside of it has as well."""
    inside = set(own.modules())
    outer = {
        id(value)
        for module in model.modules()
        if module not in inside
        for value in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    entries = tensors_of(own.state_dict(keep_vars=True))
    return {name for name, value in entries.items() if id(value) in outer}


def alike(first: Call, call: Call) -> bool:
    """Whether a call differs from another one in its number of samples only."""
    ours, theirs = (tree_leaves((args, dict(kwargs))) for args, kwargs in (first, call))
    if len(ours) != len(theirs) or first[1].keys() != call[1].keys():
        return False
    return all(map(_same_kind, ours, theirs))


def _same_kind(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape[1:] == b.shape[1:] and a.dim() == b.dim()
    return type(a) is type(b) and (isinstance(a, Tensor) or bool(a == b))


def way_out(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What can be done for a model that cannot be captured: look into a part, or name the axes.

    Args:
        model: Not changed.
        args: Example inputs.
        kwargs: Example keyword inputs.
    """
    found = _capturable(model, args, kwargs)
    if not found:
        return (
            ", or give the symmetry by hand: symmetry=dimat.Symmetry.from_axes({'fc1.weight': "
            "('hidden', None), …}, model.state_dict())"
        )
    own = max(found, key=lambda name: _count(model.get_submodule(name)))
    share = _count(model.get_submodule(own)) / max(_count(model), 1)
    return (
        f", or permute only the units of its submodule '{own}', which can be captured and has "
        f"{100 * share:.0f} % of the parameters: at='{own}' (--at {own})"
    )


def _capturable(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """Names of submodules with layers inside that can be captured, the outermost ones."""
    calls: dict[str, Call] = {}

    def noted(name: str) -> Any:
        return lambda _, args, kwargs: calls.setdefault(name, tree_map(_detached, (args, kwargs)))

    named = {name: own for name, own in model.named_modules() if name and _layers(own) > 1}
    with ExitStack() as undo, in_mode(model, False), torch.no_grad():
        for name, own in named.items():
            hook = own.register_forward_pre_hook(noted(name), with_kwargs=True)
            undo.callback(hook.remove)
        model(*args, **kwargs)
    found: list[str] = []
    tried = 0
    for name, (inner, named_inner) in calls.items():  # in the order of the calls, outer ones first
        if tried == _MOST_TRIED or any(name.startswith(f"{own}.") for own in found):
            continue
        tried += 1
        with suppress(ModelError):
            capture(named[name], inner, named_inner, training=False)
            found.append(name)
    return found


def _layers(module: nn.Module) -> int:
    """Number of modules in a module that have parameters of their own."""
    return sum(
        1 for own in module.modules() if next(own.parameters(recurse=False), None) is not None
    )


def _count(module: nn.Module) -> int:
    return sum(own.numel() for own in module.parameters())
