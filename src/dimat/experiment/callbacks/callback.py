"""The protocol of callbacks, and the callbacks that the setting ``log`` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig


class Callback(Protocol):
    """A receiver of measurements as they are made, which has no influence on the run.

    A callback is given to ``dimat.run(config, callbacks=[...])``. It is called for every method of
    a run, one after another, and must not change its arguments.
    """

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """A method begins, or is resumed.

        Args:
            method: Registry name of the method.
            config: Settings of the run of this method.
            folder: Run folder of the method.
            after_round: The last round of the checkpoint that is resumed; -1 for a start from
                scratch.
        """

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        """A line of metrics or diagnostics is written.

        Args:
            method: Registry name of the method.
            line: The line of ``metrics.jsonl`` (it has a ``phase``) or of ``diagnostics.jsonl``.
        """

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        """A method is finished.

        Args:
            method: Registry name of the method.
            summary: The content of ``summary.json``.
        """


def _tensorboard() -> Callback:
    from dimat.experiment.callbacks.tensorboard import TensorBoard

    return TensorBoard()


# The values of setting ``log``, each with the maker of its callback.
LOGS: dict[str, Callable[[], Callback]] = {"tensorboard": _tensorboard}
