"""What statistics files are worth: two owners of digits merge without any shared data.

.venv/bin/python -m benchmarks.owners             # 3 minutes on one core

Each owner trains a network on its own images, measures statistics on them, and writes a file. Test
accuracy in %, mean ± sd over seeds: of the owners' networks, of the average of the two with units
matched by weights, and of the merge by the files, without matching and with it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import dimat
from dimat.data import Dataset, load_dataset, normalize
from dimat.losses import local_loss
from dimat.models import build_model
from dimat.state import State

SEEDS, EPOCHS, BATCH, RATE = 3, 40, 32, 1e-3
WAYS: dict[str, dict[str, str]] = {
    "average, aligned": {"method": "weights", "combine": "average", "recalibration": "expected"},
    "gram, not aligned": {"method": "identity", "combine": "gram"},
    "**gram, aligned**": {"method": "weights", "combine": "gram"},
}


def network(kind: str) -> nn.Module:
    return build_model(kind, in_channels=1, num_classes=10, image_size=(8, 8))


def seen(images: Tensor) -> Tensor:
    return normalize(images.permute(0, 3, 1, 2))


def parts(data: Dataset, split: str, seed: int) -> Sequence[Tensor]:
    """The images of each of the two owners, by number."""
    if split == "five classes each":
        return [(data.train_y < 5).nonzero()[:, 0], (data.train_y >= 5).nonzero()[:, 0]]
    random = torch.Generator().manual_seed(seed)
    return torch.randperm(len(data.train_y), generator=random).chunk(2)


def trained(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> State:
    """The state after training alone, with a loss that leaves absent classes in peace."""
    loss, random = local_loss(labels, num_classes=10), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(labels), generator=random).split(BATCH):
            optimizer.zero_grad()
            loss(model(images[part]), labels[part]).backward()
            optimizer.step()
    return model.state_dict()


def accuracy(kind: str, state: State, data: Dataset) -> float:
    model = network(kind).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        right = model(seen(data.test_x)).argmax(1) == data.test_y
    return 100 * float(right.double().mean())


def trial(kind: str, split: str, init: str, seed: int, folder: Path) -> Iterator[float]:
    """Accuracy of the owners' networks, and of what the ways make of them."""
    data, states, files = load_dataset("digits"), [], []
    for owner, part in enumerate(parts(data, split, seed)):
        torch.manual_seed(10 * seed + (0 if init == "one" else owner))
        images = seen(data.train_x[part])
        states.append(trained(network(kind), images, data.train_y[part], 10 * seed + owner))
        files.append(folder / f"{owner}.safetensors")
        dimat.statistics(network(kind), states[-1], images.split(250)).save(files[-1])
    yield statistics.fmean(accuracy(kind, state, data) for state in states)
    example = torch.zeros(2, 1, 8, 8)
    for way in WAYS.values():
        sent = files if way["combine"] == "gram" else None
        batches = [] if sent else [example]
        merged = dimat.merge(network(kind), states, batches, statistics=sent, **way)  # type: ignore[arg-type]
        yield accuracy(kind, merged.state, data)


def main() -> None:
    torch.set_num_threads(1)
    print(f"| | owners | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 2)}")
    for kind in ("mlp", "cnn"):
        for split in ("IID halves", "five classes each"):
            for init in ("own", "one"):
                with tempfile.TemporaryDirectory() as folder:
                    runs = [[*trial(kind, split, init, k, Path(folder))] for k in range(SEEDS)]
                found = [
                    f"{statistics.fmean(own):.1f} ± {statistics.stdev(own):.1f}"
                    for own in zip(*runs, strict=True)
                ]
                what = f"{kind}, {split}, {'own inits' if init == 'own' else 'one init'}"
                print(f"| {what} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
