"""Callbacks: objects that receive the measurements of a run as they are made.

Those that the setting ``log`` names have a file and an entry here each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dimat.errors import ConfigError, quoted
from dimat.experiment.callbacks.callback import Callback
from dimat.experiment.callbacks.csv_files import CsvFiles
from dimat.experiment.callbacks.mlflow import MLflow
from dimat.experiment.callbacks.tensorboard import TensorBoard
from dimat.experiment.callbacks.wandb import WandB
from dimat.registry import Registry

__all__ = ["LOGS", "Callback", "logs"]

_NEEDS = ("started", "measured", "finished")


def _maker(name: str, thing: Any) -> Callable[[], Callback]:
    """For the registry of logs: a class of callbacks, or a function that makes one."""
    lacking = [need for need in _NEEDS if not hasattr(thing, need)]
    if not callable(thing) or (isinstance(thing, type) and lacking):
        why = f"which has no '{lacking[0]}'" if lacking else "which is an object"
        raise ConfigError(
            f"'{name}' is {quoted(thing)}, {why}: must be a class with {', '.join(_NEEDS)}, or a "
            "function without parameters that makes an object with them"
        )
    made: Callable[[], Callback] = thing
    return made


LOGS: Registry[Callable[[], Callback]] = Registry(
    "log",
    "dimat.logs",
    {"csv": CsvFiles, "mlflow": MLflow, "tensorboard": TensorBoard, "wandb": WandB},
    _maker,
)


@contextmanager
def logs(names: Iterable[str]) -> Iterator[list[Callback]]:
    """The callbacks that the setting ``log`` names, for a body that runs with them.

    A log may have a method ``close`` besides, which is called when the body ends, however it does.

    Raises:
        ConfigError: If the package of one is not installed; names the extra.
    """
    made = [LOGS[name]() for name in names]
    try:
        yield made
    finally:
        for log in made:
            getattr(log, "close", lambda: None)()
