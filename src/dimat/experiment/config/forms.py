"""Other forms in which people give settings from Python, where those have one meaning.

``RunConfig(topology="ring")`` is ``RunConfig(topology=TopologyConfig(name="ring"))``; a list is a
tuple, as is ``"wa,local"`` or ``"none"``; a path is its text, a number of NumPy's is a number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from dimat.errors import ConfigError, DimatError, did_you_mean, quoted
from dimat.experiment.config.method_options import as_options

if TYPE_CHECKING:
    from dimat.topology import Network, Topology

KNOWN_BY = {
    "topology": "topology.name",
    "data": "data.source",
    "optimizer": "optimizer.name",
    "merging": "merging.combine",
}


def tidy(config: Any) -> None:
    """Bring settings into the form that their class declares; other values stay as they are.

    For ``__post_init__``. That no base class does it is for jsonargparse, to which a dataclass with
    a base is one of several to choose from.

    Raises:
        ConfigError: If a group of settings is given as something that is none.
    """
    for name, kind in _kinds(config.__class__).items():
        given = getattr(config, name)
        group = isinstance(kind, type) and is_dataclass(kind)
        found = _group(config, name, kind) if group else plain(given, kind)
        if found is not given:
            object.__setattr__(config, name, found)


@cache
def _kinds(config: type) -> dict[str, Any]:
    return get_type_hints(config)


def plain(value: object, kind: object) -> object:
    """A value in the form that a setting of the type ``kind`` has; as it is if there is none.

    >>> plain(["wa", "local"], tuple[str, ...]), plain("wa,local", tuple[str, ...])
    (('wa', 'local'), ('wa', 'local'))
    >>> plain([0, 1], tuple[str, ...]), plain("0,1", tuple[str, ...])
    (('0', '1'), ('0', '1'))
    >>> plain("none", tuple[str, ...]), plain({"keep": 0.5}, tuple[str, ...])
    ((), ('keep=0.5',))
    """
    kinds = (kind, *get_args(kind))
    module, name = type(value).__module__, type(value).__name__
    if isinstance(value, Mapping) and get_origin(kind) is tuple:
        return as_options(value)
    if isinstance(value, (list, tuple)) and get_origin(kind) is tuple:
        return tuple(str(own) if type(own) is int else own for own in value)
    if isinstance(value, str) and get_origin(kind) is tuple:
        return listed(value)
    if isinstance(value, os.PathLike) and str in kinds:
        return os.fspath(value)
    if module == "numpy" and getattr(value, "shape", None) == ():
        return value.item()  # type: ignore[attr-defined]
    if module == "torch" and name in ("device", "dtype"):
        return str(value).removeprefix("torch.")
    return value


def listed(text: str) -> tuple[str, ...]:
    """Names of a list that is written in a word, with commas between, in brackets or not.

    >>> listed("wa,local"), listed("none"), listed("[wa]")
    (('wa', 'local'), (), ('wa',))
    """
    names = [name.strip() for name in text.strip("[] ").split(",")]
    return () if names in ([""], ["none"]) else tuple(names)


def _group(config: Any, name: str, kind: type) -> object:
    """A group of settings, from what names it or from its parts."""
    given = getattr(config, name)
    if isinstance(given, kind):
        return given
    if hasattr(given, "num_agents") and name == "topology" and not isinstance(given, type):
        given = _described(given, config.agents)
    if isinstance(given, str) and name in KNOWN_BY:
        given = {KNOWN_BY[name].rpartition(".")[2]: given}
    if not isinstance(given, Mapping):
        raise ConfigError(f"setting '{name}' is {quoted(given)}: must be {_rule(name, kind)}")
    check_parts(name, kind, given)
    return kind(**given)


def check_parts(name: str, kind: type, given: Mapping[Any, object]) -> None:
    """Refuse settings that a group does not have.

    Raises:
        ConfigError: With the closest one that it has.
    """
    known = [field.name for field in fields(kind)]
    for part in given:
        if part not in known:
            hint = did_you_mean(str(part), known)
            samples = name == "data" and not isinstance(given[part], str | int | float)
            way = "; samples are given to dimat.run(data=…)" if samples else ""
            raise ConfigError(f"unknown setting '{name}.{part}': {hint}{way}")


def _rule(name: str, kind: type) -> str:
    parts = ", ".join(field.name for field in fields(kind))
    text = f"the text of {KNOWN_BY[name]}, " if name in KNOWN_BY else ""
    way = "; objects are given to dimat.run(data=…)" if name == "data" else ""
    return f"{text}a {kind.__name__}, or a dict with some of {parts}{way}"


def _described(network: Network, agents: int) -> Mapping[str, object]:
    """Settings of which a run builds the same graph and mixing matrix as a given one.

    Raises:
        ConfigError: If there are none, or it is of another number of agents.
    """
    from dimat.topology import MIXING, Dropout, GraphOptions, build_topology

    if network.num_agents != agents:
        raise ConfigError(
            f"setting 'topology' is of {network.num_agents} agents, and 'agents' is {agents}: must "
            "be the same number"
        )
    base, dropout, seed = network, 0.0, 0
    if isinstance(network, Dropout):
        base, dropout, seed = network.base, network.probability, network.seed
    for mixing in ("auto", *MIXING):
        try:
            options = GraphOptions(seed=seed)
            again = build_topology(network.name, agents, mixing=mixing, options=options)
        except DimatError:
            continue
        if _alike(base, again):
            return {"name": network.name, "mixing": mixing, "dropout": dropout, "seed": seed}
    raise ConfigError(
        f"setting 'topology' is a built '{network.name}', whose settings cannot be told from it: "
        "must be a TopologyConfig; any graph can be its file of edges (name='edges', path=…)"
    )


def _alike(a: Network, b: Network) -> bool:
    return a.period == b.period and all(
        _content(x) == _content(y) for x, y in zip(_turns(a), _turns(b), strict=True)
    )


def _turns(network: Network) -> Iterator[Topology]:
    return (network.at(time) for time in range(network.period or 0))


def _content(topology: Topology) -> object:
    edges = sorted(tuple(edge) for edge in topology.graph.edges)
    return topology.directed, edges, topology.pi.tolist()
