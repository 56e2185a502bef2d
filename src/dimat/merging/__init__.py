"""Merge what is aligned: mix states, recalibrate statistics, carry the optimizer along."""

from dimat.merging.mix import mix
from dimat.merging.optimizer import permute_optimizer, reset_optimizer
from dimat.merging.recalibrate import recalibrate

__all__ = ["mix", "permute_optimizer", "recalibrate", "reset_optimizer"]
