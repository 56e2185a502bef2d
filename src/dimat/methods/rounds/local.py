"""``local``: every agent trains alone. The floor that any exchange has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.methods.protocol import Method


@dataclass(frozen=True)
class Local(Method):
    r"""No exchange: every agent takes its own steps.

    .. math:: \theta_i \leftarrow \theta_i + \Delta(g_i(\theta_i))

    where :math:`\Delta` is the optimizer's step, here and on all pages.

    *Assumes* nothing. *Breaks when* a shard does not represent the task: an agent cannot know
    classes that it never sees.
    """
