"""``dimat symmetry``: print the symmetry of a model."""

from __future__ import annotations

import math

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.cli.options import add_continuous
from dimat.errors import ConfigError
from dimat.experiment.config import kinds
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.parse import Parser, add_settings
from dimat.experiment.config.rules import broken_rule, check
from dimat.experiment.config.validate import validate

SUMMARY = "print what a model may permute"


def parser() -> Parser:
    """The parser of ``dimat symmetry``."""
    own = Parser(
        usage="dimat symmetry --model MODEL [--input SHAPE] [--OPTION VALUE ...]",
        description="Find what may be permuted in a model, prove it by execution, and print it.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("--model", type=str, default="resnet20", help="built-in, or package.module:factory")
    add_settings(own, RunConfig, {"width", "shortcut", "norm"})
    add("--classes", type=int, default=10, help="number of classes")
    shape = "shape, batch first; by default 2,3,32,32, and 2,16 with --tokens"
    add("--input", type=tuple[int, ...], default=(), metavar="SHAPE", help=shape)
    ids = "number of tokens that inputs are ids of, for models of texts; 0: inputs are numbers"
    add("--tokens", type=int, default=0, help=ids)
    part = "a submodule, such as encoder, that alone is looked into; null: all of the model"
    add("--at", type=str | None, default=None, metavar="NAME", help=part)
    add_continuous(own, "look for what matrices may act on, too")
    add("--json", action="store_true", help="print all of it as JSON, for programs")
    return own


def execute(options: Namespace) -> None:
    """Find the symmetry of a model, and print it."""
    tokens = options.tokens
    check("tokens", tokens, kinds.Count)
    shape = tuple(options.input or ((2, 16) if tokens else (2, 3, 32, 32)))
    if len(shape) < 2 or min(shape) < 1:
        raise broken_rule("input", shape, "batch and at least one more size, each >= 1")
    if options.continuous and (options.at is not None or options.json):
        clash = "at" if options.at is not None else "json"
        raise ConfigError(f"'continuous' is of whole models, in print: leave '{clash}' out")
    check("classes", options.classes, kinds.Classes)
    check("input", shape, tuple[kinds.Pixels, ...])
    with importing():
        validate(RunConfig(model=options.model, width=options.width))
        import torch
        from rich.console import Console

        from dimat.cli.describe import describe_matrices, describe_symmetry
        from dimat.models import build_for_input
        from dimat.state import memory_bytes
        from dimat.symmetry import find_symmetry
        from dimat.symmetry.continuous import find_continuous_symmetry

    settings = {"width": options.width, "shortcut": options.shortcut, "norm": options.norm}
    if (needed := 4 * math.prod(shape)) > memory_bytes():
        raise broken_rule("input", shape, f"smaller: that is {needed / 1e9:,.0f} GB")
    model = build_for_input(options.model, shape, options.classes, num_tokens=tokens, **settings)
    example = torch.zeros(shape, dtype=torch.int64 if tokens else None)
    with Console(stderr=True).status(f"tracing and proving {options.model}"):
        symmetry = find_symmetry(model, (example,), at=options.at)
        matrices = find_continuous_symmetry(model, example) if options.continuous else None
    if options.json:
        print(symmetry.to_json())
        return
    Console().print(describe_symmetry(options.model, symmetry))
    if matrices is not None:
        Console().print(describe_matrices(matrices))
