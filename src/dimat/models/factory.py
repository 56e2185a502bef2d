"""A model of one's own, by the name of what builds it: ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from dimat.errors import ModelError
from dimat.imports import in_current_folder

_VARIOUS = inspect.Parameter.VAR_KEYWORD


def made_by(
    name: str,
    offered: Mapping[str, object],
    more: Mapping[str, object] = MappingProxyType({}),
    build: Callable[..., object] | None = None,
) -> nn.Module:
    """The model that a factory builds from those of the arguments offered that it asks for.

    A factory with ``**kwargs`` gets all of ``offered``. Modules are looked for in the current
    folder too, after everywhere else, so that no file in it takes the place of an installed module.

    Args:
        name: Such as ``mypackage.nets:build``.
        offered: What is known of the data: num_classes, and of images in_channels and image_size.
        more: What else is known, for factories that have a parameter of that name.
        build: The factory; None to import it by its name.

    Raises:
        ModelError: If it cannot be imported or called, fails, or builds something else.
    """
    with in_current_folder():
        factory = build or _import(name)
        given = _asked_for(name, factory, offered, more)
        try:
            model = factory(**given)
        except Exception as error:  # whatever a user's code raises
            problem = f"{type(error).__name__}: {error}"
            raise ModelError(f"model '{name}' fails when it is built: {problem}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model '{name}' returned {type(model).__name__}, not an nn.Module")
    return model


def _import(name: str) -> Callable[..., object]:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a user's module raises what it likes, a SyntaxError too
        raise ModelError(
            f"model '{name}' cannot be imported: {error} (write package.module:factory, and have "
            "the package installed, on PYTHONPATH, or in the current folder)"
        ) from error
    if not callable(factory):
        raise ModelError(f"model '{name}' is {type(factory).__name__}, not something to call")
    return factory  # type: ignore[no-any-return]


def _asked_for(
    name: str,
    factory: Callable[..., object],
    offered: Mapping[str, object],
    more: Mapping[str, object],
) -> dict[str, object]:
    """The arguments that a factory's signature has, if it needs no others."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # built in, without a signature
        return {}
    every = any(own.kind is _VARIOUS for own in signature.parameters.values())
    given = {word: offered[word] for word in offered if every or word in signature.parameters}
    given |= {word: more[word] for word in more if word in signature.parameters}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ModelError(
            f"model '{name}' cannot be called: {error}; a factory may ask for "
            f"{', '.join([*offered, *more])}, and other arguments need defaults"
        ) from error
    return given
