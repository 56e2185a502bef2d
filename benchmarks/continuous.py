"""Merging transformers of different inits: permutations alone, and matrices too.

    python -m benchmarks.continuous [vit | lm] [PAIRS]

Parents are trained first, each on its half of the data, and kept in $DIMAT_SCRATCH (default:
/tmp/dimat-continuous). ``vit`` reads scikit-learn's digits; ``lm`` the topics of Python's own help,
character by character. Averages are over PAIRS pairs of parents (3), with standard deviations.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.vit import Layer
from torch import Tensor, nn
from torch.nn import functional

import dimat
from dimat.models.transformer import Transformer
from dimat.state import State, load_state, save_state

SCRATCH = Path(os.environ.get("DIMAT_SCRATCH", "/tmp/dimat-continuous"))
LENGTH = 64  # characters of a text
WAYS = (
    *(("identity", "average", own) for own in (False, True)),
    *(("activations", how, own) for how in ("average", "repair", "gram", "regression")
      for own in (False, True)),
)  # fmt: skip


class DigitViT(nn.Module):
    """A vision transformer for 8x8 images: patches of 2x2 pixels, 32 wide, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, 2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, 32))
        self.layers = nn.Sequential(Layer(32, 4), Layer(32, 4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.layers(x)).mean(1))
        return logits


@dataclass(frozen=True)
class Task:
    """Two halves of training data, test data, and a model."""

    halves: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    test: tuple[Tensor, Tensor]
    build: Callable[[], nn.Module]
    steps: int


def vit() -> Task:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    y = torch.from_numpy(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    first, second = ((x[own], y[own]) for own in (train[::2], train[1::2]))
    return Task((first, second), (x[test], y[test]), DigitViT, 600)


def lm() -> Task:
    from pydoc_data.topics import topics  # type: ignore[import-not-found]

    text = "".join(topics.values()).encode("ascii", "replace")
    ids = torch.from_numpy(np.frombuffer(text, np.uint8).copy()).long().clamp(max=127)
    rows = ids[: len(ids) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    test, train = rows[:500], rows[500:]
    first, second = ((own[:, :-1], own[:, 1:]) for own in (train[::2], train[1::2]))
    model = lambda: Transformer(128, 128, LENGTH, places=True)  # noqa: E731
    return Task((first, second), (test[:, :-1], test[:, 1:]), model, 1500)


def trained(name: str, task: Task, seed: int) -> State:
    """A parent: from the init of its number, on the half of its parity."""
    path = SCRATCH / f"{name}-{seed}.safetensors"
    if path.exists():
        return load_state(path)
    torch.manual_seed(seed)
    model, (x, y) = task.build(), task.halves[seed % 2]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=task.steps)
    for _ in range(task.steps):
        picked = torch.randint(len(x), (64,))
        loss = functional.cross_entropy(model(x[picked]).flatten(0, -2), y[picked].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_state(model.state_dict(), path)
    return load_state(path)


def accuracy(task: Task, *states: State) -> float:
    """Test accuracy in %, of a place where every place has a target; of several: by mean logits."""
    model, (x, y) = task.build().eval(), task.test
    with torch.no_grad():
        logits = [torch.func.functional_call(model, state, x) for state in states]
        right = torch.stack(logits).mean(0).argmax(-1) == y
    return 100 * float(right.float().mean())


def main(name: str, pairs: int) -> None:
    task = {"vit": vit, "lm": lm}[name]()
    rows: dict[str, list[float]] = {}
    for pair in range(pairs):
        parents = [trained(name, task, seed) for seed in (2 * pair, 2 * pair + 1)]
        rows.setdefault("parents", []).append(
            sum(accuracy(task, own) for own in parents) / len(parents)
        )
        rows.setdefault("ensemble", []).append(accuracy(task, *parents))
        batches = [task.halves[0][0][:500]]
        for method, combine, continuous in WAYS:
            found = dimat.merge(
                task.build(),
                parents,
                batches,
                method=method,
                combine=combine,
                continuous=continuous,
            )
            title = f"{method}, {combine}{', matrices' if continuous else ''}"
            rows.setdefault(title, []).append(accuracy(task, found.state))
        print(f"pair {pair}: done", file=sys.stderr, flush=True)
    print(f"{name}, n = {pairs} pairs")
    for title, values in rows.items():
        spread = f" ± {np.std(values, ddof=1):.1f}" if pairs > 1 else ""
        print(f"| {title} | {np.mean(values):.1f}{spread} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = sys.argv[1:] + ["vit", "3"][len(sys.argv) - 1 :]
    main(given[0], int(given[1]))
