"""Tasks: what agents learn, and how it is measured."""

from __future__ import annotations

from dimat.metric import Metric
from dimat.registry import Registry, an_object
from dimat.tasks.by_name import Tasks
from dimat.tasks.classification import Classification
from dimat.tasks.language_modeling import LanguageModeling
from dimat.tasks.multilabel import Multilabel
from dimat.tasks.protocol import LabelTask, LikelihoodTask, Task
from dimat.tasks.regression import Regression, scaled
from dimat.tasks.segmentation import Segmentation

CLASSIFICATION = Classification()

# The tasks, by name: a task is a value.
TASKS: Registry[Task] = Tasks(
    "task",
    "dimat.tasks",
    {
        "classification": CLASSIFICATION,
        "regression": Regression(),
        "multilabel": Multilabel(),
        "segmentation": Segmentation(),
        "language-modeling": LanguageModeling(),
    },
    an_object(
        *("metrics", "has_classes", "targets", "num_outputs", "output_shape"),
        *("loss", "totals", "measure", "pooled"),
    ),
)

__all__ = [
    "CLASSIFICATION",
    "TASKS",
    "Classification",
    "LabelTask",
    "LanguageModeling",
    "LikelihoodTask",
    "Metric",
    "Multilabel",
    "Regression",
    "Segmentation",
    "Task",
    "scaled",
]
