"""Runs side by side in series: a series is one method at one grid point, with all its seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dimat.errors import RecordError
from dimat.metric import Metric
from dimat.tools.records.run import Run, Source
from dimat.tools.records.settings import differing, key_of, short_name, shown

FOLDER = "folder"  # setting that tells runs of equal settings but different numbers apart


@dataclass(frozen=True)
class Series:
    """The runs of one method with one set of settings: a line in every plot.

    Args:
        index: Index of the series among all series, from 0.
        method: Registry name of the method.
        point: The settings that differ between series, by dotted name.
        label: Method and point in words.
        runs: The runs of the series by seed, those that have not begun included.
    """

    index: int
    method: str
    point: Mapping[str, object]
    label: str
    runs: tuple[Run, ...]

    @property
    def finished(self) -> tuple[Run, ...]:
        """The finished runs, which means are taken over."""
        return tuple(run for run in self.runs if run.finished)

    @property
    def unfinished(self) -> tuple[Run, ...]:
        """The runs that have begun and are not finished."""
        return tuple(run for run in self.runs if run.begun and not run.finished)

    @property
    def shown(self) -> tuple[Run, ...]:
        """The finished runs, or, if there are none, those that have begun."""
        return self.finished or self.unfinished


@dataclass(frozen=True)
class Compared:
    """The content of a report: sources, series and notes.

    Args:
        sources: The folders with their runs.
        series: The series in the order they first occur, point by point.
        differing: Dotted names of the settings in which runs differ.
        notes: Remarks on the files for readers of the report.
    """

    sources: tuple[Source, ...]
    series: tuple[Series, ...]
    differing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """The main metric of all runs."""
        return self.series[0].runs[0].metric

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, begun or not."""
        return tuple(run for series in self.series for run in series.runs)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, in the order they first occur."""
        return tuple(dict.fromkeys(series.method for series in self.series))


def compare(sources: Sequence[Source]) -> Compared:
    """Group the runs of all sources into series.

    Of runs with equal method, seed and settings one is kept if their numbers agree in the rounds
    that both have; if they do not, all runs are told apart by the folder that they come from.

    Args:
        sources: At least one folder, each with at least one run.

    Raises:
        RecordError: If runs are of tasks with other metrics.
    """
    runs, notes = _once([run for source in sources for run in source.runs])
    _check_metrics(runs)
    names = differing(run.settings for run in runs)
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        point = {name: run.settings.get(name) for name in names}
        found.setdefault((key_of(point), run.method), []).append(run)
    series = tuple(_series(i, group, names) for i, group in enumerate(found.values()))
    notes += [f"{note}" for run in runs for note in run.notes]
    return Compared(tuple(sources), series, names, tuple(notes))


def _check_metrics(runs: Sequence[Run]) -> None:
    """Refuse runs whose numbers mean different things; those that have not begun have none."""
    begun = [run for run in runs if run.begun]
    for run in begun[1:]:
        if run.metric != begun[0].metric:
            names = [own.metric.name for own in (begun[0], run)]
            raise RecordError(
                f"{begun[0].folder} is measured by {names[0]}, and {run.folder} by {names[1]}: "
                "give runs of one task to a report"
            )


def _series(index: int, runs: Sequence[Run], names: Sequence[str]) -> Series:
    first = runs[0]
    point = {name: first.settings.get(name) for name in names}
    words = [f"{short_name(name, names)}={shown(value)}" for name, value in point.items()]
    label = " · ".join([first.method, ", ".join(words)] if words else [first.method])
    ordered = sorted(runs, key=lambda run: run.seed)
    return Series(index, first.method, point, label, tuple(ordered))


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Every run once, or all runs with their folder as a setting; and notes on runs left out."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = key_of([run.method, run.seed, run.settings])
        groups.setdefault(key, []).append(run)
    if any(not _equal(group) for group in groups.values()):
        apart = [{**run.settings, FOLDER: run.source} for run in runs]
        if len({run.source for run in runs}) > 1:
            return [
                dataclasses.replace(run, settings=settings)
                for run, settings in zip(runs, apart, strict=True)
            ], []
    kept = [max(group, key=lambda run: (run.finished, len(run.lines))) for group in groups.values()]
    notes = [
        f"{run.folder} was left out: it is the same as {kept[i].folder}."
        for i, group in enumerate(groups.values())
        for run in group
        if run is not kept[i] and run.begun
    ]
    return kept, notes


def _equal(runs: Sequence[Run]) -> bool:
    """Whether all runs have the same accuracies in every round that they have in common."""
    curves = [{x.round: x.score for x in run.curve.measured} for run in runs]
    longest = max(curves, key=len)
    return all(longest.get(r) == y for each in curves for r, y in each.items())
