"""Every setting of ``dimat align`` and ``dimat merge``, in one frozen value each."""

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
    """One alignment of two checkpoints.

    Args:
        parents: Checkpoint files; the first one's unit order is the reference.
        out: The .safetensors file to write.
        model: Built-in, or package.module:factory.
        data: digits, npz:PATH, folder:PATH or hf:NAME; labels are for testing only.
        width: Multiplier of a built-in model's channels.
        shortcut: Shortcuts of ResNets where the shape changes.
        norm: Normalization of ResNets.
        classes: Width of the output; that of the labels if null.
        normalize: MEAN/STD of images in [0, 1], numbers or one a channel:
            .49,.48,.45/.25,.24,.26; 0.5/0.25 if null.
        method: How units are matched.
        images: Training images looked at, at most.
        batch_size: Images a forward pass.
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
        combine: How aligned networks are combined.
        weights: One per parent, >= 0, summing to 1; equal by default.
        recalibration: BatchNorm statistics afterwards; auto: unless the combiner fits them.
        report: JSON file to write; --out as .json if null.
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
