"""``dimat align`` and ``dimat merge``, end to end: results, and nothing written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from dimat.checkpoints import Parents, fair_weights, recalibrates
from dimat.experiment.progress import Progress, Silent
from dimat.experiment.running.process import borrowed
from dimat.matching import MATCHERS, Matching
from dimat.merging import COMBINERS
from dimat.state import State
from dimat.tools.merge.checks import check
from dimat.tools.merge.evaluate import WORTH_A_NOTE_S, Evaluator
from dimat.tools.merge.fits import parent_fits
from dimat.tools.merge.inputs import Inputs, read_inputs
from dimat.tools.merge.result import AlignResult, MergeComparison, MergeResult
from dimat.tools.merge.settings import AlignConfig, MergeConfig


@dataclass
class _Watch:
    """Tells an observer of stages, and keeps how long they took."""

    observer: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.observer.stage(name, 1)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        if self.seconds[name] > WORTH_A_NOTE_S:
            self.observer.note(f"{name}: {self.seconds[name]:.1f} s")

    @contextmanager
    def until_closed(self) -> Iterator[None]:
        """Close the observer when what is inside has ended, well or not."""
        try:
            yield
        finally:
            self.observer.close()


def align_checkpoints(config: AlignConfig, observer: Progress | None = None) -> AlignResult:
    """Put the units of the second checkpoint in the order of the first.

    Args:
        config: Every setting.
        observer: Told how it goes; by default nobody.

    Raises:
        ConfigError, DataError, ModelError, StructureError: If something cannot be used.
    """
    check(config)
    watch = _Watch(observer or Silent())
    with watch.until_closed(), borrowed(config.threads, config.device):
        _, family, matchings = _matched(config, (0.5, 0.5), watch)
        aligned = family.align(matchings)[1]
    symmetry = family.analysis.symmetry
    fits = parent_fits(symmetry, matchings)
    return AlignResult(config, family.rounded(aligned, 1), symmetry.digest, fits)


def merge_checkpoints(config: MergeConfig, observer: Progress | None = None) -> MergeResult:
    """Align checkpoints to the first, combine them, and test what came of it.

    Args:
        config: Every setting.
        observer: Told how it goes; by default nobody.

    Raises:
        ConfigError, DataError, ModelError, StructureError: If something cannot be used.
    """
    check(config)
    watch = _Watch(observer or Silent())
    weights = fair_weights(config.weights or None, len(config.parents))
    with watch.until_closed(), borrowed(config.threads, config.device):
        inputs, family, matchings = _matched(config, weights, watch)
        aligned = family.align(matchings)
        with watch.stage(f"combining ({config.combine})"):
            plain, again = _combined(config, family, aligned, weights)
        judge = _judge(inputs, family, watch.observer)
        comparison: MergeComparison | None = None
        if judge is not None:
            with watch.stage("testing"):
                comparison = judge.compare(aligned, weights, {"merged": (plain, again)})
    chosen = again if recalibrates(config.recalibration, COMBINERS[config.combine]) else None
    symmetry = family.analysis.symmetry
    return MergeResult(
        config,
        plain if chosen is None else chosen,
        symmetry.digest,
        parent_fits(symmetry, matchings),
        comparison,
        chosen is not None,
        watch.seconds,
    )


def _matched(
    config: AlignConfig, weights: Sequence[float], watch: _Watch
) -> tuple[Inputs, Parents, list[Matching]]:
    with watch.stage("reading"):
        inputs = read_inputs(config)
        family = inputs.family(config)
    with watch.stage("proving the model's symmetry"):
        _ = family.analysis
    with watch.stage(f"matching ({config.method})"):
        return inputs, family, family.match(MATCHERS[config.method], weights)


def _combined(
    config: MergeConfig, family: Parents, aligned: Sequence[State], weights: Sequence[float]
) -> tuple[State, State | None]:
    """As combined, and recalibrated if the model has statistics; as precise as it is written."""
    plain = family.combine(COMBINERS[config.combine], aligned, weights)
    if config.recalibration == "expected":
        again: State | None = family.expect(plain, aligned, weights)
    else:
        again = family.recalibrate(plain)
    return family.rounded(plain), None if again is None else family.rounded(again)


def _judge(inputs: Inputs, family: Parents, observer: Progress) -> Evaluator | None:
    return None if inputs.test is None else Evaluator(family, *inputs.test, observer)
