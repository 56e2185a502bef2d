"""``dimat align``, ``merge`` and ``statistics``, from settings to results; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from dimat.checkpoints import (
    Parents,
    Statistics,
    fair_weights,
    fitting_values,
    measured,
    moved_values,
    recalibrates,
    with_statistics,
)
from dimat.checkpoints.merge import check_continuous, kept_of
from dimat.checkpoints.partial import check_norms
from dimat.experiment.progress import Progress, Silent
from dimat.experiment.running.process import borrowed
from dimat.matching import MATCHERS, Matching
from dimat.merging import combiner_for
from dimat.state import State
from dimat.tools.merge.checks import check
from dimat.tools.merge.evaluate import WORTH_A_NOTE_S, Evaluator
from dimat.tools.merge.fits import parent_fits
from dimat.tools.merge.inputs import Inputs, read_inputs, task_of
from dimat.tools.merge.result import AlignResult, MergeComparison, MergeResult
from dimat.tools.merge.settings import AlignConfig, MergeConfig, ParentsConfig, StatisticsConfig


@dataclass
class _Stages:
    """The stages of a merge: reported to a progress, and timed."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.progress.stage(name, 1)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        if self.seconds[name] > WORTH_A_NOTE_S:
            self.progress.note(f"{name}: {self.seconds[name]:.1f} s")

    @contextmanager
    def until_closed(self) -> Iterator[None]:
        """Close the progress when the block has ended, well or not."""
        try:
            yield
        finally:
            self.progress.close()


def align_checkpoints(config: AlignConfig, progress: Progress | None = None) -> AlignResult:
    """Put the units of the second checkpoint in the order of the first.

    Args:
        config: Every setting.
        progress: Receives the stages; nobody if None.

    Raises:
        ConfigError, DataError, ModelError, StructureError: If something cannot be used.
    """
    check(config)
    stages = _Stages(progress or Silent())
    with stages.until_closed(), borrowed(config.threads, config.device):
        inputs, parents = _read(config, stages)
        matchings = _matched(config, parents, (0.5, 0.5), stages)
        states, turned = _aligned(config, parents, matchings, stages)
        aligned = parents.rounded(states[1], 1)
    symmetry = parents.analysis.symmetry
    fits = parent_fits(symmetry, matchings)
    notes = (*inputs.notes, *parents.all_notes, *turned)
    written = inputs.in_layout(aligned, config.written[0][1])
    return AlignResult(config, (written,), symmetry.digest, fits, notes)


def measure_checkpoint(config: StatisticsConfig, progress: Progress | None = None) -> Statistics:
    """Measure the statistics of a checkpoint on its owner's data.

    Args:
        config: Every setting.
        progress: Receives the stages; nobody if None.

    Raises:
        ConfigError, DataError, ModelError, StructureError: If something cannot be used.
    """
    check(config)
    stages = _Stages(progress or Silent())
    with stages.until_closed(), borrowed(config.threads, config.device):
        _, parents = _read(config, stages)
        with stages.stage(f"measuring ({config.combine})"):
            combiner = combiner_for(config.combine, task_of(config))
            return measured(parents, with_statistics(combiner), config.budget)


def merge_checkpoints(config: MergeConfig, progress: Progress | None = None) -> MergeResult:
    """Align checkpoints to the first, combine them, and test the results.

    Args:
        config: Every setting.
        progress: Receives the stages; nobody if None.

    Raises:
        ConfigError, DataError, ModelError, StructureError: If something cannot be used.
    """
    check(config)
    stages = _Stages(progress or Silent())
    weights = fair_weights(config.weights or None, len(config.parents))
    with stages.until_closed(), borrowed(config.threads, config.device):
        inputs, parents = _read(config, stages)
        combiner = combiner_for(config.combine, task_of(config))
        kept = kept_of(parents, config.only, config.except_, config.heads, inputs.statistics)
        check_continuous(
            config.continuous, inputs.statistics, config.heads, padded=any(parents.paddings)
        )
        check_norms(parents.model, kept, combiner)
        if config.heads == "keep":
            parents = parents.without_heads(kept)
        values = fitting_values(parents, combiner, inputs.statistics)
        matchings = _matched(config, parents, weights, stages)
        aligned, turned = _aligned(config, parents, matchings, stages)
        with stages.stage(f"combining ({config.combine})"):
            moved = moved_values(parents, combiner, values, matchings)
            own = parents.own(matchings, aligned)
            full = parents.filled(matchings, own, weights)
            merged, parts = parents.combine_part(combiner, full, weights, kept, moved)
            plain, again = _recalibrated(config, parents, merged, parts, weights)
            chosen = again if recalibrates(config.recalibration, combiner, config.at) else None
            found = [plain if chosen is None else chosen]
            if config.heads == "keep":
                fresh = chosen is not None and config.recalibration != "expected"
                each = parents.with_heads(found[0], own, kept, again=fresh)
                found = [parents.rounded(state, number) for number, state in enumerate(each)]
        comparison: MergeComparison | None = None
        if inputs.test is not None:
            task = task_of(config)
            evaluator = Evaluator(parents, *inputs.test, task, stages.progress)
            with stages.stage("testing"):
                comparison = evaluator.compare(aligned, weights, {"merged": (plain, again)})
    symmetry = parents.analysis.symmetry
    return MergeResult(
        config,
        tuple(
            inputs.in_layout(x, like) for x, (_, like) in zip(found, config.written, strict=True)
        ),
        symmetry.digest,
        parent_fits(symmetry, matchings),
        comparison,
        chosen is not None,
        stages.seconds,
        (*inputs.notes, *parents.all_notes, *turned, *_kept(config, kept, len(merged))),
        tuple(sorted(kept)),
        symmetry.coverage,
        tuple(f"{own.why} ({own.operator} at {own.where})" for own in symmetry.pinned),
    )


def _read(config: ParentsConfig, stages: _Stages) -> tuple[Inputs, Parents]:
    with stages.stage("reading"):
        inputs = read_inputs(config)
        parents = inputs.parents(config)
    with stages.stage("proving the model's symmetry"):
        _ = parents.analysis
    return inputs, parents


def _matched(
    config: AlignConfig, parents: Parents, weights: Sequence[float], stages: _Stages
) -> list[Matching]:
    with stages.stage(f"matching ({config.method})"):
        return parents.match(MATCHERS[config.method], weights)


def _aligned(
    config: AlignConfig, parents: Parents, matchings: Sequence[Matching], stages: _Stages
) -> tuple[list[State], list[str]]:
    """The aligned parents, and notes on what matrices did to them."""
    aligned = parents.align(matchings)
    if not config.continuous:
        return aligned, []
    with stages.stage("aligning by matrices"):
        turned, note = parents.rotate(aligned)
    return turned, [note]


def _recalibrated(
    config: MergeConfig,
    parents: Parents,
    merged: State,
    aligned: Sequence[State],
    weights: Sequence[float],
) -> tuple[State, State | None]:
    """The combined state, and it recalibrated, rounded as written.

    None without BatchNorm, or where there are no data, but for what needs or expects none.
    """
    again: State | None = None
    if config.recalibration == "expected":
        again = parents.expect(merged, aligned, weights)
    elif config.data is not None or config.recalibration == "batchnorm":
        again = parents.recalibrate(merged)
    return parents.rounded(merged), None if again is None else parents.rounded(again)


def _kept(config: MergeConfig, kept: Collection[str], count: int) -> list[str]:
    """A note on what is not merged, where there is anything."""
    if not kept:
        return []
    first = f"'{min(kept)}'" + (f" and {len(kept) - 1} more" if len(kept) > 1 else "")
    whose = "each parent's own" if config.heads == "keep" else "parent 0's"
    return [f"not merged, but {whose}: {first} of {count} entries"]
