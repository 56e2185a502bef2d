"""The results of ``dimat align`` and ``dimat merge``, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dimat.metric import Metric
from dimat.state import State
from dimat.text import brief
from dimat.tools.merge.settings import AlignConfig, MergeConfig


@dataclass(frozen=True)
class Score:
    """The score of a network on the test samples.

    Args:
        metrics: The metrics of the task by name, the main one first.
        loss: The mean loss; of classes the cross-entropy in nats.
    """

    metrics: Mapping[str, float]
    loss: float

    @property
    def main(self) -> float:
        """The metric that networks are compared by."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True)
class ComparisonRow:
    """The scores of one network of the comparison.

    Args:
        name: Name of the network, such as ``parent 0``, ``plain average`` or ``merged``.
        plain: Score of the network as it is.
        recalibrated: Score with recomputed BatchNorm statistics; None if they are not recomputed.
    """

    name: str
    plain: Score
    recalibrated: Score | None = None


@dataclass(frozen=True)
class Path:
    r"""Scores of the networks :math:`(1-\alpha)\theta_0 + \alpha P_1\theta_1` between two parents.

    Args:
        alphas: Values of :math:`\alpha`, ascending from 0 to 1.
        scores: Score of the recalibrated network at each :math:`\alpha`.
    """

    alphas: tuple[float, ...]
    scores: tuple[Score, ...]

    @property
    def barrier(self) -> float:
        r"""The loss barrier: the rise of the loss above the line between its ends, >= 0.

        .. math:: \max_\alpha L(\alpha) - (1-\alpha) L(0) - \alpha L(1)
        """
        first, last = self.scores[0].loss, self.scores[-1].loss
        pairs = zip(self.alphas, self.scores, strict=True)
        return max(score.loss - (1 - a) * first - a * last for a, score in pairs)


@dataclass(frozen=True)
class MergeComparison:
    """The scores of all networks of a merge on one set of test samples.

    Args:
        metrics: What they are judged by, the main metric first.
        tested: Number of test samples.
        images: Whether those are images.
        rows: Scores of parents, plain average, merged network and ensemble.
        path: Scores between the parents, if there are two; else None.
    """

    metrics: tuple[Metric, ...]
    tested: int
    images: bool
    rows: tuple[ComparisonRow, ...]
    path: Path | None

    @property
    def unit(self) -> str:
        """The word for what they are tested on."""
        return "images" if self.images else "samples"


@dataclass(frozen=True)
class GroupFit:
    """The fit of one parent's units of one group to the first parent's.

    Args:
        group: Name of the group.
        units: Number of units, over all cells of the group.
        similarity: Mean similarity of matched units; None if none was measured.
        margin: Median margin of the matches over the next best ones; None if none was measured.
        doubtful: Share of units with a negative margin; None if none was measured.
        moved: Share of units that changed place.
    """

    group: str
    units: int
    similarity: float | None
    margin: float | None
    doubtful: float | None
    moved: float


@dataclass(frozen=True)
class ParentFit:
    """The fit of one parent to the first.

    Args:
        parent: Number of the parent, >= 1.
        digest: SHA-256 of the parent's permutation.
        groups: The fit of each group of units.
    """

    parent: int
    digest: str
    groups: tuple[GroupFit, ...]


@dataclass(frozen=True)
class AlignResult:
    """The result of an alignment.

    Args:
        config: Settings of the alignment.
        states: The aligned state, to be written: one.
        symmetry: Digest of the model's symmetry.
        fits: The fit of the second parent to the first.
        notes: What the reading of the checkpoints had to decide, a sentence each.
    """

    config: AlignConfig
    states: tuple[State, ...]
    symmetry: str
    fits: tuple[ParentFit, ...]
    notes: tuple[str, ...]

    __repr__ = brief


@dataclass(frozen=True)
class MergeResult:
    """The result of a merge.

    Args:
        config: Settings of the merge.
        states: The states to be written: the merged one, or one a parent where heads are kept.
        symmetry: Digest of the model's symmetry.
        fits: The fit of every parent but the first.
        comparison: Scores of parents and merged networks; None if they were not tested.
        recalibrated: Whether the state has recomputed BatchNorm statistics.
        seconds: Seconds of each stage, by its name.
        notes: What the reading of the checkpoints had to decide, a sentence each.
        kept: Entries that were not merged.
        coverage: Share of the numbers of a state that matching could move, in [0, 1].
        pinned: What held other units in their places, a sentence each.
    """

    config: MergeConfig
    states: tuple[State, ...]
    symmetry: str
    fits: tuple[ParentFit, ...]
    comparison: MergeComparison | None
    recalibrated: bool
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    kept: tuple[str, ...] = ()
    coverage: float = 0.0
    pinned: tuple[str, ...] = ()

    __repr__ = brief
