"""Figures of a topology: a drawing of the graph beside its mixing matrix."""

from __future__ import annotations

import networkx as nx

from dimat.tools.records.run import Graph, Matrix
from dimat.tools.report.compared import Compared
from dimat.tools.report.figures.figure import Choice, Figure, Panel, Trace, cells, heatmap, plot
from dimat.tools.report.groups import distinct

_GRAY = "#7A7A7A"
_NODE = "#56B4E9"
_ARROW = {
    "xref": "x",
    "yref": "y",
    "axref": "x",
    "ayref": "y",
    "text": "",
    "showarrow": True,
    "arrowhead": 2,
    "arrowsize": 1.1,
    "arrowwidth": 1.3,
    "arrowcolor": _GRAY,
    "standoff": 14,
    "startstandoff": 14,
}
_MOST_DRAWN = 60  # agents with a force-directed layout, which takes seconds for more; else a circle
_MOST_NUMBERED = 10

# The coordinates of each agent, by number.
_Places = dict[int, tuple[float, float]]


def topologies(compared: Compared) -> list[Panel]:
    """A panel for every different topology of the runs.

    Args:
        compared: Content of the report.
    """
    found = distinct(
        compared, lambda run: run.graph if run.graph and len(run.graph.pi) > 1 else None
    )
    return [
        _panel(number, label if len(found) > 1 else "", graph)
        for number, (label, graph) in enumerate(found)
    ]


def _panel(number: int, label: str, graph: Graph) -> Panel:
    places = _places(graph)
    matrices = graph.sequence or (graph.pi,)
    choices = [
        Choice(str(time), (_drawing(graph, pi, places), _matrix(pi)))
        for time, pi in enumerate(matrices)
    ]
    gap = "" if graph.spectral_gap is None else f" Spectral gap: {graph.spectral_gap:.3f}."
    arrows = "An arrow points from who is heard to who hears." if graph.directed else ""
    changes = (
        f" It changes; its first {len(matrices)} times are recorded." if graph.sequence else ""
    )
    return Panel(
        f"topology-{number}",
        f"Topology: {graph.name}" + (f" ({label})" if label else ""),
        "The graph of the agents, and its mixing matrix: row i is how much agent i listens to "
        f"every agent, itself included. {arrows}{changes}{gap}".replace("  ", " "),
        tuple(choices),
        control="time",
        ordered=True,
    )


def edges_of(graph: Graph, pi: Matrix) -> list[tuple[int, int]]:
    """The edges (i, j) of a graph, where j hears i: recorded, or from a varying mixing matrix.

    Args:
        graph: Graph and mixing matrices of a run.
        pi: Mixing matrix of the time.
    """
    if not graph.sequence:
        return list(graph.edges)
    agents = range(len(pi))
    heard = [(i, j) for i in agents for j in agents if i != j and pi[j][i] != 0]
    return heard if graph.directed else [(i, j) for i, j in heard if i < j]


def _places(graph: Graph) -> _Places:
    """One layout for all times, by the edges of all times together."""
    whole: nx.Graph[int] = nx.Graph()
    whole.add_nodes_from(range(len(graph.pi)))
    for pi in graph.sequence or (graph.pi,):
        whole.add_edges_from(edges_of(graph, pi))
    small = len(graph.pi) <= _MOST_DRAWN and nx.is_connected(whole)
    layout = nx.kamada_kawai_layout(whole) if small else nx.circular_layout(whole)
    return {agent: (float(x), float(y)) for agent, (x, y) in layout.items()}


def _drawing(graph: Graph, pi: Matrix, places: _Places) -> Figure:
    edges = edges_of(graph, pi)
    traces = [_middles(edges, pi, places, directed=graph.directed), _nodes(pi, places)]
    if not graph.directed:
        traces = [_lines(edges, places), *traces]
    arrows = [_arrow(places[i], places[j]) for i, j in edges] if graph.directed else []
    hidden = {"visible": False, "fixedrange": True}
    return plot(
        traces,
        hidden | {"range": _range([x for x, _ in places.values()])},
        hidden | {"range": _range([y for _, y in places.values()]), "scaleanchor": "x"},
        annotations=arrows,
        height=360,
    )


def _range(values: list[float]) -> list[float]:
    return [min(values) - 0.25, max(values) + 0.25]


def _lines(edges: list[tuple[int, int]], places: _Places) -> Trace:
    ends = [(places[i], places[j]) for i, j in edges]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for (a, _), (b, _) in ends for x in (a, b, None)],
        "y": [y for (_, a), (_, b) in ends for y in (a, b, None)],
        "line": {"color": _GRAY, "width": 1.5},
        "hoverinfo": "skip",
    }


def _middles(edges: list[tuple[int, int]], pi: Matrix, places: _Places, *, directed: bool) -> Trace:
    """Invisible markers in the middle of every edge, whose hover text is its weights."""
    words = [f"{j} hears {i}: {pi[j][i]:.4g}" for i, j in edges]
    if not directed:
        back = [f"<br>{i} hears {j}: {pi[i][j]:.4g}" for i, j in edges]
        words = [there + again for there, again in zip(words, back, strict=True)]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [(places[i][0] + places[j][0]) / 2 for i, j in edges],
        "y": [(places[i][1] + places[j][1]) / 2 for i, j in edges],
        "marker": {"size": 16, "opacity": 0},
        "hovertext": words,
        "hoverinfo": "text",
    }


def _nodes(pi: Matrix, places: _Places) -> Trace:
    agents = sorted(places)
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [places[agent][0] for agent in agents],
        "y": [places[agent][1] for agent in agents],
        "text": [str(agent) for agent in agents],
        "textfont": {"color": "#000000"},
        "marker": {"size": 26 if len(agents) <= 20 else 18, "color": _NODE},
        "hovertext": [f"agent {agent} hears itself: {pi[agent][agent]:.4g}" for agent in agents],
        "hoverinfo": "text",
    }


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> dict[str, object]:
    return {
        "ax": start[0],
        "ay": start[1],
        "x": end[0],
        "y": end[1],
        **_ARROW,
    }


def _matrix(pi: Matrix) -> Figure:
    agents = list(range(len(pi)))
    numbered = {"texttemplate": "%{z:.2f}"} if len(pi) <= _MOST_NUMBERED else {}
    z = [[weight or None for weight in row] for row in pi]
    limits = {"zmin": 0, "zmax": 1}
    hover = "agent %{y} hears agent %{x}: %{z:.4~g}"
    trace = heatmap(z, agents, agents, hover=hover, bar="Weight", **limits, **numbered)
    x, y = cells("Heard agent"), cells("Agent that hears", autorange="reversed")
    return plot([trace], x, y, height=360)
