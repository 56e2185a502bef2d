"""``sgp``: stochastic gradient push, for directed graphs and graphs that change."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dimat.errors import StructureError
from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.methods.admit import require_inbox
from dimat.methods.protocol import Method, Need, StepContext
from dimat.state import State, check_same_structure

_WEIGHT = "/weight"  # no state has an entry of this name: modules are not named with a slash


@dataclass(frozen=True)
class StochasticGradientPush(Method):
    r"""Push-sum: every agent also carries a weight, and what it uses is the quotient.

    .. math::
        x_i \leftarrow \sum_j \pi_{ij}\bigl(x_j + \Delta(g_j(z_j))\bigr), \qquad
        w_i \leftarrow \sum_j \pi_{ij} w_j, \qquad z_i = x_i / w_i

    Columns of :math:`\Pi` sum to 1: every agent decides how it splits what it has among those who
    hear it, and need not know who else they hear. We keep :math:`z_i` and :math:`w_i`: then
    :math:`z_i` is the average of what is heard, weighted by :math:`\pi_{ij}w_j`, and the optimizer
    steps with :math:`1/w_i` times its learning rate. Running statistics are pushed along.

    *Assumes* columns that sum to 1, and a graph whose union over time is strongly connected.
    *Breaks when* messages are lost: the weight in them is lost too. On a doubly stochastic matrix
    it is ``cdsgd`` in the order adapt, then combine.

    References:
        Assran et al., "Stochastic Gradient Push for Distributed Deep Learning", ICML 2019.
    """

    exchanges = "steps"

    @property
    def needs(self) -> frozenset[Need]:
        """Columns that sum to 1: no mass is made or lost."""
        return frozenset({"columns"})

    def step(self, me: StepContext) -> Talk[None]:
        """Gradient at z, optimizer step, push."""
        weight = float(me.kept["push"]["weight"]) if me.kept else 1.0
        me.update(me.gradient(), 1 / weight)
        pi, i = me.topology.pi, me.index
        ours = me.state()
        message = {**ours, _WEIGHT: torch.tensor([weight], dtype=torch.float64)}
        neighbors = me.topology.neighbors(i)
        told = dict.fromkeys(me.topology.listeners(i), message)
        inbox = yield from require_inbox(Step(told, neighbors))
        states, masses = [ours], [float(pi[i, i]) * weight]
        for j in neighbors:
            state = dict(inbox[j])
            masses.append(float(pi[i, j]) * _weight(state, j))
            check_same_structure(ours, state, f"state from agent {j}")
            states.append(state)
        total = sum(masses)
        me.load(mix(states, [mass / total for mass in masses]))
        me.kept["push"] = {"weight": torch.tensor([total], dtype=torch.float64)}


def _weight(message: State, other: int) -> float:
    """The push-sum weight in a message, taken out of it."""
    value = message.pop(_WEIGHT, None)
    if value is None or value.shape != (1,) or not 0 < float(value) < float("inf"):
        raise StructureError(
            f"push-sum weight from agent {other} does not fit: expected one number > 0"
        )
    return float(value)
