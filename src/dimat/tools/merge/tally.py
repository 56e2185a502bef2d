"""The score of outputs that come batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor

from dimat.tasks import Task
from dimat.tools.merge.result import Score

_HELD = 16_000_000  # numbers of outputs that are held, of 4 bytes


class MetricTally:
    """Outputs of a network, batch by batch, and what a task measures of them all.

    Outputs are held while they are few, so that no score depends on the size of a batch; of many
    (a word at each place, a class at each pixel) only sums are.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._held: list[tuple[Tensor, Tensor]] = []
        self._sums: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: Outputs of the batch, float32 on the CPU.
            targets: Their targets, on the CPU.
        """
        self._held.append((outputs, targets))
        if sum(own.numel() for own, _ in self._held) > _HELD:
            self._sums, self._held = self._totals(), []

    def score(self) -> Score:
        """The score of all that was added, one batch at least."""
        found = dict(self._task.measure(self._totals()))
        loss = found.pop("loss")
        if self._sums is None:  # the loss of training itself, which no sum of batches rounds
            loss = float(self._task.loss(*self._whole()))
        return Score({own.name: found[own.name] for own in self._task.metrics}, loss)

    def _whole(self) -> tuple[Tensor, Tensor]:
        outputs, targets = zip(*self._held, strict=True)
        return torch.cat(outputs), torch.cat(targets)

    def _totals(self) -> Tensor:
        parts = [self._task.totals(*self._whole())] if self._held else []
        parts += [] if self._sums is None else [self._sums]
        return torch.stack(parts).sum(0)
