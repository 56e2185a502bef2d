"""How fast two ranks of torchrun exchange states, as a ratio to bare Gloo in the same run.

.venv/bin/python -m benchmarks.ranks            # 102 MB, the shapes of ResNet-50
.venv/bin/python -m benchmarks.ranks --small    # a tenth of the channels, a few seconds

Two ranks, of one agent and one torch thread each, swap their states: "bare" sends and receives one
flat tensor by ``isend`` and ``irecv`` on the group of the ranks, "ranks" is a step of a talk over
``Ranks``. "bare, one way" and "ranks, one way" are from rank 0 to rank 1 only. They alternate, as
the machine's speed drifts; times are of the slower rank, medians with quartiles.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch import distributed as dist  # noqa: TID251

from dimat.exchange import Step, Talk, Traffic, torchrun
from dimat.experiment.running.allocator import keep_freed_memory
from dimat.state import State, num_bytes

HOST = "127.0.0.1"
RUNS, SMALL_RUNS = 15, 7
BLOCKS = [(3, 64), (4, 128), (6, 256), (3, 512)]


def shapes(part: int) -> Iterator[tuple[int, ...]]:
    """Of ResNet-50: convolutions, each with the four vectors of its BatchNorm; channels / part."""

    def normed(*shape: int) -> Iterator[tuple[int, ...]]:
        yield shape
        yield from [(shape[0],)] * 4

    yield from normed(64 // part, 3, 7, 7)
    inner = 64 // part
    for blocks, full in BLOCKS:
        width = full // part
        for k in range(blocks):
            yield from normed(width, inner, 1, 1)
            yield from normed(width, width, 3, 3)
            yield from normed(4 * width, width, 1, 1)
            if k == 0:
                yield from normed(4 * width, inner, 1, 1)
            inner = 4 * width
    yield from [(1000, inner), (1000,)]


def state_of_shapes(part: int, seed: int) -> State:
    """Random float32."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{k}": torch.randn(shape, generator=generator) for k, shape in enumerate(shapes(part))
    }


def rank(own: int, port: int, part: int, runs: int, barrier: Barrier, results: Any) -> None:
    """One of two ranks: seconds of each way of exchange, again and again."""
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(1)
    place = {"RANK": str(own), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": HOST}
    world = torchrun.world(environment={**place, "MASTER_PORT": str(port)})
    transport = world.transport(2)
    state = state_of_shapes(part, own)
    sent = torch.zeros(num_bytes(state), dtype=torch.uint8)
    got = torch.zeros_like(sent)

    def flat(sends: bool, hears: bool) -> None:
        works = [dist.isend(sent, 1 - own, tag=1)] if sends else []
        works += [dist.irecv(got, 1 - own, tag=1)] if hears else []
        for work in works:
            assert work is not None
            work.wait()

    def step(sends: bool, hears: bool) -> None:
        def talk() -> Talk[int]:
            inbox = yield Step({1 - own: state} if sends else {}, [1 - own] if hears else [])
            return len(inbox)

        assert transport.run({own: talk()}, {own: Traffic()})[own] == hears

    ways: dict[str, Callable[[], None]] = {
        "bare": lambda: flat(True, True),
        "ranks": lambda: step(True, True),
        "bare, one way": lambda: flat(own == 0, own == 1),
        "ranks, one way": lambda: step(own == 0, own == 1),
    }
    for _ in range(runs + 2):
        for name, way in ways.items():
            barrier.wait()
            start = time.perf_counter()
            way()
            results.put((name, own, time.perf_counter() - start))
    barrier.wait()
    world.close()


def measure_ranks(part: int, runs: int) -> None:
    """Print the seconds of two ranks beside those of bare Gloo."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    spawned = multiprocessing.get_context("spawn")
    barrier, results = spawned.Barrier(2), spawned.Queue()
    rest = (port, part, runs, barrier, results)
    processes = [spawned.Process(target=rank, args=(own, *rest)) for own in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in range(2 * 4 * (runs + 2))]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    size = num_bytes(state_of_shapes(part, 0))
    print(
        f"2 ranks, {size / 1e6:.1f} MB; torch {torch.__version__}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, n = {runs}"
    )
    times = slowest(found, runs)
    for name, each in times.items():
        low, middle, high = statistics.quantiles(each, n=4)
        base = times["bare, one way" if "one way" in name else "bare"]
        ratio = statistics.median(b / x for b, x in zip(base, each, strict=True))
        print(
            f"{name:14s} {1e3 * middle:7.1f} ms [{1e3 * low:.1f}, {1e3 * high:.1f}]  "
            f"{ratio:.2f} of bare"
        )


def slowest(found: list[tuple[str, int, float]], runs: int) -> dict[str, list[float]]:
    """Of each way, and each time but the first two, the seconds of the slowest agent."""
    each: dict[str, dict[int, list[float]]] = {}
    for name, own, seconds in found:
        each.setdefault(name, {}).setdefault(own, []).append(seconds)
    return {
        name: [max(times) for times in zip(*of.values(), strict=True)][-runs:]
        for name, of in each.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    part, runs = (8, SMALL_RUNS) if given.small else (1, RUNS)
    measure_ranks(part, runs)


if __name__ == "__main__":
    main()
