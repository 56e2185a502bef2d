"""Low-rank adapters on a frozen base: ways to combine them, accuracy against bytes.

A small vision transformer is trained on five classes of CIFAR-10; five agents on a ring, whose
shards of the five other classes are skewed, train adapters and a head. They begin with one A, or
("own A") each with another. Results are kept cell by cell, so that the same command goes on.

python ../shared/data/unpack.py cifar10 cifar10.npz
.venv/bin/python -m benchmarks.lora --data cifar10.npz --max_wall_s 3600
.venv/bin/python -m benchmarks.lora --small    # random images, a rank, a seed, two rounds
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.vit import ViT
from torch import Tensor, nn

import dimat
from dimat.state import load_state

DIM, DEPTH, KNOWN = 64, 3, 5
WAYS: Mapping[str, Mapping[str, Any]] = {
    "naive": {"method": "wa"},
    "aligned": {"method": "wa", "method_options": ("combine=lora-aligned",)},
    "product": {"method": "wa", "method_options": ("combine=lora-product",)},
    "frozen-a": {"method": "wa"},
    "naive, own A": {"method": "wa", "init": "per-agent"},
    "aligned, own A": {
        "method": "wa",
        "method_options": ("combine=lora-aligned",),
        "init": "per-agent",
    },
    "product, own A": {
        "method": "wa",
        "method_options": ("combine=lora-product",),
        "init": "per-agent",
    },
    "local": {"method": "local"},
    "centralized": {"method": "centralized"},
}
COMMON: Mapping[str, Any] = {"controls": (), "threads": 1, "progress": False}
RUN: Mapping[str, Any] = {
    **COMMON,
    "agents": 5,
    "topology": "ring",
    "init": "shared",
    "exchange": {"what": "trainable"},
}


class Adapted(nn.Module):
    """A frozen linear layer, and what its adapter adds."""

    def __init__(self, base: nn.Linear, rank: int, *, frozen_a: bool) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(base.in_features, rank, bias=False).requires_grad_(not frozen_a)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.base(x) + 2 * self.lora_B(self.lora_A(x))
        return found


class Adapters:
    """A factory of networks with adapters on all linear layers of a base, and a new head.

    Args:
        base: File of the base's state.
        rank: Rank of the adapters.
        frozen_a: Whether A stays as it is drawn.
    """

    def __init__(self, base: Path, rank: int, *, frozen_a: bool) -> None:
        self.base, self.rank, self.frozen_a = base, rank, frozen_a

    def __call__(self, num_classes: int) -> nn.Module:
        model = ViT(DIM, DEPTH, classes=KNOWN)
        model.load_state_dict(load_state(self.base))
        model.requires_grad_(False)
        for layer in model.layers:
            for name in ("qkv", "proj", "fc1", "fc2"):
                own = Adapted(getattr(layer, name), self.rank, frozen_a=self.frozen_a)
                setattr(layer, name, own)
        model.head = nn.Linear(DIM, num_classes)
        return model


def whole(num_classes: int) -> nn.Module:
    return ViT(DIM, DEPTH, classes=num_classes)


def halves(data: Path | None, out: Path, tested: int) -> list[Path]:
    """The images of the first five classes, and those of the others as classes 0 to 4.

    Args:
        data: The images of all; None: random ones.
        out: Folder of the files.
        tested: Test images of each half, the first ones.
    """
    if data is None:  # random ones: classes differ in brightness
        random = np.random.default_rng(0)
        y = np.arange(1600) % 10
        x = random.integers(0, 56, (1600, 32, 32, 3)) + 20 * y[:, None, None, None]
        arrays = {"x": x.astype(np.uint8), "y": y}
        given = {f"{part}_{k}": own for part in ("train", "test") for k, own in arrays.items()}
    else:
        given = dict(np.load(data, allow_pickle=False))
    paths = []
    for half in range(2):
        own = {}
        for part in ("train", "test"):
            chosen = given[f"{part}_y"] // KNOWN == half
            most = tested if part == "test" else None
            own[f"{part}_x"] = given[f"{part}_x"][chosen][:most]
            own[f"{part}_y"] = given[f"{part}_y"][chosen][:most] % KNOWN
        paths.append(out / f"half-{half}.npz")
        np.savez(paths[-1], **own)
    return paths


def base_of(data: Path, out: Path, epochs: int) -> Path:
    """The state of a network that was trained on the first five classes."""
    found = out / "base" / "states" / "agent-000.safetensors"
    if not found.exists():
        result = dimat.run(
            model=whole, agents=1, method="local", rounds=0, pretrain_epochs=epochs,
            data={"source": f"npz:{data}", "split": "iid-then-by-class"},  # on one half
            out=str(out / "base"), overwrite=True, **COMMON,
        )  # fmt: skip
        print(f"base: {100 * result.main.agents[0].trained:.1f} % on its own classes", flush=True)
    return found


def cell(out: Path, data: Path, base: Path, rank: int, way: str, seed: int, **size: Any) -> Any:
    """Mean accuracy of the agents, merged and trained, and bytes that one has sent."""
    start = time.monotonic()
    result = dimat.run(
        model=Adapters(base, rank, frozen_a=way == "frozen-a"),
        data={"source": f"npz:{data}", "split": "dirichlet", "alpha": size.pop("alpha")},
        seed=seed, out=str(out / f"{way.replace(', ', '-')}-{rank}-{seed}"), overwrite=True,
        eval_every=size["rounds"], **{**RUN, **WAYS[way], **size},
    )  # fmt: skip
    agents, summary = result.main.agents, result.main.summary
    merged = [own.merged for own in agents if own.merged is not None]
    return {
        "trained": statistics.fmean(own.trained for own in agents),
        "merged": statistics.fmean(merged) if merged else None,
        "bytes": float(str(summary["sent_bytes"])) / len(agents),
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def table(found: Sequence[Mapping[str, Any]]) -> str:
    heads = ("rank", "combined by", "n", "merged %", "trained %", "MB sent by each")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for rank in sorted({own["rank"] for own in found}):
        for way in WAYS:
            own = [x for x in found if (x["rank"], x["way"]) == (rank, way)]
            if own:
                size = statistics.fmean(x["bytes"] for x in own) / 1e6
                shown = [_spread([x[name] for x in own]) for name in ("merged", "trained")]
                lines.append(f"| {rank} | {way} | {len(own)} | {' | '.join(shown)} | {size:.3f} |")
    return "\n".join(lines)


def _spread(values: Sequence[float | None]) -> str:
    own = [100 * x for x in values if x is not None]
    if not own:
        return "–"
    apart = f" ± {statistics.stdev(own):.1f}" if len(own) > 1 else ""
    return f"{statistics.fmean(own):.1f}{apart}"


def measured(options: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """All cells: those of an earlier call, and those that there is time for."""
    end = time.monotonic() + options.max_wall_s
    kept = out / "cells.jsonl"
    found = [json.loads(x) for x in kept.read_text().splitlines()] if kept.exists() else []
    known, new = halves(None if options.small else options.data, out, options.test_images)
    base = base_of(known, out, options.base_epochs)
    told = ("rounds", "local_steps", "alpha", "pretrain_epochs")
    size = {name: getattr(options, name) for name in told}
    size["optimizer"] = {"lr": options.lr}
    more = {name: getattr(options, name) for name in ("base_epochs", "test_images")}
    settings = json.dumps({**size, **more})
    for seed in options.seeds:
        for rank in options.ranks:
            for way in options.ways:
                place = {"rank": rank, "way": way, "seed": seed, "settings": settings}
                if any(place.items() <= x.items() for x in found):
                    continue
                if time.monotonic() > end:
                    print("time is up: the same command goes on", flush=True)
                    return found
                found.append(place | cell(out, new, base, rank, way, seed, **size))
                print(json.dumps(found[-1]), flush=True)
                with kept.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="CIFAR-10 as unpack.py writes it")
    add("--out", type=Path, default=Path("runs/lora"))
    add("--ranks", type=int, nargs="+", default=[4, 8, 16])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    add("--rounds", type=int, default=20)
    add("--local_steps", type=int, default=20)
    add("--pretrain_epochs", type=int, default=0, help="before the first merge")
    add("--lr", type=float, default=2e-3)
    add("--alpha", type=float, default=0.3, help="of the Dirichlet split; smaller is more skewed")
    add("--base_epochs", type=int, default=10)
    add("--test_images", type=int, default=2500, help="that all agents are tested on")
    add("--max_wall_s", type=float, default=float("inf"), help="begin no cell after so long")
    add("--small", action="store_true", help="random images, a rank, a seed, two rounds")
    options = parser.parse_args()
    if options.small:
        options.ranks, options.seeds, options.rounds, options.local_steps = [4], [0], 2, 2
        options.base_epochs, options.alpha, options.test_images = 1, 10.0, 100
        with tempfile.TemporaryDirectory() as folder:
            print(table(measured(options, Path(folder))))
        return
    if options.data is None:
        parser.error("--data is missing: give CIFAR-10 as ../shared/data/unpack.py writes it")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(table(measured(options, options.out)))


if __name__ == "__main__":
    main()
