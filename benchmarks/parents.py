"""Real networks to merge: trained parents, their images, and how well a state does on the test set.

The data is not part of the project. Paths come from the environment:
    DIMAT_CIFAR10   cifar10.npz with train_x, train_y, test_x, test_y (uint8 NHWC, int64)
    DIMAT_PARENTS   folder with resnet20.py and resnet20_w{1,2}_iid_{0..4}.safetensors, …
Other parents are trained by: python benchmarks/parents.py KIND AGENT EPOCHS OUT.safetensors
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.vit import ViT
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dimat.data import flip_and_crop
from dimat.models import build_model
from dimat.state import State, load_state, save_state

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.247, 0.2435, 0.2616]).reshape(1, 3, 1, 1)
PARENTS = Path(os.environ.get("DIMAT_PARENTS", "../shared/data/parents"))


@cache
def archive() -> dict[str, Any]:
    with np.load(os.environ.get("DIMAT_CIFAR10", "/tmp/cifar10.npz")) as arrays:
        return dict(arrays)


def normalized(images: Any) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return ((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def shard(agent: int) -> Any:
    """The indices of every fifth image of each class, from the agent-th."""
    labels = archive()["train_y"]
    return np.concatenate([np.flatnonzero(labels == c)[agent::5] for c in range(10)])


def calibration(images: int, agent: int = 0, classes: int = 10) -> list[Tensor]:
    """Unlabeled images of one agent's shard, in batches of 250."""
    labels = archive()["train_y"]
    own = shard(agent)
    if classes < 10:  # the class-split parents: 2,000 images of each of their classes
        own = np.concatenate([np.flatnonzero(labels == c)[:2000] for c in range(classes)])
    picked = np.random.default_rng(agent).permutation(own)[:images]
    return list(normalized(archive()["train_x"][picked]).split(250))


def network(kind: str) -> nn.Module:
    """An architecture by name: resnet20_w1, resnet20_w2, vgg, vit."""
    if kind.startswith("resnet20_w"):
        sys.path.insert(0, str(PARENTS))
        from resnet20 import ResNet20  # type: ignore[import-not-found]

        built: nn.Module = ResNet20(int(kind.removeprefix("resnet20_w")))
    elif kind == "vit":
        built = ViT(64, 3, 4)
    else:
        built = build_model("vgg11", in_channels=3, num_classes=10, image_size=(32, 32), width=0.5)
    return built.to(memory_format=torch.channels_last) if kind != "vit" else built


def states(*names: str) -> list[State]:
    return [load_state(PARENTS / f"{name}.safetensors") for name in names]


@cache
def test_batches() -> list[tuple[Tensor, Tensor]]:
    x, y = normalized(archive()["test_x"]), torch.from_numpy(archive()["test_y"])
    return list(zip(x.split(500), y.split(500), strict=True))


def accuracy(model: nn.Module, *several: State) -> float:
    """Test accuracy in % of a state, or of the mean of the logits of several."""
    model.eval()
    right = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for x, y in test_batches():
            logits = [functional_call(model, s, x).float() for s in several]
            right += int((torch.stack(logits).mean(0).argmax(1) == y).sum())
    return right / 100


def train(kind: str, agent: int, epochs: int, out: Path) -> None:
    """Train one parent on its shard from its own init: AdamW for the ViT, Nesterov SGD else."""
    own = shard(agent)
    images = torch.from_numpy(archive()["train_x"][own]).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(archive()["train_y"][own])
    torch.manual_seed(agent)
    model, batch = network(kind), 128
    steps = epochs * (len(labels) // batch)
    peak = 1e-3 if kind == "vit" else 0.1
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), peak, weight_decay=0.05)
        if kind == "vit"
        else torch.optim.SGD(model.parameters(), peak, 0.9, nesterov=True, weight_decay=5e-4)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
    random = torch.Generator().manual_seed(agent)
    for epoch in range(epochs):
        start = time.perf_counter()
        model.train()
        order = torch.randperm(len(labels), generator=random)
        for part in order[: len(order) // batch * batch].split(batch):
            x = ((flip_and_crop(images[part], random).float() / 255 - MEAN) / STD).contiguous(
                memory_format=torch.channels_last
            )
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(model(x).float(), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"{kind} {agent} epoch {epoch}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{kind} {agent}: {accuracy(model, model.state_dict()):.1f} %", flush=True)
    save_state(model.state_dict(), out)


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
