"""The tables of docs/results.md, from the folders that `dimat compare configs/results/*.yaml` made.

.venv/bin/python -m benchmarks.results RUNS        # RUNS holds compare-core, compare-iid, ...
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

Curve = dict[int, float]


def curve(folder: Path, phase: str) -> Curve:
    """By round the mean accuracy in % after a phase; rounds that have none of it are left out."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        own = json.loads(line)
        found[own["round"], own["phase"]].append(100 * own["test_accuracy"])
    return {r: statistics.fmean(own) for (r, after), own in sorted(found.items()) if after == phase}


def curves(comparison: Path) -> dict[tuple[str, str, str], list[Curve]]:
    """For each grid point, method and phase the curves of all finished seeds."""
    found: dict[tuple[str, str, str], list[Curve]] = defaultdict(list)
    for cell in sorted((comparison / "cells").iterdir()):
        point = ", ".join(p for p in cell.name.split(",") if not p.startswith("seed="))
        for folder in (cell, *sorted((cell / "controls").glob("*"))):
            if (folder / "summary.json").exists():
                method = json.loads((folder / "summary.json").read_text())["method"]
                for phase in ("merged", "trained"):
                    if own := curve(folder, phase):
                        found[point, method, phase].append(own)
    return found


def row(own: list[Curve]) -> list[str]:
    """Mean ± sample sd for each round that all seeds have."""
    rounds = sorted(set.intersection(*(set(c) for c in own)))
    cells = []
    for r in rounds:
        values = [c[r] for c in own]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.fmean(values):.1f}{spread}")
    return cells


def main(runs: Path) -> None:
    for comparison in sorted(runs.glob("compare-*")):
        print(f"\n### {comparison.name}\n")
        for (point, method, phase), own in curves(comparison).items():
            rounds = f"{min(own[0])} … {max(own[0])}"
            print(
                f"| {point} {method}, {phase} (n={len(own)}; {rounds}) | {' | '.join(row(own))} |"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
