"""``dimat statistics``: what the owner of a checkpoint sends along for a merge without data."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.cli.options import add_checkpoint_options
from dimat.experiment.config.parse import Parser, add_settings
from dimat.tools.merge.checks import check
from dimat.tools.merge.settings import StatisticsConfig

SUMMARY = "measure what a checkpoint's owner sends for a merge without data"


def parser() -> Parser:
    """The parser of ``dimat statistics``."""
    own = Parser(
        usage="dimat statistics STATE --model MODEL --data SOURCE --out FILE [--OPTION VALUE ...]",
        description="Measure a checkpoint's statistics on its owner's images and write them, for "
        "a merge elsewhere without these images.",
        epilog="Such as 'dimat statistics a.safetensors --model mlp --data npz:own.npz --classes "
        "10 --out of-a.safetensors'; then 'dimat merge --help'. The file reveals second moments "
        "of the images: see docs/merging.md.",
        allow_abbrev=False,
    )
    own.add_argument(
        "state",
        type=str,
        help="checkpoint: .safetensors, .pth, .ckpt and the like, or a Hugging Face folder",
    )
    add_checkpoint_options(own)
    add_settings(own, StatisticsConfig, {"combine", "budget"})
    return own


def execute(options: Namespace) -> None:
    """Measure the statistics of a checkpoint, write them, and print the file and its size."""
    settings = vars(options)
    config = StatisticsConfig(parents=(settings.pop("state"),), **settings)
    check(config)
    from rich.console import Console

    with importing():
        from dimat.experiment.progress import LiveProgress
        from dimat.tools.format import human_bytes
        from dimat.tools.merge.run import measure_checkpoint

    found = measure_checkpoint(config, LiveProgress())
    found.save(config.out)
    size = human_bytes(Path(config.out).stat().st_size)
    unit = "images" if any(len(shape) == 4 for shape in found.inputs) else "samples"
    told = f"statistics: {config.out} ({size}, of {found.samples} {unit})"
    Console().print(told, markup=False, highlight=False, soft_wrap=True)
