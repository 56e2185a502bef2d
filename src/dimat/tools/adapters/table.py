"""The table of a merge of adapters: every way to combine them, what it costs, how exact it is."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from dimat.tools.adapters.run import AdaptersResult, WayResult


def adapters_table(result: AdaptersResult) -> RenderableType:
    """All ways to combine the adapters, the chosen one marked.

    Args:
        result: The result of the merge.
    """
    table = Table(
        title=f"{len(result.config.adapters)} adapters, {len(result.chosen.factors)} modules",
        title_style="bold",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("combined by")
    for column in ("rank", "bytes", "relative error"):
        table.add_column(column, justify="right")
    table.add_column("")
    for own in result.ways:
        chosen = own is result.chosen
        table.add_row(*_cells(own), "written" if chosen else "", style="bold" if chosen else "")
    table.caption = "error: distance from the exact average of products, over its norm"
    return Group(table, *(escape(note) for note in result.notes), "")


def _cells(own: WayResult) -> list[str]:
    if own.why:
        return [own.name, "–", "–", "factors A differ"]
    ranks = own.ranks
    rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"
    return [own.name, rank, f"{own.num_bytes:,}", f"{own.error:.2e}"]
