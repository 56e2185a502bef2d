"""Checks of what the functions of a task give, before anything is trained with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dimat.errors import ConfigError, in_words, quoted
from dimat.tasks.protocol import Task


def check_functions(task: Task, name: str, targets: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a task whose loss, totals or measures are not of the form that they must have.

    Args:
        task: The task.
        name: Its name, for messages.
        targets: Targets of a batch.
        shape: Shape of a model's outputs for them.

    Raises:
        ConfigError: With what a function gave, and the rule.
    """
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        in_words(f"task '{name}': loss", ConfigError),
    ):
        outputs = torch.zeros(shape, requires_grad=True)
        loss: object = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        raise ConfigError(
            f"task '{name}': loss gives what is {_told(loss)}: must be a scalar tensor that "
            "depends on the outputs, such as the mean of the losses of the samples"
        )
    with in_words(f"task '{name}': totals", ConfigError):
        totals: object = task.totals(outputs.detach(), targets)
    if not isinstance(totals, Tensor) or totals.dim() != 1 or totals.dtype != torch.float64:
        raise ConfigError(
            f"task '{name}': totals gives what is {_told(totals)}: must be a float64 tensor of one "
            "axis"
        )
    try:
        found: object = task.measure(totals)
    except Exception:  # these targets may be too alike for it: a variance of 0
        return
    if not isinstance(found, Mapping):
        raise ConfigError(f"task '{name}': measure gives what is {quoted(found)}: must be a dict")
    missing = [x for x in ("loss", *(metric.name for metric in task.metrics)) if x not in found]
    if missing:
        raise ConfigError(
            f"task '{name}': measure gives {', '.join(found) or 'nothing'}, and no '{missing[0]}': "
            "must have loss and every metric by its name"
        )


def _told(value: object) -> str:
    if not isinstance(value, Tensor):
        return quoted(value)
    bound = "" if value.requires_grad else " without gradient"
    return f"a tensor of shape {tuple(value.shape)}, {value.dtype}{bound}"
