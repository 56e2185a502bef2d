"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests import analyses
from torch._export import utils

import dimat.checkpoints.batches
import dimat.experiment.setup
from dimat.experiment.record import environment


@pytest.fixture(scope="session", autouse=True)
def _garbage_is_looked_for_seldom() -> None:
    """Most of what there is are PyTorch's modules, which stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _operators_are_listed_once() -> Iterator[None]:
    """A quarter of a small export is PyTorch's listing of all its operators, each time anew."""
    listed = cache(utils._collect_all_valid_cia_ops_for_namespace)
    name = "_collect_all_valid_cia_ops_for_namespace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, name, lambda namespace: set(listed(namespace)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _analyses_are_remembered() -> Iterator[None]:
    """Runs and merges look at a network once a session; tests of the symmetry itself anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dimat.experiment.setup, "analyze", analyses.analyze)
        patch.setattr(dimat.checkpoints.batches, "analyze", analyses.analyze)
        yield


@pytest.fixture(scope="session", autouse=True)
def _what_takes_long_and_no_test_sees_is_left_out() -> Iterator[None]:
    """No test cuts the power, or commits: files need not reach the disk, git is asked once."""
    ask = environment._git
    asked = cache(lambda folder, *command: ask(*command))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(environment, "_git", lambda *command: asked(Path.cwd(), *command))
        yield
