"""How fast states are exchanged, as a ratio to bare Gloo in the same run.

.venv/bin/python -m benchmarks.exchange            # 102 MB, the shapes of ResNet-50; 3 processes
.venv/bin/python -m benchmarks.exchange --small    # a tenth of the channels, a few seconds

Three agents, a process each with one torch thread, all neighbors of each other on one machine: each
tells its state to two and hears two. "bare" sends and receives contiguous tensors of the same bytes
with ``ProcessGroupGloo``, a pair an edge, all at once. "exchange" is a round over ``Neighborhood``:
packed, checksummed on both sides, accepted. "scanned" refuses NaN and infinity too. The three
alternate, as the machine's speed drifts; times are of the slowest agent, medians with quartiles.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from dimat.exchange.network.meeting import meet
from dimat.exchange.network.pipe import Pipe
from dimat.exchange.network.rendezvous import Directory, serve
from torch import Tensor

from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.network.link import Rules
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.state import State, check_finite, num_bytes

AGENTS, HOST = 3, "127.0.0.1"
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


def bare(pipes: dict[int, Pipe], sent: Tensor, got: dict[int, Tensor]) -> None:
    """Both ways on every edge at once."""
    works: list[Any] = []
    for pipe, into in zip(pipes.values(), got.values(), strict=True):
        group = pipe._group
        assert group is not None
        works += [group.send([sent], pipe._other, 0), group.recv([into], pipe._other, 0)]
    for work in works:
        work.wait()


def swapped(state: State, others: list[int], scan: bool) -> Talk[int]:
    """A round: the state to all others, theirs to us."""

    def admit(j: int, message: Message) -> None:
        check_finite(message, f"state from agent {j}")

    inbox = yield Step(dict.fromkeys(others, state), others, admit if scan else None)
    return len(inbox)


def agent(own: int, port: int, part: int, runs: int, barrier: Barrier, results: Any) -> None:
    """One process: seconds of each way of exchange, again and again."""
    torch.set_num_threads(1)
    others = [j for j in range(AGENTS) if j != own]
    state = state_of_shapes(part, own)
    sent = torch.zeros(num_bytes(state), dtype=torch.uint8)
    got = {j: torch.zeros_like(sent) for j in others}
    board = Directory(HOST, port, "bare")
    pipes = {}
    for j in others:
        pipe = meet(board, own, j, HOST, lambda: True)
        assert pipe is not None
        pipes[j] = pipe
    hood = Neighborhood(own, Directory(HOST, port), HOST, Rules(timeout_s=60))
    assert not hood.await_neighbors(others, 60)

    def round_(scan: bool) -> None:
        heard = hood.run({own: swapped(state, others, scan)}, {own: Traffic()})[own]
        assert heard == len(others), hood.incidents

    ways: dict[str, Callable[[], None]] = {
        "bare": lambda: bare(pipes, sent, got),
        "exchange": lambda: round_(False),
        "scanned": lambda: round_(True),
    }
    for _ in range(runs + 2):
        for name, way in ways.items():
            barrier.wait()
            start = time.perf_counter()
            way()
            results.put((name, own, time.perf_counter() - start))
    barrier.wait()
    hood.close()


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
    small = parser.parse_args().small
    part, runs = (8, SMALL_RUNS) if small else (1, RUNS)
    store = serve(HOST, 0)
    spawned = multiprocessing.get_context("spawn")
    barrier, results = spawned.Barrier(AGENTS), spawned.Queue()
    rest = (store.port, part, runs, barrier, results)
    processes = [spawned.Process(target=agent, args=(i, *rest)) for i in range(AGENTS)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in range(AGENTS * 3 * (runs + 2))]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    size = num_bytes(state_of_shapes(part, 0))
    times = slowest(found, runs)
    print(
        f"{AGENTS} agents, each to {AGENTS - 1}, {size / 1e6:.1f} MB; torch {torch.__version__}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, n = {runs}"
    )
    for name, each in times.items():
        low, middle, high = statistics.quantiles(each, n=4)
        ratio = statistics.median(b / x for b, x in zip(times["bare"], each, strict=True))
        rate = 2 * (AGENTS - 1) * size / middle / 1e9
        print(
            f"{name:9s} {1e3 * middle:7.1f} ms [{1e3 * low:.1f}, {1e3 * high:.1f}]  "
            f"{rate:5.2f} GB/s an agent, both ways  {ratio:.2f} of bare"
        )


if __name__ == "__main__":
    main()
