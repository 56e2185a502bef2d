"""Processes of ``dimat`` that start at once: forked from one that has imported everything already.

Each is a process of its own all the same: it is killed, frozen and interrupted like any other, and
ends as a Python process ends. Only the seconds that its imports would take are saved.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

ROOT = Path(__file__).parent.parent.parent
_NETWORK = 0x40000000  # CLONE_NEWNET


class Process(Protocol):
    """A process; ``subprocess.Popen`` is one."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...


class Nursery:
    """Starts processes; all that are left end with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.nursery"],
            cwd=ROOT,
            # as the commands set it themselves, where they import PyTorch
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._one_asks = threading.Lock()

    def __call__(self, words: Sequence[str], log: Path, host: str = "") -> Child:
        """``dimat WORDS``, with its output added to a file, in a network namespace if named."""
        question = {"words": list(words), "log": str(log), "host": host}
        return Child(int(self._ask(question) or 0), self)

    def code(self, pid: int) -> int | None:
        """How a process ended, if it has: as ``Popen.returncode``."""
        return self._ask({"pid": pid})

    def close(self) -> None:
        """End all."""
        self._process.communicate(timeout=30)

    def _ask(self, question: object) -> int | None:
        into, out = self._process.stdin, self._process.stdout
        assert into
        assert out
        with self._one_asks:
            into.write(json.dumps(question) + "\n")
            into.flush()
            answer: int | None = json.loads(out.readline())
        return answer


class Child:
    """One of its processes."""

    def __init__(self, pid: int, nursery: Nursery) -> None:
        self.pid, self._nursery = pid, nursery
        self._code: int | None = None

    def poll(self) -> int | None:
        """How it ended; None: it has not."""
        if self._code is None:
            self._code = self._nursery.code(self.pid)
        return self._code


def popen(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """The same from nothing: ``python -m dimat WORDS``."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "dimat", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def ended(process: Process, wait_s: float) -> int | None:
    """How a process ended within so many seconds; None: it has not."""
    end = time.monotonic() + wait_s
    while (code := process.poll()) is None and time.monotonic() < end:
        time.sleep(0.02)
    return code


def _serve(questions: IO[str], answers: IO[str]) -> None:
    living: set[int] = set()
    for line in questions:
        question = json.loads(line)
        answer: int | None
        if "words" in question:
            if not (pid := os.fork()):
                _become(question["words"], Path(question["log"]), question["host"])
            living.add(pid)
            answer = pid
        else:
            pid, status = os.waitpid(question["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            living.discard(pid)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _become(words: Sequence[str], log: Path, host: str) -> None:
    """What a command does; does not return."""
    from dimat.cli import main

    if host:
        namespace = os.open(f"/run/netns/{host}", os.O_RDONLY)
        assert ctypes.CDLL(None).setns(namespace, _NETWORK) == 0

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0), os.dup2(file, 1), os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(words))


def _warm() -> None:
    """Do what every agent does first, so that all that it imports is there."""
    import torch

    import dimat.cli
    import dimat.experiment.apart
    import dimat.experiment.faults
    import dimat.experiment.run
    from dimat.experiment.setup import make_setup

    torch.set_num_threads(1)  # a process with threads cannot be forked
    assert make_setup(dimat.RunConfig(threads=1, width=0.25)).analysis


if __name__ == "__main__":
    _warm()
    _serve(sys.stdin, sys.stdout)
