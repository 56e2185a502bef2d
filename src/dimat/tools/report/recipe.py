"""The last part of the page: settings and environment of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dimat.tools.records.run import Run
from dimat.tools.records.settings import key_of, shown
from dimat.tools.report.compared import Compared
from dimat.tools.report.results import values_of
from dimat.tools.report.words import number_of


@dataclass(frozen=True)
class Fact:
    """A row of a table of names and values.

    Args:
        name: Name of the fact.
        value: All values that runs have.
        differs: Whether runs have different values.
    """

    name: str
    value: str
    differs: bool


@dataclass(frozen=True)
class ConfigLine:
    """A line of a ``config.yaml``.

    Args:
        text: The line.
        marked: Whether runs differ in the setting of the line.
        chosen: What its setting, which was left to dimat, came to; empty of others.
    """

    text: str
    marked: bool
    chosen: str = ""


@dataclass(frozen=True)
class Config:
    """The ``config.yaml`` of a run.

    Args:
        title: Method, seed and point of the run.
        lines: Lines of the file.
    """

    title: str
    lines: tuple[ConfigLine, ...]


def differing(compared: Compared) -> list[Fact]:
    """The settings in which runs differ.

    Args:
        compared: Content of the report.
    """
    return [Fact(x, values_of(compared, x, unset=True), True) for x in compared.differing]


def configs(compared: Compared) -> list[Config]:
    """The config of the first run of every point, so that equal settings are shown once.

    Args:
        compared: Content of the report.
    """
    found: dict[str, Config] = {}
    for series in compared.series:
        for run in series.runs:
            if run.begun and (key := key_of(series.point)) not in found:
                point = series.label.removeprefix(series.method).replace(" · ", ", ", 1)
                title = f"{series.method}, seed {run.seed}{point}"
                found[key] = Config(title, _lines(run, compared.differing))
    return [*found.values()]


def _lines(run: Run, names: Collection[str]) -> tuple[ConfigLine, ...]:
    """The lines of a run's config, marked where their dotted names are among ``names``."""
    group, name, lines = "", "", []
    for line in run.config.splitlines():
        key = line.strip().partition(":")[0]
        if line[:1].isalpha():
            group = name = key
        elif line.startswith("  ") and not line.strip().startswith("-"):
            name = f"{group}.{key}"
        chosen = shown(run.chosen[name]) if name in run.chosen else ""
        lines.append(ConfigLine(line, name in names, chosen))
    return tuple(lines)


def environment(compared: Compared) -> list[Fact]:
    """Versions and hardware of the runs; empty if none were recorded.

    Args:
        compared: Content of the report.
    """
    recorded = [run.environment for run in compared.runs if run.begun]
    names = dict.fromkeys(name for one in recorded for name in one)
    return [_counted(recorded, name) for name in names]


def _counted(recorded: Sequence[Mapping[str, object]], name: str) -> Fact:
    """The value of a fact; if runs differ, all values, each with its number of runs."""
    counts = Counter(shown(one.get(name)) for one in recorded)
    values = [f"{value} ({number_of(count, 'run')})" for value, count in counts.items()]
    several = len(counts) > 1
    return Fact(name.replace("_", " "), "; ".join(values if several else counts), several)
