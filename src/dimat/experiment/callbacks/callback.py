"""Who is told what a run measures: anyone with these three methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig


class Callback(Protocol):
    """Told what is measured, as it is measured; has no influence on the run.

    A callback is given to ``dimat.run(config, callbacks=[...])``. It is told of every method of a
    run, one after another, and must not change what it is given.
    """

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """A method begins, or goes on after ``after_round`` (-1: from its start) in ``folder``."""

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        """A line of ``metrics.jsonl`` (it has a ``phase``), or of ``diagnostics.jsonl``."""

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        """The method is done; ``summary`` is what ``summary.json`` holds."""


def _tensorboard() -> Callback:
    from dimat.experiment.callbacks.tensorboard import TensorBoard

    return TensorBoard()


# Setting ``log``: what each name stands for.
LOGS: dict[str, Callable[[], Callback]] = {"tensorboard": _tensorboard}
