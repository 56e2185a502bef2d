"""``--log wandb``: a row for each round at Weights & Biases, or in ``wandb/`` of the run folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimat.experiment.callbacks.callback import package_of
from dimat.experiment.callbacks.tracker import Tracker

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig


class WandB(Tracker):
    """A callback that sends a run to the project ``dimat``, or that of ``WANDB_PROJECT``.

    With ``WANDB_MODE=offline`` nothing is sent, and ``wandb sync`` can send it later.

    Raises:
        ConfigError: If the wandb package is not installed.
    """

    name = "wandb"

    def __init__(self) -> None:
        with package_of(self.name):
            import wandb
        self._wandb: Any = wandb

    def begin(self, method: str, config: RunConfig, folder: Path, run: str | None) -> str:
        """Begin a run beside any that the caller has, with all settings."""
        run = run or secrets.token_hex(8)
        self._to: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dimat"),
            id=run,
            resume="allow",
            reinit="create_new",
            name=str(folder),
            config={**asdict(config), "method": method},
            dir=folder,
            settings=self._wandb.Settings(console="off"),  # the terminal is the progress display's
        )
        self._to.define_metric("*", step_metric="round")
        return run

    def send(self, number: int, row: Mapping[str, float]) -> None:
        """Add a row to the run's history."""
        self._to.log({**row, "round": number})

    def end(self, summary: Mapping[str, float]) -> None:
        """Add the summary's numbers, and wait until all is sent."""
        self._to.summary.update(dict(summary))
        self._to.finish()

    def leave(self) -> None:
        """End this part of the run, as one that failed."""
        self._to.finish(exit_code=1)
