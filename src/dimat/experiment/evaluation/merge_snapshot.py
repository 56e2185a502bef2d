"""What an agent shows the observer of a merge, before it takes over what the merge gave it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dimat.exchange.tree import Tree
from dimat.methods import RoundContext, RoundReport, RoundResult
from dimat.methods.gauge import GaugeId, decode, encode
from dimat.state import State
from dimat.symmetry import Permutation, Symmetry


def shown(me: RoundContext, merged: RoundResult) -> Tree:
    """States before and after, how units moved, and how well they match; nothing is copied."""
    own = merged.permutation
    return {
        "before": me.state,
        "after": merged.state,
        "move": None if own is None else encode(own),
        "alignments": {j: encode(move) for j, move in merged.report.alignments.items()},
        "disagreement": merged.disagreement,
        "gauge": merged.gauge and merged.gauge.parts,
        "similarity": merged.report.similarity,
        "margin": merged.report.margin,
    }


def seen(tree: Tree, symmetry: Symmetry | None, device: str) -> tuple[State, RoundResult]:
    """What :func:`shown` gave: the state before the merge, and the part of it that is looked at.

    Args:
        tree: Of an agent that may live in another process.
        symmetry: Of the model; None if no unit is moved.
        device: Where the observer computes.

    Raises:
        StructureError: If a permutation does not fit the model.
    """

    def moved(message: Mapping[str, Tensor] | None) -> Permutation | None:
        if message is None or symmetry is None:
            return None
        return decode(symmetry, _on(message, "cpu"))

    alignments = {j: moved(message) for j, message in tree["alignments"].items()}
    merged = RoundResult(
        _on(tree["after"], device),
        moved(tree["move"]),
        tree["disagreement"],
        gauge=GaugeId(*tree["gauge"]) if tree["gauge"] else None,
        report=RoundReport(
            alignments={j: move for j, move in alignments.items() if move is not None},
            similarity=tree["similarity"],
            margin=tree["margin"],
        ),
    )
    return _on(tree["before"], device), merged


def _on(state: Mapping[str, Tensor], device: str) -> State:
    """The tensors on the device; what is there already is not copied."""
    there = torch.device(device)
    return {name: value.to(there) for name, value in state.items()}
