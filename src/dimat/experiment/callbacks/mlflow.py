"""``--log mlflow``: metrics by round at an MLflow tracking server, or in its local store."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimat.experiment.callbacks.callback import leaves, package_of
from dimat.experiment.callbacks.tracker import Tracker

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig

_MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 500  # of one request; characters of a value


class MLflow(Tracker):
    """A callback that sends a run to where ``MLFLOW_TRACKING_URI`` says.

    The experiment is ``dimat``, or that of ``MLFLOW_EXPERIMENT_NAME``.

    Raises:
        ConfigError: If the mlflow package is not installed.
    """

    name = "mlflow"

    def __init__(self) -> None:
        with package_of(self.name):
            from mlflow import MlflowClient, entities, exceptions
        self._make_client: Any = MlflowClient
        self._entities: Any = entities
        self._refusal: type[Exception] = exceptions.MlflowException

    def begin(self, method: str, config: RunConfig, folder: Path, run: str | None) -> str:
        """Begin a run beside any that the caller has, with all settings as parameters."""
        self._client = self._make_client()
        if run is not None:
            self._client.update_run(run, status="RUNNING")
            self._id = run
            return run
        made = self._client.create_run(self._experiment(), run_name=str(folder))
        self._id = str(made.info.run_id)
        settings = leaves(asdict(config) | {"method": method})
        params = [
            self._entities.Param(k.replace("/", "."), str(v)[:_LONGEST])
            for k, v in settings.items()
        ]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + _MOST_PARAMS])
        return self._id

    def send(self, number: int, row: Mapping[str, float]) -> None:
        """Add a value to each metric, with the round as its step."""
        now = time.time_ns() // 1_000_000
        metrics = [self._entities.Metric(k, v, now, number) for k, v in row.items()]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + _MOST_METRICS])

    def end(self, summary: Mapping[str, float]) -> None:
        """Add the summary's numbers, as metrics ``summary/NAME``, and end the run."""
        self.send(int(summary.get("rounds", 0)), {f"summary/{k}": v for k, v in summary.items()})
        self._client.set_terminated(self._id)

    def leave(self) -> None:
        """Mark the run as stopped."""
        self._client.set_terminated(self._id, status="KILLED")

    def _experiment(self) -> str:
        """The experiment's id; it is made if there is none of its name."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dimat")
        try:
            return str(self._client.create_experiment(name))
        except self._refusal:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)
