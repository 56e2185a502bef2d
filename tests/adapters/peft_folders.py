"""Folders as PEFT writes them, made without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimat.state import State, save_state

PREFIX = "base_model.model.encoder.layer.0."
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "some/base",
    "target_modules": ["value", "query"],
    "r": 2,
    "lora_alpha": 4,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": ["classifier"],
    "inference_mode": False,
}


def entries(seed: int, rank: int = 2) -> State:
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    found = {}
    for name in ("query", "value"):
        found[f"{PREFIX}{name}.lora_A.weight"] = drawn(rank, 6)
        found[f"{PREFIX}{name}.lora_B.weight"] = drawn(5, rank)
    return {**found, "base_model.model.classifier.weight": drawn(3, 5)}


def folder(path: Path, seed: int, rank: int = 2, **changes: Any) -> Path:
    path.mkdir()
    config = {**CONFIG, "r": rank, **changes}
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_state(entries(seed, rank), path / "adapter_model.safetensors")
    return path
