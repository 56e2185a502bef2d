"""Writing the state and the report of a merge: both or neither, each whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from dimat.checkpoints.formats.folders import folder_files, write_folder
from dimat.errors import ConfigError
from dimat.experiment.record.environment import environment
from dimat.experiment.record.lines import to_json
from dimat.files import file_digest
from dimat.state import State, num_bytes, save_state
from dimat.tools.merge.result import AlignResult, MergeComparison, MergeResult, Score
from dimat.tools.merge.settings import AlignConfig

_ONE_FILE = ("npz", "csv", "jsonl", "parquet")  # sources that are one file, whose digest is told


def write_aligned(result: AlignResult) -> None:
    """Write the aligned state.

    Args:
        result: The result of an alignment.

    Raises:
        ConfigError: If the state cannot be written; nothing is written then.
    """
    _write(result)


def write_merge(result: MergeResult, page: str | None = None) -> None:
    """Write the merged state and the report.

    Args:
        result: The result of a merge.
        page: The report as a page, if the settings ask for one.

    Raises:
        ConfigError: If one of them cannot be written; nothing is written then.
    """
    pages = [] if page is None else [page]
    _write(result, to_json(report_of(result), indent=2) + "\n", *pages)


def report_of(result: MergeResult) -> dict[str, object]:
    """The report of a merge as JSON, for programs; metrics in percent are fractions in [0, 1].

    Args:
        result: The result of a merge.
    """
    config = result.config
    return {
        "settings": dataclasses.asdict(config),
        "command": config.command,
        "inputs": [_file(path) for path in _read(config)],
        "outputs": [
            {"path": str(path), "numbers": _numbers(state), "bytes": num_bytes(state)}
            for state, (path, _) in zip(result.states, config.written, strict=True)
        ],
        "notes": list(result.notes),
        "kept": list(result.kept),
        "recalibrated": result.recalibrated,
        "evaluation": None if result.comparison is None else _comparison(result.comparison),
        "matching": {
            "symmetry": result.symmetry,
            "parents": [dataclasses.asdict(fit) for fit in result.fits],
            "coverage": result.coverage,
            "pinned": list(result.pinned),
        },
        "seconds": dict(result.seconds),
        "environment": environment(),
    }


def _comparison(comparison: MergeComparison) -> dict[str, object]:
    path = comparison.path
    return {
        comparison.unit: comparison.tested,
        "metrics": [dataclasses.asdict(own) for own in comparison.metrics],
        "networks": [
            {
                "name": row.name,
                **_score(row.plain),
                "recalibrated": row.recalibrated and _score(row.recalibrated),
            }
            for row in comparison.rows
        ],
        "path": path
        and {"alpha": list(path.alphas), **_columns(path.scores), "barrier": path.barrier},
    }


def _score(score: Score) -> dict[str, float]:
    return {**score.metrics, "loss": score.loss}


def _numbers(state: State) -> int:
    return sum(value.numel() for value in state.values())


def _columns(scores: Iterable[Score]) -> dict[str, list[float]]:
    rows = [_score(score) for score in scores]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _read(config: AlignConfig) -> list[str]:
    source, _, path = (config.data or "").partition(":")
    files = [f"{own}" for given in config.inputs for own in _files(Path(given))]
    return [*files, *([path] if source in _ONE_FILE else [])]


def _files(path: Path) -> list[Path]:
    return folder_files(path) if path.is_dir() else [path]


def _file(path: str) -> dict[str, object]:
    return {"path": path, "bytes": Path(path).stat().st_size, "sha256": file_digest(Path(path))}


def _write(result: AlignResult | MergeResult, *reports: str) -> None:
    """Write reports and state; reports are written under other names first, then renamed."""
    outputs = [path for _, path in result.config.outputs]
    partial = [path.with_name(f"{path.name}.partial") for path in outputs]
    last = len(outputs) - len(reports)
    try:
        for path, text in zip(partial[last:], reports, strict=True):
            path.write_text(text, encoding="utf-8")
        _put(result.states, result.config.written)
        for path, out in zip(partial[last:], outputs[last:], strict=True):
            path.replace(out)
    except OSError as error:
        with suppress(OSError):  # the disk may have become read-only
            for path in partial:  # a folder removes what it began itself
                path.unlink(missing_ok=True)
        said = f"{result.config.out} cannot be written: {error}"
        raise ConfigError(f"setting 'out': {said}") from error


def _put(states: Sequence[State], written: Sequence[tuple[Path, str | None]]) -> None:
    """Write states to their places; several are all written elsewhere before the first is there."""
    if len(states) == 1:
        _put_one(states[0], *written[0])
        return
    with TemporaryDirectory(prefix=".merge-", dir=written[0][0].parent) as folder:
        for state, (path, layout) in zip(states, written, strict=True):
            _put_one(state, Path(folder) / path.name, layout)
        for path, _ in written:
            (Path(folder) / path.name).replace(path)


def _put_one(state: State, path: Path, layout: str | None) -> None:
    if layout is None:
        save_state(state, path)
    else:
        write_folder(state, Path(layout), path)
