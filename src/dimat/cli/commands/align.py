"""``dimat align``: align the units of a checkpoint with those of another."""

from __future__ import annotations

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.cli.options import add_checkpoint_options, add_continuous
from dimat.experiment.config.parse import Parser, add_settings
from dimat.tools.merge.checks import check
from dimat.tools.merge.settings import AlignConfig

SUMMARY = "put the units of a checkpoint in another one's order"


def parser() -> Parser:
    """The parser of ``dimat align``."""
    own = Parser(
        usage="dimat align A B --model MODEL --data SOURCE --out FILE [--OPTION VALUE ...]",
        description="Write checkpoint B with its units in the order of A's; its function stays.",
        allow_abbrev=False,
    )
    own.add_argument(
        "parents",
        nargs="+",
        type=str,
        help="A and B: .safetensors, .pth, .ckpt and the like, or Hugging Face folders",
    )
    add_checkpoint_options(own)
    add_settings(own, AlignConfig, {"method", "at"})
    add_continuous(own, "let matrices align units too, where they may")
    return own


def execute(options: Namespace) -> None:
    """Align two checkpoints, write the state, and print the table and the file."""
    config = AlignConfig(**{**vars(options), "parents": tuple(options.parents)})
    check(config)
    from rich.console import Console

    with importing():
        from dimat.experiment.progress import LiveProgress
        from dimat.tools.merge.run import align_checkpoints
        from dimat.tools.merge.tables import align_table
        from dimat.tools.merge.write import write_aligned

    result = align_checkpoints(config, LiveProgress())
    write_aligned(result)
    console = Console()
    console.print(align_table(result))
    console.print(f"aligned state: {config.out}", markup=False, highlight=False, soft_wrap=True)
