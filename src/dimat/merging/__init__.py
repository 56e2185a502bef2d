"""Merging of aligned states: combination, recalibration, and the optimizer's memory."""

from __future__ import annotations

from dimat.merging.adapters import AdapterCombiner, AlignedAdapters, ProductAdapters
from dimat.merging.layerwise.fisher import Fisher
from dimat.merging.layerwise.gram import Gram
from dimat.merging.layerwise.predicted_statistics import predicted_statistics
from dimat.merging.layerwise.readouts import readout_distance
from dimat.merging.layerwise.regression import Regression
from dimat.merging.layerwise.repair import Repair
from dimat.merging.mix import mix
from dimat.merging.optimizer import permute_optimizer, reset_optimizer
from dimat.merging.protocol import (
    Average,
    Combiner,
    StateCombiner,
    StatisticsCombiner,
    TaskCombiner,
    calibrates,
)
from dimat.merging.recalibrate import calibrated_norms, recalibrate
from dimat.merging.robust import robust_mix
from dimat.registry import Registry, an_object
from dimat.tasks import Task

# The ways to combine aligned states, by name.
COMBINERS: Registry[Combiner] = Registry(
    "merging.combine",
    "dimat.combiners",
    {
        "average": Average(),
        "repair": Repair(),
        "regression": Regression(),
        "gram": Gram(),
        "fisher": Fisher(),
        "lora-aligned": AlignedAdapters(),
        "lora-product": ProductAdapters(),
    },
    an_object("combine", "needs_batches"),
)


def combiner_for(name: str, task: Task) -> Combiner:
    """The combiner of a name, as it is for networks that have learned a task.

    Args:
        name: One of :data:`COMBINERS`.
        task: The task.

    Raises:
        ConfigError: If the combiner knows no way with the task.
    """
    own = COMBINERS[name]
    return own.for_task(task) if isinstance(own, TaskCombiner) else own


__all__ = [
    "COMBINERS",
    "AdapterCombiner",
    "AlignedAdapters",
    "Average",
    "Combiner",
    "Fisher",
    "Gram",
    "ProductAdapters",
    "Regression",
    "Repair",
    "StateCombiner",
    "StatisticsCombiner",
    "TaskCombiner",
    "calibrated_norms",
    "calibrates",
    "combiner_for",
    "mix",
    "permute_optimizer",
    "predicted_statistics",
    "readout_distance",
    "recalibrate",
    "reset_optimizer",
    "robust_mix",
]
