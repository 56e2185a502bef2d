"""The one reader of run folders; values that are not in their files are not guessed."""

from __future__ import annotations

from pathlib import Path

from dimat.errors import RecordError
from dimat.experiment.record.lines import check_finished
from dimat.metric import ACCURACY
from dimat.tools.records.curve import in_order
from dimat.tools.records.files import Placed, read_json, read_json_lines, read_text, read_yaml
from dimat.tools.records.parse import (
    confusion_of,
    diagnosis_of,
    graph_of,
    line_of,
    metric_of,
    recalls_of,
    shards_of,
)
from dimat.tools.records.run import Run
from dimat.tools.records.settings import comparable, flat


def is_finished(folder: Path) -> bool:
    """Whether the run of one method is finished.

    Args:
        folder: Run folder of the method.
    """
    return (folder / "summary.json").is_file()


def read_run(folder: Path, source: str = "") -> Run:
    """The recorded run of one method.

    Args:
        folder: Run folder of the method; that of a control is ``controls/NAME`` of its run.
        source: The folder given by the user that the run folder was found in.

    Raises:
        RecordError: If a file is broken, or lines of a finished run were changed; names the file,
            and the line if one is broken.
    """
    settings = flat(read_yaml(folder / "config.yaml") or {})
    metrics, note = read_json_lines(folder / "metrics.jsonl")
    diagnostics, other = read_json_lines(folder / "diagnostics.jsonl")
    classes, third = read_json_lines(folder / "classes.jsonl")
    confusion = _placed(folder / "confusion.json")
    graph, shards = _placed(folder / "topology.json"), _placed(folder / "shards.json")
    task = _placed(folder / "task.json")
    metric = metric_of(task) if task else ACCURACY
    seed, summary = settings.get("seed"), read_json(folder / "summary.json")
    if summary is not None:
        check_finished(folder, summary)
        _check_whole(folder / "metrics.jsonl", metrics, note)
    return Run(
        source,
        str(folder),
        str(settings["method"]),
        seed if isinstance(seed, int) else 0,
        comparable(settings),
        read_text(folder / "config.yaml") or "",
        read_json(folder / "environment.json") or {},
        summary,
        in_order(line_of(placed, metric) for placed in metrics),
        tuple(diagnosis_of(placed) for placed in diagnostics),
        graph and graph_of(graph),
        shards and shards_of(shards),
        tuple(text for text in (note, other, third) if text),
        metric,
        recalls_of(classes),
        confusion_of(confusion) if confusion else {},
        read_json(folder / "chosen.json") or {},
    )


def _check_whole(path: Path, lines: list[Placed], note: str) -> None:
    """Refuse metrics of a finished run that end early: those of old versions have no digest."""
    if note or not lines:
        raise RecordError(
            f"{path} ends early, though its run is finished: put the file back as it was, or run "
            "again in another folder"
        )


def _placed(path: Path) -> Placed | None:
    found = read_json(path)
    return None if found is None else (str(path), found)
