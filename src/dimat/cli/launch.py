"""The processes of a run: those that ``torchrun`` started, or this one; and their setup."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dimat.cli.stop import stoppable
from dimat.experiment.running.allocator import keep_freed_memory

if TYPE_CHECKING:
    from dimat.exchange.world import World
    from dimat.experiment.config.config import RunConfig

INTERRUPTED = 130  # exit code of an interrupted command, as in shells
PIPE_CLOSED = 141  # as shells say of a command that SIGPIPE ended: who read the output has gone
STOPPED = 3  # exit code of a run that stopped at max_wall_s, with more to do


@contextmanager
def world_of(config: RunConfig) -> Iterator[World]:
    """The processes that agents are spread over: those of ``torchrun``, or this one alone.

    Args:
        config: Settings of the run.

    Raises:
        ConfigError: If the environment is not as ``torchrun`` sets it.
        ExchangeError: If a process does not come.
        SystemExit: In processes of rank > 0, if the run stopped or was interrupted: only rank 0
            prints why.
    """
    from dimat.errors import Stopped
    from dimat.exchange import torchrun
    from dimat.exchange.world import SINGLE_PROCESS

    if not torchrun.launched():
        with stoppable():
            yield SINGLE_PROCESS
        return
    if config.device == "cuda":  # the GPU of the process's local rank
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    world = torchrun.world(patience_s=config.exchange.patience_s, device=config.device)
    try:
        yield world
    except (Stopped, KeyboardInterrupt) as end:
        if world.rank == 0:
            raise
        raise SystemExit(STOPPED if isinstance(end, Stopped) else INTERRUPTED) from None
    finally:
        world.close()


def restarted() -> bool:
    """Whether ``torchrun`` has restarted all processes, after one of them died."""
    from dimat.exchange import torchrun

    return torchrun.launched() and torchrun.restarts() > 0


@contextmanager
def importing() -> Iterator[None]:
    """The imports of PyTorch: a terminal says so, and no garbage is looked for, then or later.

    Its modules are a million objects that stay, among which the collector would look again and
    again: 2.3 s of processor time instead of 2.0, and 3.9 instead of 3.5 until the first training
    step of the demo (docs/performance.md). Where PyTorch is there already, nothing is done.
    """
    if "torch" in sys.modules:
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    gc.disable()
    try:
        with Live(
            Spinner("dots", "loading PyTorch"),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # modules of the user's own may print, or keep a stream
            redirect_stderr=False,
        ):
            yield
        gc.freeze()
    finally:
        gc.enable()


def settle() -> None:
    """Set up the process of a command; must run before PyTorch is imported.

    C++ logs no lost connections, as dimat reports them itself. Memory that a training step frees is
    kept for the next. Threads that wait for work sleep, where OpenMP would have them spin: on cores
    shared with other processes two spinning threads took 4 times the time of one
    (docs/performance.md). The last collection of garbage, at exit, finds nothing to walk through:
    all of PyTorch takes it a second.
    """
    atexit.register(gc.freeze)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    keep_freed_memory()
