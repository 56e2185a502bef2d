"""The end of the page: the settings, what it ran on, and how to run it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from dimat.tools.records.run import Run
from dimat.tools.records.settings import key_of, shown
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.markup import Html, join, table, tag
from dimat.tools.report.words import number_of


def recipe(compared: Compared) -> Html:
    """Settings, environment, commands."""
    return tag(
        "section",
        tag("h2", "Settings"),
        _differing(compared),
        *_configs(compared),
        tag("h3", "What it ran on"),
        _environment(compared),
        tag("h3", "How to run it again"),
        *_commands(compared),
        id="settings",
    )


def notes(compared: Compared) -> Html:
    """What a reader should know about the files; empty if there is nothing."""
    if not compared.notes:
        return Html("")
    items = (tag("li", note) for note in compared.notes)
    return tag("section", tag("h2", "Notes"), tag("ul", *items), id="notes")


def _differing(compared: Compared) -> Html:
    if not compared.differing:
        return tag("p", "All runs have the same settings, but for method and seed.")
    rows = [(name, tag("mark", _values(compared, name))) for name in compared.differing]
    return table(["Setting", "Values"], rows, "Settings that differ between the runs.")


def _values(compared: Compared, name: str) -> str:
    found = {key_of(x): shown(x) for x in (run.settings.get(name) for run in compared.runs)}
    return ", ".join(found.values())


def _configs(compared: Compared) -> list[Html]:
    """The config of the first run of every point; the same settings are shown once."""
    first: dict[str, tuple[Series, Run]] = {}
    for series in compared.series:
        for run in series.runs:
            if run.begun:
                first.setdefault(key_of(series.point), (series, run))
    found = []
    for series, run in first.values():
        point = series.label.partition(" · ")[2]
        summary = f"config.yaml of {series.method}, seed {run.seed}" + (
            f", {point}" if point else ""
        )
        lines = _marked(run.config, compared.differing)
        found.append(tag("details", tag("summary", summary), tag("pre", tag("code", *lines))))
    return found


def _marked(config: str, names: Collection[str]) -> list[Html]:
    """The lines of a config; those of some settings, by dotted name, are marked."""
    group, name, lines = "", "", []
    for line in config.splitlines():
        key = line.strip().partition(":")[0]
        if line[:1].isalpha():
            group = name = key
        elif line.startswith("  ") and not line.strip().startswith("-"):
            name = f"{group}.{key}"
        text = join([f"{line}\n"])
        lines.append(tag("mark", text) if name in names else text)
    return lines


def _environment(compared: Compared) -> Html:
    runs = [run for run in compared.runs if run.begun]
    names = dict.fromkeys(name for run in runs for name in run.environment)
    if not names:
        return tag("p", "Not recorded.", class_="missing")
    rows = [
        (name.replace("_", " "), _counted([run.environment for run in runs], name))
        for name in names
    ]
    return table(["What", "Value"], rows, "Versions and hardware; marked where runs differ.")


def _counted(environments: list[Mapping[str, object]], name: str) -> str:
    """The one value; or all of them, with how many runs have it."""
    counts = Counter(shown(environment.get(name)) for environment in environments)
    if len(counts) == 1:
        return next(iter(counts))
    return tag(
        "mark", "; ".join(f"{value} ({number_of(count, 'run')})" for value, count in counts.items())
    )


def _commands(compared: Compared) -> list[Html]:
    commands = [source.command for source in compared.sources]
    told = "From the folder that this report was made in; the same settings and seeds give the same"
    block = tag("pre", tag("code", "\n".join(commands)))
    return [tag("p", f"{told} accuracies on the same machine and versions."), block]
