"""``dimat merge``: merge checkpoints of one model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.cli.options import add_checkpoint_options, add_continuous
from dimat.experiment.config.parse import Parser, add_settings
from dimat.tools.adapters.settings import AdaptersConfig
from dimat.tools.adapters.settings import check as check_adapters
from dimat.tools.merge.checks import check
from dimat.tools.merge.settings import MergeConfig

SUMMARY = "merge checkpoints of one model into one"


def parser() -> Parser:
    """The parser of ``dimat merge``."""
    own = _MergeParser(
        usage="dimat merge A B [C ...] --model MODEL --data SOURCE --out FILE [--OPTION VALUE ...]"
        "\n       dimat merge --adapters A B [C ...] --out DIR [--combine WAY] [--rank R]",
        description="Align checkpoints of one model to the first, combine them into one, test it.",
        epilog="Without any data: the owner of each checkpoint sends what 'dimat statistics' "
        "writes, then 'dimat merge a.safetensors b.safetensors --model mlp --classes 10 --method "
        "weights --combine gram --statistics of-a.safetensors of-b.safetensors --out "
        "merged.safetensors'; nothing is tested then. "
        "Of LoRA adapters: 'dimat merge --adapters --help'.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add(
        "parents",
        nargs="+",
        type=str,
        help="checkpoints: .safetensors, .pth, .ckpt and the like, or Hugging Face folders",
    )
    add_checkpoint_options(own)
    names = {"method", "at", "combine", "weights", "heads", "recalibration", "widths", "report"}
    add_settings(own, MergeConfig, names)
    add_continuous(own, "let matrices align units too, where they may")
    sent = (
        "for gram, files of 'dimat statistics', one a parent, in order; data may then be left out"
    )
    add("--statistics", nargs="+", type=str, default=[], metavar="FILE", help=sent)
    part = "patterns of entry names, such as 'layer1.*': nothing else is merged"
    add("--only", nargs="+", type=str, default=[], metavar="PATTERN", help=part)
    rest = "patterns of entry names that are not merged, but are the first checkpoint's"
    add("--except", nargs="+", type=str, default=[], metavar="PATTERN", dest="except_", help=rest)
    untested = "do not test; the data then need no labels"
    add("--no-evaluate", action="store_true", help=untested)
    adapters = "merge folders of LoRA adapters instead, with options of their own"
    add("--adapters", nargs="+", type=str, default=[], metavar="DIR", help=adapters)
    add("--given", type=dict, default={}, help=argparse.SUPPRESS)
    return own


class _MergeParser(Parser):
    """A parser that has others parse the options of a merge of adapters."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        """Parse a command line; ``given`` of the result has the settings of adapters, if any."""
        words = list(sys.argv[1:] if args is None else args)
        if not any(word.partition("=")[0] == "--adapters" for word in words):
            return super().parse_args(words, *rest, **kwargs)
        given = dict(vars(_adapters_parser().parse_args(words)))
        unused = ["-", "--model", "-", "--out", "-"]  # what is required where there are no adapters
        found = super().parse_args(unused, *rest, **kwargs)
        found["given"] = given
        return found


def _adapters_parser() -> Parser:
    """The parser of ``dimat merge --adapters``."""
    own = Parser(
        prog="dimat merge",
        usage="dimat merge --adapters A B [C ...] --out DIR [--combine WAY] [--rank R]",
        description="Combine LoRA adapters of one base, in PEFT's folders, into one folder. "
        "Neither the base nor peft is needed, and no pickle is read.",
        allow_abbrev=False,
    )
    add = own.add_argument
    told = "folders with adapter_config.json and adapter_model.safetensors"
    add("--adapters", nargs="*", type=str, default=[], metavar="DIR", help=told)
    add_settings(own, AdaptersConfig, {"out", "combine", "rank", "weights"})
    return own


def execute(options: Namespace) -> None:
    """Merge checkpoints, write state and report, and print the tables and the files."""
    if options.get("given"):
        _merge_adapters(options["given"])
        return
    names = ("parents", "statistics", "only", "except_")
    listed = {name: tuple(options[name]) for name in names}
    settings = {k: x for k, x in vars(options).items() if k not in ("adapters", "given")} | listed
    settings["evaluate"] = not settings.pop("no_evaluate")
    config = MergeConfig(**settings)
    check(config)
    from rich.console import Console

    with importing():
        from dimat.experiment.progress import LiveProgress
        from dimat.tools.merge.run import merge_checkpoints
        from dimat.tools.merge.tables import merge_tables
        from dimat.tools.merge.write import report_of, write_merge
        from dimat.tools.report.merged import merge_page

    result = merge_checkpoints(config, LiveProgress())
    write_merge(result, merge_page(report_of(result)) if config.has_page else None)
    console = Console()
    console.print(merge_tables(result))
    for name, path in config.outputs:
        where = {"out": "merged state", "report": "report"}[name]
        console.print(f"{where}: {path}", markup=False, highlight=False, soft_wrap=True)


def _merge_adapters(options: Mapping[str, Any]) -> None:
    """Merge adapters, write the folder, and print the table."""
    config = AdaptersConfig(**{**options, "adapters": tuple(options["adapters"])})
    check_adapters(config)
    from rich.console import Console

    with importing():
        from dimat.experiment.progress import LiveProgress
        from dimat.tools.adapters.run import merge_adapters
        from dimat.tools.adapters.table import adapters_table
        from dimat.tools.adapters.write import write_adapters

    result = merge_adapters(config, LiveProgress())
    write_adapters(result)
    console = Console()
    console.print(adapters_table(result))
    console.print(f"merged adapter: {config.out}", markup=False, highlight=False, soft_wrap=True)
