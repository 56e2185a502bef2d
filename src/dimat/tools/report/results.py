"""The head of the page: what was compared, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence

from dimat.tools.records.run import Run
from dimat.tools.records.settings import key_of, shown
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.legend import swatch
from dimat.tools.report.markup import Html, join, table, tag
from dimat.tools.report.totals import Total, total
from dimat.tools.report.words import (
    NOTHING,
    accuracy,
    counted,
    human_bytes,
    human_seconds,
    listed,
    number_of,
)

_FACTS = ("agents", "topology.name", "data.source", "data.split", "model", "rounds")


def title(compared: Compared) -> str:
    """What was compared, in a line."""
    return listed(compared.methods)


def head(compared: Compared) -> Html:
    """Title, what is the same throughout, and how much of it is finished."""
    runs = compared.runs
    seeds = sorted({run.seed for run in runs})
    seed = f"seed{'' if len(seeds) == 1 else 's'} {listed([str(x) for x in seeds])}"
    facts = [f"{number_of(len(runs), 'run')}, {seed}", *_facts(compared)]
    return tag(
        "header",
        tag("p", "dimat report", class_="kicker"),
        tag("h1", title(compared)),
        tag("ul", *(tag("li", fact) for fact in facts), class_="facts"),
        tag("p", *_badges(runs), class_="badges"),
    )


def _facts(compared: Compared) -> list[str]:
    """The main settings, with all the values they take."""
    facts = []
    for name in _FACTS:
        found = {key_of(x): shown(x) for run in compared.runs if (x := run.settings.get(name))}
        if found:
            facts.append(f"{name.removesuffix('.name')}: {', '.join(found.values())}")
    return facts


def _badges(runs: Sequence[Run]) -> list[Html]:
    counts = {
        "finished": sum(run.finished for run in runs),
        "unfinished": sum(run.begun and not run.finished for run in runs),
        "not begun": sum(not run.begun for run in runs),
    }
    return [
        tag("span", f"{count} {word}", class_=f"badge {word.split()[0]}")
        for word, count in counts.items()
        if count
    ]


def results(compared: Compared) -> Html:
    """The table of results, and the runs it leaves out."""
    heads = ["Method", *compared.differing, "Test accuracy (%)", "n", "Worst agent (%)"]
    heads += ["Pre-trained (%)", "Merged (%)", "Trained (%)"]
    caption = (
        "Final test accuracy, mean over the agents: mean ± sample standard deviation over n "
        "finished seeds: right after the last merge where one begins a round, else after training. "
        "Pre-trained, merged, trained: means before round 1, after the last merge, and after the "
        "last training. Worst agent: that of every seed, averaged. Bytes: sent by all agents "
        "together. Busy: time of the slowest agent in every phase, for whom the others wait. Every "
        "round is in "
    )
    return tag(
        "section",
        tag("h2", "Results"),
        table(
            [*heads, "Bytes sent", "Busy"],
            [_row(series, compared) for series in compared.series],
            join([caption, tag("a", "data.csv", href="data.csv"), "."]),
        ),
        _left_out(compared),
        id="results",
    )


def _row(series: Series, compared: Compared) -> list[str]:
    found = total(series)
    return [
        join([swatch(series, compared), " ", series.method, *_badge(series, found)]),
        *(shown(value) for value in series.point.values()),
        tag("strong", accuracy(found)),
        counted(found),
        _percent(found.worst),
        *(_percent(x) for x in (found.began, found.merged, found.trained)),
        human_bytes(found.sent_bytes),
        human_seconds(found.busy_s),
    ]


def _percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"


def _badge(series: Series, found: Total) -> list[Html]:
    if found.n == found.of:
        return []
    word = "unfinished" if any(run.begun for run in series.runs) else "not begun"
    return [Html(" "), tag("span", word, class_=f"badge {word.split()[0]}")]


def _left_out(compared: Compared) -> Html:
    """What is not finished, series by series."""
    lines = [line for series in compared.series for line in _unfinished(series)]
    if not lines:
        return Html("")
    told = "Not finished, and not part of any mean; curves end where the records end:"
    return tag("div", tag("p", told), tag("ul", *lines), class_="note")


def _unfinished(series: Series) -> list[Html]:
    """A line for every run that has begun, and one for all that have not."""
    lines = [
        tag("li", tag("b", f"{series.label}, seed {run.seed}"), _so_far(run))
        for run in series.unfinished
    ]
    waiting = [str(run.seed) for run in series.runs if not run.begun]
    if waiting:
        who = f"{series.label}, seed{'s' if waiting[1:] else ''} {listed(waiting)}"
        lines.append(tag("li", tag("b", who), ": not begun"))
    return lines


def _so_far(run: Run) -> str:
    measured = run.curve.measured
    rounds = run.settings.get("rounds", "?")
    so_far = f"recorded up to round {measured[-1].round}" if measured else "nothing recorded yet"
    return f": unfinished, {so_far} of {rounds} ({run.folder})"
