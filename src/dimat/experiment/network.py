"""The graph of a run, from its settings; nothing here needs PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from dimat.experiment.config.config import TopologyConfig
from dimat.topology import GraphOptions, Network, build_topology


def build_network(
    config: TopologyConfig, agents: int, shard_sizes: Sequence[int] | None = None
) -> Network:
    """The topology that the settings describe; see :func:`build_topology`.

    Args:
        config: Settings of the topology.
        agents: Number of agents, >= 1.
        shard_sizes: Training images of each agent, for mixing by shard size.
    """
    options = GraphOptions(
        config.path, config.directed, config.degree, config.probability, config.seed
    )
    return build_topology(
        config.name,
        agents,
        mixing=config.mixing,
        options=options,
        dropout=config.dropout,
        shard_sizes=shard_sizes,
    )
