"""A method that is given as an object, put into the settings of which a run makes it again.

``RunConfig(method=Consensus("adapt"))`` is ``method="cdsgd"`` and ``consensus.order="adapt"``.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from dimat.errors import ConfigError
from dimat.experiment.config.options import as_options

if TYPE_CHECKING:
    from dimat.methods import Method


def name_method(config: Any) -> None:
    """Put a method that is given as an object into settings: its name, and its parameters.

    What it leaves at the default of its class, the settings say.

    Raises:
        ConfigError: If its class is not registered, or a setting says something else.
    """
    given: Any = config.method
    if isinstance(given, type) or not hasattr(given, "exchanges"):
        return
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
