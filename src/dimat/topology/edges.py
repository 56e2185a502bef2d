"""Graphs that are read from a file of edges."""

from __future__ import annotations

import re
from pathlib import Path

import networkx as nx

from dimat.errors import ConfigError, TopologyError, reason

_LONGEST = 200_000_000  # characters: all edges of 5,000 agents


def read_edges(path: str | None, agents: int, *, directed: bool = False) -> nx.Graph[int]:
    """The graph in a file with one edge "i j" a line, where # begins a comment.

    Args:
        path: The file.
        agents: Number of agents, >= 1.
        directed: Whether "i j" means only that j hears i; else both hear each other.

    Raises:
        ConfigError: If there is no path.
        TopologyError: If the file cannot be read or a line of it is no edge.
    """
    if path is None:
        raise ConfigError("setting 'topology.path' is missing: topology 'edges' reads a file")
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: cannot be read ({reason(error)})") from error
    if len(text) > _LONGEST:
        raise TopologyError(f"{path}: longer than {_LONGEST:,} characters, no file of edges")
    graph: nx.Graph[int] = nx.empty_graph(agents, create_using=nx.DiGraph if directed else nx.Graph)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(re.fullmatch(r"\d{1,10}", word) for word in words):
            raise TopologyError(
                f"{path}, line {number}: '{line[:80]}' is no edge; write two agents: 0 1"
            )
        i, j = map(int, words)
        if i == j or max(i, j) >= agents:
            raise TopologyError(
                f"{path}, line {number}: an edge joins two of the agents 0..{agents - 1}, not "
                f"{i} and {j}"
            )
        graph.add_edge(i, j)
    return graph
