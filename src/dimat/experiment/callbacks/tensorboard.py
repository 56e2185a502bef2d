"""``--log tensorboard``: metrics as event files, in ``tensorboard/`` of the run folder."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimat.errors import writing
from dimat.experiment.callbacks.callback import numbers, package_of

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig

_FORMAT = "brain.Event:2"  # content of the first event of every file
_files = itertools.count()


class TensorBoard:
    """A callback that writes scalars by round: accuracies with a run per agent, and diagnostics.

    Records are written here, line by line: PyTorch's ``SummaryWriter`` has a thread for every
    agent, and a thread that finds the disk full says so in a traceback of its own.

    Raises:
        ConfigError: If the tensorboard package is not installed.
    """

    def __init__(self) -> None:
        with package_of("tensorboard"):
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard import summary
        self._proto: Any = event_pb2
        self._records: Any = RecordWriter
        self._scalar: Any = summary.scalar
        self._paths: dict[str, Path] = {}

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """Choose the folder; scalars of later rounds that it holds will be disregarded."""
        self._folder, self._purge = folder / "tensorboard", after_round + 1

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        """Write every number of a line as a scalar.

        Raises:
            WriteError: If the event file cannot be written.
        """
        event, now = self._proto.Event, time.time()
        phase = f"/{line['phase']}" if "phase" in line else ""
        self._append(
            f"agent-{line['agent']:03d}" if "agent" in line else "all",
            [
                event(
                    wall_time=now,
                    step=line["round"],
                    summary=self._scalar(f"{name}{phase}", value),
                )
                for name, value in numbers(line).items()
            ],
        )

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        """Forget the files of this method: the next method has its own."""
        self._paths.clear()

    def _append(self, who: str, events: Iterable[Any]) -> None:
        """Append events to an agent's file; a new file voids later rounds of older ones."""
        first = () if who in self._paths else self._opening()
        path = self._paths.setdefault(who, self._folder / who / _new_name())
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                records = self._records(file)
                for event in (*first, *events):
                    records.write(event.SerializeToString())

    def _opening(self) -> tuple[Any, ...]:
        """The first events of a file: its format, and the round from which older files are void."""
        event, session = self._proto.Event, self._proto.SessionLog
        now, start = time.time(), session(status=session.START)
        return (
            event(wall_time=now, file_version=_FORMAT),
            event(wall_time=now, step=self._purge, session_log=start),
        )


def _new_name() -> str:
    """A name for an event file that no other process or method uses."""
    return (
        f"events.out.tfevents.{time.time():010.0f}.{platform.node()}.{os.getpid()}.{next(_files)}"
    )
