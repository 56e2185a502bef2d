"""``dimat topology``: print a topology and its costs."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from jsonargparse import Namespace
from rich.console import Console

from dimat.experiment.config.config import RunConfig, TopologyConfig
from dimat.experiment.config.messages import MOST_CLASSES, MOST_PIXELS, broken_rule, within
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.validate import validate

Mixing = Literal["auto", "metropolis", "uniform", "push"]
SUMMARY = "print a graph and what it costs"


def parser() -> Parser:
    """The parser of ``dimat topology``."""
    own = Parser(
        usage="dimat topology NAME [--agents N] [--OPTION VALUE ...]",
        description="Print a graph, its mixing matrix, its spectral gap and its bytes per round.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("name", help="ring, full, …, directed-ring, one-peer-exponential, or edges (see --path)")
    add("--agents", type=int, default=5, help="number of agents")
    add("--mixing", type=Mixing, default="auto", help="weights")
    add("--path", type=str | None, default=None, help='file with one edge "i j" a line, for edges')
    add("--directed", action="store_true", help='in that file, "i j" means only that j hears i')
    add("--degree", type=int, default=3, help="neighbors of every agent, for random-regular")
    add("--probability", type=float, default=0.5, help="of every edge, for erdos-renyi")
    add("--dropout", type=float, default=0.0, help="probability that an edge is missing at a time")
    add("--seed", type=int, default=0, help="of random graphs and dropout")
    add("--model", type=str, default="resnet20", help="model whose states are sent")
    add("--width", type=float, default=1.0, help="multiplier of its channels")
    add("--image", type=tuple[int, ...], default=(3, 32, 32), help="channels,height,width")
    add("--classes", type=int, default=10, help="number of classes")
    add("--imports", type=tuple[str, ...], default=(), help="modules with graphs of your own")
    return own


def execute(options: Namespace) -> None:
    """Build a topology, and print it with its costs."""
    config = _config(options)
    validate(config)
    from dimat.cli.describe import describe
    from dimat.experiment.setup import build_network
    from dimat.models import build_model
    from dimat.state import num_bytes, state_of
    from dimat.topology import definite

    network = build_network(config.topology, config.agents)
    channels, height, width = options.image
    model = build_model(
        options.model,
        in_channels=channels,
        num_classes=options.classes,
        image_size=(height, width),
        width=options.width,
    )
    rule = definite(options.mixing, directed=network.directed)
    dropout = f", dropout {options.dropout:g}" if options.dropout else ""
    title = f"{network.name}, {rule}{dropout}; {options.model}, width {options.width:g}"
    Console().print(describe(title, network, num_bytes(state_of(model))))


def _config(options: Namespace) -> RunConfig:
    """The options as a run config, which is validated like that of a run."""
    if len(options.image) != 3 or min(options.image) < 1:
        raise broken_rule("image", options.image, "channels,height,width, each >= 1")
    within("classes", options.classes, 1, MOST_CLASSES)
    for size in options.image:
        within("image", size, 1, MOST_PIXELS)
    return RunConfig(
        agents=options.agents,
        model=options.model,
        width=options.width,
        imports=options.imports,
        topology=TopologyConfig(
            **{field.name: options[field.name] for field in fields(TopologyConfig)}
        ),
    )
