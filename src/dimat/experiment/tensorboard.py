"""``--log tensorboard``: metrics as event files, in ``tensorboard/`` of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimat.errors import ConfigError
from dimat.experiment.config import RunConfig

_SKIPPED = ("round", "agent", "phase")


class TensorBoard:
    """Scalars by round: ``test_accuracy/merged`` with a run for each agent, diagnostics by name.

    Raises:
        ConfigError: If the tensorboard package is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "setting 'log' has 'tensorboard', which is not installed: "
                'pip install "dimat[tensorboard]"'
            ) from error
        self._make: Any = SummaryWriter
        self._writers: dict[str, Any] = {}

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """Open the folder; what it has of later rounds is disregarded."""
        self._folder, self._purge = folder / "tensorboard", after_round + 1

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        """Write every number of the line."""
        writer = self._writer(f"agent-{line['agent']:03d}" if "agent" in line else "all")
        phase = f"/{line['phase']}" if "phase" in line else ""
        for name, value in _numbers(line):
            writer.add_scalar(f"{name}{phase}", value, line["round"])

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, who: str) -> Any:
        if who not in self._writers:
            self._writers[who] = self._make(str(self._folder / who), purge_step=self._purge)
        return self._writers[who]


def _numbers(line: Mapping[str, object], prefix: str = "") -> list[tuple[str, float]]:
    """All numbers, those of nested groups by their path.

    >>> _numbers({"round": 1, "gap": 0.5, "moved": {"0": 0.25}, "drift": None})
    [('gap', 0.5), ('moved/0', 0.25)]
    """
    found: list[tuple[str, float]] = []
    for name, value in line.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in _SKIPPED:
            found.append((prefix + name, float(value)))
    return found
