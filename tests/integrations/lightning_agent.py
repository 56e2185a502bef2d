"""An agent in Lightning's ``Trainer``: ``FOLDER ID STEPS [CHECKPOINT]``; prints its rounds."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dimat.integrations.lightning import MergeCallback


class Classifier(pl.LightningModule):
    """A network in a module, as most people have it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2)
        )

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs)

    def training_step(self, batch: Any, index: int) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self(inputs), targets)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Together(pl.Callback):
    """Training that begins when the neighbors are there, however slow the machine is."""

    def __init__(self, merging: MergeCallback) -> None:
        self.merging = merging

    def on_train_start(self, *given: Any) -> None:
        own = self.merging.agent
        assert own is not None
        assert not own._neighborhood.await_neighbors(own.neighbors, 500)


def main(folder: Path, own: int, steps: int, checkpoint: str | None) -> None:
    torch.manual_seed(own)
    inputs = torch.randn(64, 5)
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    merging = MergeCallback(
        id=own,
        agents=2,
        peers=folder / "peers.yaml",
        insecure=True,
        topology="full",
        every=2,
        timeout_s=500,
    )
    saving = pl.callbacks.ModelCheckpoint(
        folder / f"agent-{own}", "{step}", every_n_train_steps=3, save_top_k=-1
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=steps,
        accumulate_grad_batches=2,
        callbacks=[saving, merging, Together(merging)],
    )
    model = Classifier()
    trainer.fit(model, DataLoader(data, batch_size=8, shuffle=True), ckpt_path=checkpoint)
    agent = merging.agent
    assert agent is not None
    torch.save(model.state_dict(), folder / f"{own}.pt")
    print(json.dumps({"history": [[x.round, list(x.heard)] for x in agent.history]}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *(sys.argv[4:] or [None]))
