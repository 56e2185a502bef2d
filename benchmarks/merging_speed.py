"""How long merging takes, as ratios to bare forward passes in one run, and what matching holds.

.venv/bin/python -m benchmarks.merging_speed            # --small: 500 images, one thread

One agent and two neighbors, 2,000 images of 32x32 in channels_last batches of 250, random weights,
float32. "bare" is ``model(batch)`` in eval mode without gradients. A merge (matching, mixing,
recalibration) needs the forwards of three networks and of the merged one, regression and Gram
matrices are compared with those of three. Times are of processors, all threads together, as others
may use the machine too; every way runs between two bare ones, as its speed drifts. Memory is
counted in bytes of tensors that are alive.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from benchmarks.aims import beside_aim
from benchmarks.live_bytes import peak_bytes
from torch import Tensor, nn

from dimat.graph.interpreter import PartialInterpreter
from dimat.matching import Activations, Problem, assign, solve_assignment
from dimat.matching.fit import fit
from dimat.matching.unit_activations import observations
from dimat.merging import Regression, mix, recalibrate
from dimat.merging.layerwise.gram import Gram
from dimat.models import build_model
from dimat.state import State, num_bytes, state_of
from dimat.symmetry import Analysis, analyze

NETS = {"resnet20 x2": ("resnet20", 2.0), "vgg16": ("vgg16", 1.0)}
NEIGHBORS, IMAGES = 2, 2000
CLONES = 15  # pairs of applying and cloning
AIMS = {"merge": 1.1, "regression": 3.0, "Grams": 1.5, "apply": 2.0}


def network(name: str) -> nn.Module:
    kind, width = NETS[name]
    torch.manual_seed(0)
    model = build_model(kind, in_channels=3, num_classes=10, image_size=(32, 32), width=width)
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def several(model: nn.Module) -> list[State]:
    """Three states that differ, with the BatchNorm statistics of random images."""
    found = []
    for seed in range(NEIGHBORS + 1):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        recalibrate(model, images()[:1])
        found.append(state_of(model))
    return found


def images(count: int = IMAGES) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 32, 32, generator=random)
    return list(x.contiguous(memory_format=torch.channels_last).split(250))


def bare(model: nn.Module, states: list[State], batches: list[Tensor]) -> None:
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            for x in batches:
                model(x)


def ratios(name: str, count: int, threads: Sequence[int]) -> None:
    """Print a row for each way and number of threads, then one of memory."""
    model = network(name)
    states, batches = several(model), images(count)
    analysis = analyze(model, (batches[0][:2],))
    weights = [1 / 3] * 3

    def merge() -> None:
        found = Activations().match(Problem(analysis, states, weights, batches))
        pairs = zip(found, states, strict=True)
        aligned = [analysis.symmetry.apply(m.permutation, s) for m, s in pairs]
        model.load_state_dict(mix(aligned, weights))
        recalibrate(model, batches)

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "merge": (4, merge),
        "regression": (3, lambda: Regression().combine(analysis, states, weights, batches)),
        "Grams": (3, lambda: Gram().combine(analysis, states, weights, batches)),
    }
    for own in threads:
        torch.set_num_threads(own)
        bare(model, states[:1], batches)
        before = _seconds(lambda: bare(model, states, batches))
        for way, (networks, call) in ways.items():
            took = _seconds(call)
            after = _seconds(lambda: bare(model, states, batches))
            show(f"{name}, {own} threads", way, took / ((before + after) / 2 * networks / 3))
            before = after
        show(f"{name}, {own} threads", "apply", applied(analysis, states[0]))
    held(name, analysis, states, batches)


def applied(analysis: Analysis, state: State) -> float:
    """Applying a random permutation, relative to cloning the state: medians that alternate."""
    state = {key: x.contiguous() for key, x in state.items()}
    p = analysis.symmetry.random(torch.Generator().manual_seed(0))
    pairs = [
        (
            _seconds(lambda: analysis.symmetry.apply(p, state)),
            _seconds(lambda: {key: x.clone() for key, x in state.items()}),
        )
        for _ in range(CLONES)
    ]
    apply, clone = (statistics.median(own) for own in zip(*pairs, strict=True))
    return apply / clone


def held(name: str, analysis: Analysis, states: list[State], batches: list[Tensor]) -> None:
    """What matching holds beyond one run of the same graph, relative to moments and a tenth."""
    *_, last = analysis.trace.graph.nodes

    def run() -> None:
        PartialInterpreter(analysis.trace, states[0], batches[0]).advance(last)

    forward = peak_bytes(run)
    problem = Problem(analysis, states, [1 / 3] * 3, batches[:2])
    extra = peak_bytes(lambda: Activations().match(problem)) - forward
    sizes = {group.name: group.cells * group.size for group in analysis.symmetry.groups}
    moments = sum(8 * sizes[o.group] ** 2 for o in observations(analysis)) * NEIGHBORS
    state = num_bytes(states[0])
    mb = [f"{x / 2**20:.1f}" for x in (forward, extra, moments, state)]
    print(f"{name}: MB of a run alone {mb[0]}, of matching beyond it {mb[1]}, of its C x C moments "
          f"{mb[2]}, of a state {mb[3]}", flush=True)  # fmt: skip
    show(name, "memory / (C x C + state / 10)", extra / (moments + state / 10), 1.0)


def show(name: str, way: str, ratio: float, aim: float | None = None) -> None:
    """Print a ratio, its aim, and whether it is met."""
    aim = AIMS[way] if aim is None else aim
    print(f"| {name} | {way} | {ratio:.2f} | {beside_aim(ratio, aim)} |", flush=True)


def _seconds(way: Callable[[], object]) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


def _clock(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def assignment() -> None:
    """All groups of a ResNet-50: random correlations, and such as the certificate settles.

    By the clock, as threads save no processor time.
    """
    from dimat.symmetry import Symmetry

    sizes = [64] * 7 + [256] + [128] * 8 + [512] + [256] * 12 + [1024] + [512] * 6 + [2048]
    axes = {f"{i}": (f"{i}",) for i in range(len(sizes))}
    state = {f"{i}": torch.zeros(n) for i, n in enumerate(sizes)}
    symmetry = Symmetry.from_axes(axes, state)
    random = np.random.default_rng(0)
    # Correlations of trained networks: a planted partner that stands out for most units only.
    hard, easy = {}, {}
    for i, n in enumerate(sizes):
        noise = random.normal(size=(n, n)) / 8
        strength = random.uniform(0.0, 1.0, n)
        hard[str(i)] = (noise + strength[:, None] * np.eye(n)[random.permutation(n)]).clip(-1, 1)
        easy[str(i)] = noise / 10 + np.eye(n)
    assert not all(len(set(s.argmax(1))) == len(s) for s in hard.values())
    times = {k: [_clock(lambda s=s: fit(symmetry, s, assign(symmetry, s))) for _ in range(5)]  # type: ignore[misc]
             for k, s in (("solved", hard), ("settled by the certificate", easy))}  # fmt: skip
    alone = [_clock(lambda: [solve_assignment(s) for s in hard.values()]) for _ in range(3)]
    for name, found in times.items():
        print(f"ResNet-50's groups (up to 2048), {name}: {statistics.median(found):.3f} s")
    print(f"the same, solved one after another: {statistics.median(alone):.3f} s (threads: "
          f"{statistics.median(times['solved']) / statistics.median(alone):.2f}x)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merging_speed")
    parser.add_argument("names", nargs="*", default=[*NETS], help=f"of {', '.join(NETS)}")
    parser.add_argument("--small", action="store_true", help="500 images, one thread")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    own = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}")
    print("| network | way | ratio | |\n|---|---|---|---|", flush=True)
    for name in own.names:
        ratios(name, 500 if own.small else own.images, [1] if own.small else own.threads)
    torch.set_num_threads(2)
    assignment()


if __name__ == "__main__":
    main()
