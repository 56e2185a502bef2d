"""How fast agents train, as a ratio to a plain, well-tuned PyTorch loop in the same run.

.venv/bin/python -m benchmarks.training            # one thread; 15 minutes
.venv/bin/python -m benchmarks.training --small    # one precision, shorter epochs; 2 minutes
.venv/bin/python -m benchmarks.training --device cuda    # epochs ten times as long

"dimat" is the training part of a round of ``dimat run``: four agents, one after another, an epoch
each on their own shards. "plain" is one model of the same size on as many images, all of them:
images resident as tensors, channels_last, autocast, fused Adam, gradients dropped rather than
zeroed, one loss read at the end. Batches of 100 synthetic images of 32x32, flipped and cropped; the
last row is what costs beside arithmetic: an mlp on 8x8 images in batches of 32.

The two take turns at going first, as the machine's speed drifts. Ratios are plain time / dimat
time, medians of pairs with quartiles, by the clock and by the seconds of processor time: beside
other jobs the latter is the one to trust. Both have what the run asks of the C library's allocator.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from benchmarks.aims import beside_aim
from torch import Tensor, nn
from torch.nn import functional

from dimat.compat import lacks_bfloat16
from dimat.data import Dataset, partition
from dimat.exchange.collectives import Collectives
from dimat.exchange.in_process import InProcess
from dimat.experiment.config.config import DataConfig, OptimizerConfig, RunConfig
from dimat.experiment.progress import Silent
from dimat.experiment.running.rounds import Rounds
from dimat.experiment.setup import Setup, build_network
from dimat.models import build_model

AGENTS, CLASSES, PADDING = 4, 10, 4
AIM = 0.95  # of the speed of a plain loop


@dataclass(frozen=True)
class Case:
    """What is trained, and how; ``steps`` an agent and epoch."""

    model: str
    width: float
    optimizer: str
    precision: str
    steps: int
    size: int = 32
    batch: int = 100
    augment: bool = True
    device: str = "cpu"

    @property
    def config(self) -> RunConfig:
        return RunConfig(
            agents=AGENTS,
            rounds=1,
            batch_size=self.batch,
            method="local",
            controls=(),
            model=self.model,
            width=self.width,
            precision="bfloat16" if self.precision == "bfloat16" else "float32",
            threads=1,
            device=self.device,
            data=DataConfig(augment=self.augment, validation=0.0),
            optimizer=OptimizerConfig(name=self.optimizer, lr=1e-3),
        )


FULL = [
    Case(model, width, optimizer, precision, steps)
    for model, width, steps in (("resnet20", 1.0, 5), ("resnet20", 2.0, 2), ("vgg11", 1.0, 2))
    for precision in ("bfloat16", "float32")
    for optimizer in ("adam", "msgd")
]
OVERHEAD = Case("mlp", 1.0, "adam", "float32", 40, 8, 32, augment=False)


def chosen(small: bool, device: str) -> list[Case]:
    """The cases for a device, without bfloat16 on a CPU that has no instructions for it."""
    able = device != "cpu" or not lacks_bfloat16()
    cases = [case for case in FULL if able or case.precision == "float32"]
    if small:
        quick = cases[0].precision, "adam"
        cases = [replace(x, steps=2) for x in cases if (x.precision, x.optimizer) == quick]
    return [on_device(case, device) for case in [*cases, OVERHEAD]]


class Plain:
    """One model and a loop as anyone would write it who wants it fast."""

    def __init__(self, case: Case, images: Tensor, labels: Tensor) -> None:
        self.case = case
        model = build_model(
            case.model,
            in_channels=3,
            num_classes=CLASSES,
            image_size=(case.size, case.size),
            width=case.width,
        )
        model = model.to(case.device)
        self.model: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(self.model.parameters(), 1e-3, fused=True)
            if case.optimizer == "adam"
            else torch.optim.SGD(self.model.parameters(), 1e-3, 0.9)  # fused it is slower
        )
        images, self.labels = images.to(case.device), labels.to(case.device)
        if case.augment:  # padded once, pixel after pixel
            self.images = functional.pad(images, (0, 0, *(PADDING,) * 4)).reshape(-1, 3)
        else:
            self.images = _normalized(images.permute(0, 3, 1, 2))

    def epoch(self) -> float:
        """Train on every image once; the mean loss."""
        self.model.train()
        total = torch.zeros((), device=self.case.device)
        order = torch.randperm(len(self.labels), device=self.case.device).split(self.case.batch)
        for picked in order:
            with self._autocast():
                logits = self.model(self._batch(picked))
                loss = functional.cross_entropy(logits.float(), self.labels[picked])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
        return float(total) / len(order)

    def _batch(self, picked: Tensor) -> Tensor:
        if not self.case.augment:
            return self.images[picked]
        n, size, device = len(picked), self.case.size, picked.device
        wide, along = size + 2 * PADDING, torch.arange(size, device=device)
        corners = picked * wide + torch.randint(0, 2 * PADDING + 1, (n,), device=device)
        rows = (corners[:, None] + along) * wide
        columns = along.expand(n, size)
        columns = torch.where(torch.rand(n, 1, device=device) < 0.5, columns.flip(1), columns)
        columns = columns + torch.randint(0, 2 * PADDING + 1, (n, 1), device=device)
        pixels = (rows[:, :, None] + columns[:, None, :]).flatten()
        batch = self.images.index_select(0, pixels).view(n, size, size, 3)
        return _normalized(batch.permute(0, 3, 1, 2))

    def _autocast(self) -> AbstractContextManager[None]:
        if self.case.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.case.device).type, dtype=torch.bfloat16)


def _normalized(images: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255.0).sub_(0.5).div_(0.25)


def synthetic(case: Case) -> tuple[Tensor, Tensor]:
    """As many images, (n, size, size, 3), and labels as all agents see in an epoch."""
    count = AGENTS * case.batch * case.steps
    random = torch.Generator().manual_seed(0)
    shape = (count, case.size, case.size, 3)
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8), torch.arange(
        count
    ) % CLASSES


def ours(case: Case, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """The training part of a round, of four agents in this process."""
    config = case.config
    dataset = Dataset("synthetic", images, labels, images[:CLASSES], labels[:CLASSES])
    parts = partition("iid", labels, AGENTS, seed=0, alpha=1.0, batch_size=case.batch)
    setup = Setup(config, dataset, parts, build_network(config.topology, AGENTS))
    rounds = Rounds(setup, "local", Collectives(InProcess(range(AGENTS)), AGENTS), Silent(), None)
    rounds.agents = [setup.new_agent(i, pretraining=False) for i in range(AGENTS)]
    assert [setup.round_steps(i) for i in range(AGENTS)] == [case.steps] * AGENTS
    return lambda: rounds._train(1, measured=False)


def timed(case: Case, runs: int) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """For each pair of epochs (clock, processor) seconds of dimat and of the plain loop."""
    images, labels = synthetic(case)
    both = [ours(case, images, labels), Plain(case, images, labels).epoch]
    for run in range(-1, runs):  # the first is not counted
        spent = [(0.0, 0.0)] * 2
        for k in (0, 1) if run % 2 else (1, 0):
            start = time.perf_counter(), time.process_time()
            both[k]()
            if case.device != "cpu":
                torch.cuda.synchronize(case.device)
            spent[k] = time.perf_counter() - start[0], time.process_time() - start[1]
        if run >= 0:
            yield spent[0], spent[1]


def on_device(case: Case, device: str) -> Case:
    """A case on a device: on a GPU ten times the steps, which there take a tenth of the time."""
    return replace(case, device=device, steps=case.steps * (1 if device == "cpu" else 10))


def row(case: Case, runs: int) -> str:
    """A line of the table."""
    pairs = list(timed(case, runs))
    count = AGENTS * case.steps * case.batch
    speeds = [count / statistics.median(p[k][1] for p in pairs) for k in (0, 1)]
    shown = [_quartiles([p[1][kind] / p[0][kind] for p in pairs]) for kind in (0, 1)]
    name = f"{case.model} x{case.width:g}, batch {case.batch}"
    cells = [name, case.precision, case.optimizer, *(f"{v:,.0f}" for v in speeds), *shown]
    kind = int(case.device == "cpu")  # of processor time, or by the clock
    ratio = statistics.median(p[1][kind] / p[0][kind] for p in pairs)
    return f"| {' | '.join(cells)} | {runs} | {beside_aim(ratio, AIM, at_least=True)} |"


def _quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    where = "" if own.device == "cpu" else f", {torch.cuda.get_device_name(own.device)}"
    print(f"torch {torch.__version__}, {platform.machine()}, {own.threads} threads{where}")
    print("| model | precision | optimizer | dimat, images/s | plain, images/s "
          "| plain / dimat, clock | plain / dimat, processor | pairs | |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in chosen(own.small, own.device):
        print(row(case, 21 if case.model == OVERHEAD.model else 7), flush=True)


if __name__ == "__main__":
    main()
