"""The overview of a report: settings that were compared, and numbers of finished runs."""

from __future__ import annotations

from collections.abc import Sequence

from dimat.tools.records.run import Run
from dimat.tools.records.settings import key_of, shown
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.words import listed, number_of

_FACTS = ("agents", "topology.name", "data.source", "data.split", "model", "rounds")


def facts(compared: Compared) -> list[str]:
    """Number of runs, their seeds, and the main settings with all their values, in words.

    Args:
        compared: Content of the report.
    """
    seeds = sorted({run.seed for run in compared.runs})
    seed = f"seed{'' if len(seeds) == 1 else 's'} {listed([str(x) for x in seeds])}"
    found = [f"{number_of(len(compared.runs), 'run')}, {seed}"]
    for name in _FACTS:
        if values := values_of(compared, name):
            found.append(f"{name.removesuffix('.name')}: {values}")
    return found


def values_of(compared: Compared, name: str, *, unset: bool = False) -> str:
    """All values of a setting, each once, as text.

    Args:
        compared: Content of the report.
        name: Dotted name of the setting.
        unset: Whether empty values, such as null, are included.
    """
    values = [run.settings.get(name) for run in compared.runs]
    return ", ".join({key_of(x): shown(x) for x in values if x or unset}.values())


def counts(runs: Sequence[Run]) -> dict[str, int]:
    """Numbers of runs that are finished, unfinished and not begun.

    Args:
        runs: All runs.
    """
    return {
        "finished": sum(run.finished for run in runs),
        "unfinished": sum(run.begun and not run.finished for run in runs),
        "not begun": sum(not run.begun for run in runs),
    }


def left_out(compared: Compared) -> list[tuple[str, str]]:
    """The runs that no mean includes: unfinished ones, and by series those that have not begun.

    Args:
        compared: Content of the report.

    Returns:
        A label of each run or group of runs, and its last round, in words.
    """
    return [line for series in compared.series for line in _unfinished(series)]


def _unfinished(series: Series) -> list[tuple[str, str]]:
    lines = [(f"{series.label}, seed {run.seed}", _so_far(run)) for run in series.unfinished]
    waiting = [str(run.seed) for run in series.runs if not run.begun]
    if waiting:
        seeds = f"seed{'s' if waiting[1:] else ''} {listed(waiting)}"
        lines.append((f"{series.label}, {seeds}", "not begun"))
    return lines


def _so_far(run: Run) -> str:
    measured = run.curve.measured
    rounds = run.settings.get("rounds", "?")
    so_far = f"recorded up to round {measured[-1].round}" if measured else "nothing recorded yet"
    return f"unfinished, {so_far} of {rounds} ({run.folder})"
