"""Merging of networks of different width: digits, built-in models, each trained on its own half.

.venv/bin/python -m benchmarks.widths
.venv/bin/python -m benchmarks.widths rules    # other rules for units that one parent alone has

A wide parent is trained on one half of the training images, a narrow one (half the channels) and
another wide one on the other half, 40 epochs of Adam 1e-3 each from its own init. Matching,
combiners and BatchNorm see all training images without labels. Test accuracy in %, mean ± standard
deviation over seeds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import dimat
from dimat.checkpoints.widths import Padding, filled
from dimat.data import load_dataset
from dimat.models import build_model
from dimat.state import State

SEEDS = (0, 1, 2)
KINDS = (("mlp", 0.25), ("cnn", 0.5), ("mlp", 1.0))
COMBINERS = ("average", "repair", "regression", "gram")
DATA = load_dataset("digits")


def images(part: Any) -> Tensor:
    return torch.as_tensor(part).permute(0, 3, 1, 2).float() / 255 * 4 - 2


TRAIN_X, TEST_X = images(DATA.train_x), images(DATA.test_x)
TRAIN_Y, TEST_Y = torch.as_tensor(DATA.train_y), torch.as_tensor(DATA.test_y)


def network(kind: str, width: float) -> nn.Module:
    return build_model(kind, in_channels=1, num_classes=10, image_size=(8, 8), width=width)


def trained(kind: str, width: float, seed: int, half: int) -> nn.Module:
    torch.manual_seed(10 * seed + half)
    model = network(kind, width).train()
    mine = torch.randperm(len(TRAIN_X), generator=torch.Generator().manual_seed(seed))[half::2]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(40):
        for part in mine[torch.randperm(len(mine))].split(64):
            loss = functional.cross_entropy(model(TRAIN_X[part]), TRAIN_Y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def logits(model: nn.Module, state: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return functional_call(model.eval(), dict(state), (TEST_X,))  # type: ignore[no-any-return]


def accuracy(*several: Tensor) -> float:
    right = torch.stack(several).mean(0).argmax(1) == TEST_Y
    return 100 * float(right.float().mean())


def measure(kind: str, wide: float, seed: int) -> dict[str, float]:
    model = network(kind, wide)
    first, other = (trained(kind, wide, seed, half).state_dict() for half in (0, 1))
    small = trained(kind, wide / 2, seed, 1)
    outputs = [logits(model, first), logits(small, small.state_dict()), logits(model, other)]
    found = {
        "wide parent": accuracy(outputs[0]),
        "narrow parent": accuracy(outputs[1]),
        "other wide parent": accuracy(outputs[2]),
        "ensemble wide + narrow": accuracy(*outputs[:2]),
        "ensemble wide + wide": accuracy(outputs[0], outputs[2]),
    }
    batches = list(TRAIN_X.split(200))
    for combine in COMBINERS:
        for name, theirs in (("narrow", small), ("wide", other)):
            merged = dimat.merge(model, [first, theirs], batches, combine=combine, widths="pad")
            found[f"wide + {name}, {combine}"] = accuracy(logits(model, merged.state))
    return found


def zeros(states: list[State], *_: Any) -> list[State]:
    """Silent units are averaged as they are."""
    return states


def entries(states: list[State], paddings: Any, weights: Any) -> list[State]:
    """Every entry is averaged over the parents that have it, also of what reads silent units."""
    free = [p and Padding(p.common, {k: ~x for k, x in p.common.items()}) for p in paddings]
    return filled(states, free, weights)


RULES = {"of zeros": zeros, "of entries": entries, "of what is read": filled}


def measure_rules(kind: str, wide: float, seed: int) -> dict[str, float]:
    model = network(kind, wide)
    states = [trained(kind, own, seed, half) for half, own in enumerate((wide, wide / 2))]
    found = {}
    for combine in COMBINERS:
        for name, rule in RULES.items():
            with patch("dimat.checkpoints.parents.filled", rule):
                merged = dimat.merge(
                    model, states, TRAIN_X.split(200), combine=combine, widths="pad"
                )
            found[f"{combine}, {name}"] = accuracy(logits(model, merged.state))
    return found


def main() -> None:
    rules = sys.argv[1:] == ["rules"]
    own = measure_rules if rules else measure
    for kind, wide in KINDS[:2] if rules else KINDS:
        rows = [own(kind, wide, seed) for seed in SEEDS]
        print(f"\n{kind}, width {wide:g} and {wide / 2:g}, n = {len(SEEDS)}")
        for name in rows[0]:
            values = [row[name] for row in rows]
            print(
                f"  {name:28} {statistics.mean(values):5.1f} ± {statistics.stdev(values):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
