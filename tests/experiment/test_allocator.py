"""Memory of a training step is used again in the next."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from dimat.experiment.running.allocator import keep_freed_memory

def faults():
    step = lambda: [torch.ones(2**21) for _ in range(8)]  # 64 MB at once, as activations are
    step()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(keep_freed_memory(), first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_what_a_step_frees_is_not_asked_of_the_system_again() -> None:
    """In a process of its own: it holds for a whole process, once and for all."""
    told = subprocess.run(
        [sys.executable, "-c", COUNT], check=True, capture_output=True, text=True
    ).stdout.split()
    asked, first, then = told[0], int(told[1]), int(told[2])
    assert asked == "True"
    assert first > 100
    assert then < first / 10
