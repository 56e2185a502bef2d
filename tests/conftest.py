"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests import analyses

import dimat.experiment.setup
import dimat.parents.calls


@pytest.fixture(scope="session", autouse=True)
def _analyses_are_remembered() -> Iterator[None]:
    """Runs and merges look at a network once a session; tests of the symmetry itself anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dimat.experiment.setup, "analyze", analyses.analyze)
        patch.setattr(dimat.parents.calls, "analyze", analyses.analyze)
        yield
