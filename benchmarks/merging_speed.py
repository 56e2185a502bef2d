"""How long matching, averaging and regression take, as ratios to bare forward passes in one run.

.venv/bin/python -m benchmarks.merging_speed            # random weights, random images; 2 threads

One agent and two neighbors, 2,000 images of 32x32 in channels_last batches of 250, float32. "bare"
is ``model(batch)`` in eval mode without gradients for all three networks. Times are medians of runs
that alternate with the bare ones, as the machine's speed drifts.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dimat.matching import Activations, Problem, assign, solve_assignment
from dimat.matching.fit import fit
from dimat.merging import Regression, mix, recalibrate
from dimat.models import build_model
from dimat.state import State, num_bytes, state_of
from dimat.symmetry import analyze

NETS = {"resnet20 x1": ("resnet20", 1.0), "resnet20 x4": ("resnet20", 4.0), "vgg16": ("vgg16", 1.0)}
NEIGHBORS, IMAGES = 2, 2000
RUNS = {"resnet20 x1": 3, "resnet20 x4": 1, "vgg16": 1}


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


def images() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(IMAGES, 3, 32, 32, generator=random)
    return list(x.contiguous(memory_format=torch.channels_last).split(250))


def bare(model: nn.Module, states: list[State], batches: list[Tensor]) -> None:
    for state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            for x in batches:
                model(x)


def ratios(name: str) -> str:
    model = network(name)
    states, batches = several(model), images()
    analysis = analyze(model, (batches[0][:2],))
    weights = [1 / 3] * 3

    def plain() -> None:
        bare(model, states, batches)

    def merge() -> None:
        found = Activations().match(Problem(analysis, states, weights, batches))
        pairs = zip(found, states, strict=True)
        mix([analysis.symmetry.apply(m.permutation, s) for m, s in pairs], weights)

    def regress() -> None:
        Regression().combine(analysis, states, weights, batches)

    found: list[tuple[float, float]] = []
    for _ in range(RUNS[name]):
        times = [_seconds(way) for way in (plain, merge, plain, regress, plain)]
        found.append((2 * times[1] / (times[0] + times[2]), 2 * times[3] / (times[2] + times[4])))
    shown = []
    for own in zip(*found, strict=True):
        shown.append(f"{statistics.median(own):.2f} ({min(own):.2f}–{max(own):.2f})")
    return f"| {name} | {' | '.join(shown)} | {RUNS[name]} |"


def _seconds(way: Callable[[], None]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def assignment() -> None:
    """All groups of a ResNet-50: random correlations, and such as the certificate settles."""
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
    times = {k: [_seconds(lambda s=s: fit(symmetry, s, assign(symmetry, s))) for _ in range(5)]  # type: ignore[misc]
             for k, s in (("solved", hard), ("settled by the certificate", easy))}  # fmt: skip
    alone = [_seconds(lambda: [solve_assignment(s) for s in hard.values()]) for _ in range(3)]
    for name, found in times.items():
        print(f"ResNet-50's groups (up to 2048), {name}: {statistics.median(found):.3f} s")
    print(f"the same, solved one after another: {statistics.median(alone):.3f} s (threads: "
          f"{statistics.median(times['solved']) / statistics.median(alone):.2f}x)")  # fmt: skip


def memory(name: str, task: str) -> None:
    """In a process of its own: the peak of memory above what stands before, in MB."""
    model = network(name)
    states, batches = several(model), images()
    analysis = analyze(model, (batches[0][:2],))
    bare(model, states[:1], batches[:1])
    with open("/proc/self/clear_refs", "w") as file:  # the peak starts again from here
        file.write("5")
    before = _peak()
    if task == "forward":
        bare(model, states, batches)
    elif task == "match":
        Activations().match(Problem(analysis, states, [1 / 3] * 3, batches))
    else:
        Regression().combine(analysis, states, [1 / 3] * 3, batches)
    print(f"{(_peak() - before) / 1024:.0f} {num_bytes(states[0]) / 2**20:.1f}")


def _peak() -> float:
    with open("/proc/self/status") as file:
        return float(next(line for line in file if line.startswith("VmHWM")).split()[1])


def main() -> None:
    torch.set_num_threads(2)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    print(
        "| network | match, assign, apply, average / bare | regression / bare | runs |", flush=True
    )
    for name in NETS:
        print(ratios(name), flush=True)
    assignment()
    print("peak memory above the states, MB | bare forwards | matching | regression | one state |")
    for name in NETS:
        found = []
        for task in ("forward", "match", "regress"):
            command = [sys.executable, "-m", "benchmarks.merging_speed", name, task]
            found.append(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            )
        print(f"| {name} | {' | '.join(x[0] for x in found)} | {found[0][1]} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        torch.set_num_threads(2)
        memory(sys.argv[1], sys.argv[2])
    else:
        main()
