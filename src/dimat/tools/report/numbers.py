"""``data.csv``: the numbers of every round of every run, for plots of one's own."""

from __future__ import annotations

import csv
import io

from dimat.tools.records.curve import Measurement
from dimat.tools.records.run import Run
from dimat.tools.records.settings import shown
from dimat.tools.report.compared import Compared, Series

_SPENT = ("sent_bytes", "epochs", "busy_s")


def numbers(compared: Compared) -> str:
    """The text of ``data.csv``: a row for each round of each run; percentages are fractions.

    ``measured`` is the number of agents that the mean and the ends are of.

    Args:
        compared: Content of the report.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    scores = [f"test_{compared.metric.name}_{kind}" for kind in ("mean", "min", "max")]
    measured = ["round", "phase", "measured", *scores, *_SPENT]
    writer.writerow(["folder", "method", *compared.differing, "seed", "finished", *measured])
    for series in compared.series:
        for run in series.runs:
            writer.writerows(_row(series, run, measured) for measured in run.curve.measured)
    return file.getvalue()


def _row(series: Series, run: Run, measured: Measurement) -> list[object]:
    scores = measured.scores.values()
    return [
        run.folder,
        series.method,
        *(shown(value) for value in series.point.values()),
        run.seed,
        str(run.finished).lower(),
        measured.round,
        measured.phase,
        len(scores),
        measured.score,
        min(scores),
        max(scores),
        measured.sent_bytes,
        measured.epochs,
        measured.busy_s,
    ]
