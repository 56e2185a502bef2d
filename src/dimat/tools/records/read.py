"""Folders of runs and comparisons as values; nothing is guessed that is not in their files."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from dimat.errors import RecordError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.record.lines import check_finished
from dimat.tools.records.files import Placed, read_json, read_json_lines, read_text, read_yaml
from dimat.tools.records.parse import diagnosis_of, graph_of, line_of, shards_of
from dimat.tools.records.planned import planned_runs
from dimat.tools.records.run import Run, Source
from dimat.tools.records.settings import comparable, flat


def read_sources(paths: Sequence[str]) -> tuple[Source, ...]:
    """Read every folder; one that is named twice, or lies in one named before, is read once.

    Args:
        paths: Run folders and comparison folders.

    Returns:
        What is in them, in the order given.

    Raises:
        RecordError: If a folder is neither, holds no run, or a file of it is broken.
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
    """Read one folder.

    Raises:
        RecordError: As :func:`read_sources`.
    """
    folder = Path(path)
    if (folder / "comparison.yaml").is_file():
        return _comparison(path)
    if (folder / "config.yaml").is_file():
        command = f"dimat run --config {shlex.quote(str(folder / 'config.yaml'))}"
        return Source(path, "run", tuple(_runs(path, folder)), command)
    raise _neither(path)


def _neither(path: str) -> RecordError:
    """What was looked for; and where runs are, if the folder holds some."""
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
    """All cells, and what the comparison plans beyond them."""
    spec = read_yaml(Path(path) / "comparison.yaml") or {}
    cells = sorted(Path(path).glob("cells/*/config.yaml"), key=lambda x: _natural(x.parent.name))
    found = [run for cell in cells for run in _runs(path, cell.parent)]
    if not found:
        raise RecordError(f"'{path}' is a comparison in which no run has begun: run it first")
    file = shlex.quote(str(Path(path) / "comparison.yaml"))
    command = f"dimat compare {file} --out again"
    return Source(path, "comparison", planned_runs(spec, found), command)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 'seed=2' before 'seed=10'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _runs(source: str, folder: Path) -> list[Run]:
    """The run in a folder, then its controls: those in its config first, begun or not."""
    main = _run(source, folder)
    controls = folder / "controls"
    names = _names((read_yaml(folder / "config.yaml") or {}).get("controls"))
    names += sorted(x.parent.name for x in controls.glob("*/config.yaml"))
    runs = [main]
    for name in dict.fromkeys(names):
        if (controls / name / "config.yaml").is_file():
            runs.append(_run(source, controls / name))
        elif name != main.method:
            there = str(controls / name)
            runs.append(Run(source, there, name, main.seed, main.settings))
    return runs


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _run(source: str, folder: Path) -> Run:
    """One run folder."""
    settings = flat(read_yaml(folder / "config.yaml") or {}, RunConfig())
    metrics, note = read_json_lines(folder / "metrics.jsonl")
    diagnostics, other = read_json_lines(folder / "diagnostics.jsonl")
    graph, shards = _placed(folder / "topology.json"), _placed(folder / "shards.json")
    seed, summary = settings.get("seed"), read_json(folder / "summary.json")
    if summary is not None:
        check_finished(folder, summary)
    return Run(
        source,
        str(folder),
        str(settings["method"]),
        seed if isinstance(seed, int) else 0,
        comparable(settings),
        read_text(folder / "config.yaml") or "",
        read_json(folder / "environment.json") or {},
        summary,
        tuple(line_of(placed) for placed in metrics),
        tuple(diagnosis_of(placed) for placed in diagnostics),
        graph and graph_of(graph),
        shards and shards_of(shards),
        tuple(text for text in (note, other) if text),
    )


def _placed(path: Path) -> Placed | None:
    found = read_json(path)
    return None if found is None else (str(path), found)
