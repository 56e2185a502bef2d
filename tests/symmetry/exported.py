"""Models of the zoo exported once: rules, right or broken, have no part in what they are given."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from dimat.graph.trace import Trace
from dimat.symmetry import find

_KNOWN: dict[str, tuple[Trace, Trace]] = {}


def export_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the test is about one model, known by its name; nothing that was proved is left."""
    export = find.trace_modes

    def known(model: nn.Module, *inputs: Any) -> tuple[Trace, Trace]:
        if name not in _KNOWN:
            _KNOWN[name] = export(model, *inputs)
        return _KNOWN[name]

    monkeypatch.setattr(find, "trace_modes", known)
    monkeypatch.setattr(find, "_CACHE", {})
