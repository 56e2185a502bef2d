"""The settings of ``dimat align``, ``merge`` and ``statistics``, in one frozen value each."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from dimat.experiment.config import kinds
from dimat.experiment.config.places import check_path

_SPARE = len(".partial")  # what is added to a file's name while it is written
PAGE = ".html"  # the suffix of a report that is a page
LISTED = ("statistics", "only", "except_")  # settings of which the command line has several words
WrittenPath = Annotated[str, partial(check_path, spare=_SPARE)]


@dataclass(frozen=True)
class ParentsConfig:
    """The settings of all that reads checkpoints.

    Args:
        parents: Checkpoint files, or folders in the layout of Hugging Face.
        out: The .safetensors file to write, or a folder in the layout of a parent that is one.
        model: A built-in model's name, or package.module:factory.
        data: digits, npz:PATH, folder:PATH, csv:PATH, jsonl:PATH, parquet:PATH or hf:NAME; its
            training samples are looked at, without targets.
        task: What the checkpoints have learned: classification, regression, multilabel,
            segmentation, language-modeling, or package.module:factory of your own.
        kind: Whether inputs are images, or arrays that models get as they are; auto: as the source
            finds them.
        target: Columns of a table that are the targets.
        target_mean: As data.target_mean of the runs that trained the checkpoints: their outputs are
            in standard units.
        target_scale: As data.target_scale of those runs.
        leave_out: Columns of a table that are no inputs either.
        categories: Columns of a table that have categories, with all of them in their order, as in
            training: color=red|blue.
        fill: The number in place of missing ones in a table; null: what is missing is refused.
        text: The column of a table whose texts are the inputs.
        tokenizer: Name on the Hugging Face Hub, or folder, of the tokenizer of those texts.
        max_length: Tokens of a text that are kept.
        test_share: Share of the samples to test on, of sources that do not say which: those that
            dimat run tests on.
        width: Multiplier of a built-in model's channels.
        shortcut: Kind of shortcuts in ResNets.
        norm: Kind of normalization in ResNets.
        key: The entry of every checkpoint that is the state, or a prefix of the names in it;
            state_dict, model_state_dict, model, or the only one that holds tensors, if null.
        classes: Width of the output; that of the labels, or other targets, if null.
        normalize: MEAN/STD of images in [0, 1], numbers or one a channel:
            .49,.48,.45/.25,.24,.26; 0.5/0.25 if null.
        images: Training samples used, at most.
        batch_size: Samples of a forward pass.
        device: cpu, cuda, or cuda:N.
        threads: Threads PyTorch may use on the CPU.
        seed: Seed of the choice of samples.
        overwrite: Whether files that exist are replaced.
        imports: Modules that register matchers, combiners, sources and tasks of your own.
    """

    parents: tuple[kinds.FilePath, ...]
    out: WrittenPath
    model: str
    data: kinds.Source | None = None
    task: str = "classification"
    kind: Literal["auto", "images", "arrays"] = "auto"
    target: tuple[str, ...] = ()
    target_mean: kinds.Finite = 0.0
    target_scale: kinds.Scale = 1.0
    leave_out: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fill: kinds.Finite | None = None
    text: str | None = None
    tokenizer: str | None = None
    max_length: kinds.PositiveCount = 128
    test_share: kinds.Fraction = 0.2
    width: kinds.Width = 1.0
    shortcut: kinds.Shortcut = "conv3"
    norm: kinds.Norm = "batch"
    key: str | None = None
    classes: kinds.Classes | None = None
    normalize: str | None = None
    images: kinds.PositiveCount = 2000
    batch_size: kinds.PositiveCount = 250
    device: kinds.Device = "cpu"
    threads: kinds.Threads = 2
    seed: kinds.Seed = 0
    overwrite: bool = False
    imports: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files of checkpoints and of what is known of them."""
        return self.parents

    @property
    def written(self) -> list[tuple[Path, str | None]]:
        """The places of the states to write; of folders, with the parent whose layout they have."""
        return [(Path(self.out), self._layout(self.parents[-1]))]

    @property
    def outputs(self) -> list[tuple[str, Path]]:
        """The places to write, each after the setting that names it."""
        return [("out", path) for path, _ in self.written]

    def _layout(self, parent: str) -> str | None:
        return None if Path(self.out).suffix == ".safetensors" else parent

    @property
    def labeled(self) -> bool:
        """Whether the data must have labels."""
        return False


@dataclass(frozen=True)
class StatisticsConfig(ParentsConfig):
    """The settings of a measurement of statistics, beyond those of :class:`ParentsConfig`.

    Args:
        combine: The combiner that the statistics are for: gram, fisher, or one of your own that
            takes any.
        budget: Numbers of statistics for each number of the weights, at most; owners of checkpoints
            that are merged must have the same.
    """

    combine: str = "gram"
    budget: kinds.Positive = 5.0


@dataclass(frozen=True)
class AlignConfig(ParentsConfig):
    """The settings of an alignment of two checkpoints, beyond those of :class:`ParentsConfig`.

    Args:
        method: How units are matched: activations, covariance, cosine, consistent, weights,
            identity, or a matcher of your own.
        at: Name of a submodule, such as encoder, that alone has its units matched, for a model that
            cannot be exported as a whole; null: the whole model.
        continuous: Whether matrices align the units too, where nothing nonlinear stands between
            two weights: in heads of attention, on normed residual streams, in adapters.
    """

    method: str = "activations"
    at: str | None = None
    continuous: bool = False


@dataclass(frozen=True)
class MergeConfig(AlignConfig):
    """The settings of a merge of two or more checkpoints, beyond those of :class:`AlignConfig`.

    Args:
        combine: How aligned networks become one: average, repair, regression, gram, fisher,
            lora-aligned or lora-product (of low-rank adapters), or a combiner of your own.
        statistics: For gram or fisher, files of dimat statistics, one a parent, in the same order;
            data may then be left out. If empty, all is measured on the data.
        weights: Weight of each parent, >= 0, summing to 1; equal weights if empty.
        only: Patterns of entry names, such as 'layer1.*': nothing else is merged, but is the first
            parent's.
        except_: Patterns of entry names that are not merged.
        heads: merge; or keep: parents may have heads of other shapes, and each keeps its own, and
            all that is not merged, on the merged trunk: OUT-0, OUT-1, … are written, one a parent.
        recalibration: BatchNorm statistics afterwards; auto: unless the combiner fits them.
        widths: same; or pad: parents may be narrower than the model, and get silent units; what a
            unit reads is averaged over the parents that have it.
        report: The JSON file to write, --out as .json if null; or a page, if it ends in .html,
            beside the JSON file.
        evaluate: Whether parents and merged networks are tested, if there are data; if not, no
            labels are needed.
    """

    combine: str = "average"
    statistics: tuple[kinds.FilePath, ...] = ()
    weights: tuple[float, ...] = ()
    only: tuple[str, ...] = ()
    except_: tuple[str, ...] = ()
    heads: Literal["merge", "keep"] = "merge"
    recalibration: Literal["auto", "batchnorm", "expected", "none"] = "auto"
    widths: Literal["same", "pad"] = "same"
    report: WrittenPath | None = None
    evaluate: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files of checkpoints and of what is known of them."""
        return (*self.parents, *self.statistics)

    @property
    def written(self) -> list[tuple[Path, str | None]]:
        """The places of the states to write: one, or, where heads are kept, one a parent."""
        out, first = Path(self.out), self.parents[0]
        if self.heads == "merge":
            return [(out, self._layout(first))]
        end = ".safetensors" if self._layout(first) is None else ""
        stem = out.name.removesuffix(end)
        return [
            (out.with_name(f"{stem}-{number}{end}"), self._layout(parent))
            for number, parent in enumerate(self.parents)
        ]

    @property
    def outputs(self) -> list[tuple[str, Path]]:
        """The places to write, each after the setting that names it."""
        out = Path(self.out)
        report = out.with_name(f"{out.name.removesuffix('.safetensors')}.json")
        given = None if self.report is None else Path(self.report)
        if given is None:
            return [*super().outputs, ("report", report)]
        if given.suffix != PAGE:
            return [*super().outputs, ("report", given)]
        return [*super().outputs, ("report", report), ("report", given)]

    @property
    def has_page(self) -> bool:
        """Whether the report is written as a page as well."""
        return self.report is not None and Path(self.report).suffix == PAGE

    @property
    def command(self) -> str:
        """The command that merges like this again."""
        words = ["dimat", "merge", *self.parents]
        for own in fields(self):
            value, name = getattr(self, own.name), own.name.strip("_").replace("_", "-")
            if own.name in ("parents", "overwrite") or value == own.default:
                continue
            if own.name == "evaluate":
                words += ["--no-evaluate"]
            elif own.name == "continuous":
                words += ["--continuous"]
            elif own.name in LISTED:
                words += [f"--{name}", *value]
            else:
                joined = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [f"--{name}", joined]
        return shlex.join(words)

    @property
    def labeled(self) -> bool:
        """Whether the data must have labels."""
        return self.evaluate
