"""Agents in a training loop of your own, each with its part of the digits and its own random init.

torchrun --nproc-per-node 2 examples/own_loop.py
"""

import os

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dimat

digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
test = torch.arange(len(images)) % 5 == 0
if "RANK" not in os.environ:
    raise SystemExit("start it by: torchrun --nproc-per-node 2 examples/own_loop.py")
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])  # as torchrun says
own = slice(rank, None, size)  # this agent's images: no other sees them
data = TensorDataset(images[~test][own], labels[~test][own])
loader = DataLoader(data, batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters())


def train(inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """One step, as you do it anyway."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


with dimat.Agent(model, optimizer, topology="full", calibration=loader, every=60) as agent:
    for _ in range(12):
        for inputs, targets in loader:
            train(inputs, targets)
            agent.step()  # every 60th call: exchange, match, merge, recalibrate

right = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
heard = sum(len(found.heard) for found in agent.history)
print(f"agent {agent.id}: {agent.rounds} merges, {heard} states heard, {100 * right:.1f} %")
