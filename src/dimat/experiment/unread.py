"""Settings that were given and that nothing of a run reads, so that nobody counts on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import reduce

from dimat.experiment.config.config import RunConfig
from dimat.topology import TOPOLOGIES

# What methods alone read: the groups of settings of which every one is some method's parameter.
_OF_METHODS = ("matching", "merging", "mixing", "consensus", "outer")
# What is read with some gauges alone.
_OF_GAUGES = {
    "matching.sweeps": ("tree",),
    "matching.every": ("tree",),
    "matching.null_margin": ("spread", "tree"),
}


def unread_graph(config: RunConfig) -> list[str]:
    """Notes on settings of the graph that differ from their defaults and that nothing reads.

    Args:
        config: Every setting.
    """
    name = config.topology.name
    own = name in TOPOLOGIES.added  # may ask for all options
    return [
        *_note(config, "topology.degree", own or name == "random-regular", "of random-regular"),
        *_note(config, "topology.probability", own or name == "erdos-renyi", "of erdos-renyi"),
    ]


def unread(config: RunConfig, *, apart: bool = False) -> list[str]:
    """Notes on settings that differ from their defaults and that nothing of the run reads.

    Args:
        config: Every setting, checked.
        apart: Whether agents may miss each other, which decides what matching.gauge auto means.
    """
    from dimat.data import SPLITS
    from dimat.experiment.config.methods import gauge_of
    from dimat.methods import METHODS

    found, split, optimizer = unread_graph(config), config.data.split, config.optimizer.name
    dealt = split == "dirichlet" or split in SPLITS.added
    found += _note(config, "data.alpha", dealt, "of data.split dirichlet")
    names = (config.method, *(() if apart else config.controls))
    readers: dict[str, list[str]] = {}
    for name, kind in METHODS.items():
        for own in fields(kind):
            if "setting" in own.metadata:
                readers.setdefault(own.metadata["setting"], []).append(name)
    for setting, those in readers.items():
        if setting.partition(".")[0] in _OF_METHODS:
            found += _note(config, setting, bool({*names} & {*those}), f"of {', '.join(those)}")
    gauges = {
        gauge_of(config.matching, apart=apart, once=METHODS[name].merges_once)
        for name in names
        if name in readers["matching.gauge"]
    }
    for setting, reading in _OF_GAUGES.items() if gauges else ():
        by = f"of matching.gauge {' and '.join(reading)}"
        found += _note(config, setting, bool(gauges & {*reading}), by)
    momentum = readers["optimizer.momentum"]
    used = optimizer == "msgd" or bool({*names} & {*momentum})
    found += _note(config, "optimizer.momentum", used, f"of msgd, {', '.join(momentum)}")
    return found


def _note(config: RunConfig, setting: str, is_read: bool, by: str) -> Iterator[str]:
    """A note on a setting that is not read, if its value is neither the default nor null."""
    path = setting.split(".")
    value, default = (reduce(getattr, path, own) for own in (config, RunConfig()))
    if not is_read and value is not None and value != default:
        yield f"ATTENTION: setting '{setting}' is {value}, and nothing reads it here: it is {by}"
