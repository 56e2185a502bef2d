"""Steps of benchmarks/gpu.py that have no script of their own.

.venv/bin/python -m benchmarks.on_device merging --device cuda
torchrun --nproc-per-node 2 -m benchmarks.on_device ranks --device cuda

merging   Matching, averaging and regression of one agent and two neighbors, as ratios to bare
          forward passes on the same device.
ranks     The mean of all ranks' states, by dimat's exchange on a full graph (Gloo, which takes
          tensors through the memory of the host) and by an all-reduce of NCCL (of Gloo on a CPU):
          equal but for rounding, and the ratio of their times. A world of one exchanges nothing:
          it shows that NCCL starts beside the group of dimat, and gives back what it was given.

Pairs alternate, as the speed of a machine drifts; medians with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from benchmarks.merging_speed import bare, images, network, several
from benchmarks.ranks import state_of_shapes
from torch import distributed as dist  # noqa: TID251
from torch import nn

from dimat.exchange import Step, Talk, Traffic, torchrun
from dimat.matching import Activations, Problem
from dimat.merging import Regression, mix
from dimat.state import State, num_bytes
from dimat.symmetry import analyze

_NETS, _FEW_NETS = ("resnet20 x1", "resnet20 x4", "vgg16"), ("resnet20 x1",)


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def seconds(device: str, way: Callable[[], object]) -> float:
    """Wall time of a call, in seconds, until the device has done it."""
    synchronize(device)
    start = time.perf_counter()
    way()
    synchronize(device)
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def moved(state: State, device: str) -> State:
    """A copy of a state on a device."""
    return {key: value.to(device) for key, value in state.items()}


def merging(device: str, few: bool) -> None:
    """A line for each network."""
    print(f"{device}: {name_of(device)}")
    print("| network | match, align, average / bare | regression / bare | matching, s | runs |")
    print("|---|---|---|---|---|", flush=True)
    for name in _FEW_NETS if few else _NETS:
        model = network(name)
        batches = images()[: 1 if few else None]
        states = several(model)
        print(_row(name, model.to(device), states, batches, device, 1 if few else 5), flush=True)


def _row(
    name: str,
    model: nn.Module,
    states: Sequence[State],
    batches: Sequence[torch.Tensor],
    device: str,
    runs: int,
) -> str:
    there = [moved(state, device) for state in states]
    seen = [batch.to(device) for batch in batches]
    analysis = analyze(model, (seen[0][:2],))
    weights = [1 / len(there)] * len(there)

    def plain() -> None:
        bare(model, there, seen)

    def merge() -> None:
        found = Activations().match(Problem(analysis, there, weights, seen))
        pairs = zip(found, there, strict=True)
        mix([analysis.symmetry.apply(m.permutation, s) for m, s in pairs], weights)

    def regress() -> None:
        Regression().combine(analysis, there, weights, seen)

    times: dict[str, list[float]] = {"merge": [], "regress": []}
    matching = []
    for run in range(-1, runs):  # the first is not counted: kernels are chosen and memory taken
        spent = [seconds(device, way) for way in (plain, merge, plain, regress, plain)]
        if run >= 0:
            times["merge"].append(2 * spent[1] / (spent[0] + spent[2]))
            times["regress"].append(2 * spent[3] / (spent[2] + spent[4]))
            matching.append(spent[1])
    cells = [name, *map(spread, times.values()), f"{statistics.median(matching):.2f}"]
    return f"| {' | '.join(cells)} | {len(matching)} |"


def name_of(device: str) -> str:
    """The device in words."""
    return "CPU" if device == "cpu" else torch.cuda.get_device_name(device)


def ranks(device: str, few: bool) -> None:
    """One of the ranks that torchrun started; the first prints."""
    if device != "cpu":
        place = torchrun.place()
        torch.cuda.set_device(place.rank % torch.cuda.device_count())
        device = f"cuda:{torch.cuda.current_device()}"
    world = torchrun.world(device=device)
    backend = "gloo" if device == "cpu" else "nccl"
    group = dist.new_group(backend=backend)
    transport, others = world.transport(world.size), set(range(world.size)) - {world.rank}
    state = moved(state_of_shapes(8 if few else 1, world.rank), device)
    own: dict[str, State] = {}

    def talk() -> Talk[State]:
        inbox = yield Step(dict.fromkeys(others, state), [*others])
        heard = [inbox[rank] if rank in others else state for rank in range(world.size)]
        return mix(heard, [1 / world.size] * world.size)

    def by_dimat() -> None:
        traffic = {world.rank: Traffic()}
        own["dimat"] = transport.run({world.rank: talk()}, traffic)[world.rank]

    def by_collective() -> None:
        flat = torch.cat([value.flatten() for value in state.values()])
        dist.all_reduce(flat, group=group)
        parts = (flat / world.size).split([value.numel() for value in state.values()])
        pairs = zip(state.items(), parts, strict=True)
        own["collective"] = {key: part.view_as(value) for (key, value), part in pairs}

    pairs = []
    for run in range(-1, 2 if few else 7):  # the first is not counted
        spent = [seconds(device, way) for way in (by_dimat, by_collective)]
        if run >= 0:
            pairs.append(spent)
    torch.testing.assert_close(own["dimat"], own["collective"])
    if world.rank == 0:
        size = num_bytes(state) / 1e6
        ratio = spread([collective / dimat for dimat, collective in pairs])
        each = [1e3 * statistics.median(pair[k] for pair in pairs) for k in (0, 1)]
        print(f"{world.size} rank(s) on {name_of(device)}, {size:.0f} MB, backend {backend}: equal")
        print(
            f"dimat {each[0]:.1f} ms, one all-reduce {each[1]:.1f} ms, all-reduce / dimat {ratio}"
        )
    dist.destroy_process_group(group)
    world.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_device")
    parser.add_argument("task", choices=["merging", "ranks"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--few", action="store_true", help="few images, to try the script")
    own = parser.parse_args()
    {"merging": merging, "ranks": ranks}[own.task](own.device, own.few)


if __name__ == "__main__":
    main()
