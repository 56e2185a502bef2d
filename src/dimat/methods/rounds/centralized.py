"""``centralized``: one model on everybody's data. The ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dimat.methods.protocol import Method


@dataclass(frozen=True)
class Centralized(Method):
    r"""One agent that has all shards, pre-trained and trained for as many epochs as the others.

    .. math:: \theta \leftarrow \theta + \Delta(g(\theta))

    At the same batch size an epoch has N times the steps of an agent's. What an agent holds out for
    validation it does not train on either.

    *Assumes* that data may be brought together: it is what the other methods do without, so it is
    no competitor but the measure of what they lose. *Breaks when* taken for a bound: a
    decentralized method takes N gradients at a time and may do better with few epochs.
    """

    scope: ClassVar[Literal["agents", "pooled"]] = "pooled"
