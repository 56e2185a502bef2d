"""``dimat merge --report page.html``: a merge as one page, which needs no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from dimat.metric import Metric
from dimat.tools.format import NOTHING, decimal
from dimat.tools.report.page import templates

_WIDTH, _HEIGHT = 300, 120  # of a curve, in the units of its SVG


@dataclass(frozen=True)
class LossCurve:
    """A curve between two parents, as an SVG draws it.

    Args:
        title: What it shows.
        points: Place of each point, from the upper left.
        labels: The value at each point, as text.
    """

    title: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]

    @property
    def line(self) -> str:
        """The points as an SVG path."""
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in self.points)

    @property
    def straight(self) -> str:
        """The straight line between the ends as an SVG path."""
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (self.points[0], self.points[-1]))


def merge_page(report: Mapping[str, Any]) -> str:
    """The text of the page.

    Args:
        report: The report of a merge, as its JSON file has it.
    """
    style = files("dimat.tools.report") / "assets" / "report.css"
    own = templates()
    own.filters |= {"decimal": decimal, "base": _base, "bar": _bar}
    evaluation = report["evaluation"]
    metric = Metric(**evaluation["metrics"][0]) if evaluation else Metric("none")
    return own.get_template("merge.html").render(
        style=Markup(style.read_text(encoding="utf-8")),  # ours, and not of a user
        report=report,
        settings=report["settings"],
        networks=_networks(report, metric) if evaluation else [],
        metric=metric,
        metric_name=_words(metric),
        kind="images" if "images" in (evaluation or ()) else "samples",
        unit=" (%)" if metric.percent else "",
        again=bool(evaluation) and any(x["recalibrated"] for x in evaluation["networks"]),
        curves=_curves(evaluation["path"], metric) if evaluation and evaluation["path"] else [],
        groups=_groups(report["matching"]["parents"]),
        doubted={
            fit["parent"]: names
            for fit in report["matching"]["parents"]
            if (names := [x["group"] for x in fit["groups"] if (x["margin"] or 0.0) < 0])
        },
        environment=[(name, f"{value}") for name, value in report["environment"].items()],
    )


def _base(path: str) -> str:
    return PurePath(path).name


def _bar(share: float | None) -> str:
    """The length of a bar in percent, of a share that may be below 0 or above 1.

    >>> _bar(0.25), _bar(-0.1), _bar(None)
    ('25.0', '0.0', '0.0')
    """
    return f"{100 * min(max(share or 0.0, 0.0), 1.0):.1f}"


def _words(metric: Metric) -> str:
    return metric.name.replace("_", " ").capitalize()


def _networks(report: Mapping[str, Any], metric: Metric) -> list[dict[str, Any]]:
    """The rows of the table of networks, parents with their files."""
    found, parents = [], report["settings"]["parents"]
    rows = report["evaluation"]["networks"]
    bests = [(row["recalibrated"] or row)[metric.name] for row in rows]
    for row, best in zip(rows, bests, strict=True):
        kind, _, number = row["name"].partition(" ")
        again = row["recalibrated"]
        own = {
            "name": row["name"],
            "file": _base(parents[int(number)]) if kind == "parent" else "",
            "is_merged": row["name"] == "merged",
            "score": metric.show(row[metric.name]),
            "loss": row["loss"],
            "again": NOTHING if again is None else metric.show(again[metric.name]),
            "again_loss": None if again is None else again["loss"],
            "bar": best if metric.percent else _place(best, bests, metric),
        }
        found.append(own)
    return found


def _place(value: float, values: Sequence[float], metric: Metric) -> float:
    """The place of a value between the worst of all, 0, and the best, 1.

    >>> _place(2.0, [1.0, 2.0, 5.0], Metric("mse", higher_is_better=False))
    0.75
    """
    best, worst = metric.best(values), metric.worst(values)
    place = (value - worst) / (best - worst) if best != worst else 1.0
    return place if math.isfinite(place) else 0.0


def _curves(path: Mapping[str, Any], metric: Metric) -> list[LossCurve]:
    unit, scale = (" (%)", 100) if metric.percent else ("", 1)
    values = [scale * x for x in path[metric.name]]
    form = "{:.1f}" if metric.percent else "{:.3g}"
    return [
        _curve(f"Test {_words(metric).lower()}{unit}", path["alpha"], values, form),
        _curve("Loss", path["alpha"], path["loss"], "{:.3f}"),
    ]


def _curve(title: str, alphas: Sequence[float], values: Sequence[float], form: str) -> LossCurve:
    there = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(there), max(there)
    span = (high - low) or 1.0
    points = [
        (_WIDTH * alpha, _HEIGHT * (1 - (min(value, high) - low) / span))
        for alpha, value in zip(alphas, values, strict=True)
    ]
    return LossCurve(title, tuple(points), tuple(form.format(value) for value in values))


def _groups(fits: Sequence[Mapping[str, Any]]) -> int:
    """Number of groups of units that can be permuted."""
    return max((len(fit["groups"]) for fit in fits), default=0)
