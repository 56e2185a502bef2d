"""One agent's part of a merge snapshot as a tree, for agent 0's process, and read back there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dimat.exchange.tree import Tree
from dimat.methods import RoundContext, RoundReport, RoundResult
from dimat.methods.gauge import GaugeId, decode, encode
from dimat.state import State
from dimat.symmetry import Permutation, Symmetry


def shown(me: RoundContext, result: RoundResult) -> Tree:
    """States before and after a merge, permutations and similarities; nothing is copied.

    Args:
        me: What the agent brought to the merge.
        result: The result of the merge at the agent.
    """
    own = result.permutation
    return {
        "before": me.state,
        "after": result.state,
        "move": None if own is None else encode(own),
        "alignments": {j: encode(move) for j, move in result.report.alignments.items()},
        "disagreement": result.disagreement,
        "gauge": result.gauge and result.gauge.parts,
        "similarity": result.report.similarity,
        "margin": result.report.margin,
    }


def seen(tree: Tree, symmetry: Symmetry | None, device: str) -> tuple[State, RoundResult]:
    """The state before a merge and its result, as far as diagnostics need it, from a tree.

    Args:
        tree: The value of :func:`shown` for an agent, which may live in another process.
        symmetry: The symmetry of the model; None if the method moves no units.
        device: Device that diagnostics are computed on.

    Raises:
        StructureError: If a permutation does not fit the model.
    """

    def moved(message: Mapping[str, Tensor] | None) -> Permutation | None:
        if message is None or symmetry is None:
            return None
        return decode(symmetry, _on(message, "cpu"))

    alignments = {j: moved(message) for j, message in tree["alignments"].items()}
    result = RoundResult(
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
    return _on(tree["before"], device), result


def _on(state: Mapping[str, Tensor], device: str) -> State:
    """The tensors on a device; those that are there already are not copied."""
    there = torch.device(device)
    return {name: value.to(there) for name, value in state.items()}
