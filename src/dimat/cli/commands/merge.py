"""``dimat merge``: merge checkpoints of one model."""

from __future__ import annotations

from jsonargparse import Namespace

from dimat.cli.options import add_checkpoint_options
from dimat.experiment.config.parse import Parser, add_settings
from dimat.tools.merge.checks import check
from dimat.tools.merge.settings import MergeConfig

SUMMARY = "merge checkpoints of one model into one"


def parser() -> Parser:
    """The parser of ``dimat merge``."""
    own = Parser(
        usage="dimat merge A B [C ...] --model MODEL --data SOURCE --out FILE [--OPTION VALUE ...]",
        description="Align checkpoints of one model to the first, combine them into one, test it.",
        epilog="Without any data: the owner of each checkpoint sends what 'dimat statistics' "
        "writes, then 'dimat merge a.safetensors b.safetensors --model mlp --classes 10 --method "
        "weights --combine gram --statistics of-a.safetensors of-b.safetensors --out "
        "merged.safetensors'; nothing is tested then.",
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
    names = {"method", "at", "combine", "weights", "heads", "recalibration", "report"}
    add_settings(own, MergeConfig, names)
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
    return own


def execute(options: Namespace) -> None:
    """Merge checkpoints, write state and report, and print the tables and the files."""
    names = ("parents", "statistics", "only", "except_")
    listed = {name: tuple(options[name]) for name in names}
    settings = {**vars(options), **listed}
    settings["evaluate"] = not settings.pop("no_evaluate")
    config = MergeConfig(**settings)
    check(config)
    from rich.console import Console

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
