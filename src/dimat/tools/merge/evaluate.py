"""Testing the parents of a merge and their merged networks, one model under several states."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dimat.checkpoints import Parents
from dimat.experiment.progress import Progress
from dimat.experiment.tables import percent
from dimat.merging import mix
from dimat.state import State, put_into
from dimat.tools.merge.images import Images
from dimat.tools.merge.result import ComparisonRow, MergeComparison, Path, Score

WORTH_A_NOTE_S = 2.0  # longer steps get a note, for users who see no progress bar
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Evaluator:
    """The test of states on labeled images.

    Args:
        parents: The parents, with the model to run and the images to recalibrate on.
        images: The test images.
        labels: (n,) int64 classes of the test images, on the CPU.
        progress: Receives a step for every network tested.
    """

    parents: Parents
    images: Images
    labels: Tensor
    progress: Progress

    def compare(
        self,
        aligned: Sequence[State],
        weights: Sequence[float],
        merged: Mapping[str, tuple[State, State | None]],
    ) -> MergeComparison:
        """Test parents, plain average, merged networks and ensemble; with two parents the path too.

        Args:
            aligned: The states of the parents in one unit order.
            weights: Weight of each parent, >= 0, summing to 1.
            merged: Merged states by name: as combined, and recalibrated or None.
        """
        states = self.parents.states
        average = mix(states, weights)
        again = self.parents.recalibrate(average)
        self.progress.stage("testing", len(states) + _count(average, again, merged, len(states)))
        logits = [self.logits(f"parent {i}", state) for i, state in enumerate(states)]
        rows = [ComparisonRow(f"parent {i}", self.score(own)) for i, own in enumerate(logits)]
        pairs = {"plain average": (average, again), **merged}
        rows += [self._row(name, *pair) for name, pair in pairs.items()]
        together = sum((w * x for w, x in zip(weights, logits, strict=True)), torch.zeros(()))
        rows.append(ComparisonRow("ensemble of the parents", self.score(together)))
        path = self.path(aligned) if len(states) == 2 else None
        return MergeComparison(len(self.labels), tuple(rows), path)

    def path(self, aligned: Sequence[State]) -> Path:
        """Test recalibrated networks on the line between two aligned parents.

        Args:
            aligned: The two states in one unit order.
        """
        scores = []
        for alpha in ALPHAS:
            state = mix(aligned, (1 - alpha, alpha))
            again = self.parents.recalibrate(state) or state
            scores.append(self.score(self.logits(f"α = {alpha:g}", again)))
        return Path(ALPHAS, tuple(scores))

    def logits(self, name: str, state: State) -> Tensor:
        """The (n, classes) float32 logits of a state on the test images, on the CPU.

        Args:
            name: Name of the network, for a note if the test took long.
            state: State of the network.
        """
        start, model = time.perf_counter(), self.parents.model
        put_into(model, state)
        model.eval()
        with torch.no_grad():
            found = torch.cat([model(x).float().cpu() for x in self.images.batches()])
        self.progress.advance()
        if time.perf_counter() - start > WORTH_A_NOTE_S:
            self.progress.note(f"{name}: {percent(self.score(found).accuracy)} %")
        return found

    def score(self, logits: Tensor) -> Score:
        """Accuracy and mean cross-entropy of logits.

        Args:
            logits: (n, classes) float32 on the CPU.
        """
        loss = float(functional.cross_entropy(logits, self.labels))
        return Score(float((logits.argmax(1) == self.labels).double().mean()), loss)

    def _row(self, name: str, plain: State, recalibrated: State | None) -> ComparisonRow:
        own = self.score(self.logits(name, plain))
        if recalibrated is None:
            return ComparisonRow(name, own)
        return ComparisonRow(
            name, own, self.score(self.logits(f"{name}, recalibrated", recalibrated))
        )


def _count(
    average: State,
    again: State | None,
    merged: Mapping[str, tuple[State, State | None]],
    parents: int,
) -> int:
    """Number of networks to test besides the parents."""
    pairs = [(average, again), *merged.values()]
    return sum(2 if b is not None else 1 for _, b in pairs) + (len(ALPHAS) if parents == 2 else 0)
