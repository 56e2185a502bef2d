"""The handshake of the processes of one experiment: settings and digests that must be equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import reduce

from dimat.experiment.config.messages import setting_types
from dimat.experiment.digests import data_digest, topology_facts
from dimat.experiment.setup import Setup, input_shape

# Settings that may differ between machines: they change no number, or only that machine's.
_OWN = (
    *("out", "overwrite", "device", "threads", "vectorize", "eval_every", "log", "controls"),
    *("imports", "exchange.timeout_s", "exchange.wait_s", "exchange.patience_s"),
    *("checkpoint.every", "checkpoint.keep", "diagnostics.barrier_images"),
    *("data.source", "data.test_source"),
)
# A later setting is not said at its default: checkpoints of agents of older versions lack it.
_UNSAID = {"exchange.what": "all"}
# The same of agents with data of their own: which images each has, and how it trains on them.
_OF_OWN_DATA = (
    *("data.train_images", "data.validation", "data.augment", "data.test_share"),
    *("data.leave_out", "data.fill"),
    *("batch_size", "pretrain_epochs", "local_epochs", "local_steps"),
)


def handshake(setup: Setup, *, matches: bool) -> Mapping[str, str]:
    """Every shared setting by name, and digests of the graph, the data and the model's symmetry.

    Agents with data of their own say the shape of their images in place of the data's digest.

    Args:
        setup: The setup of the run in this process.
        matches: Whether units are matched, so that the model's symmetry matters.
    """
    own = _OWN if setup.owner is None else (*_OWN, *_OF_OWN_DATA)
    found = {
        name: text
        for name in setting_types()
        if name not in own
        and (text := _text(reduce(getattr, name.split("."), setup.config))) != _UNSAID.get(name)
    }
    graph = json.dumps(topology_facts(setup.topology), sort_keys=True)
    found["graph"] = hashlib.sha256(graph.encode()).hexdigest()[:16]
    if setup.owner is None:
        found["data"] = data_digest(setup)[:16]
    else:
        found["images"] = input_shape(setup.dataset)
        found["columns"] = _text(setup.dataset.columns)
        found["tokens"] = str(setup.dataset.num_tokens)
    if setup.frozen_digest is not None:
        found["frozen entries (the base)"] = f"of digest {setup.frozen_digest[:16]}"
    if matches:
        found["symmetry"] = setup.analysis.symmetry.digest[:16]
    return found


def _text(value: object) -> str:
    """The text of a setting; a list has a line for each of its names."""
    return "\n".join(value) if isinstance(value, tuple) else str(value)
