"""Tables of a comparison for the terminal: two for every grid point, accuracies in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dimat.experiment.config.access import shown
from dimat.metric import ACCURACY, Metric
from dimat.tools.compare.rows import numbers_of, phase_column
from dimat.tools.compare.spec import Cell, Spec
from dimat.tools.compare.trial import MethodRun
from dimat.tools.format import NOTHING, human_bytes, human_seconds, interval, spread_text
from dimat.tools.statistics import Spread, paired, spread

WIDTH = 80
_EQUAL = {"bytes": "at_equal_bytes", "epochs": "at_equal_epochs", "time": "at_equal_time"}
_LEGEND = """\
{name}: test {title}, mean over agents; mean ± sample standard deviation
over seeds; right after the merge that begins the last round, and after the
training that ends it; before round 1 of the first method's agents. Difference:
of the same seeds after the same phase, with its 95 % confidence interval
(Student's, paired).
Equal bytes, epochs, time: {word} in the last measured round by which a method
had used no more than the thriftiest (of those that use any, same seed) in all:
bytes sent, training images seen, seconds computed by the slowest agent of every
round."""


@dataclass(frozen=True)
class Point:
    """The numbers of one grid point over its seeds.

    Args:
        name: The point's name, such as ``topology.name=ring``; empty without a grid.
        seeds: Number of seeds, finished or not.
        missing: Seeds that are not finished.
        numbers: A value for each finished seed, by method and column of ``comparison.csv``.
        metric: The main metric of all runs.
    """

    name: str
    seeds: int
    missing: tuple[int, ...]
    numbers: Mapping[str, Mapping[str, Sequence[float | None]]]
    metric: Metric = ACCURACY


def points_of(
    spec: Spec, cells: Sequence[Cell], method_runs: Mapping[str, Sequence[MethodRun]]
) -> list[Point]:
    """The grid points in order, with the numbers of their finished cells.

    Args:
        spec: The comparison.
        cells: All cells of the comparison.
        method_runs: The runs of every finished cell, a method each, by the cell's name.
    """
    seeds = len(spec.seeds)
    return [
        point_of(spec, cells[first : first + seeds], method_runs)
        for first in range(0, len(cells), seeds)
    ]


def point_of(
    spec: Spec, cells: Sequence[Cell], method_runs: Mapping[str, Sequence[MethodRun]]
) -> Point:
    """One grid point, with the numbers of its finished cells.

    Args:
        spec: The comparison.
        cells: The cells of the grid point, one for each seed.
        method_runs: The runs of every finished cell, a method each, by the cell's name.
    """
    done = [method_runs[cell.name] for cell in cells if cell.name in method_runs]
    missing = tuple(cell.seed for cell in cells if cell.name not in method_runs)
    numbers = {
        method: _columns(
            [
                numbers_of(method_run)
                for cell in done
                for method_run in cell
                if method_run.method == method
            ]
        )
        for method in spec.methods
    }
    name = ", ".join(f"{setting}={shown(value)}" for setting, value in cells[0].point.items())
    return Point(name, len(cells), missing, numbers, spec.metric)


def _columns(rows: Sequence[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def comparison_tables(points: Sequence[Point]) -> RenderableType:
    """Two tables for every grid point, each within 80 columns, and a legend of the columns.

    Args:
        points: The grid points.
    """
    metric = points[0].metric if points else ACCURACY
    return Group(*(_point_tables(point) for point in points), _legend(metric))


def _point_tables(point: Point) -> RenderableType:
    """The two tables of one grid point."""
    title = Text(heading(point), style="bold", overflow="fold")
    return Group(title, _score_table(point), "", _cost_table(point), "")


def _legend(metric: Metric) -> str:
    """The meaning of the columns."""
    word = metric.name.replace("_", " ")
    name = word[:1].upper() + word[1:]
    return _LEGEND.format(name=name, title=metric.title, word=word)


def as_text(points: Sequence[Point]) -> str:
    """The tables of :func:`comparison_tables` as plain text.

    Args:
        points: The grid points.
    """
    metric = points[0].metric if points else ACCURACY
    return "".join(map(point_text, points)) + legend_text(metric)


def point_text(point: Point) -> str:
    """The part of :func:`as_text` of one grid point.

    Args:
        point: The grid point.
    """
    return _plain(_point_tables(point))


def legend_text(metric: Metric) -> str:
    """The end of :func:`as_text`: the meaning of the columns.

    Args:
        metric: The main metric of all runs.
    """
    return _plain(_legend(metric))


def _plain(parts: RenderableType) -> str:
    console = Console(width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(parts, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def heading(point: Point) -> str:
    """The heading of a grid point: its name, and the number of seeds in its means.

    Args:
        point: The grid point.

    >>> heading(Point("agents=5", 3, (2,), {}))
    'agents=5 · n = 2 of 3 seeds · unfinished: seed 2'
    """
    n = point.seeds - len(point.missing)
    parts = [point.name] if point.name else []
    parts.append(f"n = {n} of {point.seeds} seeds" if point.missing else f"n = {n}")
    if point.missing:
        parts.append("unfinished: seed " + ", ".join(map(str, point.missing)))
    return " · ".join(parts)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))


def _score_table(point: Point) -> Table:
    """Scores by method and phase, and their differences to the first method."""
    first = next(iter(point.numbers), "")
    table = _table()
    table.add_column("\nmethod", overflow="fold")
    table.add_column("\nafter")
    metric = point.metric
    table.add_column(f"\n{metric.name.replace('_', ' ')}", justify="right")
    table.add_column(f"difference\nto {escape(first)}", justify="right", overflow="fold")
    began = spread(point.numbers.get(first, {}).get(phase_column(metric, "start"), ()))
    if began is not None:
        table.add_row("(all)", "pre-training", spread_text(began, metric))
    for method, numbers in point.numbers.items():
        other = None if method == first else point.numbers[first]
        for i, phase in enumerate(_phases(numbers, metric)):
            name = "" if i else escape(method)
            table.add_row(name, *_scores(phase, numbers, other, metric))
    return table


def _cost_table(point: Point) -> Table:
    """Scores at equal budgets, bytes sent and busy time, by method."""
    table = _table()
    table.add_column("\nmethod", overflow="fold")
    for name in _EQUAL:
        table.add_column(f"equal\n{name}", justify="right")
    table.add_column("\nsent", justify="right")
    table.add_column("\nbusy", justify="right")
    for method, numbers in point.numbers.items():
        table.add_row(escape(method), *_costs(numbers, point.metric))
    return table


_Numbers = Mapping[str, Sequence[float | None]]
_PHASES = {"merging": "merged", "training": "trained"}


def _phases(numbers: _Numbers, metric: Metric) -> list[str]:
    """The phases that a method has, in their order; training if nothing is finished."""
    found = {name: numbers.get(phase_column(metric, own), ()) for name, own in _PHASES.items()}
    return [name for name, own in found.items() if spread(own)] or ["training"]


def _scores(phase: str, numbers: _Numbers, first: _Numbers | None, metric: Metric) -> list[str]:
    """Phase, score, and difference to the first method after the same phase, as cells."""
    column = phase_column(metric, _PHASES[phase])
    own, other = (one.get(column, ()) for one in (numbers, first or {}))
    versus = paired(own, other) if first is not None and own and other else None
    return [phase, spread_text(spread(own), metric), interval(versus, metric)]


def _costs(numbers: _Numbers, metric: Metric) -> list[str]:
    """Scores at equal budgets, bytes sent and busy time, as cells."""
    n = len(numbers.get(f"test_{metric.name}_mean", ()))
    equal = [spread(numbers.get(column, ())) for column in _EQUAL.values()]
    sent, busy = (spread(numbers.get(name, ())) for name in ("sent_bytes", "busy_s"))
    return [
        *(_some(one, n, metric) for one in equal),
        human_bytes(sent.mean if sent else None),
        human_seconds(busy.mean if busy else None),
    ]


def _some(one: Spread | None, n: int, metric: Metric) -> str:
    """A mean, with its number of seeds if it is not of all ``n``."""
    if one is None:
        return NOTHING
    return metric.show(one.mean) + ("" if one.n == n else f" (n={one.n})")
