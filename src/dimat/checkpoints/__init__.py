"""Merging of trained checkpoints of one model, without rounds, agents or a topology."""

from dimat.checkpoints.forward import Forward
from dimat.checkpoints.merge import (
    IMAGES,
    RECALIBRATIONS,
    Merge,
    Recalibration,
    fair_weights,
    match,
    merge,
    recalibrates,
)
from dimat.checkpoints.parents import Parents
from dimat.checkpoints.unwrapped import unwrapped

__all__ = [
    "IMAGES",
    "RECALIBRATIONS",
    "Forward",
    "Merge",
    "Parents",
    "Recalibration",
    "fair_weights",
    "match",
    "merge",
    "recalibrates",
    "unwrapped",
]
