"""The page: sections in order, with a place for every plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dimat.tools.report.compared import Compared
from dimat.tools.report.figures.accuracy import by_agent, by_cost, by_round
from dimat.tools.report.figures.costs import costs
from dimat.tools.report.figures.diagnostics import consensus, units
from dimat.tools.report.figures.figure import Panel
from dimat.tools.report.figures.graph import topologies
from dimat.tools.report.figures.shards import shards
from dimat.tools.report.legend import legend
from dimat.tools.report.markup import Html, script_json, tag
from dimat.tools.report.recipe import notes, recipe
from dimat.tools.report.results import head, results, title

MARKER = "dimat report"  # the generator that index.html names: how an earlier report is known


@dataclass(frozen=True)
class Section:
    """A chapter of plots.

    Args:
        name: Its anchor.
        title: Its heading.
        panels: What is in it; if nothing, it says that nothing was recorded.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]


def page(compared: Compared) -> str:
    """``index.html``: everything but scripts, styles and plotly itself."""
    chapters = sections(compared)
    figures = {
        panel.name: [[figure.to_json() for figure in choice.figures] for choice in panel.choices]
        for chapter in chapters
        for panel in chapter.panels
    }
    body = tag(
        "body",
        head(compared),
        _contents(chapters),
        tag("p", id="trouble", class_="note", role="alert", hidden=True),
        tag("noscript", tag("p", "The plots need JavaScript; the tables do not.", class_="note")),
        tag(
            "main",
            results(compared),
            *(_section(chapter, compared) for chapter in chapters),
            recipe(compared),
            notes(compared),
        ),
        script_json("figures", figures),
        tag("script", src="plotly.min.js"),
        tag("script", src="report.js"),
    )
    return f"<!doctype html>\n{tag('html', _head(compared), body, lang='en')}\n"


def sections(compared: Compared) -> list[Section]:
    """All chapters of plots."""

    def section(name: str, heading: str, *panels: Panel | None) -> Section:
        return Section(name, heading, tuple(panel for panel in panels if panel))

    return [
        section("accuracy", "Accuracy", by_round(compared), by_cost(compared)),
        section("agents", "Agents", by_agent(compared)),
        section("consensus", "Consensus", consensus(compared)),
        section("units", "Units", units(compared)),
        section("topology", "Topology", *topologies(compared)),
        section("data", "Data", shards(compared)),
        section("cost", "Cost", costs(compared)),
    ]


def _head(compared: Compared) -> Html:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=MARKER),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title(compared)} – dimat report"),
        tag("link", rel="stylesheet", href="report.css"),
    )


def _contents(chapters: Sequence[Section]) -> Html:
    found = [
        ("results", "Results"),
        *((x.name, x.title) for x in chapters),
        ("settings", "Settings"),
    ]
    items = (tag("li", tag("a", words, href=f"#{name}")) for name, words in found)
    return tag("nav", tag("ul", *items), aria_label="Contents")


def _section(chapter: Section, compared: Compared) -> Html:
    missing = tag("p", "Not recorded by these runs.", class_="missing")
    panels = [_panel(panel, compared) for panel in chapter.panels] or [missing]
    return tag("section", tag("h2", chapter.title), *panels, id=chapter.name)


def _panel(panel: Panel, compared: Compared) -> Html:
    """Heading, control, legend, room for the plots, caption."""
    count = max(len(choice.figures) for choice in panel.choices)
    words = f"{panel.title}. {panel.caption}"
    plots = [tag("div", class_="plot", role="img", aria_label=words) for _ in range(count)]
    return tag(
        "figure",
        tag("h3", panel.title),
        _control(panel),
        legend(compared, set(_series(panel))) if panel.legend else Html(""),
        tag("div", *plots, class_=f"plots of-{count}"),
        tag("figcaption", panel.caption),
        class_="panel",
        id=f"panel-{panel.name}",
        data_panel=panel.name,
    )


def _series(panel: Panel) -> Iterator[object]:
    """The series that are drawn in a panel, by index."""
    for choice in panel.choices:
        for figure in choice.figures:
            yield from (trace["meta"] for trace in figure.traces if "meta" in trace)


def _control(panel: Panel) -> Html:
    """A slider for what is in order, else a list to choose from; nothing if there is no choice."""
    labels = [choice.label for choice in panel.choices]
    if len(labels) == 1:
        return Html("")
    if panel.ordered:
        slider = tag("input", type="range", min=0, max=len(labels) - 1, value=0, class_="choose")
        chosen = tag("output", labels[0], data_labels="\n".join(labels))
        return tag("p", tag("label", f"{panel.control} ", slider), " ", chosen, class_="control")
    options = (tag("option", label, value=i) for i, label in enumerate(labels))
    chosen = tag("select", *options, class_="choose", autocomplete="off")
    return tag("p", tag("label", f"{panel.control} ", chosen), class_="control")
