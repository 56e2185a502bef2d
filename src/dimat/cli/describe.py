"""Tables for the terminal: a topology with the bytes of a round, a symmetry with its groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimat.tools.format import human_bytes

if TYPE_CHECKING:
    from dimat.symmetry import Group as UnitGroup
    from dimat.symmetry import Symmetry
    from dimat.symmetry.continuous import ContinuousSymmetry
    from dimat.topology import Matrix, Network, Topology

_MAX_AGENTS = 16
_MAX_TIMES = 3
_SAMPLED_TIMES = 100


def describe(title: str, network: Network, state_bytes: int) -> RenderableType:
    """Tables of a topology: spectral gap, bytes sent, neighbors and mixing matrix.

    Args:
        title: Heading of the tables.
        network: The topology at all times; where it varies, the first few times are shown.
        state_bytes: Bytes of one state; every agent sends one to each of its listeners.
    """
    parts: list[RenderableType] = [Text(title, style="bold"), _facts(network, state_bytes)]
    if network.period == 1:
        topology = network.at(0)
        return Group(*parts, _neighbors(topology, state_bytes), _matrix(topology.pi, "Π"))
    times = range(min(network.period or _MAX_TIMES, _MAX_TIMES))
    matrices = [_matrix(network.at(time).pi, f"Π at time {time}") for time in times]
    return Group(*parts, _hearing(network, times), *matrices)


def _facts(network: Network, state_bytes: int) -> Table:
    facts, fixed = Table.grid(padding=(0, 2)), network.period == 1
    facts.add_row("agents", str(network.num_agents))
    edges = str(network.graph.number_of_edges())
    facts.add_row("edges", f"{edges}, directed" if network.directed else edges)
    if not fixed:
        facts.add_row("period", f"{network.period} times" if network.period else "none")
    if not network.doubly_stochastic:
        facts.add_row("keeps", "the sum, not the mean: rows do not sum to 1")
    facts.add_row("|λ₂|" if fixed else "contraction", f"{network.contraction:.4f}")
    facts.add_row("spectral gap", f"{network.spectral_gap:.4f}")
    facts.add_row("one state", human_bytes(state_bytes))
    sent = human_bytes(round(_messages(network) * state_bytes))
    facts.add_row("bytes per round" if fixed else "bytes a time", f"{sent}, all agents together")
    return facts


def _messages(network: Network) -> float:
    """Number of states sent at a time; the mean over times, if the network varies."""
    graphs = [network.at(time).graph for time in range(network.period or _SAMPLED_TIMES)]
    edges = sum(graph.number_of_edges() for graph in graphs) / len(graphs)
    return edges if network.directed else 2 * edges


def _shown(agents: int) -> list[int | None]:
    """The agents to print: all, or the first and last ones around None.

    >>> _shown(3), _shown(100)[6:9]
    ([0, 1, 2], [6, None, 93])
    """
    if agents <= _MAX_AGENTS:
        return [*range(agents)]
    return [*range(7), None, *range(agents - 7, agents)]


def _neighbors(topology: Topology, state_bytes: int) -> Table:
    """Table of each agent's neighbors, its listeners if the graph is directed, and its bytes."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("agent", justify="right")
    columns = ["hears", "heard by"] if topology.directed else ["neighbors"]
    for column in columns:
        table.add_column(column)
    table.add_column("sends per round", justify="right")
    for agent in _shown(topology.num_agents):
        if agent is None:
            table.add_row(*["…"] * (len(columns) + 2))
            continue
        lists = [topology.neighbors(agent), topology.listeners(agent)]
        sent = human_bytes(len(lists[1]) * state_bytes)
        table.add_row(str(agent), *map(_listed_agents, lists[: len(columns)]), sent)
    return table


def _hearing(network: Network, times: range) -> Table:
    """Table of each agent's neighbors at the first few times."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("agent", justify="right")
    for time in times:
        table.add_column(f"hears at time {time}")
    for agent in _shown(network.num_agents):
        heard = ["…" if agent is None else _heard(network, agent, time) for time in times]
        table.add_row("…" if agent is None else str(agent), *heard)
    return table


def _heard(network: Network, agent: int, time: int) -> str:
    return _listed_agents(network.at(time).neighbors(agent)) or "no one"


def _listed_agents(agents: Sequence[int]) -> str:
    return ", ".join("…" if i is None else str(agents[i]) for i in _shown(len(agents)))


def _matrix(pi: Matrix, title: str) -> Table:
    """Table of a mixing matrix: row i is what agent i listens to; zeros are dots."""
    shown = _shown(len(pi))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), title=title, title_justify="left")
    table.add_column("", justify="right", style="bold")
    for agent in shown:
        table.add_column("…" if agent is None else str(agent), justify="right")
    for agent in shown:
        row = ["…"] * len(shown) if agent is None else _weights(pi[agent].tolist(), shown)
        table.add_row("…" if agent is None else str(agent), *row)
    return table


def _weights(row: Sequence[float], shown: Sequence[int | None]) -> list[str]:
    return ["…" if i is None else _weight(row[i]) for i in shown]


def _weight(value: float) -> str:
    """A mixing weight in at most three characters.

    >>> _weight(1 / 3), _weight(0.0), _weight(1.0)
    ('.33', '·', '1')
    """
    if value == 0:
        return "·"
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1"


def describe_symmetry(title: str, symmetry: Symmetry) -> RenderableType:
    """Tables of a symmetry: coverage, order, groups with their members, and pinned units.

    Args:
        title: Heading of the tables.
        symmetry: The symmetry of a model.
    """
    facts = Table.grid(padding=(0, 2))
    facts.add_row("coverage", f"{100 * symmetry.coverage:.2f} % of the state's entries can move")
    facts.add_row("order", f"2^{symmetry.log2_order:.1f}")
    facts.add_row("digest", symmetry.digest[:16])
    return Group(Text(title, style="bold"), facts, _groups(symmetry), _pinned(symmetry))


def _groups(symmetry: Symmetry) -> RenderableType:
    if not symmetry.groups:
        return Text("no group: nothing can be permuted", style="bold")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("group", overflow="fold")
    table.add_column("units", justify="right", no_wrap=True)
    table.add_column("kind", overflow="fold")
    table.add_column("acts on (entry, axis)", overflow="fold")
    for group in symmetry.groups:
        count = f"{group.cells} × {group.size}" if group.cells > 1 else str(group.size)
        table.add_row(group.name, count, group.kind, _listed(group))
    return table


def _listed(group: UnitGroup, most: int = 3) -> str:
    """The first members of a group, and the number of the others."""
    first = ", ".join(f"{key} {axis}" for key, axis in group.members[:most])
    more = len(group.members) - most
    return f"{first}, … {more} more" if more > 0 else first


def _pinned(symmetry: Symmetry) -> RenderableType:
    if not symmetry.pinned:
        return Text("pinned: only inputs, outputs and places, as it must be")
    table = Table(box=box.SIMPLE_HEAD, title="pinned", title_justify="left")
    for column in ("operator", "where", "why"):
        table.add_column(column, overflow="fold")
    for pin in symmetry.pinned:
        table.add_row(pin.operator, pin.where, pin.why)
    return table


def describe_matrices(symmetry: ContinuousSymmetry) -> RenderableType:
    """Table of the continuous groups of a model: the matrices, and what they act on.

    Args:
        symmetry: The continuous symmetry.
    """
    if not symmetry.groups:
        return Text("No matrices act on its units: permutations are all of its symmetry.")
    table = Table(box=box.SIMPLE_HEAD, title="matrices, in eval mode", title_justify="left")
    table.add_column("units of", overflow="fold")
    table.add_column("matrices")
    table.add_column("size", justify="right")
    table.add_column("after folding", overflow="fold")
    for group in symmetry.groups:
        gains = symmetry.folded.get(group.name, ())
        size = f"{group.cells} × {group.size}" if group.cells > 1 else str(group.size)
        table.add_row(group.name, group.kind, size, _first_of(gains))
    return table


def _first_of(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""
