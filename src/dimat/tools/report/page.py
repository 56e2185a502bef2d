"""The page of a report: its sections of plots in order, and the rendering of its templates."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from dimat.tools.format import NOTHING, human_bytes, human_seconds, interval, spread_text
from dimat.tools.records.settings import shown
from dimat.tools.report import words
from dimat.tools.report.compared import Compared
from dimat.tools.report.differences import differences, side_by_side
from dimat.tools.report.figures.classes import class_differences, gains, recalls
from dimat.tools.report.figures.confusion import confusions, worst_pairs
from dimat.tools.report.figures.costs import costs
from dimat.tools.report.figures.diagnostics import consensus, units
from dimat.tools.report.figures.differences import intervals
from dimat.tools.report.figures.figure import Panel
from dimat.tools.report.figures.graph import topologies
from dimat.tools.report.figures.scores import by_agent, by_cost, by_round, heading_of
from dimat.tools.report.figures.shards import shards
from dimat.tools.report.recipe import configs, differing, environment
from dimat.tools.report.results import counts, facts, left_out
from dimat.tools.report.style import style_of
from dimat.tools.report.totals import total

MARKER = "dimat report"  # generator in index.html, by which an earlier report is recognized


def packed(text: str) -> str:
    """A text as base64 of its gzip, as a page that is one file has figures and plotly.

    Plotly's 4.8 MB are 2.7 then, and the figures of 200 runs a fraction of 2 MB.

    Args:
        text: The text, of any characters.
    """
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()


_FILTERS = (
    shown,
    words.counted,
    human_bytes,
    human_seconds,
    interval,
    spread_text,
    words.listed,
    packed,
    words.percent,
    words.score,
)


@dataclass(frozen=True)
class Section:
    """A section of the page with plots.

    Args:
        name: Anchor of the section.
        title: Heading of the section.
        panels: Panels of the section; without any it says that nothing was recorded.
        table: Name of the template of a table above the panels, if there is one.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    table: str = ""


def page(compared: Compared, inlined: Mapping[str, str] | None = None) -> str:
    """The text of a page.

    Args:
        compared: Content of the report.
        inlined: The files that the page then needs not beside it, by name: style and script as they
            are, data as base64, plotly packed.
    """
    chapters = sections(compared)
    figures = {
        panel.name: [[figure.to_json() for figure in choice.figures] for choice in panel.choices]
        for chapter in chapters
        for panel in chapter.panels
    }
    template = templates().get_template("page.html")
    return template.render(
        marker=MARKER,
        inlined=inlined,
        compared=compared,
        metric=compared.metric,
        unit=" (%)" if compared.metric.percent else "",
        styles=[style_of(series, compared) for series in compared.series],
        facts=facts(compared),
        counts=counts(compared.runs),
        totals=[(series, total(series)) for series in compared.series],
        left_out=left_out(compared),
        differences=differences(compared),
        side_by_side=side_by_side(compared),
        nothing=NOTHING,
        worst_pairs=worst_pairs(compared),
        sections=chapters,
        figures=figures,
        differing=differing(compared),
        configs=configs(compared),
        environment=environment(compared),
    )


def sections(compared: Compared) -> list[Section]:
    """All sections of plots, in order.

    Args:
        compared: Content of the report.
    """

    def section(name: str, heading: str, *panels: Panel | None) -> Section:
        return Section(name, heading, tuple(panel for panel in panels if panel))

    versus = intervals(compared)
    found = [recalls(compared), gains(compared), confusions(compared)]
    classes = tuple(panel for panel in found if panel)
    by_class = class_differences(compared)
    both = Section("both", "Side by side", (by_class,) if by_class else (), "both.html")
    return [
        *([both] if side_by_side(compared) else []),
        *([Section("differences", "Differences", (versus,), "differences.html")] if versus else []),
        section("accuracy", heading_of(compared.metric), by_round(compared), by_cost(compared)),
        section("agents", "Agents", by_agent(compared)),
        *([Section("classes", "Classes", classes, "classes.html")] if classes else []),
        section("consensus", "Consensus", consensus(compared)),
        section("units", "Units", units(compared)),
        section("topology", "Topology", *topologies(compared)),
        section("data", "Data", shards(compared)),
        section("cost", "Cost", costs(compared)),
    ]


def templates() -> Environment:
    """The templates of pages; all values in them are escaped."""
    found = Environment(
        loader=PackageLoader("dimat.tools.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {function.__name__: function for function in _FILTERS}
    found.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return found
