"""Merging of trained checkpoints of one model, without rounds, agents or a topology."""

from dimat.checkpoints.formats.merged import Merge, load
from dimat.checkpoints.formats.statistics_file import Statistics
from dimat.checkpoints.forward import Forward
from dimat.checkpoints.measure import BUDGET, measured, statistics, with_statistics
from dimat.checkpoints.merge import (
    RECALIBRATIONS,
    Recalibration,
    fair_weights,
    match,
    merge,
    recalibrates,
)
from dimat.checkpoints.parents import Parents
from dimat.checkpoints.reading import IMAGES
from dimat.checkpoints.received import fitting_values, moved_values, read_statistics
from dimat.checkpoints.unwrapped import unwrapped
from dimat.checkpoints.widths import widen

__all__ = [
    "BUDGET",
    "IMAGES",
    "RECALIBRATIONS",
    "Forward",
    "Merge",
    "Parents",
    "Recalibration",
    "Statistics",
    "fair_weights",
    "fitting_values",
    "load",
    "match",
    "measured",
    "merge",
    "moved_values",
    "read_statistics",
    "recalibrates",
    "statistics",
    "unwrapped",
    "widen",
    "with_statistics",
]
