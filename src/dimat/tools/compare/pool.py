"""Running cells: one after another in this process, or several at a time in processes.

A process that is a worker ignores Ctrl-C, which is its parent's to handle, and ends when its parent
does, however that ends: two processes must never write to one run folder.
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
from dimat.tools.compare.progress import Watcher, Within

_DIED = "its process ended without a word: killed, or out of memory"


@dataclass(frozen=True)
class Task:
    """A cell to be run.

    Args:
        name: The cell's name.
        config: Its settings, ``out`` among them.
        pretrained: Where cells keep what they share.
    """

    name: str
    config: RunConfig
    pretrained: Path


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Args:
        name: The cell's name.
        error: Why it failed, in a line; None if it did not.
        details: The traceback, if it failed.
    """

    name: str
    error: str | None = None
    details: str = ""


def run_tasks(tasks: Sequence[Task], jobs: int, watcher: Watcher) -> Generator[Outcome]:
    """Run all; a task that fails stops no other.

    Args:
        tasks: What to run.
        jobs: How many at a time, >= 1; more than one run in processes of their own.
        watcher: Told which begin.

    Yields:
        How each ended, as they end. If the iterator is closed, running tasks are stopped.
    """
    return _in_turn(tasks, watcher) if jobs == 1 else _at_once(tasks, jobs, watcher)


def perform(task: Task, observer: Progress | None = None) -> Outcome:
    """Run one, or go on with it."""
    from dimat.experiment.run import run_or_resume

    try:
        run_or_resume(task.config, observer, pretrained=task.pretrained)
    except DimatError as error:
        return Outcome(task.name, str(error), traceback.format_exc())
    except Exception as error:  # a bug, or no memory: the other cells may do better
        text = f"{type(error).__name__}: {error}"
        return Outcome(task.name, " ".join(text.split()), traceback.format_exc())
    return Outcome(task.name)


def _in_turn(tasks: Sequence[Task], watcher: Watcher) -> Generator[Outcome]:
    for task in tasks:
        watcher.started(task.name)
        yield perform(task, Within(watcher, task.name))


def _at_once(tasks: Sequence[Task], jobs: int, watcher: Watcher) -> Generator[Outcome]:
    """Every worker has an executor of its own, so that one that dies takes only its task along."""
    waiting = deque(tasks)
    others = set(multiprocessing.active_children())
    free = [_worker() for _ in range(min(jobs, len(tasks)))]
    running: dict[Future[Outcome], tuple[Task, Executor]] = {}
    try:
        while waiting or running:
            while waiting and free:
                task, worker = waiting.popleft(), free.pop()
                watcher.started(task.name)
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
