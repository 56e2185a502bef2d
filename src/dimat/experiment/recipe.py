"""The settings that results depend on, by which runs are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dimat.experiment.config.config import CheckpointConfig, ExchangeConfig, RunConfig

# Settings that are left out of digests at these values: runs that older versions began go on.
LATER: Mapping[str, object] = {
    "method_options": [],
    "imports": [],
    "task": "classification",
    "exchange.what": "all",
    "data.kind": "auto",
    "data.test_share": 0.2,
    "data.target": [],
    "data.target_mean": 0.0,
    "data.target_scale": 1.0,
    "data.leave_out": [],
    "data.categories": [],
    "data.fill": None,
    "data.text": None,
    "data.tokenizer": None,
    "data.max_length": 128,
    "data.storage": "auto",
    "exchange.wait_s": None,
    "optimizer.ema": None,
}


def recipe(config: RunConfig) -> RunConfig:
    """The settings without those that change no result, with which a run may go on otherwise.

    These are ``out``, ``overwrite``, ``max_wall_s``, ``checkpoint``, how long others are waited for
    (``exchange.timeout_s``, ``wait_s`` and ``patience_s``), and whether small agents may train at
    once with the bits that they have alone (``vectorize`` 1 or null). They become what they first
    were by default, so digests stay what they were.

    Args:
        config: All settings.
    """
    waits = ExchangeConfig()
    return replace(
        config,
        out=None,
        overwrite=False,
        max_wall_s=None,
        checkpoint=CheckpointConfig(every=1),
        exchange=replace(
            config.exchange,
            timeout_s=waits.timeout_s,
            wait_s=waits.wait_s,
            patience_s=waits.patience_s,
        ),
        vectorize=config.vectorize or 1,
    )
