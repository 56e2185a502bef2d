"""What the logs that send a run to a tracking service share: a row for each round, sent once."""

from __future__ import annotations

import json
import logging
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dimat.errors import ConfigError, RecordError, first_line, in_words, writing
from dimat.experiment.callbacks.callback import numbers
from dimat.files import read_regular

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig

_LOG = logging.getLogger("dimat")
Line = Mapping[str, Any]


class Tracker(ABC):
    """A callback that sends the numbers of each round, when it is over, to a tracking service.

    A file of the run folder, ``NAME.json``, has the service's name of the run and the last round
    that was sent, so that a resumed run goes on there and sends no round twice. A service that
    cannot be reached refuses a run that begins, and ends none that has begun: what it missed is
    sent after the next round.
    """

    name: ClassVar[str]  # in the setting ``log``
    _is_open = False

    @abstractmethod
    def begin(self, method: str, config: RunConfig, folder: Path, run: str | None) -> str:
        """Begin a run at the service, or go on with one.

        Args:
            method: Registry name of the method.
            config: Settings of the run of this method.
            folder: Run folder of the method.
            run: The service's name of the run that is resumed; None for a new one.

        Returns:
            The service's name of the run.
        """

    @abstractmethod
    def send(self, number: int, row: Mapping[str, float]) -> None:
        """Send the numbers of a round."""

    @abstractmethod
    def end(self, summary: Mapping[str, float]) -> None:
        """Send the numbers of the summary, and end the run at the service."""

    @abstractmethod
    def leave(self) -> None:
        """Leave a run at the service that is stopped, and may be resumed."""

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """Begin or go on with a run; rounds that are in the folder but were not sent, will be.

        Raises:
            ConfigError: If the service refuses, or cannot be reached.
        """
        self._file = folder / f"{self.name}.json"
        known = _read(self._file)
        self._sent: int = known.get("round", -1)
        self._lines: dict[int, list[Line]] = {}
        again = f"; without {self._file} it begins another run there" if known else ""
        with in_words(f"log '{self.name}': beginning", ConfigError, again):
            self._run = self.begin(method, config, folder, known.get("run"))
        self._is_open = True
        self._note()
        for name in ("metrics", "diagnostics"):
            for line in _lines(folder / f"{name}.jsonl"):
                self._keep(line)
        self._newest = after_round

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        """Keep a line, and send the rounds before it if it is the first of its round."""
        self._keep(line)
        number: Any = line["round"]
        if number > self._newest:
            self._newest = number
            self._send(number)

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        """Send what is left, and the summary."""
        if self._send(math.inf):
            with self._or_warn("the summary was not sent"):
                self.end(numbers(summary))
                self._is_open = False

    def close(self) -> None:
        """Leave a run that is not finished."""
        if self._is_open:
            self._is_open = False
            with self._or_warn("the run was not left"):
                self.leave()

    def _keep(self, line: Line) -> None:
        if line["round"] > self._sent:
            self._lines.setdefault(line["round"], []).append(line)

    def _send(self, before: float) -> bool:
        """Send the rounds before one, in their order; returns whether all were sent."""
        for number in sorted(own for own in self._lines if own < before):
            way = "will be with a later one or when the run is resumed"
            with self._or_warn(f"round {number} was not sent, and {way}"):
                self.send(number, row_of(self._lines[number]))
                del self._lines[number]
                self._sent = number
            if self._sent != number:
                return False
            self._note()
        return True

    @contextmanager
    def _or_warn(self, what: str) -> Iterator[None]:
        """Log what went wrong instead of raising, whatever the service's package raises."""
        try:
            yield
        except Exception as error:
            _LOG.warning("log '%s': %s: %s", self.name, what, first_line(error))

    def _note(self) -> None:
        """Write down what was sent, whole or not at all."""
        partial = self._file.with_name(f"{self._file.name}.partial")
        with writing(self._file):
            partial.write_text(json.dumps({"run": self._run, "round": self._sent}))
            partial.replace(self._file)


def row_of(lines: Iterable[Line]) -> dict[str, float]:
    """The numbers of a round: those of each agent, their mean over agents, and diagnostics.

    >>> row_of({"round": 1, "agent": i, "phase": "merged", "loss": i} for i in (1, 3))
    {'loss/merged/agent-001': 1.0, 'loss/merged/agent-003': 3.0, 'loss/merged/mean': 2.0}
    >>> row_of([{"round": 1, "moved": {"fc1": 0.5}}])
    {'moved/fc1': 0.5}
    """
    row: dict[str, float] = {}
    agents: dict[str, list[float]] = {}
    for line in lines:
        for name, value in numbers(line).items():
            if "phase" not in line:
                row[name] = value
                continue
            row[f"{name}/{line['phase']}/agent-{line['agent']:03d}"] = value
            agents.setdefault(f"{name}/{line['phase']}/mean", []).append(value)
    return row | {name: statistics.fmean(own) for name, own in agents.items() if len(own) > 1}


def _read(path: Path) -> dict[str, Any]:
    """What was noted of an earlier part of the run; empty if there was none."""
    if not path.exists():
        return {}
    try:
        found = json.loads(read_regular(path))
        if isinstance(found["run"], str) and isinstance(found["round"], int):
            return {"run": found["run"], "round": found["round"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RecordError(f"'{path}' cannot be read: {error}") from error
    raise RecordError(f"'{path}' cannot be read: it names no run and round")


def _lines(path: Path) -> list[Line]:
    """The lines that a run folder has when a run begins or is resumed."""
    if not path.exists():
        return []
    return [json.loads(line) for line in read_regular(path).splitlines()]
