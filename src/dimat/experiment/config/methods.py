"""A method made from the settings of a run: its parameters are the fields of its class."""

from __future__ import annotations

from dataclasses import Field, fields
from functools import reduce
from typing import Any, Literal, get_type_hints

from dimat.errors import ConfigError, did_you_mean, in_words, look_up
from dimat.experiment.config.config import MatchingConfig, RunConfig
from dimat.experiment.config.messages import setting_types, unknown_setting
from dimat.experiment.config.method_options import NOT_OF_TYPE, of_type, split_option
from dimat.experiment.config.rules import broken_rule, rule_of
from dimat.methods import METHODS, Method
from dimat.methods.robust import ROBUST_SETTING, is_robust


def gauge_of(
    matching: MatchingConfig, *, apart: bool = False, once: bool = False
) -> Literal["tree", "spread", "pairwise"]:
    """The gauge of agents that may be ``apart``, or that merge ``once``: no rounds to spread in.

    Raises:
        ConfigError: If other settings need one that all agents come into at once.
    """
    gauge = matching.gauge
    defaults = (("statistics", "local"), ("every", 0))
    if gauge == "auto":
        at_once = once or any(getattr(matching, name) != default for name, default in defaults)
        gauge = "spread" if apart or not at_once else "tree"
        if apart and once:
            gauge = "pairwise"
    for name, default in defaults:
        value = getattr(matching, name)
        if gauge == "spread" and value != default:
            rule = f"{default} where agents may miss each other (matching.gauge spread)"
            raise broken_rule(f"matching.{name}", value, rule)
    return gauge


def make_method(config: RunConfig, name: str | None = None, *, apart: bool = False) -> Method:
    """A method of a run, ``config.method`` if not named, for agents that may be ``apart``.

    Raises:
        ConfigError: If there is no such method, or a setting or option does not suit it.
    """
    name = config.method if name is None else name
    kind = look_up("method", name, METHODS)
    _check_robust(config, name, kind)
    gauge_of(config.matching, apart=apart)  # must suit agents that are apart, whatever the method
    values = {
        own.name: _value(config, name, kind, own, apart=apart)
        for own in fields(kind)
        if own.init and "setting" in own.metadata
    }
    for option in config.method_options:
        parameter, text = split_option(option)
        if parameter in options_of(kind):
            with in_words(f"reading the types of method '{name}'", ConfigError):
                types = get_type_hints(kind)
            values[parameter] = _typed(option, text, types[parameter], name)
    with in_words(f"making method '{name}'", ConfigError):
        return kind(**values)


def options_of(kind: type[Method]) -> list[str]:
    """Parameters of a class of methods, without those that are settings of a run."""
    return [own.name for own in fields(kind) if own.init and "setting" not in own.metadata]


def check_options(config: RunConfig) -> None:
    """Refuse options that no method of a run has.

    Raises:
        ConfigError: For the first that is none, or is given twice.
    """
    names = list(dict.fromkeys((config.method, *config.controls)))
    known = [option for name in names for option in options_of(METHODS[name])]
    given = [split_option(option)[0] for option in config.method_options]
    for option, parameter in zip(config.method_options, given, strict=True):
        if parameter not in known:
            hint = did_you_mean(parameter, known) if known else "none has any"
            raise ConfigError(
                f"setting 'method_options' has '{option}', and no method of this run "
                f"({', '.join(names)}) has a parameter of that name: {hint}"
            )
        if given.count(parameter) > 1:
            raise ConfigError(f"setting 'method_options' has '{parameter}' twice: give it once")


def _value(
    config: RunConfig, name: str, kind: type[Method], own: Field[Any], *, apart: bool
) -> object:
    """Value of a parameter that is a setting."""
    setting, equals = own.metadata["setting"], own.metadata.get("equals")
    if setting not in setting_types():
        raise ConfigError(
            f"method '{name}': parameter '{own.name}': {unknown_setting(setting, setting_types())}"
        )
    if setting == "matching.gauge":  # what auto means
        return gauge_of(config.matching, apart=apart, once=kind.merges_once)
    value: Any = reduce(getattr, setting.split("."), config)
    if setting == "merging.combine" and value == "auto":  # the data are not known yet
        value = "average"
    return value if equals is None else value == equals


def _check_robust(config: RunConfig, name: str, kind: type[Method]) -> None:
    """Refuse a method that mixes by no robust rule where the settings ask for one."""
    robust = config.exchange.robust
    if robust == "none" or is_robust(kind) or kind.exchanges == "never":
        return
    can = [own for own, other in METHODS.items() if is_robust(other)]
    raise ConfigError(
        f"setting '{ROBUST_SETTING}' is '{robust}', which method '{name}' cannot do, and it would "
        f"mix whatever it is sent: use {', '.join(can)} (as method and controls), or "
        f"{ROBUST_SETTING} none"
    )


def _typed(option: str, text: str, kind: object, method: str) -> object:
    value = of_type(text, kind)
    if value is NOT_OF_TYPE:
        raise ConfigError(
            f"setting 'method_options' has '{option}': of method '{method}' it must be "
            f"{rule_of(kind)}"
        )
    return value
