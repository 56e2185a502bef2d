"""What tests of the exchange share: nobody is lost because the machine is slow, nobody dawdles."""

from __future__ import annotations

import pytest

from dimat.exchange.network.link import Rules


@pytest.fixture(autouse=True)
def _beats_are_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long silence may last: what broke is noticed with the next beat."""
    monkeypatch.setattr(Rules, "beat_s", 0.1)
