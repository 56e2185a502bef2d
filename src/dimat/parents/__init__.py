"""Merge trained checkpoints of one model, without rounds, agents or a graph of them."""

from dimat.parents.family import Family
from dimat.parents.forward import Forward
from dimat.parents.merging import (
    IMAGES,
    RECALIBRATIONS,
    Merge,
    Recalibration,
    fair_weights,
    match,
    merge,
    recalibrates,
)
from dimat.parents.unwrapped import unwrapped

__all__ = [
    "IMAGES",
    "RECALIBRATIONS",
    "Family",
    "Forward",
    "Merge",
    "Recalibration",
    "fair_weights",
    "match",
    "merge",
    "recalibrates",
    "unwrapped",
]
