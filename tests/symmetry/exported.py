"""Models of the zoo exported once: rules, right or broken, have no part in what they are given."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from dimat.graph.trace import Trace
from dimat.symmetry import find

_KNOWN: dict[tuple[str, bool], Trace] = {}


def export_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the test is about one model, known by its name; nothing that was proved is left."""
    export = find.trace

    def known(model: nn.Module, *inputs: Any, training: bool) -> Trace:
        if (name, training) not in _KNOWN:
            _KNOWN[name, training] = export(model, *inputs, training=training)
        return _KNOWN[name, training]

    monkeypatch.setattr(find, "trace", known)
    monkeypatch.setattr(find, "_CACHE", {})
