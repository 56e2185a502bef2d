"""``cga``: cross-gradient aggregation; models travel to the data, gradients travel back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from dimat.errors import TrainingError
from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.methods.admit import require_all, require_inbox, validate_structure
from dimat.methods.messages import swap
from dimat.methods.protocol import Method, Need, StepContext, row
from dimat.methods.steps.consensus import DOUBLY_STOCHASTIC
from dimat.state import State, as_real, check_finite


@dataclass(frozen=True)
class CrossGradients(Method):
    r"""Neighbors say how their loss would change; the step must not make any of them worse.

    .. math::
        g_{ij} = \nabla F_j(\theta_i), \qquad
        \tilde g_i = \arg\min_g \lVert g - g_{ii}\rVert^2
        \ \text{ such that }\ \langle g, g_{ij}\rangle \ge 0, \qquad
        \theta_i \leftarrow \sum_j \pi_{ij}\theta_j + \Delta(\tilde g_i)

    An agent sends its *model*; its neighbor answers with the gradient of its own loss there. The
    dual of the quadratic program is nonnegative least squares in one unknown for each neighbor,
    solved by SciPy.

    *Assumes* a doubly stochastic matrix, and edges that carry both ways. *Breaks when* links or
    processors are slow: a step costs one more gradient for each neighbor, and twice the bytes.

    References:
        Esfandiari et al., "Cross-Gradient Aggregation for Decentralized Learning from Non-IID
        Data", ICML 2021.
    """

    exchanges = "steps"

    @property
    def needs(self) -> frozenset[Need]:
        """What ``cdsgd`` needs, and that neighbors can answer."""
        return DOUBLY_STOCHASTIC | {"two-way"}

    def step(self, me: StepContext) -> Talk[None]:
        """Send the model, answer with gradients, project, average and step."""
        own, ours = me.gradient(), me.state()
        neighbors = me.topology.neighbors(me.index)
        theirs = yield from swap(me.topology, me.index, ours)
        answers = {j: me.gradient_at(state) for j, state in theirs.items()}
        require_all(neighbors, theirs)
        inbox = yield from require_inbox(
            Step(answers, neighbors, validate_structure(own, "gradient"))
        )
        if not all(bool(torch.isfinite(value).all()) for value in own.values()):
            raise TrainingError(f"agent {me.index}: its gradient is not finite")
        for j in neighbors:
            check_finite(inbox[j], f"gradient from agent {j}")
        gradient = project(own, [own, *(dict(inbox[j]) for j in neighbors)])
        me.load(mix([ours, *theirs.values()], row(me.topology, me.index)))
        me.update(gradient)


def project(own: State, cross: Sequence[State]) -> State:
    r"""The gradient nearest to ``own`` that agrees with all: :math:`\langle g, g_j\rangle \ge 0`.

    It is :math:`g + G^\top u`, where :math:`u \ge 0` minimizes :math:`\lVert g + G^\top u\rVert`.

    Args:
        own: By parameter name.
        cross: The gradients to agree with, of the same structure.

    Returns:
        ``own`` itself if it agrees with all.
    """
    rows = [*cross, own]
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for key in own:
        flat = torch.stack([as_real(state[key]).double().flatten() for state in rows]).cpu()
        gram += flat @ flat.T
    if bool((gram[:-1, -1] >= 0).all()):
        return own
    # Columns with these inner products, however many entries the gradients have.
    values, vectors = np.linalg.eigh(gram.numpy())
    root = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T
    weights, _ = nnls(root[:, :-1], -root[:, -1])
    total = {key: _double(value) for key, value in own.items()}
    for weight, state in zip(weights, cross, strict=True):
        if weight > 0:
            total = {key: value + weight * _double(state[key]) for key, value in total.items()}
    return {key: value.to(own[key].dtype) for key, value in total.items()}


def _double(value: Tensor) -> Tensor:
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
