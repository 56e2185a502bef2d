"""Launch of a command: the processes of ``torchrun``, and what is set for each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dimat.experiment.running.allocator import keep_freed_memory

if TYPE_CHECKING:
    from dimat.exchange.world import World
    from dimat.experiment.config.config import RunConfig

INTERRUPTED = 130  # exit code, as shells have it
STOPPED = 3  # exit code of what stopped as it was told to, with more to do


@contextmanager
def world_of(config: RunConfig) -> Iterator[World]:
    """World of processes that agents are spread over: those of ``torchrun``, or this one alone.

    Raises:
        ConfigError: If the environment is not as ``torchrun`` sets it.
        SystemExit: Where agent 0 does not live, if the run stopped or was interrupted: one process
            says so.
    """
    from dimat.errors import Stopped
    from dimat.exchange import torchrun
    from dimat.exchange.world import SINGLE_PROCESS

    if not torchrun.launched():
        yield SINGLE_PROCESS
        return
    if config.device == "cuda":  # each process of a machine has the GPU of its own number
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    own = config.exchange
    world = torchrun.world(
        interface=own.interface,
        timeout_s=own.timeout_s,
        patience_s=own.patience_s,
        device=config.device,
    )
    try:
        yield world
    except (Stopped, KeyboardInterrupt) as end:
        if world.rank == 0:
            raise
        raise SystemExit(STOPPED if isinstance(end, Stopped) else INTERRUPTED) from None
    finally:
        world.close()


def restarted() -> bool:
    """Whether ``torchrun`` started all processes again, after one of them had died."""
    from dimat.exchange import torchrun

    return torchrun.launched() and torchrun.restarts() > 0


def settle() -> None:
    """Settings of the whole process of a command, made before PyTorch is imported.

    C++ says nothing of lost connections, as we say it ourselves. Memory that a step frees is kept
    for the next. Threads that wait for work sleep, where OpenMP would have them compute: on cores
    that are shared with others two of those took 4 times the time of one (docs/performance.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    keep_freed_memory()
