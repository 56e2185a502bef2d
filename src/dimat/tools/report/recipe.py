"""The end of the page: the settings, and what it ran on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dimat.tools.records.settings import key_of, shown
from dimat.tools.report.compared import Compared
from dimat.tools.report.results import values_of
from dimat.tools.report.words import number_of


@dataclass(frozen=True)
class Fact:
    """A row of a table of names and values.

    Args:
        name: What it is.
        value: All its values.
        differs: Whether runs differ in it.
    """

    name: str
    value: str
    differs: bool


@dataclass(frozen=True)
class ConfigLine:
    """A line of a ``config.yaml``, its line break included.

    Args:
        text: As it is there.
        marked: Whether runs differ in its setting.
    """

    text: str
    marked: bool


@dataclass(frozen=True)
class Config:
    """The settings of a run, as they are written.

    Args:
        title: Which run it is of.
        lines: Those of its ``config.yaml``.
    """

    title: str
    lines: tuple[ConfigLine, ...]


def differing(compared: Compared) -> list[Fact]:
    """The settings in which runs differ."""
    return [Fact(x, values_of(compared, x, unset=True), True) for x in compared.differing]


def configs(compared: Compared) -> list[Config]:
    """The config of the first run of every point; the same settings are shown once."""
    found: dict[str, Config] = {}
    for series in compared.series:
        for run in series.runs:
            if run.begun and (key := key_of(series.point)) not in found:
                point = series.label.removeprefix(series.method).replace(" · ", ", ", 1)
                title = f"{series.method}, seed {run.seed}{point}"
                found[key] = Config(title, _lines(run.config, compared.differing))
    return [*found.values()]


def _lines(config: str, names: Collection[str]) -> tuple[ConfigLine, ...]:
    """The lines of a config; those of some settings, by dotted name, are marked."""
    group, name, lines = "", "", []
    for line in config.splitlines():
        key = line.strip().partition(":")[0]
        if line[:1].isalpha():
            group = name = key
        elif line.startswith("  ") and not line.strip().startswith("-"):
            name = f"{group}.{key}"
        lines.append(ConfigLine(f"{line}\n", name in names))
    return tuple(lines)


def environment(compared: Compared) -> list[Fact]:
    """Versions and hardware; nothing if none were recorded."""
    recorded = [run.environment for run in compared.runs if run.begun]
    names = dict.fromkeys(name for one in recorded for name in one)
    return [_counted(recorded, name) for name in names]


def _counted(recorded: Sequence[Mapping[str, object]], name: str) -> Fact:
    """The one value; or all of them, with how many runs have it."""
    counts = Counter(shown(one.get(name)) for one in recorded)
    values = [f"{value} ({number_of(count, 'run')})" for value, count in counts.items()]
    several = len(counts) > 1
    return Fact(name.replace("_", " "), "; ".join(values if several else counts), several)
