"""Every setting of ``dimat align`` and ``dimat merge``, in one frozen value each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from dimat.experiment.config.places import check_path
from dimat.experiment.config.value_types import (
    Classes,
    Device,
    FilePath,
    Norm,
    PositiveCount,
    Seed,
    Shortcut,
    Source,
    Threads,
    Width,
)

_SPARE = len(".partial")  # what is added to a file's name while it is written
WrittenPath = Annotated[str, partial(check_path, spare=_SPARE)]


@dataclass(frozen=True)
class AlignConfig:
    """One alignment of two checkpoints.

    Args:
        parents: Checkpoint files; the first one's unit order is the reference.
        out: Safetensors file to write.
        model: A built-in model's name, or ``package.module:factory``.
        data: ``digits`` or ``npz:PATH``; the training images are looked at, without labels.
        width: Multiplier of a built-in model's channels.
        shortcut: Shortcuts of ResNets where the shape changes.
        norm: Normalization of ResNets.
        classes: Width of the output; that of the labels if None.
        normalize: ``MEAN/STD`` of images in [0, 1], one number or one a channel, separated by
            commas; dimat's own, 0.5/0.25, if None.
        method: Name of a matcher.
        images: Number of training images that are looked at, at most.
        batch_size: Images a forward pass.
        device: cpu, cuda, or cuda:N.
        threads: Threads PyTorch may use on the CPU.
        seed: Seed of the choice of images.
        overwrite: Whether files that exist are replaced.
        imports: Modules that register matchers, combiners and sources of your own.
    """

    parents: tuple[FilePath, ...]
    out: WrittenPath
    model: str
    data: Source
    width: Width = 1.0
    shortcut: Shortcut = "conv3"
    norm: Norm = "batch"
    classes: Classes | None = None
    normalize: str | None = None
    method: str = "activations"
    images: PositiveCount = 2000
    batch_size: PositiveCount = 250
    device: Device = "cpu"
    threads: Threads = 2
    seed: Seed = 0
    overwrite: bool = False
    imports: tuple[str, ...] = ()

    @property
    def outputs(self) -> dict[str, Path]:
        """Files that are written, by the setting that names them."""
        return {"out": Path(self.out)}

    @property
    def labeled(self) -> bool:
        """Whether labels are needed."""
        return False


@dataclass(frozen=True)
class MergeConfig(AlignConfig):
    """One merge of two or more checkpoints; its settings beside those of :class:`AlignConfig`.

    Args:
        combine: Name of a combiner.
        weights: Weight of each parent, >= 0, summing to 1; equal if empty.
        recalibration: BatchNorm statistics afterwards, as in :func:`dimat.merge`.
        report: JSON file to write; ``out`` with the suffix .json if None.
        evaluate: Whether parents and merged networks are tested; if not, no labels are needed.
    """

    combine: str = "average"
    weights: tuple[float, ...] = ()
    recalibration: Literal["auto", "batchnorm", "expected", "none"] = "auto"
    report: WrittenPath | None = None
    evaluate: bool = True

    @property
    def outputs(self) -> dict[str, Path]:
        """Files that are written, by the setting that names them."""
        out = Path(self.out)
        report = out.with_suffix(".json") if self.report is None else Path(self.report)
        return {"out": out, "report": report}

    @property
    def labeled(self) -> bool:
        """Whether labels are needed."""
        return self.evaluate
