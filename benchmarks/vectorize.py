"""Agents trained at once, stacked (vmap), against the same agents one after another.

.venv/bin/python -m benchmarks.vectorize            # 16 agents, five models
.venv/bin/python -m benchmarks.vectorize --small    # without ResNet-20; half a minute
    --agents 16 --threads 1 --device cuda --precision bfloat16 (which is for a GPU)

A stack is run by vmap, which takes any model, or exactly: as it is by default, where a trial shows
that agents come to the bits that they have one after another (models of linear layers).

Local steps of a round as `dimat run` takes them, with Adam, on digits for mlp and cnn (8x8, batches
of 32) and on noise of CIFAR's shape for ResNet-20 (batches of 100, flipped and cropped). The two
ways take turns; ratios are of the processor time with one thread on a CPU, and else of the time by
the clock, one after another / at once, medians of pairs with quartiles. Above 1, it pays.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from dataclasses import replace

import torch

from dimat import RunConfig
from dimat.data import Dataset
from dimat.experiment.config.config import DataConfig
from dimat.experiment.running.vectorized import train_all, tried
from dimat.experiment.setup import Setup, make_setup
from dimat.training.trainer import LocalTrainer

# Model, width, steps between two looks at the clock.
SMALL = [("mlp", 1.0, 10), ("mlp", 2.0, 10), ("mlp", 4.0, 10), ("cnn", 1.0, 5)]
FULL = [*SMALL, ("resnet20", 0.5, 2), ("resnet20", 1.0, 2)]


def setup(model: str, width: float, options: argparse.Namespace) -> Setup:
    """Agents that have nothing to do but to train."""
    images = model == "resnet20"
    config = RunConfig(
        agents=options.agents,
        model=model,
        width=width,
        device=options.device,
        threads=options.threads,
        precision=options.precision,
        batch_size=100 if images else 32,
        data=DataConfig(split="iid", validation=0.0, augment=images),
    )
    return make_setup(config, dataset=_noise(200 * options.agents) if images else None)


def _noise(count: int) -> Dataset:
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 32, 32, 3), generator=random, dtype=torch.uint8)
    y = torch.arange(count) % 10
    return Dataset("noise", x, y, x[:10], y[:10])


def ways(own: Setup) -> dict[str, Setup]:
    """The same run with agents one after another, in one stack by vmap, and in exact ones."""
    found = {
        "turns": replace(own, config=replace(own.config, vectorize=1)),
        "vmap": replace(own, config=replace(own.config, vectorize=own.config.agents)),
    }
    exact = tried(own)
    return {**found, "exact": exact} if exact.exact_stack > 1 else found


def timed(how: Setup, agents: list[LocalTrainer], steps: int) -> float:
    """Seconds of so many steps of every agent."""
    alone = how.config.device == "cpu" and how.config.threads == 1  # others may use the machine
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    train_all(how, agents, [steps] * len(agents), lambda _: None)
    for agent in agents:
        agent.loss()  # which the device has to be done for
    return clock() - start


def row(model: str, width: float, steps: int, options: argparse.Namespace) -> str:
    """A line of the table."""
    own = setup(model, width, options)
    agents = [own.new_agent(i, pretraining=False) for i in range(options.agents)]
    found = ways(own)
    spent: dict[str, list[float]] = {name: [] for name in found}
    for run in range(-1, options.pairs):  # the first is not counted
        for name in list(found)[:: 1 if run % 2 else -1]:
            seconds = timed(found[name], agents, steps)
            if run >= 0:
                spent[name].append(seconds)
    parameters = sum(p.numel() for p in agents[0].parameters.values())
    cells = [f"{model} x{width:g}, {parameters / 1e3:,.0f} k"]
    for name in ("turns", "vmap", "exact"):
        if name not in found:
            cells += ["–", "–"]
            continue
        each = 1e3 * statistics.median(spent[name]) / steps / options.agents
        cells.append(f"{each:.2f}")
        if name != "turns":
            pairs = zip(spent["turns"], spent[name], strict=True)
            low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
            cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--agents", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    own = parser.parse_args()
    if own.precision != "float32" and own.device == "cpu":
        parser.error("on a CPU PyTorch leaves the convolutions of a stack in float32")
    torch.set_num_threads(own.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {own.device}, {own.threads} threads, ",
          f"{own.precision}, {own.agents} agents\n", sep="")  # fmt: skip
    print("| model, parameters | one after another, ms | vmap, ms | ratio | exact, ms | ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    for case in SMALL if own.small else FULL:
        print(row(*case, own), flush=True)


if __name__ == "__main__":
    main()
