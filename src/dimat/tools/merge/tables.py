"""Tables of a merge for the terminal: networks compared, path between parents, fit of units."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from dimat.experiment.tables import percent
from dimat.metric import Metric
from dimat.tools.format import decimal
from dimat.tools.merge.result import (
    AlignResult,
    ComparisonRow,
    GroupFit,
    MergeComparison,
    MergeResult,
    ParentFit,
    Path,
    Score,
)

_WIDTH = 74


def merge_tables(result: MergeResult) -> RenderableType:
    """All tables of a merge, the most important first.

    Args:
        result: The result of the merge.
    """
    found: list[RenderableType] = []
    if result.comparison is not None:
        found.append(_networks(result, result.comparison))
        compared = result.comparison
        if compared.path is not None:
            found.append(_path(compared.path, compared.metrics[0], again=_again(compared)))
    return _stacked(*found, _units(result.fits), *_notes(result))


def align_table(result: AlignResult) -> RenderableType:
    """The table of how the units of the second checkpoint fit those of the first.

    Args:
        result: The result of the alignment.
    """
    return _stacked(_units(result.fits), *_notes(result))


def _notes(result: AlignResult | MergeResult) -> list[RenderableType]:
    return [escape("\n".join(result.notes))] if result.notes else []


def _stacked(*tables: RenderableType) -> Group:
    """Tables one below the other, an empty line after each."""
    return Group(*(part for table in tables for part in (table, "")))


def _networks(result: MergeResult, comparison: MergeComparison) -> Table:
    again = _again(comparison)
    how = f"{result.config.method}, {result.config.combine}"
    metric = comparison.metrics[0]
    less = "" if metric.higher_is_better else " (less is better)"
    title = f"Test {metric.title}{less} and loss on {comparison.tested} {comparison.unit}"
    table = _table(title)
    table.add_column("\nnetwork" if again else "network", overflow="fold")
    for head in ("\n", "recalibrated\n") if again else ("",):
        table.add_column(f"{head}{_words(metric)}", justify="right")
        table.add_column("\nloss" if again else "loss", justify="right")
    for row in comparison.rows:
        merged = row.name == "merged"
        name = f"{row.name} ({how})" if merged else _named(row, result.config.parents)
        scores = [row.plain, row.recalibrated] if again else [row.plain]
        table.add_row(escape(name), *_cells(scores, metric), style="bold" if merged else "")
    chosen = "merged, recalibrated" if result.recalibrated else "merged"
    table.caption = f"written: {chosen}; the ensemble is what merging can hope for"
    return table


def _again(comparison: MergeComparison) -> bool:
    """Whether networks were recalibrated: whether the model has BatchNorm statistics."""
    return any(row.recalibrated is not None for row in comparison.rows)


def _named(row: ComparisonRow, parents: Sequence[str]) -> str:
    """The name of a network; of a parent with its file name."""
    kind, _, number = row.name.partition(" ")
    if kind != "parent":
        return row.name
    return f"{row.name}: {parents[int(number)].rpartition('/')[2]}"


def _cells(scores: Sequence[Score | None], metric: Metric) -> list[str]:
    cells = []
    for score in scores:
        cells += ["–", "–"] if score is None else [metric.show(score.main), decimal(score.loss)]
    return cells


def _words(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def _path(path: Path, metric: Metric, *, again: bool) -> Table:
    table = _table("From parent 0 (α = 0) to parent 1, aligned (α = 1)")
    table.add_column("α")
    for alpha in path.alphas:
        table.add_column(f"{alpha:g}", justify="right")
    table.add_row(_words(metric), *(metric.show(score.main) for score in path.scores))
    table.add_row("loss", *(decimal(score.loss) for score in path.scores))
    how = "; BatchNorm recalibrated at every α" if again else ""
    table.caption = f"loss barrier: {decimal(path.barrier)}{how}"
    return table


def _units(fits: Sequence[ParentFit]) -> RenderableType:
    table = _table("Units matched to those of parent 0")
    table.add_column("group", overflow="fold")
    for column in ("units", "similarity", "margin", "moved %"):
        table.add_column(column, justify="right")
    for fit in fits:
        table.add_section()
        if len(fits) > 1:
            table.add_row(f"parent {fit.parent}", style="bold")
        for group in fit.groups:
            table.add_row(escape(group.group), *_fit(group))
    if not any(fit.groups for fit in fits):
        table.add_row("nothing can be permuted")
    table.caption = (
        "similarity: mean over matched units; margin: median lead of a match over\n"
        "the next best one, below 0 where most units would fit another better"
    )
    return table


def _fit(group: GroupFit) -> list[str]:
    measured = [decimal(group.similarity), decimal(group.margin)]
    return [str(group.units), *measured, percent(group.moved)]


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_style="bold",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=_WIDTH,
    )
