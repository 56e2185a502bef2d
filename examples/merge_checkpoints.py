"""Two networks, trained apart on half of the digits each, merged into one of the same size.

python examples/merge_checkpoints.py
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import dimat

digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
test = torch.arange(len(images)) % 5 == 0


def network() -> nn.Sequential:
    """A fresh network with an init of its own."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def trained(own: slice) -> nn.Sequential:
    """A network that has seen a part of the training images."""
    x, y = images[~test][own], labels[~test][own]
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def accuracy(state: dict[str, torch.Tensor]) -> str:
    """Of the test images, in %."""
    model = network()
    model.load_state_dict(state)
    right = model(images[test]).argmax(1) == labels[test]
    return f"{100 * right.float().mean().item():.1f} %"


torch.manual_seed(0)
with tempfile.TemporaryDirectory() as folder:
    files = [Path(folder, f"{name}.pth") for name in ("even", "odd")]
    for k, file in enumerate(files):
        torch.save(trained(slice(k, None, 2)).state_dict(), file)
    inputs = images[~test].split(100)  # without labels
    for name, method in [("plain average", "identity"), ("matched, averaged", "activations")]:
        print(f"{name}: {accuracy(dimat.merge(network(), files, inputs, method=method).state)}")
    best = dimat.merge(network(), files, inputs, combine="regression")
    print(f"matched, regression: {accuracy(best.state)}")
    print(f"parents: {', '.join(accuracy(torch.load(file)) for file in files)}")
