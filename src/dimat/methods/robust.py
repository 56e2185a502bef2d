"""Mixing with neighbors that may lie: what of a neighborhood is believed, and by which methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal

from dimat.errors import ConfigError
from dimat.merging import mix, robust_mix
from dimat.methods.protocol import Method, Need, RoundContext
from dimat.state import State

Robust = Literal["none", "clip", "trimmed"]
ROBUST_SETTING = "exchange.robust"
# Parameters of methods that let in more of a neighbor than a mean of states, and what does not.
_BESIDE = {
    "combine": ("average", "is no mean of states"),
    "chebyshev": (False, "extrapolates, beyond what was heard"),
    "mix_memory": (False, "mixes memories too, which may be lies as well"),
}


def mix_heard(
    me: RoundContext, own: State, theirs: Mapping[int, State], robust: Robust = "none"
) -> State:
    """The mean of our state and those of the neighbors that were heard, in one unit order.

    A third of a neighborhood, us included, may lie, rounded down, and at least one: of two
    neighbors one. It is a third of the graph's, whoever was heard.

    Args:
        me: Who we are.
        own: Our state.
        theirs: Theirs, by number.
        robust: The rule; none: the average weighted by the mixing matrix.
    """
    states, weights = [own, *theirs.values()], me.weights_of(theirs)
    if robust == "none":
        return mix(states, weights)
    liars = max(1, (len(me.neighbors) + 1) // 3)
    return robust_mix(states, weights, me.parameters, robust, liars)


def check_robust(method: Method, robust: Robust) -> None:
    """Refuse a method with parameters by which a neighbor would be believed all the same.

    Raises:
        ConfigError: If so, with what to set.
    """
    if robust == "none":
        return
    settings = {own.name: own.metadata.get("setting") for own in fields(method)}
    for name, (sound, why) in _BESIDE.items():
        value = getattr(method, name, sound)
        if value != sound:
            setting = settings[name] or f"method_options {name}"
            shown, instead = _shown(setting, value), _shown(setting, sound)
            raise ConfigError(
                f"setting '{ROBUST_SETTING}' is '{robust}', and '{setting}' is {shown}, which "
                f"{why}: use {setting} {instead}, or {ROBUST_SETTING} none"
            )


def robust_needs(robust: Robust) -> frozenset[Need]:
    """Requirements on the graph: who hears one neighbor only cannot tell a lie from a state."""
    return frozenset() if robust == "none" else frozenset({"two-neighbors"})


def is_robust(kind: type[Method]) -> bool:
    """Whether a class of methods can be told how to mix with neighbors that may lie."""
    return any(own.metadata.get("setting") == ROBUST_SETTING for own in fields(kind))


def _shown(setting: str, value: object) -> str:
    if setting == "optimizer.on_merge":
        return "mix" if value else "keep"
    return str(value).lower()
