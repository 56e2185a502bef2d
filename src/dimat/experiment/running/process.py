"""The caller's process, lent to a run and restored after it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def borrowed(threads: int, device: str = "cpu") -> Iterator[None]:
    """Set PyTorch's number of threads for a block, and restore the process when it ends.

    Inside, new tensors are float32 and gradients are computed, whatever the caller has set. The
    number of threads, the default dtype and the states of all random generators are restored.
    Other settings of a whole process (kept memory, waiting threads) are made by the command line,
    for its own: see :func:`dimat.cli.launch.settle`.

    Args:
        threads: PyTorch's threads on the CPU inside of the block, >= 1.
        device: Device of the computation; the generators of GPUs are restored if it is a GPU.
    """
    gpus = range(torch.cuda.device_count()) if device.startswith("cuda") else ()
    before, drawn, numbers = torch.get_num_threads(), random.getstate(), np.random.get_state()
    dtype = torch.get_default_dtype()
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    try:
        # No autocast is put around, not even a disabled one: inside of another, PyTorch keeps the
        # narrow copies of weights from step to step.
        with (
            torch.random.fork_rng(devices=gpus),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_default_dtype(dtype)
        random.setstate(drawn)
        np.random.set_state(numbers)
