"""Testing the parents of a merge and their merged networks, one model under several states."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dimat.checkpoints import Parents
from dimat.experiment.progress import Progress
from dimat.merging import mix
from dimat.state import State, put_into
from dimat.tasks import Task
from dimat.tools.merge.result import ComparisonRow, MergeComparison, Path, Score
from dimat.tools.merge.samples import Samples
from dimat.tools.merge.tally import MetricTally

WORTH_A_NOTE_S = 2.0  # longer steps get a note, for users who see no progress bar
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Evaluator:
    """The test of states on samples with targets.

    Args:
        parents: The parents, with the model to run and the samples to recalibrate on.
        samples: The test samples.
        targets: Their targets, on the CPU.
        task: The task, which says how outputs are judged.
        progress: Receives a step for every batch of a network.
    """

    parents: Parents
    samples: Samples
    targets: Tensor
    task: Task
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
        networks = len(states) + _count(average, again, merged, len(states))
        self.progress.stage("testing", networks * self.samples.num_batches)
        *alone, together = self.together(states, weights)
        rows = [ComparisonRow(f"parent {i}", own) for i, own in enumerate(alone)]
        pairs = {"plain average": (average, again), **merged}
        rows += [self._row(name, *pair) for name, pair in pairs.items()]
        rows.append(ComparisonRow("ensemble of the parents", together))
        path = self.path(aligned) if len(states) == 2 else None
        metrics = tuple(self.task.metrics)
        return MergeComparison(metrics, len(self.targets), self.samples.images, tuple(rows), path)

    def path(self, aligned: Sequence[State]) -> Path:
        """Test recalibrated networks on the line between two aligned parents.

        Args:
            aligned: The two states in one unit order.
        """
        scores = []
        for alpha in ALPHAS:
            state = mix(aligned, (1 - alpha, alpha))
            again = self.parents.recalibrate(state) or state
            scores.append(self.score(f"α = {alpha:g}", again))
        return Path(ALPHAS, tuple(scores))

    def score(self, name: str, state: State) -> Score:
        """The score of a state on the test samples.

        Args:
            name: Name of the network, for a note if the test took long.
            state: State of the network.
        """
        start, tally = time.perf_counter(), MetricTally(self.task)
        for inputs, targets in self._batches():
            tally.add(self._outputs(state, inputs), targets)
        found = tally.score()
        self._note(name, found, time.perf_counter() - start)
        return found

    def together(self, states: Sequence[State], weights: Sequence[float]) -> list[Score]:
        """The scores of the parents, and of their ensemble as the last.

        Batch by batch, as the outputs of all parents on all samples may be more than fits.

        Args:
            states: The states of the parents.
            weights: Weight of each parent.
        """
        start, tallies = time.perf_counter(), [MetricTally(self.task) for _ in (*states, weights)]
        for inputs, targets in self._batches():
            outputs = [self._outputs(state, inputs) for state in states]
            for tally, own in zip(tallies, [*outputs, self._pooled(outputs, weights)], strict=True):
                tally.add(own, targets)
        found = [tally.score() for tally in tallies]
        each = (time.perf_counter() - start) / len(states)
        for number, score in enumerate(found[:-1]):
            self._note(f"parent {number}", score, each)
        return found

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        targets = torch.split(self.targets, self.samples.batch_size)
        return zip(self.samples.batches(), targets, strict=True)

    def _outputs(self, state: State, inputs: Tensor) -> Tensor:
        """The float32 outputs of a state on a batch, on the CPU."""
        model = self.parents.model
        put_into(model, state)
        model.eval()
        with torch.no_grad():
            found: Tensor = model(inputs).float().cpu()
        self.progress.advance()
        return found

    def _pooled(self, outputs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The outputs of the ensemble: of classes the weighted mean of the logits, as merged."""
        if self.task.has_classes:
            return sum((w * x for w, x in zip(weights, outputs, strict=True)), torch.zeros(()))
        return self.task.pooled([x for w, x in zip(weights, outputs, strict=True) if w])

    def _note(self, name: str, score: Score, seconds: float) -> None:
        if seconds > WORTH_A_NOTE_S:
            said = self.task.metrics[0].note(score.main).strip()
            self.progress.note(f"{name}: {said}")

    def _row(self, name: str, plain: State, recalibrated: State | None) -> ComparisonRow:
        own = self.score(name, plain)
        if recalibrated is None:
            return ComparisonRow(name, own)
        return ComparisonRow(name, own, self.score(f"{name}, recalibrated", recalibrated))


def _count(
    average: State,
    again: State | None,
    merged: Mapping[str, tuple[State, State | None]],
    parents: int,
) -> int:
    """Number of networks to test besides the parents."""
    pairs = [(average, again), *merged.values()]
    return sum(2 if b is not None else 1 for _, b in pairs) + (len(ALPHAS) if parents == 2 else 0)
