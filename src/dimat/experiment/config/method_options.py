"""Parameters of methods in settings: as text, ``NAME=VALUE``, or from a method given as an object.

``RunConfig(method=Consensus("adapt"))`` is ``method="cdsgd"`` and ``consensus.order="adapt"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, replace
from functools import reduce
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

from dimat.errors import ConfigError

if TYPE_CHECKING:
    from dimat.methods import Method

NOT_OF_TYPE: Final = object()
_WORDS = {True: "true", False: "false", None: "null"}


def as_options(values: Mapping[str, object]) -> tuple[str, ...]:
    """Values by name as options.

    >>> as_options({"keep": 0.5, "warm": True, "end": None})
    ('keep=0.5', 'warm=true', 'end=null')
    """
    return tuple(f"{name}={_text(value)}" for name, value in values.items())


def _text(value: object) -> str:
    return _WORDS[value] if value is None or isinstance(value, bool) else str(value)


def split_option(option: str) -> tuple[str, str]:
    """The name and the value of an option.

    Raises:
        ConfigError: If it has no name or no value.

    >>> split_option("keep=0.5")
    ('keep', '0.5')
    """
    name, equals, text = option.partition("=")
    if not name.strip() or not equals:
        raise ConfigError(
            f"setting 'method_options' has '{option}': must be NAME=VALUE, such as keep=0.5"
        )
    return name.strip().replace("-", "_"), text.strip()


def of_type(text: str, kind: object) -> object:
    """A text as a value of a type; NOT_OF_TYPE if it is none.

    >>> of_type("3", int), of_type("null", float | None), of_type("b", Literal["a", "b"])
    (3, None, 'b')
    >>> of_type("x", int) is NOT_OF_TYPE
    True
    """
    if get_origin(kind) is Literal:
        return next((own for own in get_args(kind) if str(own) == text), NOT_OF_TYPE)
    if NoneType in get_args(kind) and text == "null":
        return None
    for own in get_args(kind) or (kind,):
        if own is bool and text in ("true", "false"):
            return text == "true"
        if own in (int, float, str):
            try:
                return own(text)
            except ValueError:
                continue
    return NOT_OF_TYPE


def name_method(config: Any) -> None:
    """Put a method that is given as an object into settings: its name, and its parameters.

    What it leaves at the default of its class, the settings say.

    Raises:
        ConfigError: If its class is not registered, or a setting says something else.
    """
    given: Any = config.method
    if not hasattr(given, "exchanges"):
        return
    if isinstance(given, type):
        raise ConfigError(
            f"setting 'method' is the class {given.__name__}: must be its name or an object of it, "
            f"such as {given.__name__}()"
        )
    for name, value in _settings(given, config).items():
        group, _, part = name.rpartition(".")
        if group:
            name, value = group, replace(getattr(config, group), **{part: value})
        object.__setattr__(config, name, value)


def _settings(method: Method, config: Any) -> dict[str, Any]:
    """Settings of a method: its name, and the parameters that are not at their defaults."""
    from dimat.methods import METHODS

    kind, options = type(method), {}
    name = METHODS.name_of(kind)
    if name is None:
        raise ConfigError(
            f"setting 'method' is a {kind.__name__}, a class that is not registered, and a run "
            "that goes on finds its method by the name: register it, as "
            f"dimat.METHODS.register('my-method', {kind.__name__})"
        )
    found: dict[str, Any] = {"method": name}
    for own in fields(kind):
        value, setting = getattr(method, own.name), own.metadata.get("setting")
        if not own.init or value == _default(own):
            continue
        if setting is None:
            options[own.name] = value
        else:
            equals = own.metadata.get("equals")
            found[setting] = _agreed(config, setting, value if equals is None else equals, method)
    found["method_options"] = (*config.method_options, *as_options(options))
    return found


def _default(own: Field[Any]) -> object:
    return own.default if own.default_factory is MISSING else own.default_factory()


def _agreed(config: Any, setting: str, wanted: object, method: Method) -> object:
    """The value that the method wants, if the setting was left at its default or is the same."""
    given, default = (reduce(getattr, setting.split("."), own) for own in (config, type(config)()))
    if given not in (default, wanted):
        raise ConfigError(
            f"setting '{setting}' is {given!r}, and 'method' is {method}, which says {wanted!r}: "
            "give one of the two"
        )
    return wanted
