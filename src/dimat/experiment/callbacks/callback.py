"""The protocol of callbacks, and what those that the setting ``log`` names share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dimat.errors import ConfigError

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig

_PLACES = ("round", "agent", "phase")  # where a line was measured


class Callback(Protocol):
    """A receiver of measurements as they are made, which has no influence on the run.

    A callback is given to ``dimat.run(config, callbacks=[...])``. It is called for every method of
    a run, one after another, and must not change its arguments.
    """

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """A method begins, or is resumed.

        Args:
            method: Registry name of the method.
            config: Settings of the run of this method.
            folder: Run folder of the method.
            after_round: The last round of the checkpoint that is resumed; -1 for a start from
                scratch.
        """

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        """A line of metrics or diagnostics is written.

        Args:
            method: Registry name of the method.
            line: The line of ``metrics.jsonl`` (it has a ``phase``) or of ``diagnostics.jsonl``.
        """

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        """A method is finished.

        Args:
            method: Registry name of the method.
            summary: The content of ``summary.json``.
        """


@contextmanager
def package_of(log: str) -> Iterator[None]:
    """Turn a failed import of a log's package into an error that names its extra.

    Raises:
        ConfigError: If a package that is imported in the body is missing.

    >>> with package_of("tensorboard"):
    ...     import no_such_package
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'log' has 'tensorboard', which is not installed:
    pip install "dimat[tensorboard]"
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"setting 'log' has '{log}', which is not installed: pip install \"dimat[{log}]\""
        ) from error


def leaves(line: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """The values of a line by name, those of nested groups by path.

    >>> leaves({"round": 1, "gap": None, "moved": {"fc1": 0.25}})
    {'round': 1, 'gap': None, 'moved/fc1': 0.25}
    """
    found: dict[str, object] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{name}/")
        else:
            found[prefix + name] = value
    return found


def numbers(line: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers of a line by name, those of nested groups by path.

    >>> numbers({"round": 1, "gap": 0.5, "moved": {"0": 0.25}, "train_loss": None})
    {'gap': 0.5, 'moved/0': 0.25}
    """
    return {
        name: float(value)
        for name, value in leaves(line).items()
        if isinstance(value, int | float) and math.isfinite(value) and name not in _PLACES
    }
