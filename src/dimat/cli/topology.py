"""``dimat topology``."""

from __future__ import annotations

from typing import Literal

from jsonargparse import Namespace
from rich.console import Console

from dimat.experiment.complaints import broken_rule
from dimat.experiment.config import RunConfig, TopologyConfig
from dimat.experiment.settings import Parser

SUMMARY = "print a graph and what it costs"


def parser() -> Parser:
    """Its options."""
    own = Parser(
        usage="dimat topology NAME [--agents N] [--OPTION VALUE ...]",
        description="Print a graph, its mixing matrix, its spectral gap and its bytes per round.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("name", help="ring, full, star, torus, exponential, bipartite, or edges (see --path)")
    add("--agents", type=int, default=5, help="number of agents")
    add("--mixing", type=Literal["metropolis", "uniform"], default="metropolis", help="weights")
    add("--path", type=str | None, default=None, help='file with one edge "i j" a line, for edges')
    add("--model", type=str, default="resnet20", help="model whose states are sent")
    add("--width", type=float, default=1.0, help="multiplier of its channels")
    add("--image", type=tuple[int, ...], default=(3, 32, 32), help="channels,height,width")
    add("--classes", type=int, default=10, help="number of classes")
    return own


def execute(options: Namespace) -> None:
    """Build and print it."""
    from dimat.experiment.describe import describe
    from dimat.experiment.validate import validate
    from dimat.models import build_model
    from dimat.state import num_bytes, state_of
    from dimat.topology import build_topology

    config = _config(options)
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


def _config(options: Namespace) -> RunConfig:
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
