"""The tables of docs/matching.md: what each way of merging makes of real parents.

.venv/bin/python -m benchmarks.merging methods many ridge images budget other margins

Test accuracy in % on CIFAR-10's 10,000 test images, mean ± sd over pairs of parents. Images are
those of the first parent's shard, without labels. See benchmarks/parents.py for the data.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.parents import accuracy, calibration, network, states
from torch import Tensor

from dimat.matching import MATCHERS, Activations, Matcher, Matching, Problem
from dimat.matching.assignment import unit_order
from dimat.merging import COMBINERS, Regression, mix, predicted_statistics, recalibrate
from dimat.state import State, load_state, state_of
from dimat.symmetry import Analysis, Permutation, analyze
from dimat.symmetry.labels.units import Special

PAIRS = {"resnet20_w1": [[0, 1], [1, 2], [2, 3]], "resnet20_w2": [[0, 1], [1, 2], [2, 0]]}


class Case:
    """Parents of one architecture, inputs, and the parents as last aligned."""

    def __init__(self, kind: str, own: list[State], batches: list[Tensor]) -> None:
        self.model, self.states, self.batches = network(kind), own, batches
        self.weights = [1 / len(own)] * len(own)
        self.analysis: Analysis = analyze(self.model, (batches[0][:2],))
        self.aligned = own

    def first(self, images: int) -> list[Tensor]:
        return list(torch.cat(self.batches)[:images].split(250))

    def match(self, matcher: Matcher, images: int = 2000) -> list[Matching]:
        problem = Problem(self.analysis, self.states, self.weights, self.first(images))
        found = matcher.match(problem)
        pairs = zip(found, self.states, strict=True)
        self.aligned = [self.analysis.symmetry.apply(m.permutation, s) for m, s in pairs]
        return found

    def average(self) -> State:
        return mix(self.aligned, self.weights)

    def recalibrated(self, state: State | None = None) -> State:
        self.model.load_state_dict(self.average() if state is None else state)
        recalibrate(self.model, self.batches)
        return state_of(self.model)

    def combine(self, name: str, images: int = 2000) -> State:
        how = COMBINERS[name]
        return how.combine(self.analysis, self.aligned, self.weights, self.first(images))

    def regress(self, how: Regression) -> State:
        return how.combine(self.analysis, self.aligned, self.weights, self.batches)

    def accuracy(self, *several: State) -> float:
        return accuracy(self.model, *several)

    def parents(self) -> float:
        return statistics.fmean(self.accuracy(s) for s in self.states)


def pairs(kind: str) -> list[Case]:
    return [iid(kind, numbers) for numbers in PAIRS[kind]]


def iid(kind: str, numbers: Sequence[int]) -> Case:
    own = states(*(f"{kind}_iid_{i}" for i in numbers))
    return Case(kind, own, calibration(2000, numbers[0]))


def split_pair() -> list[Case]:
    names = ["resnet20_w2_classes0-4", "resnet20_w2_classes5-9"]
    return [Case("resnet20_w2", states(*names), calibration(2000, 0, 5))]


def show(name: str, values: Sequence[float]) -> None:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    print(f"| {name} | {statistics.fmean(values):.1f}{spread} | n={len(values)} |", flush=True)


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


def alike(a: Permutation, b: Permutation) -> float:
    """Share of units, in %, that two permutations send to the same place."""
    same = [(a.slots[g] == b.slots[g]).ravel() for g in a.slots]
    return 100 * float(np.concatenate(same).mean())


def methods() -> None:
    """Every matcher and every combiner, two parents."""
    for kind in PAIRS:
        cases = pairs(kind)
        title(f"{kind}: two parents, 2,000 images")
        show("parents", [c.parents() for c in cases])
        show("ensemble", [c.accuracy(*c.states) for c in cases])
        for name, matcher in MATCHERS.items():
            for c in cases:
                c.match(matcher)
            show(f"{name}, average, recalibrated", [c.accuracy(c.recalibrated()) for c in cases])
            if name in ("identity", "weights", "activations"):
                regressed = [c.accuracy(c.combine("regression")) for c in cases]
                show(f"{name}, regression", regressed)
        for c in cases:
            c.match(MATCHERS["activations"])
        show("activations, average", [c.accuracy(c.average()) for c in cases])
        expected = [
            predicted_statistics(c.analysis, c.aligned, c.weights, c.average()) for c in cases
        ]
        found = [c.accuracy(s) for c, s in zip(cases, expected, strict=True)]
        show("activations, average, expected statistics", found)
        show("activations, repair", [c.accuracy(c.combine("repair")) for c in cases])


def many() -> None:
    """More parents at once, uniform weights: each matched to the first, or one gauge for all."""
    for kind, count, repeats in (("resnet20_w1", 5, 3), ("resnet20_w2", 3, 1)):
        orders = [[(first + i) % count for i in range(count)] for first in range(repeats)]
        own = [iid(kind, order) for order in orders]
        title(f"{kind}: {count} parents")
        show("parents", [c.parents() for c in own])
        show("ensemble", [c.accuracy(*c.states) for c in own])
        for name in ("activations", "consistent"):
            for c in own:
                c.match(MATCHERS[name])
            show(f"{name}, average, recalibrated", [c.accuracy(c.recalibrated()) for c in own])
            show(f"{name}, regression", [c.accuracy(c.combine("regression")) for c in own])


def ridge() -> None:
    """λ of regression."""
    for name, cases in _fits():
        title(f"{name}: regression by λ")
        for value in (0.3, 0.03, 0.003, 0.0003):
            show(f"λ = {value}", [c.accuracy(c.regress(Regression(value))) for c in cases])


def images() -> None:
    """The number of images of regression, and the rows it takes of them."""
    for name, cases in _fits():
        title(f"{name}: regression by images")
        for count in (100, 250, 500, 2000):
            found = [c.accuracy(c.combine("regression", count)) for c in cases]
            show(f"{count} images", found)
        for rows in (5, 80):
            how = Regression(rows_per_unknown=rows)
            found = [c.accuracy(c.regress(how)) for c in cases]
            show(f"2000 images, {rows} rows an unknown", found)


def _fits() -> list[tuple[str, list[Case]]]:
    found = [("resnet20_w1", pairs("resnet20_w1")), ("class split", split_pair())]
    for _, cases in found:
        for c in cases:
            c.match(MATCHERS["activations"])
    return found


def budget() -> None:
    """How much matching needs: images, places of a sample, layers; and bfloat16."""
    ways = [(n, Activations()) for n in (25, 100, 500, 2000)]
    ways += [(2000, Activations(per_sample=p)) for p in (1, 4, None)]
    ways += [(2000, Activations(layers="last")), (2000, Activations(layers="first"))]
    for kind in ("resnet20_w1",):  # the narrowest, where matching matters most
        cases = pairs(kind)
        whole = [c.match(Activations(per_sample=None))[1].permutation for c in cases]
        title(f"{kind}: matching by images, places, layers; units matched as by all; accuracy")
        for count, how in ways:
            own = [c.match(how, count)[1].permutation for c in cases]
            same = statistics.fmean(map(alike, own, whole))
            label = f"{count} images, {how.per_sample or 'all'} places, {how.layers} layers"
            found = [c.accuracy(c.recalibrated()) for c in cases]
            show(f"{label} | {same:.0f} %", found)
        exact = [c.match(Activations())[1].permutation for c in cases]
        with torch.autocast("cpu", torch.bfloat16):
            narrow = [c.match(Activations())[1].permutation for c in cases]
        show("units matched alike under bfloat16 autocast, %", list(map(alike, narrow, exact)))


def other() -> None:
    """VGG11 (half width) and a small ViT, trained by benchmarks/parents.py into runs/parents."""
    for kind in ("vgg", "vit"):
        own = [load_state(Path(f"runs/parents/{kind}_{i}.safetensors")) for i in range(2)]
        case = Case(kind, own, calibration(2000, 0))
        title(f"{kind}: two parents, 2,000 images")
        show("parents", [case.parents()])
        show("ensemble", [case.accuracy(*own)])
        for name in ("identity", "weights", "activations"):
            case.match(MATCHERS[name])
            show(f"{name}, average, recalibrated", [case.accuracy(case.recalibrated())])
            for combine in ("repair", "regression"):
                show(f"{name}, {combine}", [case.accuracy(case.combine(combine))])


def margins() -> None:
    """Ambiguous units averaged less: the second parent's share of a unit falls with its fit."""
    shares = {
        "all alike": lambda m, g: np.ones_like(m.similarities[g]),
        "share = similarity / largest": lambda m, g: m.similarities[g] / m.similarities[g].max(),
        "less similar half kept as it is": lambda m, g: (
            1.0 * (m.similarities[g] >= np.median(m.similarities[g]))
        ),
        "negative margins kept as they are": lambda m, g: 1.0 * (m.margins[g] >= 0),
    }
    for kind in ("resnet20_w1",):
        cases = pairs(kind)
        title(f"{kind}: average, recalibrated, ambiguous units closer to the first parent's")
        for name, share in shares.items():
            found = []
            for c in cases:
                matching = c.match(MATCHERS["activations"])[1]
                sure = {g: np.clip(share(matching, g), 0, 1) for g in matching.similarities}
                found.append(c.accuracy(c.recalibrated(_cautious(c, sure))))
            show(name, found)


def _cautious(case: Case, sure: dict[str, np.ndarray]) -> State:
    """An average in which an entry's share of the second parent is that of its least sure unit."""
    symmetry = case.analysis.symmetry
    still = symmetry.moves(symmetry.identity())
    by_unit = np.ones(symmetry.structure.count)
    for family, name in zip(symmetry.group_families, symmetry.names, strict=True):
        if name in sure:
            cells = symmetry.structure.families[family].cells.ravel()
            by_unit[cells[unit_order(symmetry, still, name)]] = sure[name]
    ours, theirs = case.aligned
    found = {}
    for key, value in ours.items():
        share = np.ones((1,) * value.dim())
        for label in symmetry.axes[key]:
            if not isinstance(label, Special):
                share = np.minimum(share, by_unit[label])
        t = torch.from_numpy(0.5 * share).to(value.dtype) if value.is_floating_point() else 0
        found[key] = value + t * (theirs[key] - value)
    return found


TABLES = {f.__name__: f for f in (methods, many, ridge, images, budget, other, margins)}

if __name__ == "__main__":
    torch.set_num_threads(2)
    for table in sys.argv[1:] or list(TABLES):
        started = time.perf_counter()
        TABLES[table]()
        print(f"\n({table}: {time.perf_counter() - started:.0f} s)\n", flush=True)
