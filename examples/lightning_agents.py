"""Two agents in Lightning's Trainer, each a process that sees half of the digits.

python examples/lightning_agents.py
"""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimat.integrations.lightning import MergeCallback


class Classifier(pl.LightningModule):
    """A module as you have it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the network makes of images; this is what merges."""
        return self.model(images)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one optimizer, whose moments move with the units."""
        return torch.optim.Adam(self.parameters())


def train(agent: int, folder: str) -> None:
    """Train as one agent, which merges with the other one every 60 steps."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    test = torch.arange(len(images)) % 5 == 0
    data = TensorDataset(images[~test][agent::2], labels[~test][agent::2])
    where = {"id": agent, "agents": 2, "peers": f"{folder}/peers.yaml", "insecure": True}
    merging = MergeCallback(**where, topology="full", every=60)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        max_steps=240, devices=1, callbacks=[merging], default_root_dir=folder, **quiet
    )
    model = Classifier()
    trainer.fit(model, DataLoader(data, batch_size=32, shuffle=True))
    right = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
    heard = sum(len(found.heard) for found in merging.agent.history)
    print(
        f"agent {agent}: {merging.agent.rounds} merges, {heard} states heard, {100 * right:.1f} %"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        train(int(sys.argv[1]), sys.argv[2])
    else:  # as each would be started on its own machine
        with tempfile.TemporaryDirectory() as folder:
            servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]  # at free ports
            with Path(folder, "peers.yaml").open("w") as file:
                for i, server in enumerate(servers):
                    file.write(f'{i}: {{address: "127.0.0.1:{server.getsockname()[1]}"}}\n')
                    server.close()
            agents = [subprocess.Popen([sys.executable, __file__, str(i), folder]) for i in (0, 1)]
            sys.exit(max(agent.wait() for agent in agents))
