"""What the permutations of a run do to mixing: the spectrum of [π_ij P_ij].

.venv/bin/python -m benchmarks.spectrum             # a table of docs/theory.md: minutes
.venv/bin/python -m benchmarks.spectrum --small     # one seed, two rounds

The demo on a ring, with an order for every agent (``pairwise``) and with one for all (``tree``).
The permutations are those that the run found in a round; the operator acts on the 128 units of a
hidden layer, of all agents. An eigenvalue 1 is a mean that mixing keeps; there are 128 where there
is one for every unit. The gap is 1 less the next modulus.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import networkx as nx
import numpy as np

import dimat
from dimat.exchange import Talk
from dimat.experiment.evaluation.diagnostics import permuted_operator
from dimat.merging import mix
from dimat.methods import Dimat, RoundContext, RoundResult
from dimat.state import consensus_distance, squared_distance
from dimat.symmetry import Permutation, Symmetry

ONE = 1e-9  # what a modulus may lack of 1, to be 1
WAYS: dict[str, dict[str, Any]] = {
    "pairwise": {"gauge": "pairwise"},
    "pairwise, pooled": {"gauge": "pairwise", "statistics": "pooled"},
    "tree": {"gauge": "tree"},
}


Edges = Mapping[tuple[int, int], Permutation]
Merges = dict[int, tuple[RoundContext, RoundResult]]  # by agent


@dataclass(frozen=True)
class Watched(Dimat):
    """``dimat``, and what went into its merges and came out, by round."""

    seen: ClassVar[dict[int, Merges]] = {}

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Note what went in and what came out."""
        result = yield from super().merge(me)
        self.seen.setdefault(me.round, {})[me.agent] = me, result
        return result


def merges(way: str, agents: int, seed: int, rounds: int) -> dict[int, Merges]:
    """The merges of a run, by round."""
    Watched.seen.clear()
    with tempfile.TemporaryDirectory() as folder:
        dimat.run(
            {"loss.logits": "plain", "merging.combine": "average"},  # the paper's, whatever the way
            method="watched",
            controls=(),
            agents=agents,
            seed=seed,
            rounds=rounds,
            eval_every=rounds,
            matching=WAYS[way],
            threads=1,
            out=str(Path(folder, "run")),
            progress=False,
        )
    return dict(Watched.seen)


@dataclass(frozen=True)
class Spectrum:
    """What is left of mixing in one round.

    Args:
        gaps: Spectral gap, by hidden layer.
        kept: Eigenvalues 1, by hidden layer.
        moved: How far the mean of all agents moves, as a share of their distance from it.
        closer: That distance, as a share of what it is in the orders in which agents are.

    Both are in the one order that permutations give, composed along a tree from agent 0.
    """

    gaps: list[float]
    kept: list[int]
    moved: float
    closer: float


def spectrum(round_: Merges) -> Spectrum:
    """The spectrum of a round's merge."""
    first, _ = round_[0]
    symmetry, pi = first.analysis().symmetry, first.topology.pi
    edges = edges_of(round_, symmetry)
    gaps, kept = [], []
    for group in symmetry.groups:
        operator = permuted_operator(symmetry, group.name, group.size, pi, edges)
        moduli = np.abs(np.linalg.eigvals(operator))
        ones = moduli >= 1 - ONE
        kept.append(int(ones.sum()))
        gaps.append(1.0 - float(moduli[~ones].max()))
    return Spectrum(gaps, kept, *in_one_order(round_, symmetry, edges))


def edges_of(round_: Merges, symmetry: Symmetry) -> Edges:
    """The permutation of j's units into i's order, for every i and j that are mixed."""
    still, edges = symmetry.identity(), {}
    for i, (me, result) in round_.items():
        back = symmetry.inverse(result.permutation or still)
        for j in me.neighbors:
            edges[i, j] = symmetry.compose(back, result.report.alignments.get(j, still))
    return edges


def in_one_order(round_: Merges, symmetry: Symmetry, edges: Edges) -> tuple[float, float]:
    """As :attr:`Spectrum.moved` and :attr:`Spectrum.closer`."""
    first, _ = round_[0]
    frames = {0: symmetry.identity()}
    for up, down in nx.bfs_edges(first.topology.graph, 0):
        frames[down] = symmetry.compose(frames[up], edges[up, down])
    us, results = zip(*(own for _, own in sorted(round_.items())), strict=True)
    before = [symmetry.apply(frames[me.agent], me.state) for me in us]
    after = []
    for me, result in zip(us, results, strict=True):
        back = symmetry.inverse(result.permutation or symmetry.identity())
        after.append(symmetry.apply(symmetry.compose(frames[me.agent], back), result.state))
    weights = [1 / len(us)] * len(us)
    shift = squared_distance(mix(before, weights), mix(after, weights), first.parameters)
    apart, raw = (
        consensus_distance(own, first.parameters) for own in (before, [me.state for me in us])
    )
    return math.sqrt(shift) / apart, apart / raw


def told(values: Sequence[float], digits: int) -> str:
    """Mean ± sample sd over seeds."""
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{sd}"


def row(found: Sequence[Spectrum]) -> Iterator[str]:
    """The cells of several seeds; a pair is of the two hidden layers."""
    yield " / ".join(told(own, 4) for own in zip(*(x.gaps for x in found), strict=True))
    yield " / ".join(told(own, 1) for own in zip(*(x.kept for x in found), strict=True))
    yield told([100 * x.moved for x in found], 1)
    yield told([100 * x.closer for x in found], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="one seed, two rounds")
    small = parser.parse_args().small
    dimat.METHODS.register("watched", Watched)  # not on import: others list what is registered
    seeds, agents, rounds = (1, (5,), (1, 2)) if small else (3, (5, 8), (1, 2, 5))
    print("| | N | round | gap of Π | gap | eigenvalues 1, of 128 | mean moves, % | distance, % |")
    print(f"|{'---|' * 8}", flush=True)
    for n, way in itertools.product(agents, WAYS):
        runs = [merges(way, n, seed, rounds[-1]) for seed in range(seeds)]
        gap = runs[0][1][0][0].topology.spectral_gap
        for number in rounds:
            cells = row([spectrum(own[number]) for own in runs])
            print(f"| {way} | {n} | {number} | {gap:.4f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
