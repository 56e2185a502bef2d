"""The command line: parse, call, print. Errors are one line on stderr, never a traceback.

Exit codes: 0 done, 1 the run went wrong, 2 bad input, 130 interrupted. What needs PyTorch is
imported where it is used, so that ``--help`` and mistyped settings answer at once.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Literal

from jsonargparse import Namespace
from rich.console import Console

from dimat.errors import DimatError
from dimat.experiment.complaints import broken_rule
from dimat.experiment.config import RunConfig, TopologyConfig
from dimat.experiment.settings import Parser, config_of, settings_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of the process if None) and return the exit code."""
    try:
        arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
        _COMMANDS[arguments.command](arguments[arguments.command])
    except DimatError as error:
        print("dimat: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("dimat: interrupted; what was recorded so far is kept", file=sys.stderr)
        return 130
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="dimat",
        usage="dimat [--version] COMMAND ...",
        description="Decentralized deep learning by iterative merging and training.",
        version=importlib.metadata.version("dimat"),
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("run", settings_parser(), help="train, merge and evaluate agents")
    commands.add_subcommand("topology", _topology_parser(), help="print a graph and what it costs")
    commands.add_subcommand("symmetry", _symmetry_parser(), help="print what a model may permute")
    return parser


def _topology_parser() -> Parser:
    parser = Parser(
        usage="dimat topology NAME [--agents N] [--OPTION VALUE ...]",
        description="Print a graph, its mixing matrix, its spectral gap and its bytes per round.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", help="ring, full, star, torus, exponential, bipartite, or edges (see --path)")
    add("--agents", type=int, default=5, help="number of agents")
    add("--mixing", type=Literal["metropolis", "uniform"], default="metropolis", help="weights")
    add("--path", type=str | None, default=None, help='file with one edge "i j" a line, for edges')
    add("--model", type=str, default="resnet20", help="model whose states are sent")
    add("--width", type=float, default=1.0, help="multiplier of its channels")
    add("--image", type=tuple[int, ...], default=(3, 32, 32), help="channels,height,width")
    add("--classes", type=int, default=10, help="number of classes")
    return parser


def _symmetry_parser() -> Parser:
    parser = Parser(
        usage="dimat symmetry --model MODEL [--input SHAPE] [--OPTION VALUE ...]",
        description="Find what may be permuted in a model, prove it by execution, and print it.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", type=str, default="resnet20", help="built-in, or package.module:factory")
    add("--width", type=float, default=1.0, help="multiplier of a built-in model's channels")
    add("--shortcut", type=Literal["conv3", "conv1", "pad"], default="conv3", help="of ResNets")
    add("--norm", type=Literal["batch", "group"], default="batch", help="of ResNets")
    add("--classes", type=int, default=10, help="number of classes")
    add("--input", type=tuple[int, ...], default=(2, 3, 32, 32), help="shape, batch first")
    add("--json", action="store_true", help="print all of it as JSON, for programs")
    return parser


def _run(settings: Namespace) -> None:
    from dimat.experiment.validate import validate

    config = config_of(settings)
    validate(config)
    from dimat.experiment.display import LiveProgress, results_table
    from dimat.experiment.run import run

    observer = LiveProgress()
    try:
        result = run(config, observer)
    finally:
        observer.close()
    console = Console()
    console.print(results_table(result))
    console.print(f"run folder: {result.folder}", markup=False, highlight=False, soft_wrap=True)


def _symmetry(options: Namespace) -> None:
    shape = tuple(options.input)
    if len(shape) < 2 or min(shape) < 1:
        raise broken_rule("input", shape, "batch and at least one more size, each >= 1")
    if options.classes < 1:
        raise broken_rule("classes", options.classes, ">= 1")
    import torch

    from dimat.experiment.describe import describe_symmetry
    from dimat.models import build_for_input
    from dimat.symmetry import find_symmetry

    settings = {"width": options.width, "shortcut": options.shortcut, "norm": options.norm}
    model = build_for_input(options.model, shape, options.classes, **settings)
    with Console(stderr=True).status(f"tracing and proving {options.model}"):
        symmetry = find_symmetry(model, (torch.zeros(shape),))
    if options.json:
        print(symmetry.to_json())
        return
    Console().print(describe_symmetry(options.model, symmetry))


def _topology(options: Namespace) -> None:
    from dimat.experiment.describe import describe
    from dimat.experiment.validate import validate
    from dimat.models import build_model
    from dimat.state import num_bytes, state_of
    from dimat.topology import build_topology

    config = _topology_config(options)
    validate(config)
    name, path, mixing = options.name, options.path, options.mixing
    topology = build_topology(name, options.agents, mixing=mixing, path=path)
    channels, height, width = options.image
    model = build_model(
        options.model,
        in_channels=channels,
        num_classes=options.classes,
        image_size=(height, width),
        width=options.width,
    )
    title = f"{name}, {mixing}; {options.model}, width {options.width:g}"
    Console().print(describe(title, topology, num_bytes(state_of(model))))


def _topology_config(options: Namespace) -> RunConfig:
    """The options as a config, so that one place says what may be in them."""
    if len(options.image) != 3 or min(options.image) < 1:
        raise broken_rule("image", options.image, "channels,height,width, each >= 1")
    if options.classes < 1:
        raise broken_rule("classes", options.classes, ">= 1")
    return RunConfig(
        agents=options.agents,
        model=options.model,
        width=options.width,
        topology=TopologyConfig(options.name, options.path, options.mixing),
    )


_COMMANDS = {"run": _run, "topology": _topology, "symmetry": _symmetry}
