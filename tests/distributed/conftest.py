"""What tests of agents in processes of their own share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from tests.distributed.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster, of which nothing is left after the test."""
    with ExitStack() as all_closed:
        yield lambda *args, **settings: all_closed.enter_context(
            closing(Cluster(tmp_path, *args, **settings))
        )
