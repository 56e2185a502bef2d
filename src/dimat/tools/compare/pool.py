"""Running cells: one after another in this process, or several at a time in worker processes.

A worker process ignores Ctrl-C, which its parent handles, and ends when its parent ends, however
that happens: two processes must never write to one run folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from dimat.errors import DimatError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.progress import Progress
from dimat.experiment.running.allocator import keep_freed_memory
from dimat.tools.compare.progress import CellProgress, CellsProgress

_DIED = "its process ended without a word: killed, or out of memory"


@dataclass(frozen=True)
class CellJob:
    """A cell that is to be run.

    Args:
        name: The cell's name.
        config: Its settings, ``out`` among them.
        pretrained: Folder of pre-trained agents that cells share.
    """

    name: str
    config: RunConfig
    pretrained: Path


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell: done, or failed with an error.

    Args:
        name: The cell's name.
        error: The error message in a line; None if the cell is done.
        details: The traceback of the error; empty if the cell is done.
    """

    name: str
    error: str | None = None
    details: str = ""


def run_tasks(tasks: Sequence[CellJob], jobs: int, progress: CellsProgress) -> Generator[Outcome]:
    """Run all tasks; a task that fails stops no other.

    Args:
        tasks: The cells to run.
        jobs: Tasks at a time, >= 1; with more than one, each runs in a process of its own.
        progress: Receives the cells that begin, and their progress if ``jobs`` is 1.

    Yields:
        The outcome of each task when it ends. Closing the iterator stops running tasks.
    """
    return _in_turn(tasks, progress) if jobs == 1 else _at_once(tasks, jobs, progress)


def perform(task: CellJob, progress: Progress | None = None) -> Outcome:
    """Run a cell, or resume it.

    Args:
        task: The cell.
        progress: Receives the progress of the run; nobody if None.

    Returns:
        The outcome, whatever was raised.
    """
    from dimat.experiment.run import run_or_resume

    try:
        run_or_resume(task.config, progress, pretrained=task.pretrained)
    except DimatError as error:
        return Outcome(task.name, str(error), traceback.format_exc())
    except Exception as error:  # a bug, or no memory: other cells may still succeed
        text = f"{type(error).__name__}: {error}"
        return Outcome(task.name, " ".join(text.split()), traceback.format_exc())
    return Outcome(task.name)


def _in_turn(tasks: Sequence[CellJob], progress: CellsProgress) -> Generator[Outcome]:
    for task in tasks:
        progress.started(task.name)
        yield perform(task, CellProgress(progress, task.name))


def _at_once(tasks: Sequence[CellJob], jobs: int, progress: CellsProgress) -> Generator[Outcome]:
    """Run tasks in workers, each with an executor of its own, so that one that dies fails alone."""
    waiting = deque(tasks)
    others = set(multiprocessing.active_children())
    free = [_worker() for _ in range(min(jobs, len(tasks)))]
    running: dict[Future[Outcome], tuple[CellJob, Executor]] = {}
    try:
        while waiting or running:
            while waiting and free:
                task, worker = waiting.popleft(), free.pop()
                progress.started(task.name)
                running[worker.submit(perform, task)] = task, worker
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, worker = running.pop(future)
                broken = isinstance(future.exception(), BrokenProcessPool)
                free.append(_worker() if broken else worker)
                yield Outcome(task.name, _DIED, _DIED) if broken else future.result()
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        for worker in [*free, *(worker for _, worker in running.values())]:
            worker.shutdown(cancel_futures=True)


def _worker() -> Executor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin_worker)


def _begin_worker() -> None:
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
