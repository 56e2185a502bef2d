"""``dimat topology``: print a topology and its costs."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.experiment.config import kinds
from dimat.experiment.config.config import RunConfig, TopologyConfig
from dimat.experiment.config.parse import Parser, add_settings
from dimat.experiment.config.rules import broken_rule, check
from dimat.experiment.config.validate import check_model, validate_topology

Mixing = Literal["auto", "metropolis", "uniform", "push"]
SUMMARY = "print a graph and what it costs"
_DEFAULT = ("resnet20", 1.0, 10, (3, 32, 32))  # model, width, classes, image
DEFAULT_BYTES = 1_178_256  # of its state: PyTorch takes longer to import than all else here


def parser() -> Parser:
    """The parser of ``dimat topology``."""
    own = Parser(
        usage="dimat topology NAME [--agents N] [--OPTION VALUE ...]",
        description="Print a graph, its mixing matrix, its spectral gap and its bytes per round.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("name", help="ring, full, …, directed-ring, one-peer-exponential, or edges (see --path)")
    add_settings(own, RunConfig, {"agents", "width"})
    add("--mixing", type=Mixing, default="auto", help="weights")
    add("--directed", action="store_true", help='in that file, "i j" means only that j hears i')
    add_settings(own, TopologyConfig, {"path", "degree", "probability", "dropout", "seed"})
    add("--model", type=str, default=_DEFAULT[0], help="model whose states are sent")
    add("--image", type=tuple[int, ...], default=_DEFAULT[3], help="channels,height,width")
    add("--classes", type=int, default=_DEFAULT[2], help="number of classes")
    add("--imports", type=tuple[str, ...], default=(), help="modules with graphs of your own")
    return own


def execute(options: Namespace) -> None:
    """Build a topology, and print it with its costs."""
    config = _config(options)
    validate_topology(config)
    state_bytes = _state_bytes(options)
    from rich.console import Console

    from dimat.cli.describe import describe
    from dimat.experiment.network import build_network
    from dimat.experiment.unread import unread_graph
    from dimat.topology import definite

    network = build_network(config.topology, config.agents)
    rule = definite(options.mixing, directed=network.directed)
    dropout = f", dropout {options.dropout:g}" if options.dropout else ""
    title = f"{network.name}, {rule}{dropout}; {options.model}, width {options.width:g}"
    Console().print(describe(title, network, state_bytes))
    for note in unread_graph(config):
        Console(stderr=True).print(note, highlight=False, soft_wrap=True)


def _state_bytes(options: Namespace) -> int:
    """Bytes of one state of the model; the model is built, unless it is the default."""
    if (options.model, options.width, options.classes, options.image) == _DEFAULT:
        return DEFAULT_BYTES
    with importing():
        check_model(options.model)
        from dimat.models import build_model
        from dimat.state import num_bytes, state_of

    channels, height, width = options.image
    model = build_model(
        options.model,
        in_channels=channels,
        num_classes=options.classes,
        image_size=(height, width),
        width=options.width,
    )
    return num_bytes(state_of(model))


def _config(options: Namespace) -> RunConfig:
    """The options as a run config, which is validated like that of a run."""
    if len(options.image) != 3 or min(options.image) < 1:
        raise broken_rule("image", options.image, "channels,height,width, each >= 1")
    check("classes", options.classes, kinds.Classes)
    check("image", options.image, tuple[kinds.Pixels, ...])
    return RunConfig(
        agents=options.agents,
        model=options.model,
        width=options.width,
        imports=options.imports,
        topology=TopologyConfig(
            **{field.name: options[field.name] for field in fields(TopologyConfig)}
        ),
    )
