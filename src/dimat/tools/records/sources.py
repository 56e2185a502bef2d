"""The folders that a user names, of runs and comparisons, with all runs in them."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from dimat.errors import RecordError
from dimat.tools.records.files import read_json, read_yaml
from dimat.tools.records.read import read_run
from dimat.tools.records.run import Run, Source
from dimat.tools.records.settings import key_of

# Key of a run: method, seed and the values of the grid's settings.
_Key = tuple[str, int, tuple[str, ...]]


def read_sources(paths: Sequence[str]) -> tuple[Source, ...]:
    """Read folders of runs and comparisons; runs that are named twice are read once.

    Args:
        paths: Run folders and comparison folders.

    Returns:
        The folders with their runs, in the order given.

    Raises:
        RecordError: If a folder is of neither kind, holds no run, or has a broken file.
    """
    sources: list[Source] = []
    seen: set[Path] = set()
    for path in paths:
        source = read_source(path)
        runs = tuple(run for run in source.runs if Path(run.folder).resolve() not in seen)
        seen |= {Path(run.folder).resolve() for run in runs if run.begun}
        if any(run.begun for run in runs):
            sources.append(dataclasses.replace(source, runs=runs))
    return tuple(sources)


def read_source(path: str) -> Source:
    """Read one folder of a run or comparison.

    Args:
        path: The folder.

    Raises:
        RecordError: As :func:`read_sources`.
    """
    folder = Path(path)
    if (folder / "comparison.yaml").is_file():
        return _comparison(path)
    if (folder / "config.yaml").is_file():
        command = f"dimat run --config {shlex.quote(str(folder / 'config.yaml'))}"
        agent = (read_json(folder / "environment.json") or {}).get("agent")
        if agent is not None:
            command = command.replace("dimat run", "dimat agent", 1)
            command += f" --id {agent} --peers PEERS"
        return Source(path, "run", tuple(_runs(path, folder)), command)
    raise _neither(path)


def _neither(path: str) -> RecordError:
    """The error for a folder of neither kind, with the run folders inside of it as a hint."""
    folder = Path(path)
    if not folder.is_dir():
        return RecordError(f"'{path}' is no folder: give the folder of a run or of a comparison")
    inside = sorted(x.parent.name for x in folder.glob("*/config.yaml"))
    inside += sorted(x.parent.name for x in folder.glob("*/comparison.yaml"))
    hint = f"; it holds {', '.join(inside[:3])}{', …' if inside[3:] else ''}: give those" * any(
        inside
    )
    return RecordError(
        f"'{path}' is neither a run (it has no config.yaml) nor a comparison (it has no "
        f"comparison.yaml){hint}"
    )


def _comparison(path: str) -> Source:
    """A comparison with the runs of all its cells, begun or planned."""
    spec = read_yaml(Path(path) / "comparison.yaml") or {}
    cells = sorted(Path(path).glob("cells/*/config.yaml"), key=lambda x: _natural(x.parent.name))
    found = [run for cell in cells for run in _runs(path, cell.parent)]
    if not found:
        raise RecordError(f"'{path}' is a comparison in which no run has begun: run it first")
    file = shlex.quote(str(Path(path) / "comparison.yaml"))
    command = f"dimat compare {file} --out again"
    return Source(path, "comparison", _planned_runs(spec, found), command)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 'seed=2' before 'seed=10'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _runs(source: str, folder: Path) -> list[Run]:
    """The run of a folder, then its controls: those of its config first, begun or not."""
    main = read_run(folder, source)
    controls = folder / "controls"
    names = _names((read_yaml(folder / "config.yaml") or {}).get("controls"))
    names += sorted(x.parent.name for x in controls.glob("*/config.yaml"))
    runs = [main]
    for name in dict.fromkeys(names):
        if (controls / name / "config.yaml").is_file():
            runs.append(read_run(controls / name, source))
        elif name != main.method:
            there = str(controls / name)
            runs.append(Run(source, there, name, main.seed, main.settings))
    return runs


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _planned_runs(spec: Mapping[str, object], found: Sequence[Run]) -> tuple[Run, ...]:
    """The runs of a comparison in the order of its plan, then runs that it does not plan.

    Planned runs without a folder are included, as runs that have not begun.
    """
    names = [*_grid(spec)]
    there: dict[_Key, list[Run]] = {}
    for run in found:
        there.setdefault(_key(run, names), []).append(run)
    ordered = []
    for run in _plan(spec, found):
        ordered += there.pop(_key(run, names), [run])
    return (*ordered, *itertools.chain.from_iterable(there.values()))


def _plan(spec: Mapping[str, object], found: Sequence[Run]) -> list[Run]:
    """Every planned run of a comparison, as one that has not begun."""
    if not found:
        return []
    grid = _grid(spec)
    points = itertools.product(*grid.values())
    cells = itertools.product(points, _list(spec.get("seeds")), _list(spec.get("methods")))
    empty = Run(found[0].source, "", "", 0, found[0].settings)
    return [
        dataclasses.replace(
            empty,
            method=str(method),
            seed=seed,
            settings={**empty.settings, **dict(zip(grid, point, strict=True))},
        )
        for point, seed, method in cells
        if isinstance(seed, int)
    ]


def _key(run: Run, names: Sequence[str]) -> _Key:
    return run.method, run.seed, tuple(key_of(run.settings.get(name)) for name in names)


def _grid(spec: Mapping[str, object]) -> dict[str, list[object]]:
    grid = spec.get("grid")
    return {n: _list(v) for n, v in grid.items()} if isinstance(grid, dict) else {}


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []
