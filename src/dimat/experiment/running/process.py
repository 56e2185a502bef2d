"""The process that a run is in: the caller's, and left as it was found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def borrowed(threads: int, device: str = "cpu") -> Iterator[None]:
    """The process with so many threads of PyTorch, until what is inside has ended, well or not.

    Threads and every generator that anybody may draw from are as before then. Whatever else is
    set for a whole process (how freed memory is kept, how threads wait) the command line sets in
    its own: see :func:`dimat.cli.launch.settle`.

    Args:
        threads: For what is inside.
        device: Where it computes; the generators of GPUs are put back if it is one.
    """
    gpus = range(torch.cuda.device_count()) if device.startswith("cuda") else ()
    before, drawn, numbers = torch.get_num_threads(), random.getstate(), np.random.get_state()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        torch.set_num_threads(before)
        random.setstate(drawn)
        np.random.set_state(numbers)
