"""The settings of ``dimat align`` and ``dimat merge``, in one frozen value each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from dimat.experiment.config import kinds
from dimat.experiment.config.places import check_path

_SPARE = len(".partial")  # what is added to a file's name while it is written
WrittenPath = Annotated[str, partial(check_path, spare=_SPARE)]


@dataclass(frozen=True)
class AlignConfig:
    """The settings of an alignment of two checkpoints.

    Args:
        parents: Checkpoint files; the first one's unit order is the reference.
        out: The .safetensors file to write.
        model: A built-in model's name, or package.module:factory.
        data: digits, npz:PATH, folder:PATH or hf:NAME; units are matched on its training images,
            without labels.
        width: Multiplier of a built-in model's channels.
        shortcut: Kind of shortcuts in ResNets.
        norm: Kind of normalization in ResNets.
        classes: Width of the output; that of the labels if null.
        normalize: MEAN/STD of images in [0, 1], numbers or one a channel:
            .49,.48,.45/.25,.24,.26; 0.5/0.25 if null.
        method: How units are matched: activations, covariance, cosine, consistent, weights,
            identity, or a matcher of your own.
        images: Training images used, at most.
        batch_size: Images of a forward pass.
        device: cpu, cuda, or cuda:N.
        threads: Threads PyTorch may use on the CPU.
        seed: Seed of the choice of images.
        overwrite: Whether files that exist are replaced.
        imports: Modules that register matchers, combiners and sources of your own.
    """

    parents: tuple[kinds.FilePath, ...]
    out: WrittenPath
    model: str
    data: kinds.Source
    width: kinds.Width = 1.0
    shortcut: kinds.Shortcut = "conv3"
    norm: kinds.Norm = "batch"
    classes: kinds.Classes | None = None
    normalize: str | None = None
    method: str = "activations"
    images: kinds.PositiveCount = 2000
    batch_size: kinds.PositiveCount = 250
    device: kinds.Device = "cpu"
    threads: kinds.Threads = 2
    seed: kinds.Seed = 0
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
        combine: How aligned networks become one: average, repair, regression, gram, or a combiner
            of your own.
        weights: Weight of each parent, >= 0, summing to 1; equal weights if empty.
        recalibration: BatchNorm statistics afterwards; auto: unless the combiner fits them.
        report: The JSON file to write; --out as .json if null.
        evaluate: Whether parents and merged networks are tested; if not, no labels are needed.
    """

    combine: str = "average"
    weights: tuple[float, ...] = ()
    recalibration: Literal["auto", "batchnorm", "expected", "none"] = "auto"
    report: WrittenPath | None = None
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
