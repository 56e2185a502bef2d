"""What ``dimat align`` and ``dimat merge`` come to, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dimat.state import State, brief
from dimat.tools.merge.settings import AlignConfig, MergeConfig


@dataclass(frozen=True)
class Score:
    """How well a network does on the test images.

    Args:
        accuracy: A fraction in [0, 1].
        loss: Mean cross-entropy in nats.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True)
class ComparisonRow:
    """One network of the comparison.

    Args:
        name: What it is.
        plain: Its score as it is; None if it has none.
        recalibrated: Its score with BatchNorm statistics recomputed; None where that is not done.
    """

    name: str
    plain: Score
    recalibrated: Score | None = None


@dataclass(frozen=True)
class Path:
    r"""Networks between two aligned parents: :math:`(1-\alpha)\theta_0 + \alpha P_1\theta_1`.

    Args:
        alphas: From 0 to 1.
        scores: Of the network at each, recalibrated.
    """

    alphas: tuple[float, ...]
    scores: tuple[Score, ...]

    @property
    def barrier(self) -> float:
        r"""How far the loss rises above the straight line between its ends, >= 0.

        .. math:: \max_\alpha L(\alpha) - (1-\alpha) L(0) - \alpha L(1)
        """
        first, last = self.scores[0].loss, self.scores[-1].loss
        pairs = zip(self.alphas, self.scores, strict=True)
        return max(score.loss - (1 - a) * first - a * last for a, score in pairs)


@dataclass(frozen=True)
class MergeComparison:
    """Networks tested on one set of images.

    Args:
        images: How many.
        rows: Parents, plain average, merged, ensemble.
        path: Between the parents, if there are two.
    """

    images: int
    rows: tuple[ComparisonRow, ...]
    path: Path | None


@dataclass(frozen=True)
class GroupFit:
    """How one parent's units of one group fit the first parent's.

    Args:
        group: The group's name.
        units: How many, over all its cells.
        similarity: Mean over matched units; None if nothing was measured.
        margin: Median of how much better a match is than the next best; None likewise.
        doubtful: Share of units for which another match would have been better; None likewise.
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
    """How one parent fits the first.

    Args:
        parent: Its number, >= 1.
        digest: SHA-256 of its permutation.
        groups: Group by group.
    """

    parent: int
    digest: str
    groups: tuple[GroupFit, ...]


@dataclass(frozen=True)
class AlignResult:
    """What an alignment came to.

    Args:
        config: Its settings.
        state: What is to be written.
        symmetry: Digest of the model's symmetry.
        fits: One for every parent but the first.
    """

    config: AlignConfig
    state: State
    symmetry: str
    fits: tuple[ParentFit, ...]

    __repr__ = brief


@dataclass(frozen=True)
class MergeResult:
    """What a merge came to.

    Args:
        config: Its settings.
        state: What is to be written.
        symmetry: Digest of the model's symmetry.
        fits: One for every parent but the first.
        comparison: None if it was not evaluated.
        recalibrated: Whether the state has recomputed statistics.
        seconds: What took how long.
    """

    config: MergeConfig
    state: State
    symmetry: str
    fits: tuple[ParentFit, ...]
    comparison: MergeComparison | None
    recalibrated: bool
    seconds: Mapping[str, float]

    __repr__ = brief
