"""The settings of ``dimat align`` and ``dimat merge``, in one frozen value each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class AlignConfig:
    """The settings of an alignment of two checkpoints.

    Args:
        parents: Checkpoint files; the first one's unit order is the reference.
        out: The safetensors file to write.
        model: A built-in model's name, or ``package.module:factory``.
        data: A data source, such as ``digits`` or ``npz:PATH``; units are matched on its training
            images, without labels.
        width: Multiplier of a built-in model's channels, > 0.
        shortcut: Kind of shortcuts in ResNets.
        norm: Kind of normalization in ResNets.
        classes: Width of the output, >= 1; that of the labels if None.
        normalize: ``MEAN/STD`` of images in [0, 1], one number or one a channel, separated by
            commas; dimat's own, 0.5/0.25, if None.
        method: Registry name of the matcher.
        images: Training images used, at most, >= 1.
        batch_size: Images of a forward pass, >= 1.
        device: cpu, cuda, or cuda:N.
        threads: Threads PyTorch may use on the CPU, >= 1.
        seed: Seed of the choice of images, >= 0.
        overwrite: Whether files that exist are replaced.
        imports: Modules that register matchers, combiners and sources of your own.
    """

    parents: tuple[str, ...]
    out: str
    model: str
    data: str
    width: float = 1.0
    shortcut: Literal["conv3", "conv1", "pad"] = "conv3"
    norm: Literal["batch", "group"] = "batch"
    classes: int | None = None
    normalize: str | None = None
    method: str = "activations"
    images: int = 2000
    batch_size: int = 250
    device: str = "cpu"
    threads: int = 2
    seed: int = 0
    overwrite: bool = False
    imports: tuple[str, ...] = ()

    @property
    def outputs(self) -> dict[str, Path]:
        """The files to write, by the setting that names them."""
        return {"out": Path(self.out)}

    @property
    def labeled(self) -> bool:
        """Whether the data must have labels."""
        return False


@dataclass(frozen=True)
class MergeConfig(AlignConfig):
    """The settings of a merge of two or more checkpoints, beyond those of :class:`AlignConfig`.

    Args:
        combine: Registry name of the combiner.
        weights: Weight of each parent, >= 0, summing to 1; equal weights if empty.
        recalibration: As in :func:`dimat.merge`.
        report: The JSON file to write; ``out`` with the suffix .json if None.
        evaluate: Whether parents and merged networks are tested; if not, no labels are needed.
    """

    combine: str = "average"
    weights: tuple[float, ...] = ()
    recalibration: Literal["auto", "batchnorm", "expected", "none"] = "auto"
    report: str | None = None
    evaluate: bool = True

    @property
    def outputs(self) -> dict[str, Path]:
        """The files to write, by the setting that names them."""
        out = Path(self.out)
        report = out.with_suffix(".json") if self.report is None else Path(self.report)
        return {"out": out, "report": report}

    @property
    def labeled(self) -> bool:
        """Whether the data must have labels."""
        return self.evaluate
