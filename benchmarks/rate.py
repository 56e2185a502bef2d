"""The rate of decentralized SGD in N and K: in one unit order, and without.

.venv/bin/python -m benchmarks.rate             # tables of docs/theory.md: 4 minutes on a core
.venv/bin/python -m benchmarks.rate --small     # two seeds, few steps

A student of one hidden layer of tanh units learns from a teacher (students.py): nonconvex, with a
known symmetry. Agents begin as copies of one student, units in random orders, and on a ring each
takes a step of SGD and mixes, K times, with steps α = √(N / K) (descent.py). What theory bounds is
the mean of ‖∇F‖² at the agents' mean over the K steps. Draws are the same in all columns of a row.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from benchmarks.descent import (
    Case,
    Found,
    consensus_bound,
    consensus_of_noise,
    gradient_bound,
    measured,
)
from benchmarks.students import make_problem
from torch import Tensor

PRETRAIN = 5000
SEEDS, STEPS, AGENTS = 10, (400, 1600, 6400), (1, 2, 4, 8, 16)
TILT, ALONE = 0.1, (100, 1000)
COLUMNS = {
    "shared init": ("shared", "ring"),
    "one unit order": ("aligned", "ring"),
    "no alignment": ("shuffled", "ring"),
    "full graph": ("shared", "full"),
}
Grid = Sequence[tuple[int, int]]  # K and N


class Runs:
    """The runs of a problem, each made once."""

    def __init__(self, seeds: int, pretrain: int = PRETRAIN) -> None:
        self.problem = make_problem(seeds, pretrain)
        self._known: dict[Case, Found] = {}

    def __getitem__(self, case: Case) -> Found:
        if case not in self._known:
            self._known[case] = measured(self.problem, case)
        return self._known[case]


def slopes(runs: Runs, cases: Sequence[Case]) -> Tensor:
    """(seeds, 2) exponents of K and N in ‖∇F‖², by least squares of logarithms."""
    logs = torch.tensor([[math.log(c.steps), math.log(c.agents), 1.0] for c in cases])
    values = torch.stack([runs[case].gradient for case in cases]).log()
    return torch.linalg.lstsq(logs, values).solution[:2].T


def told(values: Tensor, digits: int = 2) -> str:
    """Mean ± sample sd over seeds."""
    own = [float(x) for x in values]
    return f"{statistics.fmean(own):.{digits}f} ± {statistics.stdev(own):.{digits}f}"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def rates(runs: Runs, grid: Grid) -> Iterator[Sequence[str]]:
    for steps, agents in grid:
        cases = [Case(agents, steps, *way) for way in COLUMNS.values()]
        cells = [told(1e4 * runs[case].gradient) for case in cases]
        yield [f"{steps:,}", str(agents), *(cells if agents > 1 else cells[:1] + 3 * ["–"])]


def exponents(runs: Runs, grid: Grid) -> Iterator[Sequence[str]]:
    for name, way in COLUMNS.items():
        cases = [Case(n, k, *way) for k, n in grid if n > 1]
        yield [name, *(told(own) for own in slopes(runs, cases).T)]


def bounds(runs: Runs, grid: Grid) -> Iterator[Sequence[str]]:
    for tilt, (steps, agents) in itertools.product((0.0, TILT), grid):
        if agents > 2:  # two on a ring are all there are
            case = Case(agents, steps, tilt=tilt)
            found = runs[case]
            cells = (
                found.consensus,
                consensus_of_noise(case, found),
                consensus_bound(case, found),
                found.gradient,
                gradient_bound(case, found),
            )
            row = [f"{1e4 * float(x.mean()):.3g}" for x in cells]
            yield [f"{tilt:g}", f"{steps:,}", str(agents), *row]


def topology(runs: Runs, grid: Grid) -> Iterator[Sequence[str]]:
    for agents in sorted({n for _, n in grid if n > 2}):
        cases = [Case(agents, k, tilt=TILT) for k in sorted({k for k, _ in grid})]
        whole = [Case(agents, case.steps, graph="full", tilt=TILT) for case in cases]
        pairs = list(zip(cases, whole, strict=True))
        excess = [runs[case].gradient - runs[full].gradient for case, full in pairs]
        logs = [math.log(case.steps) for case in cases]
        means = [float(x.mean()) for x in excess]
        power = np.polyfit(logs, np.log(means), 1)[0] if min(means) > 0 else math.nan
        yield [str(agents), *(told(1e4 * x, 3) for x in excess), f"{power:.2f}"]


def scratch(runs: Runs, steps: int, agents: int) -> Iterator[Sequence[str]]:
    found = [runs[Case(agents, steps, *way)] for way in COLUMNS.values()]
    yield ["‖∇F‖²", *(told(1e4 * own.gradient, 0) for own in found)]
    yield ["F, above the teacher's", *(told(1e4 * own.left, 0) for own in found)]


def trained_alone(runs: Runs, steps: int, agents: int) -> Iterator[Sequence[str]]:
    for alone in ALONE:
        cases = [Case(agents, steps, *way, alone=alone) for way in COLUMNS.values()]
        found = [runs[case].gradient for case in cases]
        far = 100 * float((found[1] / found[0] - 1).abs().max())
        yield [f"{alone:,}", *map(told, [1e4 * x for x in found]), f"{far:.2g} %"]


def furthest(runs: Runs, grid: Grid) -> float:
    """The largest relative difference between one unit order and the shared init, over all."""
    pairs = [(Case(n, k), Case(n, k, "aligned")) for k, n in grid if n > 1]
    ratios = [runs[order].gradient / runs[shared].gradient for shared, order in pairs]
    return float((torch.stack(ratios) - 1).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="two seeds and few steps")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    seeds, steps, agents = (2, (80, 160), (1, 2, 4)) if small else (SEEDS, STEPS, AGENTS)
    grid, runs = [(k, n) for k in steps for n in agents], Runs(seeds)
    title = f"Mean of ‖∇F‖² over the K steps, times 10⁴; mean ± sd over {seeds} seeds:"
    table(title, ["K", "N", *COLUMNS], rates(runs, grid))
    far = furthest(runs, grid)
    print(f"\nOne unit order and the shared init differ by {100 * far:.2g} % at most, in any seed.")
    table("Exponents of K and N in it, N > 1:", ["", "K", "N"], exponents(runs, grid))
    k, n = steps[-2], agents[-2]
    title = f"Agents that trained alone for some steps first, K = {k:,}, N = {n}:"
    head = ["steps alone", *COLUMNS, "the first two differ, at most"]
    table(title, head, trained_alone(runs, k, n))
    title = "From the shared init, ζ as given, times 10⁴; means over seeds:"
    head = ["ζ", "K", "N", "Ξ²", "Ξ² of noise alone", "Ξ² at most", "‖∇F‖²", "‖∇F‖² at most"]
    table(title, head, bounds(runs, grid))
    title = f"‖∇F‖² on the ring less that on the full graph, ζ = {TILT}, times 10⁴:"
    head = ["N", *(f"K = {k:,}" for k in steps), "exponent of K"]
    table(title, head, topology(runs, grid))
    title = f"Without pre-training, K = {k:,}, N = {n}: ‖∇F‖² and F at the end, times 10⁴:"
    table(title, ["", *COLUMNS], scratch(Runs(seeds, 0), k, n))


if __name__ == "__main__":
    main()
