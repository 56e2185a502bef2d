"""The handshake of the processes of one experiment: settings and digests that must be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import reduce

from dimat.experiment.config.messages import setting_types
from dimat.experiment.digests import data_digest, topology_facts
from dimat.experiment.setup import Setup

# Settings that may differ between machines: they change no number, or only that machine's.
_OWN = (
    *("out", "overwrite", "device", "threads", "vectorize", "eval_every", "log", "controls"),
    *("imports", "exchange.timeout_s", "exchange.patience_s"),
    *("checkpoint.every", "checkpoint.keep", "diagnostics.barrier_images", "data.source"),
)


def handshake(setup: Setup, *, matches: bool) -> Mapping[str, str]:
    """Every shared setting by name, and digests of the graph, the data and the model's symmetry.

    Args:
        setup: The setup of the run in this process.
        matches: Whether units are matched, so that the model's symmetry matters.
    """
    found = {
        name: str(reduce(getattr, name.split("."), setup.config))
        for name in setting_types()
        if name not in _OWN
    }
    graph = json.dumps(topology_facts(setup.topology), sort_keys=True)
    found["graph"] = hashlib.sha256(graph.encode()).hexdigest()[:16]
    found["data"] = data_digest(setup)[:16]
    if matches:
        found["symmetry"] = setup.analysis.symmetry.digest[:16]
    return found
