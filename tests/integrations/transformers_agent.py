"""An agent in transformers' ``Trainer``: ``FOLDER ID STEPS [CHECKPOINT]``; prints its rounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from dimat.integrations.transformers import MergeCallback

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LENGTH, WORDS = 6, 40


class Together(TrainerCallback):
    """Training that begins when the neighbors are there, however slow the machine is."""

    def __init__(self, merging: MergeCallback) -> None:
        self.merging = merging

    def on_train_begin(self, *given: Any, **more: Any) -> None:
        own = self.merging.agent
        assert own is not None
        assert not own._neighborhood.await_neighbors(own.neighbors, 500)


def sentences(seed: int) -> list[dict[str, Any]]:
    """Sentences of which one word tells the class."""
    random = torch.Generator().manual_seed(seed)
    words = torch.randint(2, WORDS, (64, LENGTH), generator=random)
    labels = torch.randint(2, (64,), generator=random)
    words[:, 2] = labels
    return [
        {"input_ids": w.tolist(), "attention_mask": [1] * LENGTH, "labels": int(y)}
        for w, y in zip(words, labels, strict=True)
    ]


def main(folder: Path, own: int, steps: int, checkpoint: str | None) -> None:
    torch.manual_seed(own)
    config = BertConfig(vocab_size=WORDS, intermediate_size=24, num_labels=2, **SIZE)
    merging = MergeCallback(
        id=own,
        agents=2,
        peers=folder / "peers.yaml",
        insecure=True,
        topology="full",
        every=2,
        timeout_s=500,
    )
    arguments = TrainingArguments(
        output_dir=str(folder / f"agent-{own}"),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_steps=3,
    )
    trainer = Trainer(
        BertForSequenceClassification(config),
        arguments,
        train_dataset=sentences(own),  # type: ignore[arg-type]
        callbacks=[merging, Together(merging)],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    agent = merging.agent
    assert agent is not None
    torch.save(trainer.model.state_dict(), folder / f"{own}.pt")
    print(json.dumps({"history": [[x.round, list(x.heard)] for x in agent.history]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *(sys.argv[4:] or [None]))
