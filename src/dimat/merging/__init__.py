"""Merge what is aligned: combine states, recalibrate statistics, carry the optimizer along."""

from __future__ import annotations

from dimat.merging.mix import mix
from dimat.merging.optimizer import permute_optimizer, reset_optimizer
from dimat.merging.protocol import Average, Combiner
from dimat.merging.recalibrate import recalibrate
from dimat.merging.regression import Regression

# The ways to combine aligned states, by name.
COMBINERS: dict[str, Combiner] = {"average": Average(), "regression": Regression()}

__all__ = [
    "COMBINERS",
    "Average",
    "Combiner",
    "Regression",
    "mix",
    "permute_optimizer",
    "recalibrate",
    "reset_optimizer",
]
