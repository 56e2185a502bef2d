"""What a run of the suite leaves to ``make test-all``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import pytest

slow = partial(pytest.param, marks=pytest.mark.slow)  # one set of parameters


def tiers(names: Iterable[Any], slow: Collection[Any]) -> list[Any]:
    """Parameters, some of which are slow; each of those must be there.

    Args:
        names: All of them.
        slow: Those that take seconds, and show what another one shows.
    """
    names = list(names)
    assert set(slow) <= set(names)
    return [pytest.param(x, marks=[pytest.mark.slow] * (x in slow), id=str(x)) for x in names]
