"""Things by name: dimat's own, those that a user registers, those of installed packages."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cached_property, partial
from typing import Any, Generic, TypeVar, overload

from dimat.errors import ConfigError, first_line, quoted

_LOG = logging.getLogger("dimat")
_NAME = r"[A-Za-z0-9][\w.+-]*"  # it stands in lists with commas, and names folders
_RESERVED = ("none", "all")  # which mean something in a list of names

Thing = TypeVar("Thing")
Given = TypeVar("Given")
EntryPoints = Mapping[str, importlib.metadata.EntryPoint]


class Registry(MutableMapping[str, Thing], Generic[Thing]):
    """Values by name, to which others add their own.

    A package adds a value by an entry point of the registry's group, which is imported when that
    value is first asked for. ``registry[name] = thing`` replaces what is there;
    :meth:`register` does not.

    Args:
        setting: The setting that names are given for, such as ``topology.name``.
        group: The group of the entry points, such as ``dimat.topologies``.
        own: dimat's own values.
        prepare: Checks what is to be added under a name, and gives the value to be kept; raises
            ConfigError.

    >>> registry = Registry("color", "dimat.colors", {"red": 0xFF0000})
    >>> registry.register("green", 0x00FF00)
    65280
    >>> sorted(registry)
    ['green', 'red']
    >>> registry.register("red", 0xEE0000)
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: 'color' has a 'red' already: register yours under another name
    """

    def __init__(
        self,
        setting: str,
        group: str,
        own: Mapping[str, Thing],
        prepare: Callable[[str, Any], Thing] = lambda name, thing: thing,
    ) -> None:
        self.setting, self.group, self._prepare = setting, group, prepare
        self._things, self._dimats = dict(own), tuple(own)
        _REGISTRIES[group] = self

    @overload
    def register(self, name: str, thing: Given) -> Given: ...

    @overload
    def register(self, name: str) -> Callable[[Given], Given]: ...

    def register(self, name: str, thing: Any = None) -> Any:
        """Add a thing under a name that is free; a decorator without the thing.

        The same definition may be registered again, as when a notebook's cell is run twice.

        Args:
            name: Letters, digits and ``. _ + -``.
            thing: What the registry holds of its kind.

        Returns:
            The thing, as it was given.

        Raises:
            ConfigError: If the name is taken or is none, or the thing is of another kind.
        """
        if thing is None:
            return partial(self.register, name)
        if not isinstance(name, str) or not re.fullmatch(_NAME, name) or name in _RESERVED:
            rule = f"letters, digits and . _ + -, and not {' or '.join(_RESERVED)}"
            raise ConfigError(f"name for '{self.setting}' is {quoted(name)}: must be {rule}")
        kept = self.prepared(name, thing)
        if name in self._things and not _same(self._things[name], kept):
            raise ConfigError(
                f"'{self.setting}' has a '{name}' already: register yours under another name"
            )
        self._things[name] = kept
        return thing

    def prepared(self, name: str, thing: Any) -> Thing:
        """What would be kept of a thing under a name.

        Raises:
            ConfigError: If the thing is of another kind.
        """
        return self._prepare(name, thing)

    @property
    def added(self) -> list[str]:
        """The names that are not dimat's own."""
        return [name for name in self if name not in self._dimats]

    def name_of(self, thing: object) -> str | None:
        """The name of a thing that is there; None if it has none."""
        return next((name for name, own in self._things.items() if own is thing), None)

    def __getitem__(self, name: str) -> Thing:
        if name not in self._things and name in self._outside:
            self._load(self._outside[name])
        return self._things[name]

    def __setitem__(self, name: str, thing: Any) -> None:
        self._things[name] = self.prepared(name, thing)

    def __delitem__(self, name: str) -> None:
        del self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._outside

    def __iter__(self) -> Iterator[str]:
        return iter([*self._things, *(name for name in self._outside if name not in self._things)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Registry({', '.join(self)})"

    @cached_property
    def _outside(self) -> EntryPoints:
        """The entry points of the group, by name; a name of dimat's own stays dimat's."""
        found = entry_points(self.group)
        for name in set(found) & set(self._dimats):
            _LOG.warning(
                "entry point '%s' of group '%s' (%s) is not used: the name is dimat's own",
                *(name, self.group, found[name].value),
            )
        return found

    def _load(self, point: importlib.metadata.EntryPoint) -> None:
        """Import and keep what an entry point names.

        Raises:
            ConfigError: If it cannot be imported, or is of another kind.
        """
        try:
            thing = point.load()
        except Exception as error:
            package = point.dist.name if point.dist else "an installed package"
            raise ConfigError(
                f"'{point.name}' ('{self.setting}') is {point.value} of {package}, which cannot be "
                f"imported: {type(error).__name__}: {first_line(error)}"
            ) from error
        self._things[point.name] = self.prepared(point.name, thing)


_REGISTRIES: dict[str, Registry[Any]] = {}  # those that are imported, by group


def entry_points(group: str) -> EntryPoints:
    """What installed packages add to a registry, by name; nothing is imported."""
    return {own.name: own for own in importlib.metadata.entry_points(group=group)}


def added_names(group: str) -> list[str]:
    """The names that others have added to a registry; without importing the registry.

    Args:
        group: Of the registry, such as ``dimat.methods``.
    """
    registry = _REGISTRIES.get(group)
    return sorted(entry_points(group) if registry is None else registry.added)


def an_object(*needs: str) -> Callable[[str, Any], Any]:
    """For registries of objects: a class stands for its object with all defaults.

    Args:
        needs: The attributes that an object has.
    """

    def prepare(name: str, thing: Any) -> Any:
        made = thing() if isinstance(thing, type) else thing
        lacking = [attribute for attribute in needs if not hasattr(made, attribute)]
        if lacking:
            raise ConfigError(
                f"'{name}' is {quoted(thing)}, which has no '{lacking[0]}': must be an object with "
                f"{' and '.join(needs)}, or its class"
            )
        return made

    return prepare


def a_function(*takes: str, options: bool = False) -> Callable[[str, Any], Any]:
    """For registries of functions.

    Args:
        takes: What a function is called with, in order.
        options: Whether one that has a parameter ``options`` is given that, too.
    """

    def prepare(name: str, thing: Any) -> Any:
        if not callable(thing):
            raise ConfigError(f"'{name}' is {quoted(thing)}: must be a function")
        try:
            signature = inspect.signature(thing)
        except (TypeError, ValueError):  # one that is written in C need not say
            return thing
        more = {"options": None} if options and "options" in signature.parameters else {}
        try:
            signature.bind(*takes, **more)
        except TypeError as error:
            raise ConfigError(
                f"'{name}' is a function of {signature}: must be one of ({', '.join(takes)}), "
                f"which it is called with ({error})"
            ) from error
        return thing

    return prepare


def _same(a: object, b: object) -> bool:
    """Whether two things are one, or of one definition that was run twice."""
    if a is b:
        return True
    kinds = [own if hasattr(own, "__qualname__") else type(own) for own in (a, b)]
    if kinds[0] is kinds[1]:  # two objects of one class
        return bool(a == b)
    first, second = ((own.__module__, own.__qualname__) for own in kinds)
    return first == second and "<" not in first[1]  # each lambda is called "<lambda>"
